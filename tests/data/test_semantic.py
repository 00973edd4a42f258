"""Semantic labels from every source, compared with a slow reader of the same files."""

import dataclasses
import json

import numpy as np
import pytest

from segjax.data.build import open_records
from segjax.data.config import DataConfig
from segjax.data.images import decode_labels
from segjax.data.labels import find_labels
from segjax.data.labels.stuffthingmaps import STUFF_NAMES
from segjax.data.pipeline import open_dataset, train_iterator
from tests.support.map_samples import (
    PLAIN_NAMES,
    SIZES,
    colours,
    instances,
    labels_of,
    make_everything,
    panoptic_content,
    panoptic_ids,
    plain_labels,
    stuff_labels,
    write,
)
from tests.support.samples import SHARED, encoded


@pytest.fixture
def config(tmp_path):
    return make_everything(tmp_path)


def slow_instances(image):
    """Assigns to every pixel the smallest mask that contains it."""
    found = np.full(SIZES[image], 2)
    objects = [a for a in instances()["annotations"] if a["image_id"] == image]
    for y, x in np.ndindex(*SIZES[image]):
        best = np.inf
        for entry in objects:
            x0, y0, w, h = entry["bbox"]
            inside = x0 - 1 < x < x0 + w and y0 - 1 < y < y0 + h
            if entry["segmentation"] is None and inside and best == np.inf:
                found[y, x] = 255
            elif entry["segmentation"] and x0 <= x < x0 + w and y0 <= y < y0 + h and w * h < best:
                best = w * h
                found[y, x] = (3, 7).index(entry["category_id"])
    return found


def slow_panoptic(image):
    segments = panoptic_content()["annotations"][image - 1]["segments_info"]
    classes = {s["id"]: [3, 7, 200].index(s["category_id"]) for s in segments} | {0: 255}
    return np.vectorize(classes.get)(panoptic_ids(image))


EXPECTED = {
    "instances": (("cat", "dog", "other"), slow_instances),
    "folder": (PLAIN_NAMES, plain_labels),
    "panoptic": (("cat", "dog", "sky"), slow_panoptic),
    "stuffthingmaps": (STUFF_NAMES, stuff_labels),
}


@pytest.mark.parametrize("semantic", EXPECTED)
@pytest.mark.parametrize("split", ["train", "val"])
def test_sources_say_what_the_files_say(config, semantic, split):
    names, source, images = labels_of(config, semantic, split)
    expected_names, slow = EXPECTED[semantic]
    assert names == expected_names
    for number, image in images.items():
        labels = source.read(image)
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, slow(number))
    assert all(len(np.unique(slow(number))) > 1 for number in images)


def test_names_of_coco_stuff():
    """Labels are ids minus 1. 12 (street sign) has no mask in COCO; 92 is the first stuff class."""
    assert len(STUFF_NAMES) == len(set(STUFF_NAMES)) == 183
    numbers = {"person": 1, "street sign": 12, "toothbrush": 90, "banner": 92, "wood": 182}
    assert {name: STUFF_NAMES.index(name) + 1 for name in numbers} == numbers
    assert STUFF_NAMES[182] == "other"


@pytest.mark.parametrize("semantic", EXPECTED)
def test_the_dataset_holds_them_beside_the_images(config, semantic):
    config = dataclasses.replace(config, semantic=semantic)
    dataset = open_dataset(config)
    expected_names, slow = EXPECTED[semantic]
    assert (dataset.semantic, dataset.semantic_names) == (semantic, expected_names)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.split("train").index.shape == (2, 6)
    for record in open_records(dataset.split("val")):
        expected = slow(int(record["image/id"]))
        np.testing.assert_array_equal(decode_labels(record["semantic"]), expected)
    again = open_dataset(config)
    assert (again.fingerprint, again.semantic_names) == (dataset.fingerprint, expected_names)


def test_without_labels_nothing_changes(config):
    dataset = open_dataset(config)
    assert (dataset.semantic, dataset.semantic_names) == ("none", ())
    assert "semantic" not in open_records(dataset.split("train"))[0]
    with train_iterator(dataset, config, seed=0) as batches:
        assert "gt_semantic" not in next(batches)


