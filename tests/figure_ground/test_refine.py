import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.figure_ground.bottom_up import bottom_up
from segjax.figure_ground.refine import mask_preference, refine_in_hierarchy, refine_masks

HEIGHT, WIDTH, SIDE, CELLS = 64, 80, 56, 28
BOX = (14.0, 8.0, 66.0, 58.0)


@functools.cache
def scene(seed=0):
    """A bright checkered object with five arms on a dark noisy ground, and its mask."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    angle, radius = np.arctan2(y - 33, x - 40), np.hypot(y - 33, x - 40)
    truth = radius < 17 + 6 * np.cos(5 * angle + seed)
    checks = 20 * np.sign(np.sin(x) * np.sin(y))
    levels = np.where(truth, 180 + checks, 60.0) + rng.normal(0, 8, truth.shape)
    return np.clip(levels, 0, 255).astype(np.uint8)[..., None].repeat(3, -1), truth


def on_grid(plane, box, side):
    """Samples an image plane at the cell centres of a grid over a box."""
    x0, y0, x1, y1 = box
    rows = np.floor(y0 + (np.arange(side) + 0.5) / side * (y1 - y0)).astype(int)
    columns = np.floor(x0 + (np.arange(side) + 0.5) / side * (x1 - x0)).astype(int)
    return plane[rows.clip(0, HEIGHT - 1)[:, None], columns.clip(0, WIDTH - 1)]


def coarse_mask(truth, box=BOX):
    """Mask of a low-resolution detector: blurred, with few cells, never certain."""
    blurred = cv2.GaussianBlur(truth.astype(np.float32), (0, 0), 4.0)
    return 0.1 + 0.8 * on_grid(blurred, box, CELLS)


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


@functools.cache
def refined(seed=0):
    """Refines five detections: the object, a padding row, outside, degenerate, half outside."""
    image, truth = scene(seed)
    masks = jnp.asarray(np.stack([coarse_mask(truth)] * 5))
    return np.asarray(compiled(jnp.asarray(image), masks, BOXES, VALID))


BOXES = jnp.asarray(
    [BOX, BOX, (200.0, 10.0, 240.0, 30.0), (30.0, 30.0, 30.0, 20.0), (-26.0, -17.0, 26.0, 33.0)]
)
VALID = jnp.asarray([True, False, True, True, True])
compiled = jax.jit(functools.partial(refine_masks, side=SIDE, own_weight=0.0))
group = jax.jit(bottom_up)


@pytest.mark.parametrize("seed", [0, 1])
def test_masks_follow_the_image_more_closely_than_pasted_ones(seed):
    _, truth = scene(seed)
    wanted = on_grid(truth, BOX, SIDE)
    pasted = cv2.resize(coarse_mask(truth), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR) > 0.5
    before, after = iou(pasted, wanted), iou(refined(seed)[0] > 0.5, wanted)
    assert 0.7 < before < 0.9
    assert after > before + 0.08


def test_rows_that_fill_the_shape_and_boxes_outside_have_no_mask():
    masks = refined()
    assert masks.shape == (5, SIDE, SIDE) and masks.dtype == np.float32
    assert (masks[1] == 0).all()
    assert (masks[2] < 0.5).all()  # the box contains nothing of the image
    assert np.isfinite(masks).all() and masks.min() >= 0 and masks.max() <= 1


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_masks_that_are_sure_stay_as_they_are(value):
    masks = jnp.full((5, CELLS, CELLS), value)
    made = np.asarray(compiled(jnp.asarray(scene()[0]), masks, BOXES, VALID))
    assert np.isfinite(made).all()
    # Only pixels well inside the box: at its border, segments extend beyond it.
    assert ((made[0, 8:-8, 8:-8] > 0.5) == bool(value)).all()


def test_a_box_without_extent_covers_nothing():
    assert (refined()[3] < 0.5).all()


def test_beyond_the_image_a_mask_continues_its_border():
    # The upper left half of this box is outside the image.
    outside = refined()[4]
    first = int(np.ceil(17 / 50 * SIDE))
    np.testing.assert_array_equal(outside[0], outside[first])


def test_without_valid_all_rows_count_and_masks_add_their_own_log_odds():
    image, truth = scene()
    mask = coarse_mask(truth)
    masks = jnp.asarray(np.stack([mask] * 2))
    hierarchy = group(jnp.asarray(image))
    refine = jax.jit(functools.partial(refine_in_hierarchy, side=SIDE, own_weight=3.0))
    both = np.asarray(refine(hierarchy, masks, BOXES[:2]))
    own = 2 * cv2.resize(mask, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR) - 1
    segments = refined()[0].astype(float)
    odds = segments / (1 - segments) * np.exp(3.0 * own)
    # Equal rows may differ in the last bits, because the end of an array is not vectorised.
    np.testing.assert_allclose(both[0], both[1], rtol=2e-6)
    for one in both:
        np.testing.assert_allclose(one, odds / (1 + odds), atol=1e-4)
    wanted = on_grid(truth, BOX, SIDE)
    assert iou(both[0] > 0.5, wanted) > iou(own > 0, wanted) + 0.05


@pytest.mark.parametrize(("detections", "cells"), [(0, CELLS), (2, 1)])
def test_no_detections_and_masks_of_one_cell(detections, cells):
    hierarchy = group(jnp.asarray(scene()[0]))
    masks = jnp.full((detections, cells, cells), 0.9)
    refine = jax.jit(functools.partial(refine_in_hierarchy, side=8))
    made = np.asarray(refine(hierarchy, masks, BOXES[:detections]))
    assert made.shape == (detections, 8, 8)
    assert (made > 0.5).all()


@pytest.mark.parametrize(
    ("masks", "boxes", "valid"), [((2, 4, 4), 3, 2), ((2, 4, 3), 2, 2), ((2, 4, 4), 2, 1)]
)
def test_masks_and_boxes_of_other_detections_are_refused(masks, boxes, valid):
    hierarchy = group(jnp.asarray(scene()[0]))
    with pytest.raises(ValueError, match=r"masks are \(2, 4, .* of the same detections"):
        refine_in_hierarchy(hierarchy, jnp.zeros(masks), BOXES[:boxes], VALID[:valid])


def test_batches_go_by_vmap_and_compile_once():
    images = jnp.stack([jnp.asarray(scene(seed)[0]) for seed in (0, 1)])
    masks = jnp.stack([jnp.asarray(np.stack([coarse_mask(scene(s)[1])] * 5)) for s in (0, 1)])
    boxes, valid = jnp.stack([BOXES] * 2), jnp.stack([VALID] * 2)
    together = jax.jit(jax.vmap(functools.partial(refine_masks, side=SIDE, own_weight=0.0)))
    made = together(images, masks, boxes, valid)
    for i in (0, 1):
        np.testing.assert_allclose(made[i], refined(i), rtol=1e-4, atol=1e-5)
    together(images[::-1], 1 - masks, boxes + 3, ~valid)
    assert together._cache_size() == 1


def test_preferences_are_those_of_the_mask_at_the_segments_centres():
    image, truth = scene()
    hierarchy = group(jnp.asarray(image))
    mask = coarse_mask(truth)
    ours = np.asarray(mask_preference(hierarchy, jnp.asarray(mask)[None], BOXES[:1]))[:, 0]
    leaf, (x0, y0, x1, y1) = np.asarray(hierarchy.leaf), BOX
    expected = np.full(ours.shape, -1.0)
    for segment in np.unique(leaf):
        y, x = (places.mean() + 0.5 for places in np.nonzero(leaf == segment))
        if x0 <= x < x1 and y0 <= y < y1:
            v = np.clip((y - y0) / (y1 - y0) * CELLS - 0.5, 0, CELLS - 1)
            u = np.clip((x - x0) / (x1 - x0) * CELLS - 0.5, 0, CELLS - 1)
            r, c = (min(int(place), CELLS - 2) for place in (v, u))
            rows = mask[r : r + 2, c] + (u - c) * (mask[r : r + 2, c + 1] - mask[r : r + 2, c])
            expected[segment] = 2 * (rows[0] + (v - r) * (rows[1] - rows[0])) - 1
    there = np.asarray(hierarchy.size[: expected.size]) > 0
    assert (expected[there] > 0.3).any() and (expected[there] == -1).any()
    np.testing.assert_allclose(ours[there], expected[there], atol=2e-4)
