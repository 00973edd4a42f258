"""Boxes for the tests of `ops`, and overlaps computed by slow reference code."""

import numpy as np

# One of each kind that a network or a dataset is known to produce.
EDGE_BOXES = np.array(
    [
        [10, 10, 30, 20],  # ordinary
        [10, 10, 10, 10],  # no area
        [10, 10, 40, 10],  # no height
        [30, 20, 10, 10],  # inverted
        [30, 10, 10, 20],  # inverted in x only
        [-500, -500, -400, -400],  # outside the image
        [0, 0, 1e30, 1e30],
        [-1e30, -1e30, 1e30, 1e30],
        [1e30, 1e30, -1e30, -1e30],
        [0, 0, 1e-40, 1e-40],  # denormal
        [0, 0, 1e-20, 1e-20],  # denormal area
        [3e38, 3e38, 3.4e38, 3.4e38],
        [-3e38, 0, 3e38, 10],  # the width overflows
        [0, 0, 0, 0],
    ],
    np.float32,
)


def integer_boxes(rng: np.random.Generator, count: int, side: int) -> np.ndarray:
    """Draws boxes with integer coordinates, some of them empty.

    Areas are exact in float32 and overlaps are ratios of small integers, so that ties and overlaps
    equal to a threshold occur and are the same in every precision.
    """
    corners = rng.integers(0, side + 1, (count, 2, 2))
    corners.sort(axis=1)
    return corners.reshape(count, 4).astype(np.float32)


def clustered_boxes(rng: np.random.Generator, count: int, clusters: int) -> np.ndarray:
    """Draws boxes jittered around a few centres, like proposals."""
    pick = rng.integers(0, clusters, count)
    centres = rng.uniform(0, 200, (clusters, 2))[pick] + rng.normal(0, 6, (count, 2))
    sides = rng.uniform(20, 90, (clusters, 2))[pick] * rng.uniform(0.7, 1.4, (count, 2))
    return np.concatenate([centres - sides / 2, centres + sides / 2], axis=1).astype(np.float32)


def intersection(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the area shared by two boxes, in float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)


def area(box: np.ndarray) -> float:
    """Returns a box's area in float64; 0 for inverted boxes."""
    x0, y0, x1, y1 = box.astype(np.float64)
    return max(x1 - x0, 0.0) * max(y1 - y0, 0.0)


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the IoU of every pair in float64, one pair at a time."""
    out = np.zeros((len(a), len(b)))
    for i, box_a in enumerate(a):
        for j, box_b in enumerate(b):
            shared = intersection(box_a, box_b)
            union = area(box_a) + area(box_b) - shared
            out[i, j] = shared / union if union > 0 else 0.0
    return out
