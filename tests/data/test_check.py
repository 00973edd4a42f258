"""Defects that are reported before training, and again when data are prepared."""

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image, ImageOps

from segjax import cli
from segjax.data.build import open_records
from segjax.data.check import check_dataset
from segjax.data.coco import Category, CocoDataset, CocoError
from segjax.data.config import DataConfig
from segjax.data.example import read_example
from segjax.data.images import decode_image, read_size, turn_upright, verify_image
from segjax.data.pipeline import open_dataset, train_iterator
from segjax.data.problems import Problems
from segjax.data.rows import make_row
from segjax.data.store import FolderStore, name_fault
from segjax.data.together import match_categories
from tests.support.map_samples import write
from tests.support.samples import annotation, content, encoded, make_folder, picture, write_split

BOX = (30, 40, 50, 20)
OUTLINE = [[30, 40, 80, 40, 80, 60, 30, 60]]


def objects(number, change):
    """Images of one object each with a valid mask, after `change` is applied to each annotation."""
    found = []
    for i in range(1, number + 1):
        entry = annotation(i, i, BOX, segmentation=json.loads(json.dumps(OUTLINE)))
        change(entry)
        found.append(entry)
    return content([(i, 100, 120) for i in range(1, number + 1)], found)


def problems(tmp_path, data, val=None, **options):
    return check_dataset(make_folder(tmp_path, data, val), **options)


# ---- Boxes, polygons, coordinates


@pytest.mark.parametrize(
    ("bbox", "guess"),
    [
        ([30, 40, 80, 60], "looks like x0 y0 x1 y1, wanted x y width height"),
        ([30, 5, 50, 20], "annotation 1"),
        ([30, 40, 50, 20], ""),
        ([55, 50, 50, 20], "looks like centre x, centre y, width, height"),
        ([40, 30, 20, 50], "looks like y x height width"),
    ],
)
def test_a_file_of_another_box_convention_is_refused(tmp_path, bbox, guess):
    data = objects(4, lambda entry: entry.update(bbox=bbox))
    found = problems(tmp_path, data)["train"]
    if bbox == list(BOX):
        assert not found.fatal()
        return
    assert found.fatal() == {"bbox_not_of_mask": 4}
    assert guess in found.examples["bbox_not_of_mask"][0]
    with pytest.raises(CocoError, match="bbox_not_of_mask: 4"):
        open_dataset(DataConfig(root=str(tmp_path), cache_dir=str(tmp_path / "cache")))


def test_boxes_counted_from_the_bottom_are_recognised(tmp_path):
    data = objects(4, lambda entry: entry.update(bbox=[30, 100 - 45 - 5, 50, 5]))
    for entry in data["annotations"]:
        entry["segmentation"] = [[30, 10, 80, 10, 80, 20, 30, 20]]
        entry["bbox"] = [30, 80, 50, 10]
    found = problems(tmp_path, data)["train"]
    assert "looks like y counted from the bottom" in found.examples["bbox_not_of_mask"][0]


def test_a_single_wrong_box_gives_way_to_its_mask(tmp_path):
    data = objects(4, lambda entry: None)
    data["annotations"][1]["bbox"] = [0, 0, 9, 9]
    config = make_folder(tmp_path, data)
    assert check_dataset(config)["train"].counts["bbox_replaced"] == 1
    with train_iterator(open_dataset(config), config, seed=0) as batches:
        boxes = {int(i): b for n in range(2) for i, b in _boxes(next(batches))}
    np.testing.assert_array_equal(boxes[2], [30, 40, 80, 60])


def _boxes(batch):
    return zip(batch["image_ids"], batch["gt_boxes"][:, 0], strict=True)


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ([[[30, 40], [80, 40], [80, 60]]], r"points as \[x, y\] pairs"),
        ([[{"x": 30, "y": 40}, {"x": 80, "y": 40}, {"x": 80, "y": 60}]], "points as objects"),
        ([[30, 40, 50, 20]], "is the bbox once more"),
        ([[30, 40, 80, 60]], "is the bbox once more"),
        ([30, 40, 80, 40, 80, 60], "one flat list, wanted a list of polygons"),
    ],
)
def test_masks_in_other_forms_are_never_dropped_in_silence(tmp_path, segmentation, words):
    data = objects(2, lambda entry: entry.update(segmentation=segmentation))
    found = problems(tmp_path, data)["train"]
    assert found.fatal() == {"bad_segmentation": 2}
    with pytest.raises(CocoError, match=words):
        open_dataset(DataConfig(root=str(tmp_path), cache_dir=str(tmp_path / "cache")))


