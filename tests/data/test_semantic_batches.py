"""Semantic labels in training batches stay aligned with the image."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from segjax.data import transforms
from segjax.data.config import DataConfig
from segjax.data.pipeline import eval_iterator, open_dataset, train_iterator
from segjax.data.shapes import ShapesConfig
from tests.support.samples import annotation, content, encoded, make_folder

PALETTE = np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250]], np.uint8)


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    """Images whose colours encode the labels: cells of 8 pixels, odd sizes, in both formats."""
    root = tmp_path_factory.mktemp("coloured")
    sizes = {1: (45, 75), 2: (75, 45), 3: (60, 61)}
    boxes = [annotation(i, i, (2, 2, 30, 30)) for i in sizes]
    config = make_folder(root, content([(i, *sizes[i]) for i in sizes], boxes))
    for split in ("train", "val"):
        for kind in ("stuffthingmaps", "labels"):
            (root / kind / split).mkdir(parents=True)
        for image, (height, width) in sizes.items():
            cells = np.random.default_rng(image).integers(0, 3, (10, 10)).astype(np.uint8)
            labels = np.kron(cells, np.ones((8, 8), np.uint8))[:height, :width]
            for kind in ("stuffthingmaps", "labels"):
                (root / f"{kind}/{split}/{image}.png").write_bytes(encoded(labels))
            (root / split / f"{image}.png").write_bytes(encoded(PALETTE[labels]))
    return dataclasses.replace(config, semantic="stuffthingmaps", flip=True)


def take(config, count):
    with train_iterator(open_dataset(config), config, seed=3) as iterator:
        return [next(iterator) for _ in range(count)]


@pytest.mark.parametrize(
    "changes",
    [
        {"resize": "none"},
        {"resize": "shortest_edge", "short_side": (31, 57, 90), "long_side": 200},
        {"resize": "stretch", "size": (64, 96)},
        {"resize": "stretch", "size": (64, 96), "semantic": "folder"},
        {"resize": "fit", "size": (50, 90), "semantic": "folder", "instances": False},
        {"resize": "shortest_edge", "short_side": (50,), "interpolation": "pil"},
    ],
)
def test_labels_lie_where_the_image_lies(coloured, changes):
    config = dataclasses.replace(coloured, **changes)
    for batch in take(config, 6):
        labels, images = batch["gt_semantic"], batch["images"]
        assert labels.dtype == np.uint8
        assert labels.shape == images.shape[:3]
        for image, label, (height, width) in zip(images, labels, batch["image_sizes"], strict=True):
            inside = np.zeros(label.shape, bool)
            inside[:height, :width] = True
            assert (label[~inside] == 255).all()
            distance = np.abs(image[:, :, None].astype(int) - PALETTE[None, None]).max(axis=3)
            pure = inside & (distance.min(axis=2) < 3)
            assert pure.sum() > 0.4 * height * width
            np.testing.assert_array_equal(label[pure], distance.argmin(axis=2)[pure])
            # Where two colours meet, the label is that of the nearer one.
            assert (label == distance.argmin(axis=2))[inside].mean() > 0.97


def test_flips_move_the_labels(coloured):
    config = dataclasses.replace(coloured, batch_size=1)
    seen = {}
    for batch in take(config, 30):
        height, width = batch["image_sizes"][0]
        key = batch["gt_semantic"][0, :height, :width].tobytes()
        seen.setdefault(int(batch["image_ids"][0]), set()).add(key)
    assert all(len(versions) == 2 for versions in seen.values())


@pytest.mark.parametrize("size", [(7, 9), (33, 41), (21, 21), (60, 5), (15, 63)])
def test_resizing_takes_the_pixel_under_the_centre(size):
    labels = np.random.default_rng(0).integers(0, 255, (21, 33), dtype=np.uint8)
    found = transforms.resize_labels(labels, size)
    expected = Image.fromarray(labels).resize(size[::-1], Image.Resampling.NEAREST)
    np.testing.assert_array_equal(found, np.asarray(expected))
    for y, x in np.ndindex(*size):
        row, column = int((y + 0.5) * 21 / size[0]), int((x + 0.5) * 33 / size[1])
        assert found[y, x] == labels[row, column]


def test_labels_of_instances_are_the_masks(tmp_path):
    """Labels equal the mask rasters over the whole image, at any scale."""
    data = content([(1, 20, 30)], [annotation(1, 1, (3, 4, 15, 9))])
    config = make_folder(tmp_path, data)
    config = dataclasses.replace(
        config,
        semantic="instances",
        mask_frame="image",
        resize="shortest_edge",
        short_side=(13, 33, 47),
        batch_size=1,
        flip=True,
    )
    for batch in take(config, 6):
        assert (batch["gt_semantic"] == 1).any()
        np.testing.assert_array_equal(batch["gt_semantic"][0] == 1, batch["gt_masks"][0, 0] == 1)


def test_evaluation_has_no_labels_and_models_need_none(coloured):
    dataset = open_dataset(coloured)
    with eval_iterator(dataset, "val", coloured) as batches:
        assert "gt_semantic" not in next(batches)
    without = dataclasses.replace(coloured, semantic="none")
    with (
        train_iterator(dataset, without, seed=3) as bare,
        train_iterator(dataset, coloured, seed=3) as full,
    ):
        first, second = next(bare), next(full)
        full.set_state(bare.get_state())
    assert first.keys() == second.keys() - {"gt_semantic"}
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])
    with pytest.raises(ValueError, match='opened with semantic="stuffthingmaps" and has no labels'):
        train_iterator(dataset, dataclasses.replace(coloured, semantic="panoptic"), seed=3)


def test_worker_processes_give_the_same_labels(coloured):
    here = take(coloured, 3)
    there = take(dataclasses.replace(coloured, num_workers=1), 3)
    for first, second in zip(here, there, strict=True):
        np.testing.assert_array_equal(first["gt_semantic"], second["gt_semantic"])


def test_shapes_have_labels_of_things(tmp_path):
    shapes = ShapesConfig(image_size=32, num_train=4, num_val=2, min_side=10, max_side=20)
    config = DataConfig(
        name="shapes",
        shapes=shapes,
        cache_dir=str(tmp_path),
        semantic="instances",
        resize="none",
        batch_size=2,
        mask_frame="image",
        flip=False,
    )
    dataset = open_dataset(config)
    assert dataset.semantic_names == ("disc", "box", "triangle", "star", "other")
    with train_iterator(dataset, config, seed=0) as iterator:
        for batch in (next(iterator), next(iterator)):
            covered = batch["gt_masks"].any(axis=1)
            np.testing.assert_array_equal(batch["gt_semantic"] < 4, covered)
