"""Mixes use a second image of the split; their choice depends only on seed and batch number."""

import dataclasses

import numpy as np
import pytest

from segjax.config_json import from_json, to_json
from segjax.data.build import open_records
from segjax.data.config import DataConfig
from segjax.data.pipeline import eval_iterator, open_dataset, train_iterator
from segjax.data.rows import make_row
from segjax.data.transforms import Flip, NoResize, ShortSide, Stretch
from tests.support.samples import annotation, content, make_folder


@dataclasses.dataclass(frozen=True)
class Blend:
    """Averages two images of equal size and keeps the objects of both."""

    def mix(self, example, other, rng):
        second = other()
        assert second.size == example.size
        image = (example.image.astype(np.uint16) + second.image) // 2
        return dataclasses.replace(
            example,
            image=image.astype(np.uint8),
            objects=example.objects.joined(second.objects),
        )

    def sizes(self, height, width):
        return ((height, width),)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    images = [(i, 20 + 4 * i, 40) for i in range(1, 5)] + [(9, 24, 40)]
    objects = [annotation(i, i, (i, 2, 8 + i, 8)) for i in range(1, 5)]
    config = make_folder(tmp_path_factory.mktemp("folder"), content(images, objects))
    return dataclasses.replace(config, mask_frame="image", batch_size=4)


@pytest.fixture(scope="module")
def dataset(config):
    return open_dataset(config)


def mixing(config, *after):
    return dataclasses.replace(config, transforms=(Stretch((32, 64)), Blend(), *after))


def first_batch(dataset, config, seed=0, **options):
    with train_iterator(dataset, config, seed=seed, **options) as batches:
        return next(batches)


def test_two_images_meet_in_one(dataset, config):
    batch = first_batch(dataset, mixing(config))
    # The fifth image has no objects: it is neither trained on nor mixed in.
    assert (batch["gt_valid"].sum(1) == 2).all()
    plain = {}
    for record in open_records(dataset.split("train")):
        alone = dataclasses.replace(config, transforms=(Stretch((32, 64)),))
        plain[int(record["image/id"])] = make_row(record, None, alone)
    for row, number in enumerate(batch["image_ids"].tolist()):
        first = plain[number]
        fits = []
        for second in plain.values():
            blend = (first.image.astype(np.uint16) + second.image) // 2
            if (batch["images"][row] == blend).all():
                fits.append(second)
        (second,) = fits
        masks = np.concatenate([first.masks, second.masks])
        np.testing.assert_array_equal(batch["gt_masks"][row, :2], masks)
        boxes = np.concatenate([first.boxes, second.boxes])
        np.testing.assert_array_equal(batch["gt_boxes"][row, :2], boxes)


def test_transforms_after_a_mix_move_both(dataset, config):
    plain = first_batch(dataset, mixing(config))
    flipped = first_batch(dataset, mixing(config, Flip(1.0)))
    np.testing.assert_array_equal(flipped["images"], plain["images"][:, :, ::-1])
    np.testing.assert_array_equal(flipped["gt_masks"], plain["gt_masks"][..., ::-1])


def test_mixes_are_drawn_from_seed_and_batch(dataset, config):
    config = mixing(config)
    first = first_batch(dataset, config)
    again = first_batch(dataset, config)
    np.testing.assert_array_equal(first["images"], again["images"])
    other = first_batch(dataset, config, seed=1)
    assert (first["images"] != other["images"]).any()
    parts = [
        first_batch(dataset, config, process_index=index, process_count=2) for index in range(2)
    ]
    joined = np.concatenate([part["images"] for part in parts])
    np.testing.assert_array_equal(joined, first["images"])


def test_workers_mix_alike(dataset, config):
    alone = first_batch(dataset, mixing(config))
    workers = dataclasses.replace(mixing(config), num_workers=1)
    np.testing.assert_array_equal(first_batch(dataset, workers)["images"], alone["images"])


def test_evaluation_mixes_nothing(dataset, config):
    mixed = [b["images"] for b in eval_iterator(dataset, "val", mixing(config))]
    alone = dataclasses.replace(config, transforms=(Stretch((32, 64)),))
    plain = [b["images"] for b in eval_iterator(dataset, "val", alone)]
    np.testing.assert_array_equal(np.concatenate(mixed), np.concatenate(plain))


def test_transforms_replace_the_short_fields():
    short = DataConfig(short_side=(640, 800), long_side=900, interpolation="pil")
    made = (ShortSide((640, 800), 900, interpolation="pil"), Flip())
    assert short.steps() == made == DataConfig(transforms=made, resize="none").steps()
    assert DataConfig(resize="none", flip=False).steps() == (NoResize(),)


def test_transforms_are_stored_with_a_run():
    config = DataConfig(transforms=(ShortSide((640, 800)), Flip(0.25)))
    assert from_json(to_json(config)) == config
