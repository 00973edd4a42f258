import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segjax.ops.masks import mask_targets, pack_mask_bits, paste_masks
from tests.oracles import oracle_roi_align as roi_oracle
from tests.support.drawing import EDGE_BOXES
from tests.support.examples import examples

SEEDS = st.integers(0, 2**32 - 1)
property_test = examples()
COUNT, HEIGHT, WIDTH, SIZE, CELLS = 12, 20, 30, 5, 6
F = np.float32

targets_of = jax.jit(mask_targets, static_argnums=3, static_argnames=("aligned", "threshold"))
paste = jax.jit(paste_masks, static_argnums=(2, 3), static_argnames="padded")
pack = jax.jit(pack_mask_bits)


def whole_image_frames(count: int) -> np.ndarray:
    return np.tile(np.array([0, 0, WIDTH, HEIGHT], F), (count, 1))


@pytest.mark.parametrize("aligned", [False, True])
def test_targets_of_whole_image_rasters_are_roi_align(aligned):
    @property_test
    @given(SEEDS)
    def check(seed):
        rng = np.random.default_rng(seed)
        masks = rng.integers(0, 2, (COUNT, HEIGHT, WIDTH)).astype(np.uint8)
        boxes = roi_oracle.some_rois(rng, (COUNT,), WIDTH)
        want = [
            roi_oracle.roi_align(m[..., None].astype(float), b, SIZE, 0, aligned)[..., 0]
            for m, b in zip(masks, boxes, strict=True)
        ]
        frames = whole_image_frames(COUNT)
        got = targets_of(masks, frames, boxes, SIZE, aligned=aligned, threshold=None)
        np.testing.assert_allclose(got, np.array(want), atol=1e-5)

    check()


def test_targets_of_crops_are_roi_align_in_the_crops_cells():
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 2, (COUNT, 112, 112)).astype(np.uint8)
    low = rng.uniform(0, 300, (COUNT, 2))
    sides = rng.uniform(2, 200, (COUNT, 2))
    frames = np.concatenate([low, low + sides], axis=1).astype(F)
    boxes = (frames + rng.normal(0, 5, frames.shape)).astype(F)
    got = targets_of(masks, frames, boxes, 28, aligned=True, threshold=None)
    for i in range(COUNT):
        scale = 112 / (frames[i, 2:] - frames[i, :2])
        cells = ((boxes[i].reshape(2, 2) - frames[i, :2]) * scale).ravel()
        want = roi_oracle.roi_align(masks[i][..., None].astype(float), cells, 28, 0, True)
        np.testing.assert_allclose(got[i], want[..., 0], atol=1e-4)


def test_a_crop_of_the_object_says_what_the_image_says():
    image = np.zeros((1, HEIGHT, WIDTH), np.uint8)
    image[0, 4:12, 8:24] = np.random.default_rng(1).integers(0, 2, (8, 16))
    box = np.array([[8, 4, 24, 12]], F)
    soft = functools.partial(targets_of, aligned=True, threshold=None)
    whole = soft(image, whole_image_frames(1), box, SIZE)
    crop = soft(image[:, 4:12, 8:24], box, box, SIZE)
    # The samples differ only where one of them reads across the object's edge.
    np.testing.assert_allclose(crop[0, 1:-1, 1:-1], whole[0, 1:-1, 1:-1], atol=1e-6)


def test_half_covered_cells_are_the_objects():
    half = np.array([[[0.5, 0.499], [0.501, 0.0]]], F)
    frame = np.array([[0, 0, 2, 2]], F)
    got = targets_of(half, frame, frame, 2, aligned=True, threshold=0.5)
    np.testing.assert_array_equal(got, [[[1, 0], [1, 0]]])


@pytest.mark.parametrize("aligned", [False, True])
def test_targets_are_finite_for_every_box_and_frame(aligned):
    edges = np.tile(EDGE_BOXES, (2, 1))
    ordinary = np.tile(np.array([[2, 3, 20, 15]], F), (len(EDGE_BOXES), 1))
    boxes = np.concatenate([EDGE_BOXES, ordinary])
    frames = np.concatenate([ordinary, EDGE_BOXES])
    masks = jnp.ones((len(edges), HEIGHT, WIDTH))

    def total(masks):
        return mask_targets(masks, frames, boxes, SIZE, aligned=aligned, threshold=None).sum()

    frames, boxes = jnp.asarray(frames), jnp.asarray(boxes)
    value, grad = jax.jit(jax.value_and_grad(total))(masks)
    assert np.isfinite(value) and np.isfinite(grad).all()
    flat = targets_of(masks[:1], jnp.zeros((1, 4)), boxes[:1], SIZE, aligned=True, threshold=0.5)
    assert not flat.any()


