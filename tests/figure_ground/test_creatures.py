"""The deformable class: reproducible, connected, and not separable from clutter by colour."""

import dataclasses

import cv2
import numpy as np
import pytest

from segjax.figure_ground.creatures import CreaturesConfig, draw_creature, draw_ground, generate

SMALL = CreaturesConfig(image_size=64, num_creatures=12, num_grounds=12)


@pytest.fixture(scope="module")
def drawn():
    return generate(SMALL)


def test_same_seed_same_images(drawn):
    again = generate(SMALL)
    for one, other in zip(drawn, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_images_do_not_depend_on_how_many_there_are(drawn):
    fewer = generate(dataclasses.replace(SMALL, num_creatures=3, num_grounds=2))
    np.testing.assert_array_equal(fewer.images, drawn.images[:3])
    np.testing.assert_array_equal(fewer.grounds, drawn.grounds[:2])


@pytest.mark.parametrize(
    "other", [{"stream": 1}, {"config": dataclasses.replace(SMALL, seed=1)}], ids=["stream", "seed"]
)
def test_other_streams_and_seeds_give_other_images(drawn, other):
    images = generate(**({"config": SMALL} | other)).images
    assert all((a != b).mean() > 0.5 for a, b in zip(images, drawn.images, strict=True))


def test_no_ground_is_that_of_a_creature(drawn):
    outside = ~drawn.masks
    for image, free in zip(drawn.images, outside, strict=True):
        assert all((image != ground)[free].mean() > 0.5 for ground in drawn.grounds)


def test_a_creature_is_one_piece_of_its_size_and_inside(drawn):
    for mask in drawn.masks:
        assert cv2.connectedComponents(mask.astype(np.uint8))[0] == 2
        assert 0.08 < mask.mean() < 0.3
        ys, xs = np.nonzero(mask)
        assert xs.max() - xs.min() > 0.4 * 64
        assert ys.max() - ys.min() > 0.3 * 64
        # Legs: several runs of pixels in a row near the feet.
        row = mask[ys.max() - 4].astype(int)
        assert (np.diff(row) == 1).sum() >= 2


def test_joints_bend():
    poses = [
        draw_creature(SMALL, np.random.default_rng(seed))[1].sum(axis=0).tobytes()
        for seed in range(8)
    ]
    assert len(set(poses)) == 8


def test_creature_is_painted_where_its_mask_is_and_nowhere_else():
    # The ground consumes the same random numbers first.
    ground = draw_ground(SMALL, np.random.default_rng(3))
    image, mask = draw_creature(SMALL, np.random.default_rng(3))
    np.testing.assert_array_equal(image[~mask], ground[~mask])
    assert (image != ground).any(axis=-1)[mask].mean() > 0.95


def test_brightness_alone_does_not_tell_the_figure():
    drawn = generate(dataclasses.replace(SMALL, num_creatures=30, num_grounds=0))
    grey = drawn.images.mean(axis=-1)
    best = max(
        ((grey > level) & drawn.masks).sum() / ((grey > level) | drawn.masks).sum()
        for level in range(0, 255, 5)
    )
    assert best < 0.5


def test_zero_counts_give_empty_arrays():
    drawn = generate(dataclasses.replace(SMALL, num_creatures=0, num_grounds=0))
    assert drawn.images.shape == drawn.grounds.shape == (0, 64, 64, 3)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("image_size", 31, "32 pixels"), ("clutter", -1, "clutter -1"), ("bend", -0.1, "bend -0.1")],
)
def test_refuses(field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **{field: value})
