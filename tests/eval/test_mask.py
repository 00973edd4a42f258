"""Mask geometry compared with brute force over pixels."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segjax.data import rle
from segjax.results.mask import Mask
from tests.support.examples import examples

MASKS = hnp.arrays(
    bool,
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    elements=st.booleans(),
    fill=st.booleans(),
)


def filled(outlines, shape):
    """Pixels whose centres are inside an odd number of outlines, by crossings to the right."""
    inside = np.zeros(shape, bool)
    for y in range(shape[0]):
        for x in range(shape[1]):
            for outline in outlines:
                points = [*zip(outline[::2], outline[1::2], strict=True)]
                for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1], strict=True):
                    crosses = ax == bx and ax > x + 0.5 and min(ay, by) < y + 0.5 < max(ay, by)
                    inside[y, x] ^= crosses
    return inside


def signed_area(outline):
    points = [*zip(outline[::2], outline[1::2], strict=True)]
    pairs = zip(points, points[1:] + points[:1], strict=True)
    return sum(ax * by - bx * ay for (ax, ay), (bx, by) in pairs) / 2


def without_holes(mask):
    """Fills every empty region that is not connected to the frame around the mask.

    Connectivity includes diagonals: pixels that touch only at a corner do not enclose anything.
    """
    reached = np.pad(np.zeros_like(mask), 1, constant_values=True)
    empty = ~np.pad(mask, 1)
    while True:
        grown = reached.copy()
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                grown |= np.roll(reached, (dy, dx), (0, 1))
        grown = (grown & empty) | reached
        if (grown == reached).all():
            return ~reached[1:-1, 1:-1]
        reached = grown


@given(MASKS)
@examples(10)
def test_outlines_hold_exactly_the_mask(pixels):
    outlines = Mask.of(pixels).polygon()
    np.testing.assert_array_equal(filled(outlines, pixels.shape), pixels)
    assert sum(map(signed_area, outlines)) == pixels.sum()


@given(MASKS)
@examples(10)
def test_coco_reads_outlines_as_the_mask_without_holes(pixels):
    outlines = Mask.of(pixels).polygon(holes=False)
    assert all(signed_area(outline) > 0 for outline in outlines)
    if outlines:
        read = rle.decode(rle.from_polygons(outlines, *pixels.shape))
        np.testing.assert_array_equal(read, without_holes(pixels))
    else:
        assert not pixels.any()


@given(MASKS)
@examples(10)
def test_measures(pixels):
    mask = Mask.of(pixels)
    ys, xs = np.nonzero(pixels)
    assert mask.area == len(xs)
    np.testing.assert_array_equal(mask.pixels, pixels)
    if len(xs):
        assert mask.box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        np.testing.assert_allclose(mask.centroid, (xs.mean() + 0.5, ys.mean() + 0.5), rtol=1e-12)
    else:
        assert mask.box == (0, 0, 0, 0)
        assert all(map(math.isnan, mask.centroid))
        assert mask.polygon() == []


def test_a_ring_and_a_pixel_at_its_corner():
    pixels = np.zeros((5, 6), bool)
    pixels[1:4, 1:4] = True
    pixels[2, 2] = False
    pixels[4, 4] = True
    mask = Mask.of(pixels)
    assert mask.area == 9
    assert mask.polygon() == [
        [1, 1, 4, 1, 4, 4, 1, 4],
        [2, 2, 2, 3, 3, 3, 3, 2],
        [4, 4, 5, 4, 5, 5, 4, 5],
    ]
    assert len(mask.polygon(holes=False)) == 2


def test_run_lengths_are_cocos_and_cannot_be_changed_from_outside():
    mask = Mask.of(np.eye(3, dtype=bool))
    encoded = mask.rle()
    np.testing.assert_array_equal(rle.decode(encoded), np.eye(3))
    encoded["size"][0] = 7
    assert mask.rle()["size"] == [3, 3]


def test_malformed_run_lengths_are_named():
    with pytest.raises(rle.RleError, match="add up"):
        _ = Mask({"size": [4, 4], "counts": "5"}).area
