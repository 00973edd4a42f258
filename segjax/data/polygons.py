"""Geometry of the shapes that annotation tools draw, as polygons `[x0, y0, x1, y1, ...]`."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

# Corners of the polygon that replaces an ellipse; half a pixel off at 3000 pixels across.
_CORNERS = 128


def ellipse(
    centre: tuple[float, float], radii: tuple[float, float], degrees: float = 0.0
) -> list[float]:
    """Returns the outline of an ellipse or a circle.

    Args:
      centre: (x, y) in pixels.
      radii: half the width and half the height before rotation, in pixels.
      degrees: clockwise rotation in the image.
    """
    angles = np.arange(_CORNERS) * (2 * np.pi / _CORNERS)
    offsets = np.stack([radii[0] * np.cos(angles), radii[1] * np.sin(angles)], axis=1)
    return (offsets @ _rotation(degrees).T + centre).ravel().tolist()


def box_around(
    corner: tuple[float, float],
    size: tuple[float, float],
    degrees: float = 0.0,
    pivot: tuple[float, float] | None = None,
) -> tuple[float, float, float, float]:
    """Returns the box around a rotated rectangle.

    Args:
      corner: (x, y) of the top left corner before rotation, in pixels.
      size: (width, height) in pixels.
      degrees: clockwise rotation in the image.
      pivot: (x, y) of the fixed point of the rotation; None for the centre.

    Returns:
      `(x, y, width, height)` in pixels.
    """
    x, y, w, h = *corner, *size
    fixed = (x + w / 2, y + h / 2) if pivot is None else pivot
    corners = np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)]) - fixed
    return box_of((corners @ _rotation(degrees).T + fixed).ravel().tolist())


def box_of(points: Sequence[float]) -> tuple[float, float, float, float]:
    """Returns the box `(x, y, width, height)` around points `[x0, y0, x1, y1, ...]`."""
    xs, ys = points[::2], points[1::2]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def area_of(points: Sequence[float]) -> float:
    """Returns the area of a polygon, by the shoelace formula."""
    xs, ys = points[::2], points[1::2]
    return abs(sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(ys)))) / 2


def _rotation(degrees: float) -> Float[np.ndarray, "2 2"]:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cos, -sin], [sin, cos]])