def test_fractions_are_no_pixels(tmp_path):
    def change(entry):
        entry["bbox"] = [0.25, 0.4, 0.4167, 0.2]
        entry["segmentation"] = [[0.25, 0.4, 0.6667, 0.4, 0.6667, 0.6]]

    found = problems(tmp_path, objects(4, change))["train"]
    assert found.fatal() == {"fraction_coordinates": 4}

    def polygon_alone(entry):
        entry["segmentation"] = [[0.25, 0.4, 0.6667, 0.4, 0.6667, 0.6]]

    found = problems(tmp_path, objects(4, polygon_alone))["train"]
    assert found.fatal() == {"fraction_coordinates": 4}


# ---- Crowds, classes, caps, splits


def test_all_objects_crowds_is_an_error_and_some_a_count(tmp_path):
    every = objects(3, lambda entry: entry.update(iscrowd=1))
    found = problems(tmp_path / "all", every)
    assert found["train"].counts["crowd_object"] == 3
    assert "all 3 objects of train are crowds" in found["all splits"].examples["only_crowds"][0]
    with pytest.raises(CocoError, match="only_crowds"):
        open_dataset(DataConfig(root=str(tmp_path / "all"), cache_dir=str(tmp_path / "cache")))
    some = objects(3, lambda entry: entry.update(iscrowd=entry["id"] % 2))
    found = problems(tmp_path / "some", some)
    assert found["train"].counts["crowd_object"] == 2
    assert not found["all splits"].fatal()


def test_splits_that_number_classes_differently_are_matched_by_name(tmp_path):
    train = objects(2, lambda entry: None)
    val = objects(2, lambda entry: entry.update(category_id=3))
    val["categories"] = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]
    config = make_folder(tmp_path, train, val)
    notes = check_dataset(config)["all splits"].examples["matched_by_name"]
    assert sorted(notes) == [
        '"cat" is 3 in earlier splits and 7 in val',
        '"dog" is 7 in earlier splits and 3 in val',
    ]
    dataset = open_dataset(config)
    assert (dataset.class_names, dataset.category_ids) == (("cat", "dog"), (3, 7))
    for split in ("train", "val"):
        truth = dataset.instances(split).images.values()
        ids = {number for found in truth for number in found.category_ids.tolist()}
        assert ids == {7}, split


def test_disjoint_numbers_of_the_same_names_are_the_same_classes(tmp_path):
    val = objects(2, lambda entry: entry.update(category_id=17))
    val["categories"] = [{"id": 13, "name": "cat"}, {"id": 17, "name": "dog"}]
    config = make_folder(tmp_path, objects(2, lambda entry: None), val)
    assert open_dataset(config).class_names == ("cat", "dog")


def test_a_class_that_only_later_splits_have_keeps_one_number():
    def split(*categories):
        return CocoDataset(tuple(Category(*c) for c in categories), (), Problems())

    splits = {"train": split((1, "cat")), "val": split((1, "cat"), (2, "dog"))}
    splits["test"] = split((5, "dog"))
    matched, notes = match_categories(splits)
    assert [c.id for c in matched["test"].categories] == [2]
    assert notes.examples["matched_by_name"] == ['"dog" is 2 in earlier splits and 5 in test']


def test_one_number_of_two_classes_is_refused_by_check_and_training_alike(tmp_path):
    val = objects(2, lambda entry: None)
    val["categories"] = [{"id": 3, "name": "cat"}, {"id": 7, "name": "wolf"}]
    config = make_folder(tmp_path, objects(2, lambda entry: None), val)
    words = 'category 7 is "dog" in one split and "wolf" in another'
    found = check_dataset(config)["all splits"]
    assert words in found.examples["category_mismatch"][0]
    with pytest.raises(CocoError, match=words):
        open_dataset(config)


def test_two_classes_of_one_name_are_refused_if_both_have_objects(tmp_path):
    data = objects(2, lambda entry: entry.update(category_id=3 if entry["id"] == 1 else 7))
    data["categories"] = [{"id": 3, "name": "wheel"}, {"id": 7, "name": "wheel"}]
    assert problems(tmp_path, data)["train"].fatal() == {"duplicate_category_name": 1}