def grid_oracle(probs: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Detectron2's paste, pixel by pixel: bilinear at pixel centres, zeros beyond the mask."""
    x0, y0, x1, y1 = box.astype(float)
    out = np.zeros((HEIGHT, WIDTH))
    if x1 <= x0 or y1 <= y0:
        return out
    padded = np.pad(probs.astype(float), 1)
    for y, x in np.ndindex(HEIGHT, WIDTH):
        v = (y + 0.5 - y0) / (y1 - y0) * CELLS + 0.5
        u = (x + 0.5 - x0) / (x1 - x0) * CELLS + 0.5
        if 0 < v < CELLS + 1 and 0 < u < CELLS + 1:
            out[y, x] = bilinear(padded, v, u)
    return out


def padded_oracle(probs: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Torchvision's paste: rounds the box, resizes the mask, copies the part inside the image."""
    half = (box[2:] - box[:2]) * F(0.5) * F((CELLS + 2) / CELLS)
    middle = (box[2:] + box[:2]) * F(0.5)
    low, high = (middle - half).astype(np.int64), (middle + half).astype(np.int64)
    padded = np.pad(probs.astype(float), 1)
    out = np.zeros((HEIGHT, WIDTH))
    if (box[2:] <= box[:2]).any():
        return out
    width, height = np.maximum(high - low + 1, 1)
    for y in range(max(low[1], 0), min(high[1] + 1, HEIGHT)):
        for x in range(max(low[0], 0), min(high[0] + 1, WIDTH)):
            v = max((y - low[1] + 0.5) * (CELLS + 2) / height - 0.5, 0)
            u = max((x - low[0] + 0.5) * (CELLS + 2) / width - 0.5, 0)
            out[y, x] = bilinear(padded, min(v, CELLS + 1), min(u, CELLS + 1))
    return out


def bilinear(grid: np.ndarray, v: float, u: float) -> float:
    rows, cols = np.arange(grid.shape[0]), np.arange(grid.shape[1])
    by_row, by_col = np.maximum(1 - abs(rows - v), 0), np.maximum(1 - abs(cols - u), 0)
    return by_row @ grid @ by_col


def draw_pastes(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    probs = rng.uniform(size=(4, CELLS, CELLS)).astype(F)
    boxes = roi_oracle.some_rois(rng, (4,), WIDTH)
    boxes[0] = np.round(boxes[0] / 3) * 3  # scaled by 8/6, these land on whole pixels
    return probs, boxes


@pytest.mark.parametrize(("padded", "oracle"), [(False, grid_oracle), (True, padded_oracle)])
def test_pasting_is_the_oracles(padded, oracle):
    @property_test
    @given(SEEDS)
    def check(seed):
        probs, boxes = draw_pastes(seed)
        got = paste(probs, boxes, HEIGHT, WIDTH, padded=padded)
        want = [oracle(p, b) for p, b in zip(probs, boxes, strict=True)]
        # Masks are steep in a box a tenth of a pixel wide: 1e-5 of a pixel is 1e-4 of a cell.
        np.testing.assert_allclose(got, np.array(want), atol=2e-4)

    check()


@pytest.mark.parametrize("padded", [False, True])
def test_windows_hold_what_the_image_holds(padded):
    probs, boxes = draw_pastes(3)
    origin = np.array([[0, 0], [5, 2], [20, 10], [-3, -4]], np.int32)
    whole = np.pad(np.asarray(paste(probs, boxes, HEIGHT, WIDTH, padded=padded)), 4)[4:-4]
    windows = paste(probs, boxes, 8, 9, padded=padded, origin=origin)
    for window, image, (x, y) in zip(windows, whole, origin, strict=True):
        inside = image[4:-4, 4:-4][max(y, 0) : y + 8, max(x, 0) : x + 9]
        np.testing.assert_array_equal(window[max(-y, 0) :, max(-x, 0) :], inside)


@pytest.mark.parametrize("padded", [False, True])
def test_pasting_is_finite_for_every_box(padded):
    probs = jnp.ones((len(EDGE_BOXES), CELLS, CELLS))
    boxes = jnp.asarray(EDGE_BOXES)

    def total(probs, boxes):
        return paste_masks(probs, boxes, HEIGHT, WIDTH, padded=padded).sum()

    value, grads = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(probs, boxes)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in grads)
    empty = paste(probs[:4], EDGE_BOXES[[1, 2, 3, 13]], HEIGHT, WIDTH, padded=padded)
    assert not empty.any()


@pytest.mark.parametrize("height", [1, 8, 13])
def test_packed_bits_unpack_to_the_columns(height):
    masks = np.random.default_rng(height).uniform(size=(3, height, 5)) > 0.5
    packed = pack(masks)
    assert packed.shape == (3, 5, -(-height // 8)) and packed.dtype == np.uint8
    columns = np.unpackbits(np.asarray(packed), axis=-1, count=height)
    np.testing.assert_array_equal(columns, masks.transpose(0, 2, 1))
    np.testing.assert_array_equal(packed, np.packbits(masks.transpose(0, 2, 1), axis=-1))
