"""Bilinear resizing as a loop over pixels in float64."""

import math

import numpy as np


def place(target: int, old: int, new: int, align_corners: bool) -> tuple[int, int, float]:
    """Returns the two source pixels of a target pixel, and the weight of the second."""
    if align_corners:
        # Pixels are points: the first and the last keep their positions.
        at = target * (old - 1) / (new - 1) if new > 1 else 0.0
    else:
        # Pixels are squares: their centres are aligned.
        at = max((target + 0.5) * old / new - 0.5, 0.0)
    first = math.floor(at)
    return min(first, old - 1), min(first + 1, old - 1), at - first


def oracle(x: np.ndarray, size: tuple[int, int], align_corners: bool) -> np.ndarray:
    """Resizes maps [B, H, W, C] to [B, h, w, C]."""
    x = x.astype(np.float64)
    out = np.zeros((x.shape[0], *size, x.shape[3]))
    for i, j in np.ndindex(*size):
        top, bottom, down = place(i, x.shape[1], size[0], align_corners)
        left, right, across = place(j, x.shape[2], size[1], align_corners)
        upper = (1 - across) * x[:, top, left] + across * x[:, top, right]
        lower = (1 - across) * x[:, bottom, left] + across * x[:, bottom, right]
        out[:, i, j] = (1 - down) * upper + down * lower
    return out
