"""The annotation reader reports every defect by name."""

import json
import math

import numpy as np
import pytest

from segjax.data import coco, problems, rle
from segjax.data.check import check
from segjax.data.formats.coco_folder import coco_split, find_splits
from tests.support.samples import SHARED, annotation, content, encoded, picture, write_split


def load(tmp_path, data, **options):
    write_split(tmp_path, "train", data)
    return coco.load_coco(
        tmp_path / "annotations" / "instances_train.json", tmp_path / "train", **options
    )


def good():
    mask = np.zeros((20, 30), bool)
    mask[4:9, 3:8] = True
    crowd = rle.counts_from_string(rle.encode(mask)["counts"], 20, 30).tolist()
    annotations = [
        annotation(1, 5, (3, 4, 5, 5)),
        annotation(2, 5, (3, 4, 5, 5), segmentation=rle.encode(mask)),
        annotation(3, 5, (3, 4, 5, 5), 3, 1, {"size": [20, 30], "counts": crowd}),
    ]
    return content([(5, 20, 30), (2, 20, 30)], annotations)


def test_polygon_compressed_and_uncompressed_rle_are_one_mask(tmp_path):
    dataset = load(tmp_path, good())
    assert [c.id for c in dataset.categories] == [3, 7]
    assert [image.id for image in dataset.images] == [2, 5]
    objects = dataset.images[1].annotations
    assert len({a.counts for a in objects}) == 1
    assert [a.is_crowd for a in objects] == [False, False, True]
    assert objects[0].bbox == (3.0, 4.0, 5.0, 5.0)
    assert dataset.problems.counts == {
        "category_gap": 1,
        "image_without_objects": 1,
        "crowd_object": 1,
    }


def changed(**fields):
    def change(data):
        data["annotations"][0].update(fields)

    return change


def append(section, entry):
    def change(data):
        data[section].append(entry)

    return change


FATAL = [
    ("duplicate_image_id", append("images", {"id": 5, "file_name": "x", "height": 1, "width": 1})),
    ("missing_file", append("images", {"id": 9, "file_name": "9.png"})),
    ("image_too_large", lambda d: d["images"][1].update(height=10**6, width=51)),
    ("bad_image_entry", append("images", {"id": "9", "file_name": "9.png"})),
    ("bad_image_entry", append("images", 3)),
    ("duplicate_file_name", lambda d: d["images"][1].update(file_name="5.png")),
    ("duplicate_annotation_id", lambda d: d["annotations"][1].update(id=1)),
    ("bad_annotation_entry", lambda d: d["annotations"][1].update(id="1")),
    ("duplicate_category_id", append("categories", {"id": 3, "name": "x"})),
    ("bad_category", append("categories", {"id": True, "name": "x"})),
    ("unknown_image_id", changed(image_id=99)),
    ("unknown_image_id", changed(image_id=None)),
    ("unknown_category_id", changed(category_id=99)),
    ("bad_iscrowd", changed(iscrowd=2)),
    ("bad_bbox", changed(bbox=[0, 0, math.nan, 3])),
    ("bad_bbox", changed(bbox=[0, 0, math.inf, 3])),
    ("bad_bbox", changed(bbox=[0, 0, 1e30, 3])),
    ("bad_bbox", changed(bbox=[0, 0, 3])),
    ("bad_bbox", changed(bbox=None, segmentation=[])),
    ("negative_bbox", changed(bbox=[5, 5, -2, 3])),
    ("bbox_off_image", changed(bbox=[100, 5, 2, 3])),
    ("bad_area", changed(area=-1)),
    ("bad_area", changed(area=math.nan)),
    ("bad_segmentation", changed(segmentation={"size": [30, 20], "counts": "0"})),
    ("bad_segmentation", changed(segmentation={"size": [20, 30], "counts": "oooo"})),
    ("bad_segmentation", changed(segmentation={"size": [20, 30], "counts": [1, 2, 3]})),
    ("bad_segmentation", changed(segmentation={"size": [20, 30]})),
    ("bad_segmentation", changed(segmentation=[[0, 0, 1, 1, 2, 2, 3]])),
    ("bad_segmentation", changed(segmentation=[[0, 0, 1, math.nan, 2, 2]])),
    ("bad_segmentation", changed(segmentation=[[0, 0, 1e9, 1, 2, 2]])),
    ("bad_segmentation", changed(segmentation="abc")),
    ("bad_segmentation", changed(segmentation=[1, 2, 3, 4, 5, 6])),
]


@pytest.mark.parametrize(("name", "change"), FATAL)
def test_fatal_defects_stop_by_name(tmp_path, name, change):
    data = good()
    write_split(tmp_path, "train", data)
    change(data)
    path = tmp_path / "annotations" / "instances_train.json"
    path.write_text(json.dumps(data))
    with pytest.raises(coco.CocoError, match=f"{name}: 1"):
        coco.load_coco(path, tmp_path / "train")
    found = check(coco_split(path, tmp_path / "train"), decode=False)
    assert found.fatal() == {name: 1}
    assert found.lines()[0].startswith(f"ERROR {name}: 1; first:")


