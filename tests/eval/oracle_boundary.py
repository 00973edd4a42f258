"""Boundary bands and boundary IoU again, pixel by pixel in plain loops."""

import functools
import math

import numpy as np

from tests.eval import oracle


def band(mask, ratio=0.02):
    """Pixels of the mask with a pixel outside of mask or image at most `distance` away."""
    return _band(mask.tobytes(), mask.shape, ratio)


@functools.lru_cache(4096)
def _band(pixels, shape, ratio):
    mask = np.frombuffer(pixels, bool).reshape(shape)
    height, width = shape
    distance = max(1, round(ratio * math.sqrt(height**2 + width**2)))
    found = np.zeros(mask.shape, bool)
    for y in range(height):
        for x in range(width):
            found[y, x] = bool(mask[y, x]) and any(
                not (0 <= v < height and 0 <= u < width and mask[v, u])
                for v in range(y - distance, y + distance + 1)
                for u in range(x - distance, x + distance + 1)
            )
    return found


def iou(first, second, ratio=0.02):
    """IoU of two bands; 0 of empty ones."""
    one, other = band(first, ratio), band(second, ratio)
    return (one & other).sum() / max((one | other).sum(), 1)


def boundary_overlaps(detections, truths):
    """The lesser of mask IoU and boundary IoU; for crowds the mask's part inside of them."""
    table = oracle.mask_overlaps(detections, truths)
    for i, d in enumerate(detections):
        for j, g in enumerate(truths):
            if not g["iscrowd"]:
                table[i, j] = min(table[i, j], iou(d["mask"], g["mask"]))
    return table
