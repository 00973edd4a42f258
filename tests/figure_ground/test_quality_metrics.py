"""The benchmark's metrics, against loops that follow their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import figure_ground_metrics as metrics


def regions(rng, height, width, count):
    """Labels each pixel with the nearest of some random points."""
    points = rng.uniform(0, 1, (count, 2)) * (height, width)
    places = np.moveaxis(np.mgrid[:height, :width], 0, -1)
    return np.linalg.norm(places[:, :, None] - points, axis=-1).argmin(-1)


@given(st.integers(0, 2**32 - 1))
def test_matches_are_those_counted_pixel_by_pixel(seed):
    rng = np.random.default_rng(seed)
    height, width = 60, 90 + int(rng.integers(0, 160))  # tolerances of 0.8 to 2 pixels
    drawn, true = (metrics.boundary(regions(rng, height, width, n)) for n in (4, 3))
    reach = 0.0075 * np.hypot(height, width)

    def met(one, other):
        there = np.argwhere(other)
        return sum((np.linalg.norm(there - p, axis=1) <= reach).any() for p in np.argwhere(one))

    ours = metrics.match(drawn, true)
    assert ours == (met(drawn, true), drawn.sum(), met(true, drawn), true.sum())
    precision, recall = ours.found / ours.drawn, ours.met / ours.true
    expected = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    assert ours.f_measure() == pytest.approx(expected)


def test_boundaries_lie_left_of_and_above_a_change():
    labels = np.array([[0, 0, 1], [0, 0, 1], [2, 2, 1]])
    assert metrics.boundary(labels).tolist() == [
        [False, True, False],
        [True, True, False],
        [False, True, False],
    ]


def test_nothing_drawn_or_nothing_true_scores_0():
    edge = np.zeros((20, 20), bool)
    edge[:, 7] = True
    none = np.zeros_like(edge)
    assert metrics.match(edge, none).f_measure() == 0
    assert metrics.match(none, edge).f_measure() == 0
    assert metrics.match(edge, edge).f_measure() == 1


def test_one_scale_for_all_and_each_images_best():
    good, bad = metrics.Matches(9, 10, 9, 10), metrics.Matches(1, 10, 1, 10)
    ods, ois = metrics.ods_and_ois([[good, bad], [bad, good]])
    assert ods == pytest.approx(0.5)
    assert ois == pytest.approx(0.9)


@given(st.integers(0, 2**32 - 1))
def test_overlaps_are_those_of_the_best_segment(seed):
    rng = np.random.default_rng(seed)
    labels = [regions(rng, 20, 30, n) for n in (2, 5, 9)]
    objects = [regions(rng, 20, 30, 3) == 0, rng.random((20, 30)) < 0.3]
    expected = [
        max(((x == s) & mask).sum() / ((x == s) | mask).sum() for x in labels for s in np.unique(x))
        for mask in objects
    ]
    np.testing.assert_allclose(metrics.best_overlaps(labels, objects), expected)
