"""Boundary bands and boundary IoU, pixel by pixel in plain loops."""

import functools
import math

import numpy as np

from tests.oracles import oracle_coco_ap as oracle


def band(mask, ratio=0.02):
    """Returns mask pixels within `distance` of a pixel outside the mask or the image."""
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
    """Returns the IoU of two bands; 0 for empty bands."""
    one, other = band(first, ratio), band(second, ratio)
    return (one & other).sum() / max((one | other).sum(), 1)


def boundary_overlaps(detections, truths):
    """Returns min(mask IoU, boundary IoU); for crowds, the share of the mask inside the crowd."""
    table = oracle.mask_overlaps(detections, truths)
    for i, d in enumerate(detections):
        for j, g in enumerate(truths):
            if not g["iscrowd"]:
                table[i, j] = min(table[i, j], iou(d["mask"], g["mask"]))
    return table


def semantic_boundary_iou(pairs, count, ignore, ratio=0.02):
    """Returns each class's boundary IoU over all (true, found) maps; nan for absent classes."""
    both, either = [0] * count, [0] * count
    for gt, pred in pairs:
        for k in range(count):
            true, found = np.zeros(gt.shape, bool), np.zeros(gt.shape, bool)
            for y, x in np.ndindex(*gt.shape):
                true[y, x] = gt[y, x] == k
                found[y, x] = pred[y, x] == k and gt[y, x] != ignore
            one, other = band(true, ratio), band(found, ratio)
            both[k] += int((one & other).sum())
            either[k] += int((one | other).sum())
    return [b / e if e else math.nan for b, e in zip(both, either, strict=True)]