def test_classes_that_cannot_be_learned_are_named(tmp_path):
    train, val = objects(2, lambda entry: None), objects(2, lambda entry: None)
    for data in (train, val):
        data["categories"] = [
            {"id": 3, "name": "animals", "supercategory": "none"},
            {"id": 7, "name": "dog", "supercategory": "animals"},
            {"id": 8, "name": "ring"},
        ]
    val["annotations"][0]["category_id"] = 8
    config = make_folder(tmp_path, train, val)
    found = check_dataset(config)["all splits"]
    assert found.examples["class_only_in_val"] == ['"ring" (val)']
    assert found.examples["class_without_objects"] == [
        '"animals" (the supercategory of other classes)'
    ]
    assert any("ring" in line for line in open_dataset(config).problems)


def test_objects_over_the_cap_and_missing_splits_and_masks_are_named(tmp_path):
    data = content([(1, 100, 120)], [annotation(i, 1, BOX) for i in range(1, 9)])
    config = make_folder(tmp_path / "many", data)
    found = check_dataset(config)["all splits"]
    assert found.examples["objects_over_cap"] == ["train: image 1 has 8"]
    write_split(tmp_path / "one", "train", data)
    alone = check_dataset(DataConfig(root=str(tmp_path / "one")))["all splits"]
    assert 'no split "val"' in alone.examples["missing_split"][0]
    bare = objects(2, lambda entry: entry.update(segmentation=[]))
    assert "no_masks" in problems(tmp_path / "bare", bare)["all splits"].fatal()
    assert not problems(tmp_path / "bare", bare, masks=False)["all splits"].fatal()


# ---- Names and sizes


@pytest.mark.parametrize(
    "name",
    [
        "Screenshot 2031-02-03 at 4.05.06\u202fPM.png",
        "v\u00a013.05.png",
        "\u5199\u771f\u3000001.png",
        "cam3 2031-02-03T10:22:31.png",
        "a b \u00e9.png",
    ],
)
def test_legal_names_of_any_script_are_read(tmp_path, name):
    data = objects(2, lambda entry: None)
    data["images"][0]["file_name"] = name
    assert not problems(tmp_path, data)["train"].fatal()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("train\\1.png", 'has backslashes.*; "1.png" is there'),
        ("/data/upload/3/0a1b2c3d-1.png", 'is absolute.*; "1.png" is there'),
        ("https://host/x/1.png?d=3", 'is a URL.*; "1.png" is there'),
        ("images/train/1.png", 'is not in .*; "1.png" is there'),
        ("../train/1.png", 'leads out of its folder.*; "1.png" is there'),
        ("a\nb.png", r"control character U\+000A"),
        (7, "is not text but int"),
    ],
)
def test_refused_names_have_a_reason_and_the_file_that_is_there(tmp_path, name, reason):
    (tmp_path / "1.png").write_bytes(encoded(picture(4, 5)))
    problem = FolderStore(tmp_path).problem(name)
    assert problem is not None
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(problem.reason)


def test_a_name_with_dots_inside_is_good():
    assert name_fault("a..b/c...png") is None


def test_links_are_followed_if_asked_for(tmp_path):
    data = objects(2, lambda entry: None)
    config = make_folder(tmp_path, data)
    pool = tmp_path / "pool"
    (tmp_path / "train").rename(pool)
    (tmp_path / "train").mkdir()
    for path in pool.iterdir():
        (tmp_path / "train" / path.name).symlink_to(path)
    found = check_dataset(config)["train"]
    assert found.fatal() == {"link_out_of_folder": 2}
    followed = dataclasses.replace(config, follow_links=True)
    assert not check_dataset(followed)["train"].fatal()
    assert len(open_dataset(followed).split("train").index) == 2


def test_the_limit_of_pixels_is_named_and_can_be_raised(tmp_path):
    data = objects(2, lambda entry: None)
    config = dataclasses.replace(make_folder(tmp_path, data), max_image_pixels=11_999)
    found = check_dataset(config)["train"]
    assert found.fatal() == {"image_too_large": 2}  # no errors about objects of unknown images
    assert "--data.max-image-pixels=12000" in found.examples["image_too_large"][0]
    raised = dataclasses.replace(config, max_image_pixels=12_000)
    assert not check_dataset(raised)["train"].fatal()


# ---- Photographs


