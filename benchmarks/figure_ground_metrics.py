"""Boundary F-measure and best-segment coverage: how well segments fit the objects of an image.

A boundary pixel counts as found if the other boundary passes within the tolerance. The benchmark of
Martin, Fowlkes & Malik (PAMI 2004) matches pixels one to one instead. Without that constraint
scores are somewhat higher, mainly for thick boundaries; all boundaries here are one pixel wide.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, Integer

# Matching tolerance as a fraction of the image diagonal, as in the Berkeley benchmark.
TOLERANCE = 0.0075


class Matches(NamedTuple):
    """Counts of matched boundary pixels in one or several images; counts add up over images.

    Attributes:
      found: predicted boundary pixels near a true boundary.
      drawn: predicted boundary pixels.
      met: true boundary pixels near a predicted boundary.
      true: true boundary pixels.
    """

    found: float
    drawn: float
    met: float
    true: float

    def f_measure(self) -> float:
        """Harmonic mean of precision and recall; 0 if nothing matches."""
        if not self.found or not self.met:
            return 0.0
        precision, recall = self.found / self.drawn, self.met / self.true
        return 2 * precision * recall / (precision + recall)


def boundary(labels: Integer[np.ndarray, "h w"] | Bool[np.ndarray, "h w"]) -> np.ndarray:
    """True where a pixel's label differs from that of the pixel to its right or below.

    Args:
      labels: label of each pixel.
    """
    edge = np.zeros(labels.shape, bool)
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edge[:-1] |= labels[:-1] != labels[1:]
    return edge


def match(drawn: Bool[np.ndarray, "h w"], true: Bool[np.ndarray, "h w"]) -> Matches:
    """Counts the pixels of each boundary that lie near the other.

    Args:
      drawn: predicted boundary.
      true: outlines of the true objects.
    """
    reach = TOLERANCE * np.hypot(*drawn.shape)
    return Matches(
        float((drawn & near(true, reach)).sum()),
        float(drawn.sum()),
        float((true & near(drawn, reach)).sum()),
        float(true.sum()),
    )


def near(edge: Bool[np.ndarray, "h w"], reach: float) -> Bool[np.ndarray, "h w"]:
    """True within `reach` pixels of a boundary, measured between pixel centres.

    Args:
      edge: boundary mask.
      reach: distance in pixels.
    """
    if not edge.any():
        return np.zeros(edge.shape, bool)
    distance = cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return distance <= reach


def total(matches: list[Matches]) -> Matches:
    """Sums matches over images."""
    return Matches(*(sum(column) for column in zip(*matches, strict=True)))


def ods_and_ois(matches: list[list[Matches]]) -> tuple[float, float]:
    """Returns the F-measures at the best scale for the data set (ODS) and for each image (OIS).

    Args:
      matches: matches by image, then by scale.
    """
    at_scales = [total(list(column)).f_measure() for column in zip(*matches, strict=True)]
    best = [max(row, key=Matches.f_measure) for row in matches]
    return max(at_scales), total(best).f_measure()


def best_overlaps(
    labels: list[Int[np.ndarray, "h w"]], objects: list[Bool[np.ndarray, "h w"]]
) -> Float[np.ndarray, " objects"]:
    """Returns each object's largest IoU with any segment of any scale.

    Args:
      labels: segment maps, one per scale; labels start at 0.
      objects: masks of the objects.
    """
    best = np.zeros(len(objects))
    for segments in labels:
        size = np.bincount(segments.ravel())
        for i, mask in enumerate(objects):
            inside = np.bincount(segments[mask], minlength=size.size)
            union = size + mask.sum() - inside
            best[i] = max(best[i], (inside / np.maximum(union, 1)).max())
    return best