def test_a_change_of_the_labels_is_another_dataset(config, tmp_path):
    found = {open_dataset(config).fingerprint}
    for semantic in EXPECTED:
        found.add(open_dataset(dataclasses.replace(config, semantic=semantic)).fingerprint)
    assert len(found) == 5
    stuff = dataclasses.replace(config, semantic="stuffthingmaps")
    write(tmp_path / "stuffthingmaps/train/1.png", encoded(stuff_labels(1) // 2))
    found.add(open_dataset(stuff).fingerprint)
    panoptic = dataclasses.replace(config, semantic="panoptic")
    changed = panoptic_content()
    changed["categories"][0]["name"] = "clouds"
    for path in tmp_path.glob("annotations/panoptic_*.json"):
        write(path, changed)
    found.add(open_dataset(panoptic).fingerprint)
    write(tmp_path / "panoptic_train/2.png", encoded(colours(panoptic_ids(2)[::-1])))
    found.add(open_dataset(panoptic).fingerprint)
    plain = dataclasses.replace(config, semantic="folder")
    write(tmp_path / "labels/classes.txt", b"a\nb\nc\nd\ne")
    found.add(open_dataset(plain).fingerprint)
    found.add(open_dataset(dataclasses.replace(plain, semantic_ignore=3)).fingerprint)
    assert len(found) == 10
    assert open_dataset(config).fingerprint in found


def test_maps_of_another_folder(config, tmp_path):
    """The same maps elsewhere are the same dataset; they are PNGs whatever the photo's suffix."""
    apart = tmp_path / "apart"
    (tmp_path / "stuffthingmaps").rename(apart)
    stuff = dataclasses.replace(config, semantic="stuffthingmaps", semantic_root=str(apart))
    first = open_dataset(stuff)
    apart.rename(tmp_path / "stuffthingmaps")
    beside = open_dataset(dataclasses.replace(stuff, semantic_root=""))
    assert beside.fingerprint == first.fingerprint
    notes = tmp_path / "notes"
    notes.mkdir()
    for path in (*tmp_path.glob("panoptic_*"), *tmp_path.glob("annotations/panoptic_*")):
        path.rename(notes / path.name)
    panoptic = dataclasses.replace(config, semantic="panoptic", semantic_root=str(notes))
    assert open_dataset(panoptic).semantic_names == ("cat", "dog", "sky")
    image = next(iter(labels_of(stuff, "instances")[2].values()))
    _, source, _ = labels_of(config, "stuffthingmaps")
    jpeg = dataclasses.replace(image, file_name="1.jpg")
    np.testing.assert_array_equal(source.read(jpeg), stuff_labels(1))


def test_panoptic_pngs_beside_their_json(config, tmp_path):
    (tmp_path / "panoptic_train").rename(tmp_path / "annotations" / "panoptic_train")
    files = find_labels("panoptic", config.root, "train", apart=False)
    assert files.store.root == tmp_path / "annotations" / "panoptic_train"
    _, source, images = labels_of(config, "panoptic")
    np.testing.assert_array_equal(source.read(images[1]), slow_panoptic(1))


def test_real_panoptic_annotations(tmp_path):
    """Segment areas in the json equal the pixel counts of the labels."""
    source = SHARED / "coco_panoptic200"
    if not source.exists():
        pytest.skip(f"no {source}")
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        kept = json.loads((source / f"annotations/instances_{split}.json").read_text())
        kept["images"] = kept["images"][:5]
        ids = {image["id"] for image in kept["images"]}
        kept["annotations"] = [a for a in kept["annotations"] if a["image_id"] in ids]
        write(tmp_path / f"annotations/instances_{split}.json", kept)
        (tmp_path / split).symlink_to(source / split)
    config = DataConfig(
        root=str(tmp_path),
        cache_dir=str(tmp_path / "cache"),
        semantic="panoptic",
        semantic_root=str(source),
        resize="none",
        batch_size=2,
    )
    dataset = open_dataset(config)
    assert len(dataset.semantic_names) == 133
    assert dataset.semantic_names[:2] == ("person", "bicycle")
    assert dataset.semantic_names[80] == "banner"
    truth = json.loads((source / "annotations/panoptic_val.json").read_text())
    place = {i: n for n, i in enumerate(sorted(c["id"] for c in truth["categories"]))}
    entries = {entry["image_id"]: entry for entry in truth["annotations"]}
    records = open_records(dataset.split("val"))
    assert len(records) == 5
    for record in records:
        labels = decode_labels(record["semantic"])
        areas = np.zeros(256, int)
        for segment in entries[int(record["image/id"])]["segments_info"]:
            areas[place[segment["category_id"]]] += segment["area"]
        areas[255] = labels.size - areas.sum()
        np.testing.assert_array_equal(np.bincount(labels.ravel(), minlength=256), areas)
    with train_iterator(dataset, config, seed=0) as iterator:
        batch = next(iterator)
    things = batch["gt_semantic"] < 80
    assert things.any()
    assert (batch["gt_semantic"] == 255).any()
