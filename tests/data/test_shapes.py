"""The synthetic set has exact masks, is reproducible and is generated only once."""

import dataclasses
import json

import cv2
import numpy as np
import pytest

from segjax.data import coco, rle, shapes
from segjax.data.check import check
from segjax.data.formats.coco_folder import coco_split
from segjax.data.shapes import ShapesConfig, generate

SMALL = ShapesConfig(
    image_size=96, num_train=40, num_val=6, max_side=48, crowd_fraction=0.3, empty_fraction=0.2
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    generate(SMALL, root)
    return root


def read(root, split):
    return json.loads((root / "annotations" / f"instances_{split}.json").read_text())


def test_is_valid_coco_without_any_defect(folder):
    for split, count in (("train", 40), ("val", 6)):
        path = folder / "annotations" / f"instances_{split}.json"
        dataset = coco.load_coco(path, folder / split)
        assert set(dataset.problems.counts) <= {
            "category_gap",
            "crowd_object",
            "image_without_objects",
        }
        assert len(dataset.images) == count
        assert not check(coco_split(path, folder / split)).fatal()


def test_every_kind_of_image_and_segmentation_occurs(folder):
    data = read(folder, "train")
    forms = {type(a["segmentation"]) for a in data["annotations"]}
    assert forms == {list, dict}
    crowds = [a for a in data["annotations"] if a["iscrowd"]]
    assert crowds
    assert all(isinstance(a["segmentation"]["counts"], list) for a in crowds)
    assert {a["category_id"] for a in data["annotations"]} == set(shapes.CATEGORY_IDS)
    used = {a["image_id"] for a in data["annotations"]}
    assert 0 < len(used) < len(data["images"])


def test_masks_are_exact_and_disjoint(folder):
    data = read(folder, "train")
    for image in data["images"]:
        total = np.zeros((96, 96), int)
        for a in data["annotations"]:
            if a["image_id"] == image["id"]:
                mask = decode(a["segmentation"])
                assert mask.sum() == a["area"]
                x, y, w, h = a["bbox"]
                assert mask[y : y + h, x : x + w].sum() == a["area"]
                total += mask
        assert total.max(initial=0) <= 1


def decode(value):
    if isinstance(value, list):
        return rle.decode(rle.from_polygons(value, 96, 96))
    if isinstance(value["counts"], list):
        return rle.decode(rle.from_counts(value["counts"], 96, 96))
    return rle.decode(value)


def test_follows_the_seed(folder, tmp_path):
    generate(SMALL, tmp_path / "again")
    generate(dataclasses.replace(SMALL, seed=1), tmp_path / "other")
    assert read(folder, "val") == read(tmp_path / "again", "val")
    assert read(folder, "val") != read(tmp_path / "other", "val")
    first, second = (
        cv2.imread(str(r / "val" / "000003.png")) for r in (folder, tmp_path / "again")
    )
    np.testing.assert_array_equal(first, second)


def test_is_drawn_once_and_anew_for_another_config(tmp_path):
    small = dataclasses.replace(SMALL, num_train=2, num_val=1)
    generate(small, tmp_path)
    path = tmp_path / "train" / "000000.png"
    before = path.stat().st_mtime_ns
    generate(small, tmp_path)
    assert path.stat().st_mtime_ns == before
    generate(dataclasses.replace(small, num_train=1), tmp_path)
    assert sorted(p.name for p in (tmp_path / "train").iterdir()) == ["000000.png"]
    assert path.stat().st_mtime_ns > before


def test_leaves_other_peoples_files_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(FileExistsError, match="empty folder"):
        generate(SMALL, tmp_path)
    with pytest.raises(ValueError, match="min_side"):
        ShapesConfig(min_side=200)
