import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segjax.data import rle
from segjax.eval.boundary import band_width, boundary_iou, boundary_region, boundary_rle
from tests.oracles import oracle_boundary as oracle
from tests.support.examples import examples

SEEDS = st.integers(0, 2**32 - 1)
# For images about twenty pixels wide: bands of 1 to 5 pixels.
RATIOS = st.sampled_from([0.02, 0.1, 0.2])
property_test = examples()


def random_mask(seed, shape=None):
    """Rectangles with holes, often at the image border; empty and full masks occur."""
    rng = np.random.default_rng(seed)
    shape = shape or tuple(rng.integers(1, 24, 2))
    mask = np.zeros(shape, bool)
    for value in (True, True, False, True)[: rng.integers(0, 5)]:
        y, x = rng.integers(-4, shape[0]), rng.integers(-4, shape[1])
        height, width = rng.integers(1, 24, 2)
        mask[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)] = value
    return mask | (rng.random(shape) < rng.choice([0.0, 0.02, 1.0], p=[0.7, 0.2, 0.1]))


@given(SEEDS, RATIOS)
@property_test
def test_bands_agree_with_the_oracle(seed, ratio):
    mask = random_mask(seed)
    wanted = oracle.band(mask, ratio)
    np.testing.assert_array_equal(boundary_region(mask, ratio), wanted)
    values = np.random.default_rng(seed).integers(1, 256, mask.shape, dtype=np.uint8)
    np.testing.assert_array_equal(boundary_region(mask * values, ratio), wanted)
    # Keeps the text unchanged, so that pycocotools reads only runs in our encoding.
    assert boundary_rle(rle.encode(mask), ratio) == rle.encode(wanted)


@given(SEEDS, RATIOS)
@property_test
def test_iou_agrees_with_the_oracle(seed, ratio):
    first = random_mask(seed)
    second = random_mask(seed + 1, first.shape)
    found = boundary_iou(first, second, ratio)
    assert found == pytest.approx(oracle.iou(first, second, ratio), abs=1e-12)
    assert found == boundary_iou(second, first, ratio)
    assert boundary_iou(first, first, ratio) == float(first.any())


@pytest.mark.parametrize(
    ("height", "width", "pixels"),
    # 0.02 of the diagonal: 16.0 for 800; 0.57 and 0.28 fall below one pixel; 2.5 rounds to even.
    [(480, 640, 16), (20, 20, 1), (10, 10, 1), (75, 100, 2), (1, 1, 1), (3000, 4000, 100)],
)
def test_width_of_bands(height, width, pixels):
    assert band_width(height, width) == pixels


def test_borders_of_the_image_are_boundary():
    full = np.ones((30, 40), bool)
    band = boundary_region(full)  # one pixel wide
    assert band.sum() == 2 * 30 + 2 * 40 - 4
    assert not band[1:-1, 1:-1].any()


def test_large_masks_of_equal_overlap_differ_by_their_boundary():
    mask = np.zeros((300, 400), bool)
    mask[50:250, 50:350] = True
    shifted = np.roll(mask, 10, axis=1)
    overlap = (mask & shifted).sum() / (mask | shifted).sum()
    assert overlap > 0.9
    assert boundary_iou(mask, shifted) < 0.6


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"masks are \(2, 3\) and \(3, 2\)"):
        boundary_iou(np.zeros((2, 3), bool), np.zeros((3, 2), bool))
    for ratio in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"dilation_ratio is .*wanted a positive share"):
            band_width(4, 4, ratio)
    with pytest.raises(rle.RleError, match="RLE"):
        boundary_rle({"size": [4, 4], "counts": "zz"})
