"""Batches: shapes, order, caps, crowds, resuming and workers."""

import dataclasses
import itertools
import json
import os
import shutil
import time

import numpy as np
import pytest

from segjax.data.config import DataConfig
from segjax.data.pipeline import eval_iterator, open_dataset, train_iterator
from segjax.data.shapes import ShapesConfig
from tests.support.samples import SHARED, annotation, content, encoded, make_folder

FIELDS = {
    "images": ("uint8", (2, 32, 64, 3)),
    "image_sizes": ("int32", (2, 2)),
    "gt_boxes": ("float32", (2, 6, 4)),
    "gt_classes": ("int32", (2, 6)),
    "gt_valid": ("bool", (2, 6)),
    "gt_is_crowd": ("bool", (2, 6)),
    "gt_masks": ("uint8", (2, 6, 16, 16)),
    "gt_mask_frames": ("float32", (2, 6, 4)),
    "image_ids": ("int64", (2,)),
    "original_sizes": ("int32", (2, 2)),
    "example_valid": ("bool", (2,)),
    "truncated": ("int32", (2,)),
    "dropped_degenerate": ("int32", (2,)),
}


def data():
    """Nine images: wide, tall, without objects, with only a crowd, and with many objects."""
    images = [(i, 24, 60) for i in range(1, 6)] + [(i, 60, 24) for i in range(6, 10)]
    annotations = [annotation(i, i, (i, 2, 10, 8)) for i in range(1, 8)]
    annotations[2]["category_id"] = 3
    annotations.append(annotation(90, 8, (2, 2, 9, 9), 7, 1))
    annotations += [annotation(100 + n, 5, (2 * n, 2, 4 + n, 5)) for n in range(4)]
    annotations.append(annotation(200, 5, (1, 1, 20, 20), 7, 1))
    annotations.append(annotation(201, 4, (1, 1, 0, 20)))
    return content(images, annotations)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("folder"), data())


@pytest.fixture(scope="module")
def dataset(config):
    return open_dataset(config)


def take(iterator, count):
    with iterator:
        return [next(iterator) for _ in range(count)]


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def by_image(batches):
    return {
        int(b["image_ids"][row]): {name: value[row] for name, value in b.items()}
        for b in batches
        for row in np.flatnonzero(b["example_valid"])
    }


def test_fields(config, dataset):
    assert dataset.buckets(config) == ((32, 64), (64, 32))
    batches = list(eval_iterator(dataset, "val", config))
    assert {k: (str(v.dtype), v.shape) for k, v in batches[0].items()} == FIELDS
    assert {b["images"].shape[1:3] for b in batches} == {(32, 64), (64, 32)}


def test_evaluation_gives_each_image_once_and_fills_up(config, dataset):
    batches = list(eval_iterator(dataset, "val", config))
    ids = np.concatenate([b["image_ids"] for b in batches])
    assert sorted(ids[ids >= 0]) == list(range(1, 10))
    filling = batches[2]
    assert filling["example_valid"].tolist() == [True, False]
    assert filling["image_ids"][1] == -1
    assert filling["image_sizes"][1].tolist() == [32, 64]
    assert not filling["gt_valid"][1].any()
    sizes = by_image(batches)[6]
    assert sizes["original_sizes"].tolist() == sizes["image_sizes"].tolist() == [60, 24]
    assert len(list(eval_iterator(dataset, "train", config))) == 5


def test_ground_truth(config, dataset):
    example = by_image(eval_iterator(dataset, "val", config))[3]
    np.testing.assert_array_equal(example["gt_boxes"][0], [3, 2, 13, 10])
    assert example["gt_classes"][0] == 0
    assert example["gt_valid"].tolist() == [True] + [False] * 5
    assert (example["gt_masks"][0] == 1).all()
    np.testing.assert_array_equal(example["gt_mask_frames"], example["gt_boxes"])
    assert not example["gt_boxes"][1:].any()


def test_whole_image_frames(config, dataset):
    whole = dataclasses.replace(config, mask_frame="image")
    example = by_image(eval_iterator(dataset, "val", whole))[3]
    assert example["gt_masks"].shape == (6, 32, 64)
    expected = np.zeros((32, 64))
    expected[2:10, 3:13] = 1
    np.testing.assert_array_equal(example["gt_masks"][0], expected)
    np.testing.assert_array_equal(example["gt_mask_frames"][0], [0, 0, 64, 32])
    bare = dataclasses.replace(config, masks=False)
    assert by_image(eval_iterator(dataset, "val", bare))[3]["gt_masks"].shape == (6, 1, 1)


