"""Label maps that are refused, and the error messages."""

import dataclasses
import io
import shutil
import zlib

import numpy as np
import pytest
from PIL import Image

from segjax.data.check import check_dataset
from segjax.data.coco import CocoError
from segjax.data.images import ImageError, decode_labels, decode_map, encode_labels
from segjax.data.pipeline import open_dataset
from tests.support.map_samples import (
    CATEGORIES,
    SIZES,
    colours,
    labels_of,
    make_everything,
    panoptic_content,
    panoptic_ids,
    plain_labels,
    stuff_labels,
    write,
)
from tests.support.samples import content, encoded, make_folder, picture


@pytest.fixture
def config(tmp_path):
    return make_everything(tmp_path)


WAYS = (
    r'semantic="stuffthingmaps" reads.*semantic="panoptic" reads.*semantic="folder" reads.*'
    r'semantic="instances" needs'
)


def with_entry(change):
    """Returns a panoptic json with a modified first entry."""
    data = panoptic_content()
    change(data["annotations"][0])
    return data


def first_segment(**changes):
    return with_entry(lambda entry: entry["segments_info"][0].update(changes))


def with_category(entry):
    return {**panoptic_content(), "categories": [*CATEGORIES, entry]}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (first_segment(id=0), r"image 1: wanted segments with an id of their own in 1\.\.16777215"),
        (first_segment(id=1 << 24), "wanted segments with an id"),
        (first_segment(id=5), "wanted segments with an id of their own"),
        (first_segment(id="5"), "wanted segments with an id"),
        (first_segment(category_id=None), "image 1: segment 70001 has no category_id"),
        (first_segment(category_id=4), r"image 1: a segment in .*train\.json is of the category 4"),
        (first_segment(id=70009), r"1\.png holds the id 70001, which is no segment of it in"),
        (with_entry(lambda e: e.update(segments_info=None)), "image 1 has no list segments_info"),
        (with_entry(lambda e: e.update(image_id="1")), "wanted one annotation an image"),
        (with_entry(lambda e: e.update(image_id=2)), "wanted one annotation an image"),
        (with_entry(lambda e: e.update(image_id=9)), rf"image 1 \(1\.png\) has no entry.*{WAYS}"),
        (
            with_entry(lambda e: e.update(file_name="../val/1.png")),
            r"'\.\./val/1\.png', which leads out of its folder",
        ),
        (with_entry(lambda e: e.update(file_name="/etc/1.png")), "is absolute.*1.png.* is there"),
        (with_entry(lambda e: e.update(file_name=None)), "the name None, which is not text"),
        (with_entry(lambda e: e.update(file_name="3.png")), rf"no label map at .*3\.png: {WAYS}"),
        (with_category({"id": 3, "name": "lion"}), "id of their own, found {'id': 3, 'name': 'li"),
        (with_category({"id": 4}), "wanted categories with a name"),
        (with_category({"id": 4, "name": "tree"}), "category 4 has isthing None: wanted 1 for thi"),
        (first_segment(iscrowd=2), "image 1: segment 70001 has iscrowd 2: wanted 0 or 1"),
        ({"images": [], "categories": []}, 'no list "annotations": is it COCO\'s panoptic format'),
    ],
)
def test_panoptic_files_that_do_not_fit(config, tmp_path, data, words):
    write(tmp_path / "annotations/panoptic_train.json", data)
    with pytest.raises(CocoError, match=words):
        open_dataset(dataclasses.replace(config, semantic="panoptic"))


def gray_of_four_bits():
    """Returns a 4-bit PNG. Pillow stretches its values to 0..255 when reading."""
    file = io.BytesIO()
    Image.fromarray(np.zeros(SIZES[1], np.uint8)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[24] = 4
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")  # CRC of the header
    return bytes(data)


def png_of(mode):
    file = io.BytesIO()
    Image.fromarray(picture(*SIZES[1])).convert(mode).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("semantic", "data", "words"),
    [
        (
            "stuffthingmaps",
            encoded(np.full(SIZES[1], 183, np.uint8)),
            r"1\.png holds the value 183",
        ),
        (
            "stuffthingmaps",
            encoded(np.full(SIZES[1], 254, np.uint8)),
            "the value 254: wanted 0..182",
        ),
        ("stuffthingmaps", encoded(stuff_labels(2)), "is 30 x 20 .*annotations say 20 x 30"),
        ("stuffthingmaps", encoded(np.zeros((9000, 9000), np.uint8)), "81.0 megapixels"),
        ("stuffthingmaps", encoded(stuff_labels(1))[:300], "cannot be decoded"),
        ("stuffthingmaps", b"", "is empty"),
        ("stuffthingmaps", encoded(stuff_labels(1), "JPEG"), "is no PNG: wanted a gray PNG of 8"),
        ("stuffthingmaps", png_of("RGB"), "colour type 2, 8 bits: wanted a gray PNG"),
        ("stuffthingmaps", png_of("LA"), "colour type 4"),
        ("stuffthingmaps", png_of("1"), "colour type 0, 1 bits"),
        ("stuffthingmaps", None, rf"image 1 \(1\.png\) has no label map at .*1\.png: {WAYS}"),
        (
            "folder",
            encoded(np.full(SIZES[1], 5, np.uint8)),
            r"1\.png holds the value 5: wanted 0\.\.4",
        ),
        ("folder", encoded(plain_labels(2)), "is 30 x 20 .*annotations say 20 x 30"),
        ("folder", png_of("RGB"), "colour type 2, 8 bits: wanted a gray PNG"),
        ("folder", encoded(plain_labels(1), "JPEG"), "is no PNG"),
        ("folder", None, rf"image 1 \(1\.png\) has no label map at .*labels/train/1\.png: {WAYS}"),
        ("panoptic", encoded(colours(panoptic_ids(2))), "is 30 x 20 .*annotations say 20 x 30"),
        ("panoptic", png_of("L"), "colour type 0, 8 bits: wanted a RGB PNG of 8 bits"),
        ("panoptic", png_of("RGBA"), "colour type 6"),
        ("panoptic", None, rf"image 1 \(1\.png\) has no label map at .*1\.png: {WAYS}"),
    ],
)
def test_maps_that_do_not_fit(config, tmp_path, semantic, data, words):
    folder = {"stuffthingmaps": "stuffthingmaps/train", "folder": "labels/train"}
    path = tmp_path / folder.get(semantic, "panoptic_train") / "1.png"
    path.unlink() if data is None else write(path, data)
    with pytest.raises(CocoError, match=words):
        open_dataset(dataclasses.replace(config, semantic=semantic))