HARMLESS = [
    ("short_polygon", changed(segmentation=[[1, 1, 2, 2], [3, 4, 8, 4, 8, 9, 3, 9]])),
    ("missing_segmentation", changed(segmentation=[[1, 1, 2, 2]])),
    ("missing_segmentation", changed(segmentation=None)),
    ("empty_mask", changed(segmentation={"size": [20, 30], "counts": "hb0"})),
    ("zero_size_box", changed(bbox=[3, 4, 0, 5])),
    ("box_outside", changed(bbox=[-2, 4, 10, 5])),
    ("bbox_mismatch", changed(bbox=[3, 4, 8, 5])),
    ("bbox_replaced", changed(bbox=[13, 4, 5, 5])),
    ("area_mismatch", changed(area=300)),
    ("missing_area", changed(area=None)),
    ("missing_bbox", changed(bbox=None)),
    ("crowd_polygon", changed(iscrowd=1)),
    ("unused_duplicate_category", append("categories", {"id": 9, "name": "cat"})),
]


@pytest.mark.parametrize(("name", "change"), HARMLESS)
def test_harmless_defects_are_counted(tmp_path, name, change):
    data = good()
    change(data)
    dataset = load(tmp_path, data)
    assert dataset.problems.counts[name] == 1
    (line,) = (line for line in dataset.problems.lines() if f"note  {name}: 1 (" in line)
    assert problems.HARMLESS[name] in line


@pytest.mark.parametrize("given", [{"height": 20.0}, {"width": "30"}, {"height": None}, {}])
def test_a_missing_size_is_the_file_s(tmp_path, given):
    data = good()
    write_split(tmp_path, "train", data)
    entry = data["images"][0]
    for name in ("height", "width"):
        entry.pop(name)
    entry.update(given)
    path = tmp_path / "annotations" / "instances_train.json"
    path.write_text(json.dumps(data))
    dataset = coco.load_coco(path, tmp_path / "train")
    assert (dataset.images[1].height, dataset.images[1].width) == (20, 30)
    assert dataset.problems.counts["size_from_file"] == 1


@pytest.mark.parametrize("bbox", [None, []])
def test_missing_bbox_comes_from_the_mask(tmp_path, bbox):
    data = good()
    data["annotations"][0]["bbox"] = bbox
    assert load(tmp_path, data).images[1].annotations[0].bbox == (3.0, 4.0, 5.0, 5.0)


@pytest.mark.parametrize(
    "name",
    [
        *["../../secret", "/etc/passwd", "a/../../b", "~/x", "a\\b", "\\\\host\\share", "c:/x"],
        *["a\0b", 3, None, "x" * 5000, "", "\u202ex", ".", "train", "link.png", "folder"],
    ],
)
def test_paths_that_lead_out_are_refused(tmp_path, name):
    data = good()
    write_split(tmp_path, "train", data)
    (tmp_path / "secret").write_text("x")
    (tmp_path / "train" / "link.png").symlink_to(tmp_path / "secret")
    (tmp_path / "train" / "folder").mkdir()
    data["images"][0]["file_name"] = name
    path = tmp_path / "annotations" / "instances_train.json"
    path.write_text(json.dumps(data))
    with pytest.raises(coco.CocoError, match=r"bad_file_name|missing_file|link_out_of_folder"):
        coco.load_coco(path, tmp_path / "train")


def test_missing_and_damaged_files(tmp_path):
    data = good()
    write_split(tmp_path, "train", data)
    path = tmp_path / "annotations" / "instances_train.json"
    assert not check(coco_split(path, tmp_path / "train")).fatal()
    (tmp_path / "train" / "5.png").write_bytes(encoded(picture(9, 9)))
    whole = (tmp_path / "train" / "2.png").read_bytes()
    (tmp_path / "train" / "2.png").write_bytes(whole[: len(whole) // 2])
    found = check(coco_split(path, tmp_path / "train"))
    assert found.counts["bad_image"] == 2
    assert found.examples["bad_image"][0].startswith("image 2 (2.png)")
    (tmp_path / "train" / "2.png").unlink()
    assert check(coco_split(path, tmp_path / "train")).counts["missing_file"] == 1


@pytest.mark.parametrize("text", ["", "[", "[]", "{}", '{"images": 3}', "[" * 100_000])
def test_files_that_are_no_annotations(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(coco.CocoError):
        coco.load_coco(path, tmp_path)
    with pytest.raises(coco.CocoError, match="no annotation file"):
        coco.load_coco(tmp_path / "absent.json", tmp_path)


def test_layouts(tmp_path):
    with pytest.raises(coco.CocoError, match=r"wanted annotations/instances_train\.json"):
        find_splits(tmp_path)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text("{}")
    with pytest.raises(coco.CocoError, match="no image folder"):
        find_splits(tmp_path)
    (tmp_path / "val2017").mkdir()
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "_annotations.coco.json").write_text("{}")
    found = find_splits(tmp_path)
    assert found["val"].images == tmp_path / "val2017"
    assert found["train"].annotations.name == "_annotations.coco.json"


@pytest.mark.parametrize("name", ["coco_ci", "dsb_ci"])
def test_real_folders(name):
    if not (SHARED / name).exists():
        pytest.skip(f"no {SHARED / name}")
    for split in ("train", "val"):
        folder = SHARED / name
        path = folder / "annotations" / f"instances_{split}.json"
        dataset = coco.load_coco(path, folder / split)
        assert not dataset.problems.fatal()
        expected = json.loads(path.read_text())
        assert sum(len(i.annotations) for i in dataset.images) == len(expected["annotations"])