def test_crowds_are_flagged_and_empty_images_are_whole(config, dataset):
    examples = by_image(eval_iterator(dataset, "val", config))
    assert examples[5]["gt_is_crowd"].sum() == 1
    assert examples[5]["gt_valid"].sum() == 6
    assert examples[8]["gt_is_crowd"].tolist() == [True] + [False] * 5
    assert not examples[9]["gt_valid"].any()
    assert examples[9]["example_valid"]
    assert examples[4]["dropped_degenerate"] == 1


def test_cap(config, dataset):
    """Crowds are dropped before objects; only an excess of objects is an error."""
    five = dataclasses.replace(config, max_instances=5)
    seen = by_image(take(train_iterator(dataset, five, seed=0), 8))
    assert seen[5]["gt_valid"].sum() == 5
    assert not seen[5]["gt_is_crowd"].any()
    assert seen[5]["truncated"] == 1
    four = dataclasses.replace(config, max_instances=4)
    message = (
        'image 5 has 5 instances, max_instances is 4: raise it, or choose overflow="drop_smallest"'
    )
    with pytest.raises(ValueError) as error:
        train_iterator(dataset, four, seed=0)
    assert str(error.value) == message
    dropping = dataclasses.replace(four, overflow="drop_smallest")
    seen = by_image(take(train_iterator(dataset, dropping, seed=0), 8))
    assert seen[5]["truncated"] == 2
    assert (seen[5]["gt_boxes"][:4, 0] != 0).all()
    assert by_image(eval_iterator(dataset, "val", four))[5]["truncated"] == 2


def test_training_leaves_out_images_without_objects(config, dataset):
    assert set(by_image(take(train_iterator(dataset, config, seed=0), 20))) == set(range(1, 8))
    everything = dataclasses.replace(config, filter_empty=False)
    seen = by_image(take(train_iterator(dataset, everything, seed=0), 20))
    assert set(seen) == set(range(1, 10))


def test_boxes_alone_train_without_masks(tmp_path):
    boxes = content([(1, 24, 32)], [annotation(1, 1, (2, 2, 9, 9))])
    boxes["annotations"][0]["segmentation"] = None
    config = make_folder(tmp_path, boxes)
    dataset = open_dataset(config)
    with pytest.raises(ValueError, match=r"has a segmentation.*masks=False"):
        train_iterator(dataset, config, seed=0)
    (batch,) = take(train_iterator(dataset, dataclasses.replace(config, masks=False), seed=0), 1)
    assert batch["gt_valid"].sum() == 2


def test_a_split_without_images(tmp_path):
    nothing = content([], [])
    config = make_folder(tmp_path / "val", data(), nothing)
    dataset = open_dataset(config)
    assert len(dataset.split("val").index) == 0
    assert list(eval_iterator(dataset, "val", config)) == []
    assert take(train_iterator(dataset, config, seed=0), 1)[0]["example_valid"].all()
    for name, val in (("train", data()), ("both", nothing)):
        config = make_folder(tmp_path / name, nothing, val)
        dataset = open_dataset(config)
        assert len(list(eval_iterator(dataset, "val", config))) == (5 if name == "train" else 0)
        with pytest.raises(ValueError, match='the split "train" has no image to train on'):
            train_iterator(dataset, config, seed=0)


def test_batches_are_of_one_canvas_and_lose_no_image(config, dataset):
    batches = take(train_iterator(dataset, config, seed=4), 7)
    for batch in batches:
        wide = batch["original_sizes"][:, 0] < batch["original_sizes"][:, 1]
        assert wide.all() or not wide.any()
    counts = np.bincount(np.concatenate([b["image_ids"] for b in batches]))
    assert counts[1:8].tolist() == [2] * 7


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_is_exact(config, dataset, workers):
    """Ten batches equal six, a stop and four more, bit for bit, with state saved as JSON."""
    threads = dataclasses.replace(
        config, flip=True, resize="shortest_edge", short_side=(20, 24, 28), long_side=80
    )
    straight = take(train_iterator(dataset, threads, seed=7), 10)
    config = dataclasses.replace(threads, num_workers=workers)
    before = shared_blocks()
    first = train_iterator(dataset, config, seed=7)
    head = [next(first) for _ in range(6)]
    state = json.loads(json.dumps(first.get_state()))
    first.close()
    tail = take(train_iterator(dataset, config, seed=7, start_state=state), 4)
    for expected, found in zip(straight, head + tail, strict=True):
        assert_equal(expected, found)
    assert not left_of(shared_blocks() - before)


def left_of(blocks, seconds=20):
    """Returns the blocks that still exist after a while; a separate thread frees them."""
    end = time.monotonic() + seconds
    while blocks and time.monotonic() < end:
        time.sleep(0.05)
        blocks &= shared_blocks()
    return blocks