def test_gray_of_fewer_bits_is_refused():
    with pytest.raises(ImageError, match="colour type 0, 4 bits"):
        decode_map(gray_of_four_bits(), *SIZES[1], 1)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_give_their_indices(bits):
    labels = np.random.default_rng(bits).integers(0, 1 << bits, (9, 14), dtype=np.uint8)
    image = Image.fromarray(labels).convert("P")
    image.putdata(labels.ravel())
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", bits=bits, transparency=0)
    assert file.getvalue()[24:26] == bytes([bits, 3])
    np.testing.assert_array_equal(decode_map(file.getvalue(), 9, 14, 1), labels)
    np.testing.assert_array_equal(decode_labels(encode_labels(labels)), labels)


@pytest.mark.parametrize(
    ("semantic", "missing", "words"),
    [
        ("stuffthingmaps", "stuffthingmaps", r"labels of train: found none of .*stuffthingmaps/tr"),
        ("folder", "labels/train", r"labels of train: found none of \S*labels/train, \S*train2017"),
        ("panoptic", "annotations/panoptic_val2017.json", r"of val: .*/panoptic_val2017\.json"),
        ("panoptic", "panoptic_train", r"found none of \S*/panoptic_train, \S*panoptic_train2017"),
    ],
)
def test_missing_folders_name_the_ways(config, tmp_path, semantic, missing, words):
    path = tmp_path / missing
    path.unlink() if path.is_file() else shutil.rmtree(path)
    with pytest.raises(CocoError, match=f"{words}.*{WAYS}"):
        open_dataset(dataclasses.replace(config, semantic=semantic))
    assert open_dataset(dataclasses.replace(config, semantic="instances")).semantic_names


def test_splits_must_agree_on_panoptic_categories(config, tmp_path):
    changed = panoptic_content()
    changed["categories"] = [c | {"name": "wolf"} if c["id"] == 7 else c for c in CATEGORIES]
    write(tmp_path / "annotations/panoptic_val2017.json", changed)
    with pytest.raises(CocoError, match='category 7 is "dog" in one split and "wolf"'):
        open_dataset(dataclasses.replace(config, semantic="panoptic"))
    changed["categories"] = [c | {"isthing": 0} for c in CATEGORIES]
    write(tmp_path / "annotations/panoptic_val2017.json", changed)
    with pytest.raises(CocoError, match=r'category 3 \("cat"\) is a thing in one split and stuff'):
        open_dataset(dataclasses.replace(config, semantic="panoptic"))


@pytest.mark.parametrize(("number", "fits"), [(254, True), (255, False)])
def test_more_classes_than_labels_are_refused(tmp_path, number, fits):
    categories = [(i, f"class {i}") for i in range(1, number + 1)]
    config = make_folder(tmp_path, content([(1, 20, 30)], [], categories))
    if fits:
        assert len(labels_of(config, "instances")[0]) == 255
    else:
        with pytest.raises(CocoError, match=r"gives 256 classes.*at most 255"):
            labels_of(config, "instances")


def test_check_lists_the_defects_of_maps(config, tmp_path):
    def found(semantic, **options):
        return check_dataset(dataclasses.replace(config, semantic=semantic), **options)["train"]

    for semantic in ("instances", "panoptic", "stuffthingmaps"):
        assert not found(semantic).fatal()
    write(tmp_path / "stuffthingmaps/train/1.png", encoded(np.full(SIZES[1], 200, np.uint8)))
    (tmp_path / "stuffthingmaps/train/2.png").unlink()
    problems = found("stuffthingmaps")
    assert problems.fatal() == {"bad_map": 1, "missing_map": 1}
    assert any("1.png holds the value 200" in line for line in problems.lines())
    assert not found("stuffthingmaps", decode=False).fatal()
    assert not found("panoptic").fatal()