def turned(pixels, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(pixels, "PNG", exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_is_as_pillow_turns_it(orientation):
    pixels = picture(5, 7, orientation)
    data = turned(pixels, orientation)
    with Image.open(io.BytesIO(data)) as image:
        wanted = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(decode_image(data, upright=True), wanted)
    np.testing.assert_array_equal(turn_upright(pixels, orientation), wanted)
    np.testing.assert_array_equal(decode_image(data), pixels)
    assert read_size(data, upright=True) == wanted.shape[:2]
    verify_image(data, *wanted.shape[:2], upright=True)


@pytest.mark.parametrize("orientation", [3, 6])
def test_turned_photographs_are_named_and_can_be_read_upright(tmp_path, orientation):
    stored = picture(12, 20)
    shown = turn_upright(stored, orientation).shape
    data = content([(1, 12, 20), (2, 12, 20)], [annotation(1, 1, (2, 3, 6, 5))])
    config = make_folder(tmp_path, data)
    for split in ("train", "val"):
        write(tmp_path / split / "1.png", turned(stored, orientation))
    found = check_dataset(config)["train"]
    assert found.counts["exif_orientation"] == 1 and not found.fatal()
    data["images"][0].update(height=shown[0], width=shown[1])
    for split in ("train", "val"):
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(data))
    if orientation == 6:
        (line,) = check_dataset(config)["train"].examples["bad_image"]
        assert "its size upright (EXIF orientation 6): --data.exif=upright" in line
    upright = dataclasses.replace(config, exif="upright")
    assert not check_dataset(upright)["train"].counts.keys() & {"bad_image", "exif_orientation"}
    record = open_records(open_dataset(upright).split("train"))[0]
    np.testing.assert_array_equal(
        read_example(record, instances=True, semantic=False).image,
        turn_upright(stored, orientation),
    )
    assert make_row(record, None, upright).original_size == shown[:2]


@pytest.mark.parametrize("deep", [np.uint16([[100, 4095]] * 4), np.uint16([[0, 1]] * 4)])
def test_twelve_bits_that_would_become_black_are_refused(tmp_path, deep):
    from segjax.data.images import ImageError

    with pytest.raises(ImageError, match=r"16 bits a channel and no value above"):
        verify_image(encoded(deep), 4, 2)
    verify_image(encoded(np.uint16([[0, 0]] * 4)), 4, 2)
    verify_image(encoded(np.uint16([[0, 40_000]] * 4)), 4, 2)


# ---- Label PNGs


def labelled(tmp_path, values, names=""):
    for split in ("train", "val"):
        for i in range(2):
            write(tmp_path / split / f"{i}.png", encoded(picture(8, 10, i)))
            pixels = np.uint8(values)[np.arange(80).reshape(8, 10) // 30 % len(values)]
            write(tmp_path / "labels" / split / f"{i}.png", encoded(pixels))
    if names:
        (tmp_path / "labels/classes.txt").write_text(names)
    return DataConfig(
        root=str(tmp_path),
        cache_dir=str(tmp_path / "cache"),
        semantic="folder",
        instances=False,
        resize="none",
        batch_size=2,
    )


@pytest.mark.parametrize("names", ["", "background\nobject\n"])
def test_black_and_white_masks_are_refused_until_their_numbers_are_given(tmp_path, names):
    config = labelled(tmp_path, (0, 255), names)
    found = check_dataset(config)["all splits"]
    assert "--data.semantic-values 0 255" in found.examples["nothing_to_tell_apart"][0]
    with pytest.raises(CocoError, match="nothing_to_tell_apart"):
        open_dataset(config)
    given = dataclasses.replace(config, semantic_values=(0, 255))
    assert not check_dataset(given)["all splits"].fatal()
    dataset = open_dataset(given)
    assert dataset.semantic_names == (("background", "object") if names else ("0", "255"))
    with train_iterator(dataset, given, seed=0) as batches:
        labels = next(batches)["gt_semantic"][:, :8, :10]
    assert set(np.unique(labels)) == {0, 1}
    assert (labels == 1).sum() == 2 * 30


def test_numbers_far_apart_are_no_classes_between(tmp_path):
    config = labelled(tmp_path, (0, 128))
    with pytest.raises(
        CocoError, match=r"would be 129 classes, 127 .*--data.semantic-values 0 128"
    ):
        open_dataset(config)
    given = dataclasses.replace(config, semantic_values=(0, 128))
    assert open_dataset(given).semantic_names == ("0", "128")
    strange = dataclasses.replace(config, semantic_values=(0, 3))
    assert "wanted one of semantic_values" in check_dataset(strange)["train"].examples["bad_map"][0]


def test_ignored_pixels_and_classes_without_pixels_are_counted(tmp_path):
    config = labelled(tmp_path, (0, 1, 255), "a\nb\nc\n")
    found = check_dataset(config)["all splits"]
    assert found.examples["ignored_pixels"] == ["255 on 25% of the pixels counts for nothing"]
    assert found.examples["label_without_pixels"] == ["c"]
    assert not found.fatal()


# ---- Prepared copies


def test_an_image_replaced_under_its_size_and_time_is_noticed(tmp_path):
    import os

    data = objects(2, lambda entry: None)
    config = make_folder(tmp_path, data)
    path = tmp_path / "train" / "1.png"
    for split in ("train", "val"):
        for i in (1, 2):
            write(tmp_path / split / f"{i}.png", encoded(picture(100, 120, i), "BMP"))
    first = open_dataset(config)
    before = path.stat()
    path.write_bytes(encoded(np.full((100, 120, 3), 240, np.uint8), "BMP"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = open_dataset(config)
    assert second.fingerprint != first.fingerprint
    assert decode_image(open_records(second.split("train"))[0]["image"]).min() == 240
    kept = list((tmp_path / "cache").glob("*/segjax.json"))
    assert len(kept) == 1  # the older copy is deleted


def test_a_dataset_is_prepared_again_if_asked_for(tmp_path):
    config = make_folder(tmp_path, objects(2, lambda entry: None))
    open_dataset(config)
    (meta,) = (tmp_path / "cache").glob("*/segjax.json")
    before = meta.stat().st_mtime_ns
    open_dataset(config)
    assert meta.stat().st_mtime_ns == before
    open_dataset(dataclasses.replace(config, rebuild=True))
    assert meta.stat().st_mtime_ns > before


# ---- Files named one by one


def test_annotation_files_can_lie_anywhere(tmp_path):
    make_folder(tmp_path / "made", objects(2, lambda entry: None))
    (tmp_path / "a.json").write_text(
        (tmp_path / "made/annotations/instances_train.json").read_text()
    )
    config = DataConfig(
        train_json=str(tmp_path / "a.json"),
        val_json=str(tmp_path / "made/annotations/instances_val.json"),
        test_json=str(tmp_path / "a.json"),
        image_root=str(tmp_path / "made/train"),
        cache_dir=str(tmp_path / "cache"),
    )
    dataset = open_dataset(config)
    assert {name: len(split.index) for name, split in dataset.splits.items()} == {
        "train": 2,
        "val": 2,
        "test": 2,
    }
    assert not check_dataset(config)["all splits"].fatal()
    with pytest.raises(CocoError, match=r"no annotation file at .*b\.json, which is to be val"):
        open_dataset(dataclasses.replace(config, val_json=str(tmp_path / "b.json")))
    with pytest.raises(ValueError, match="need image_root"):
        open_dataset(dataclasses.replace(config, image_root=""))


def test_images_of_separate_files_can_be_in_folders_of_splits(tmp_path, capsys):
    make_folder(tmp_path / "made", objects(2, lambda entry: None))
    files = [
        f"--{split}-json={tmp_path}/made/annotations/instances_{split}.json"
        for split in ("train", "val")
    ]
    assert cli.main(["check-data", *files, "--images", f"{tmp_path}/made"]) == 0
    assert cli.main(["check-data", "--images", f"{tmp_path}/made"]) == 1
    assert "give a folder of data" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x" * 5000, "../../etc/passwd", r"\ud800", r"\u0000", "/"])
def test_odd_first_names_of_separate_files_are_reported(tmp_path, name):
    make_folder(tmp_path / "made", objects(1, lambda entry: None))
    file = tmp_path / "made/annotations/instances_train.json"
    content = json.loads(file.read_text())
    content["images"][0]["file_name"] = "NAME"
    file.write_text(json.dumps(content).replace("NAME", name))
    config = DataConfig(train_json=str(file), image_root=str(tmp_path / "made"))
    assert check_dataset(config)["train"].fatal()


def test_a_test_folder_without_labels_is_no_split_of_labels(tmp_path):
    config = labelled(tmp_path, (0, 1))
    write(tmp_path / "test/9.png", encoded(picture(8, 10)))
    assert sorted(open_dataset(config).splits) == ["train", "val"]
