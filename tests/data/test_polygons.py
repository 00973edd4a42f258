"""Outlines of ellipses, and boxes around turned rectangles."""

import numpy as np
import pytest

from segjax.data import rle
from segjax.data.polygons import area_of, box_around, box_of, ellipse


@pytest.mark.parametrize("degrees", [0.0, 30.0, 90.0, -45.0])
def test_an_ellipse_covers_the_pixels_whose_centres_are_in_it(degrees):
    outline = ellipse((50.0, 40.0), (30.0, 12.0), degrees)
    mask = rle.decode(rle.from_polygons([outline], 80, 100))
    x, y = np.meshgrid(np.arange(100) + 0.5 - 50, np.arange(80) + 0.5 - 40)
    # Clockwise as it is seen: y points down.
    turn = np.radians(degrees)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    inside = (along / 30) ** 2 + (across / 12) ** 2 < 1
    assert (mask != inside).sum() < 0.04 * inside.sum()
    assert abs(area_of(outline) - np.pi * 360) < 1


def test_rectangles_turn_clockwise_around_a_corner_or_the_centre():
    corner, size = (10.0, 20.0), (8.0, 4.0)
    np.testing.assert_allclose(box_around(corner, size), (10, 20, 8, 4))
    np.testing.assert_allclose(box_around(corner, size, 90.0), (12, 18, 4, 8), atol=1e-9)
    turned = box_around(corner, size, 90.0, corner)
    np.testing.assert_allclose(turned, (6, 20, 4, 8), atol=1e-9)
    np.testing.assert_allclose(box_around(corner, (2.0, 2.0), 45.0)[2:], [8**0.5] * 2)


def test_boxes_and_areas_of_points():
    points = [1.0, 2.0, 5.0, 2.0, 5.0, 6.0]
    assert box_of(points) == (1, 2, 4, 4)
    assert area_of(points) == area_of([*points[4:], *points[:4]]) == 8