def shared_blocks():
    return {name for name in os.listdir("/dev/shm") if name.startswith("psm_")}


def test_state_of_another_run_is_refused(config, dataset):
    with train_iterator(dataset, config, seed=0) as iterator:
        state = iterator.get_state()
        next(iterator)
        first = iterator.get_state()
        second = next(iterator)
        iterator.set_state(first)
        assert_equal(next(iterator), second)
    with (
        train_iterator(dataset, config, seed=1) as other,
        pytest.raises(ValueError, match=r"seed 0.*seed 1"),
    ):
        other.set_state(state)


def test_a_copy_of_the_data_is_the_same_data(tmp_path):
    """A resumed run accepts another folder, cache and file times, but no other contents."""
    config = make_folder(tmp_path / "first", data())
    with train_iterator(open_dataset(config), config, seed=0) as iterator:
        next(iterator)
        state, second = iterator.get_state(), next(iterator)
    shutil.copytree(config.root, tmp_path / "copy", ignore=shutil.ignore_patterns("cache"))
    os.utime(tmp_path / "copy" / "train" / "1.png", (0, 0))
    copied = dataclasses.replace(
        config, root=str(tmp_path / "copy"), cache_dir=str(tmp_path / "cache")
    )
    resumed = train_iterator(open_dataset(copied), copied, seed=0, start_state=state)
    assert_equal(take(resumed, 1)[0], second)
    pixels = encoded(np.zeros((24, 60, 3), np.uint8))
    (tmp_path / "copy" / "train" / "1.png").write_bytes(pixels)
    with pytest.raises(ValueError, match="resume with the same data"):
        train_iterator(open_dataset(copied), copied, seed=0, start_state=state)


def test_processes_get_parts_of_the_same_batches(config, dataset):
    config = dataclasses.replace(config, batch_size=4)
    whole = take(train_iterator(dataset, config, seed=2), 5)
    halves = [
        take(train_iterator(dataset, config, seed=2, process_index=i, process_count=2), 5)
        for i in (0, 1)
    ]
    for full, left, right in zip(whole, *halves, strict=True):
        joined = {name: np.concatenate([left[name], right[name]]) for name in full}
        assert_equal(full, joined)


def test_a_closed_iterator_says_so(config, dataset):
    iterator = train_iterator(dataset, config, seed=0)
    iterator.close()
    iterator.close()
    with pytest.raises(RuntimeError, match="closed"):
        next(iterator)


def test_splits_and_roots_are_named(config, dataset):
    with pytest.raises(KeyError, match=r"train.*val"):
        eval_iterator(dataset, "test", config)
    with pytest.raises(ValueError, match="needs root"):
        open_dataset(DataConfig())
    with pytest.raises(ValueError, match="batch_size is 0"):
        DataConfig(batch_size=0)
    with pytest.raises(ValueError, match="needs size"):
        DataConfig(resize="fit")
    with pytest.raises(ValueError, match="no multiple"):
        DataConfig(buckets=((100, 100),))


def test_shapes_by_name(tmp_path):
    made = ShapesConfig(image_size=64, num_train=6, num_val=3, min_side=16, max_side=32)
    config = DataConfig(name="shapes", shapes=made, cache_dir=str(tmp_path), resize="none")
    dataset = open_dataset(config)
    assert dataset.class_names == ("disc", "box", "triangle", "star")
    assert len(dataset.split("val").index) == 3
    assert len(dataset.instances("val").images) == 3
    (batch,) = eval_iterator(dataset, "val", config)
    assert batch["images"].shape == (8, 64, 64, 3)


@pytest.mark.parametrize(("name", "canvases"), [("coco_ci", 2), ("dsb_ci", 1)])
def test_real_data(name, canvases, tmp_path):
    if not (SHARED / name).exists():
        pytest.skip(f"no {SHARED / name}")
    config = DataConfig(
        root=str(SHARED / name), cache_dir=str(tmp_path), short_side=(256,), long_side=448
    )
    config = dataclasses.replace(config, batch_size=4, eval_batch_size=8, mask_size=28)
    dataset = open_dataset(config)
    assert len(dataset.buckets(config)) == canvases
    for batch in take(train_iterator(dataset, config, seed=0), 4):
        assert batch["example_valid"].all()
        assert batch["gt_valid"].any(axis=1).all()
        filled = batch["gt_masks"].reshape(*batch["gt_valid"].shape, -1).mean(axis=2)
        assert (filled[batch["gt_valid"]] > 0).mean() > 0.98
    seen = itertools.chain(*(b["image_ids"] for b in eval_iterator(dataset, "val", config)))
    assert sum(i >= 0 for i in seen) == len(dataset.split("val").index)
