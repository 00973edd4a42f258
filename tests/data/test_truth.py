"""Ground truth for evaluation is read from the records alone."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from segjax.data.config import DataConfig
from segjax.data.pipeline import open_dataset, train_iterator
from segjax.data.segments import PanopticCategory, Segment
from segjax.data.shapes import CATEGORY_IDS, ShapesConfig
from segjax.eval.panoptic_quality import PanopticQuality
from tests.support.map_samples import (
    SIZES,
    make_everything,
    panoptic_content,
    panoptic_ids,
    plain_labels,
    write,
)
from tests.support.samples import SHARED


@pytest.fixture
def config(tmp_path):
    return dataclasses.replace(make_everything(tmp_path / "data"), cache_dir=str(tmp_path / "kept"))


def expected_segments(image):
    entries = panoptic_content()["annotations"][image - 1]["segments_info"]
    return tuple(Segment(s["id"], s["category_id"], bool(s["iscrowd"])) for s in entries)


def test_panoptic_truth_is_what_the_files_say(config):
    dataset = open_dataset(dataclasses.replace(config, semantic="panoptic", merge_things="first"))
    assert dataset.panoptic_categories == (
        PanopticCategory(3, "cat", True),
        PanopticCategory(7, "dog", True),
        PanopticCategory(200, "sky", False),
    )
    for split in ("train", "val"):
        truth = dataset.panoptic(split)
        assert (list(truth), len(truth), 1 in truth, 5 in truth) == ([1, 2], 2, True, False)
        for image, (ids, segments) in truth.items():
            assert ids.dtype == np.int32
            np.testing.assert_array_equal(ids, panoptic_ids(image))
            assert segments == expected_segments(image)
    assert any(segment.is_crowd for segment in expected_segments(1))
    with pytest.raises(KeyError, match='no image 9 in the split "val"'):
        dataset.panoptic("val")[9]
    with pytest.raises(KeyError, match='no split "test"'):
        dataset.panoptic("test")


def test_truth_outlives_the_folder(config, tmp_path):
    """An opened dataset can be evaluated after its files are deleted."""
    panoptic = open_dataset(dataclasses.replace(config, semantic="panoptic"))
    plain = open_dataset(dataclasses.replace(config, semantic="folder"))
    shutil.rmtree(tmp_path / "data")
    ids, segments = panoptic.panoptic("val")[2]
    np.testing.assert_array_equal(ids, panoptic_ids(2))
    assert segments == expected_segments(2)
    np.testing.assert_array_equal(plain.semantic_labels("val")[1], plain_labels(1))


def test_semantic_truth_is_at_the_stored_size(config):
    config = dataclasses.replace(config, semantic="folder", resize="stretch", size=(64, 64))
    truth = open_dataset(config).semantic_labels("train")
    assert list(truth) == [1, 2]
    for image, labels in truth.items():
        assert (labels.dtype, labels.shape) == (np.uint8, SIZES[image])
        np.testing.assert_array_equal(labels, plain_labels(image))


def test_segments_keep_the_order_of_the_json(config, tmp_path):
    """Of several crowds of a class, the reference uses the last, whatever their ids."""
    path = tmp_path / "data/annotations/panoptic_train.json"
    data = panoptic_content()
    for segment in data["annotations"][0]["segments_info"]:
        segment |= {"category_id": 7, "iscrowd": 1}
    quality = []
    for rows in ([70001, 300, 5], [5, 300, 70001], [300, 70001, 5]):
        described = data["annotations"][0]["segments_info"]
        described.sort(key=lambda segment: rows.index(segment["id"]))
        write(path, data)
        dataset = open_dataset(dataclasses.replace(config, semantic="panoptic"))
        ids, segments = dataset.panoptic("train")[1]
        assert [segment.id for segment in segments] == rows
        np.testing.assert_array_equal(ids, panoptic_ids(1))
        labels = dataset.semantic_labels("train")[1]
        np.testing.assert_array_equal(labels, np.where(ids > 0, 1, 255))
        # A dog detected on a single crowd is a false positive unless that crowd is the last.
        found = np.where(ids == 5, 1, 0)
        scored = PanopticQuality(dataset.panoptic_categories)
        scored.add(ids, segments, found, [Segment(1, 7)])
        quality.append(scored.state()[1, 2])
    assert quality == [0.0, 1.0, 0.0]


def test_segments_without_a_pixel_stay(config, tmp_path):
    """The reference implementation counts segments without pixels as missed."""
    data = panoptic_content()
    data["annotations"][0]["segments_info"].append({"id": 9, "category_id": 3, "iscrowd": 0})
    data["annotations"][1]["segments_info"][0].pop("iscrowd")
    write(tmp_path / "data/annotations/panoptic_train.json", data)
    truth = open_dataset(dataclasses.replace(config, semantic="panoptic")).panoptic("train")
    ids, segments = truth[1]
    assert Segment(9, 3) in segments
    assert 9 not in ids
    assert not truth[2][1][0].is_crowd


def test_a_change_of_segments_is_another_dataset(config, tmp_path):
    config = dataclasses.replace(config, semantic="panoptic")
    before = open_dataset(config).fingerprint
    data = panoptic_content()
    data["annotations"][0]["segments_info"][0]["iscrowd"] = 1
    write(tmp_path / "data/annotations/panoptic_train.json", data)
    assert open_dataset(config).fingerprint != before


def test_truth_that_was_not_opened(config):
    dataset = open_dataset(config)
    with pytest.raises(ValueError, match='opened with semantic="none", which has no panoptic'):
        dataset.panoptic("val")
    with pytest.raises(ValueError, match='opened with semantic="none" and has no labels'):
        dataset.semantic_labels("val")
    stuff = open_dataset(dataclasses.replace(config, semantic="stuffthingmaps"))
    assert stuff.panoptic_categories == ()
    with pytest.raises(ValueError, match='opened with semantic="stuffthingmaps", which has no pan'):
        stuff.panoptic("val")


def test_shapes_on_grounds(tmp_path):
    """Thing labels are the instance masks; everything else is stuff."""
    shapes = ShapesConfig(
        image_size=48, num_train=6, num_val=2, min_side=12, max_side=30, stuff_regions=3
    )
    config = DataConfig(
        name="shapes",
        shapes=shapes,
        cache_dir=str(tmp_path),
        semantic="panoptic",
        resize="none",
        batch_size=2,
        mask_frame="image",
        size_divisor=16,
        filter_empty=False,
    )
    dataset = open_dataset(config)
    assert dataset.class_names == ("disc", "box", "triangle", "star")
    assert dataset.semantic_names == (*dataset.class_names, "grass", "sand", "water")
    assert [c.is_thing for c in dataset.panoptic_categories] == [True] * 4 + [False] * 3
    with train_iterator(dataset, config, seed=0) as iterator:
        for batch in (next(iterator) for _ in range(3)):
            covered = batch["gt_masks"].any(axis=1)
            np.testing.assert_array_equal(batch["gt_semantic"] < 4, covered)
            assert (batch["gt_semantic"] < 7).all()
    for image, (ids, segments) in dataset.panoptic("train").items():
        assert set(np.unique(ids)) == {segment.id for segment in segments}
        things = [segment.id for segment in segments if segment.category_id in CATEGORY_IDS]
        labels = dataset.semantic_labels("train")[image]
        np.testing.assert_array_equal(np.isin(ids, things), labels < 4)


def test_coco_panoptic200(tmp_path):
    """Ground truth passed through records and batches equals the json and the PNGs."""
    source = SHARED / "coco_panoptic200"
    if not source.exists():
        pytest.skip(f"no {source}")
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        kept = json.loads((source / f"annotations/instances_{split}.json").read_text())
        kept["images"] = kept["images"][:4]
        ids = {image["id"] for image in kept["images"]}
        kept["annotations"] = [a for a in kept["annotations"] if a["image_id"] in ids]
        write(tmp_path / f"annotations/instances_{split}.json", kept)
        (tmp_path / split).symlink_to(source / split)
    config = DataConfig(
        root=str(tmp_path),
        cache_dir=str(tmp_path / "cache"),
        semantic="panoptic",
        semantic_root=str(source),
        merge_things="first",
        short_side=(160,),
        batch_size=2,
    )
    dataset = open_dataset(config)
    assert len(dataset.class_names) == 80
    assert sum(category.is_thing for category in dataset.panoptic_categories) == 80
    assert dataset.semantic_names[:2] == ("things", "banner")
    assert len(dataset.semantic_names) == 54
    content = json.loads((source / "annotations/panoptic_val.json").read_text())
    entries = {entry["image_id"]: entry for entry in content["annotations"]}
    stuff = sorted(c["id"] for c in content["categories"] if not c["isthing"])
    truth, labels = dataset.panoptic("val"), dataset.semantic_labels("val")
    assert len(truth) == 4
    for image, (ids, segments) in truth.items():
        pixels = np.array(Image.open(source / "panoptic_val" / entries[image]["file_name"]))
        np.testing.assert_array_equal(ids, pixels.astype(int) @ np.array([1, 256, 65536]))
        said = {s["id"]: s for s in entries[image]["segments_info"]}
        assert set(said) == {segment.id for segment in segments}
        expected = np.full(ids.shape, 255)
        for segment in segments:
            entry = said[segment.id]
            assert segment == Segment(entry["id"], entry["category_id"], bool(entry["iscrowd"]))
            assert (ids == segment.id).sum() == entry["area"]
            is_stuff = segment.category_id in stuff
            expected[ids == segment.id] = is_stuff and 1 + stuff.index(segment.category_id)
        np.testing.assert_array_equal(labels[image], expected)
    with train_iterator(dataset, config, seed=0) as iterator:
        batch = next(iterator)
    present = set(np.unique(batch["gt_semantic"]))
    assert {0, 255} < present
    assert max(present - {255}) < 54
    assert batch["gt_valid"].any()
