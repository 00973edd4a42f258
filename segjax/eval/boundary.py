"""Boundary IoU: the IoU of the bands along the outlines of two masks.

Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation" (2103.16562).
As in its reference implementation, a band consists of the mask pixels within d steps between
8-connected neighbours of the outside of the mask, which includes the outside of the image.
"""

import math

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from segjax.data import rle

# Fraction of the image diagonal. The paper uses this value for COCO, and 0.005 for Cityscapes.
DILATION_RATIO = 0.02


def band_width(height: int, width: int, dilation_ratio: float = DILATION_RATIO) -> int:
    """Computes the width of the bands in an image, in pixels.

    Args:
      height: height of the image in pixels.
      width: width of the image in pixels.
      dilation_ratio: band width as a fraction of the image diagonal.

    Returns:
      The width, rounded (halves to even), at least 1.

    Raises:
      ValueError: if the ratio is not positive and finite.
    """
    if not (math.isfinite(dilation_ratio) and dilation_ratio > 0):
        raise ValueError(f"dilation_ratio is {dilation_ratio}: wanted a positive share, as 0.02")
    return max(1, round(dilation_ratio * math.sqrt(height**2 + width**2)))


def boundary_region(
    mask: Bool[np.ndarray, "h w"] | UInt8[np.ndarray, "h w"],
    dilation_ratio: float = DILATION_RATIO,
) -> Bool[np.ndarray, "h w"]:
    """Returns the band of a mask: its pixels along the outline.

    Args:
      mask: mask over the whole image, nonzero on the object.
      dilation_ratio: band width as a fraction of the image diagonal.
    """
    height, width = mask.shape
    distance = band_width(height, width, dilation_ratio)
    region = np.zeros(mask.shape, bool)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size:
        window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        region[window] = _band((mask[window] != 0).astype(np.uint8), distance)
    return region


def boundary_rle(mask: rle.Rle, dilation_ratio: float = DILATION_RATIO) -> rle.Rle:
    """Returns the band of an encoded mask as RLE, decoding only the mask's bounding box.

    Args:
      mask: RLE of the mask over the whole image.
      dilation_ratio: band width as a fraction of the image diagonal.

    Raises:
      ValueError: if the RLE is malformed.
    """
    height, width = mask["size"]
    x0, y0, x1, y1 = rle.to_bbox(mask)
    if x1 <= x0:
        return mask
    window = rle.decode_crop(mask, (x0, y0, x1, y1), (y1 - y0, x1 - x0))
    # RLE is column-major, so that full columns of the window are contiguous.
    columns = np.zeros((x1 - x0, height), bool)
    columns[:, y0:y1] = _band(window, band_width(height, width, dilation_ratio)).T
    framed = np.concatenate([[False], columns.ravel(), [False]])
    edges = np.flatnonzero(framed[1:] != framed[:-1]) + x0 * height
    if edges[-1] != height * width:
        edges = np.append(edges, height * width)
    return {"size": [height, width], "counts": rle.string_from_counts(np.diff(edges, prepend=0))}


def boundary_iou(
    first: Bool[np.ndarray, "h w"] | UInt8[np.ndarray, "h w"],
    second: Bool[np.ndarray, "h2 w2"] | UInt8[np.ndarray, "h2 w2"],
    dilation_ratio: float = DILATION_RATIO,
) -> float:
    """Computes the IoU of the bands of two masks, in 0..1; 0 if both are empty, as in pycocotools.

    Args:
      first: mask over the whole image.
      second: mask over the same image.
      dilation_ratio: band width as a fraction of the image diagonal.

    Raises:
      ValueError: if the masks differ in shape.
    """
    if first.shape != second.shape:
        raise ValueError(f"the masks are {first.shape} and {second.shape}: wanted one shape")
    one, other = boundary_region(first, dilation_ratio), boundary_region(second, dilation_ratio)
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 0.0


def _band(window: UInt8[np.ndarray, "h w"], distance: int) -> Bool[np.ndarray, "h w"]:
    """Returns the band of a mask (0 or 1) that is zero outside its window."""
    # cv2.erode does not treat pixels beyond the array as zeros, so they are added explicitly. The
    # frame represents the background, or the outside of the image if the window touches its edge.
    framed = cv2.copyMakeBorder(window, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=[0])
    eroded = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=distance)
    return (window - eroded[1:-1, 1:-1]).astype(bool)
