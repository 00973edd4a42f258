"""Boundary F-measure and best-segment coverage: the fit of an image's segments to its objects.

Boundaries are matched by distance: a pixel of one boundary counts as found if the other boundary
passes within the tolerance. The benchmark of Martin, Fowlkes & Malik (PAMI 2004) pairs pixels one
to one instead; without that, scores are somewhat higher, for thick boundaries above all, and all
segmentations here have boundaries one pixel wide.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, Integer

# Of the image's diagonal, as in the Berkeley benchmark.
TOLERANCE = 0.0075


class Matches(NamedTuple):
    """Boundary pixels of one or of several images; adds up over images.

    Attributes:
      found: pixels of the segments' boundaries near true ones.
      drawn: pixels of the segments' boundaries.
      met: pixels of the true boundaries near those of segments.
      true: pixels of the true boundaries.
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
    """True where a pixel differs from the one to its right or below.

    Args:
      labels: labels of the pixels.
    """
    edge = np.zeros(labels.shape, bool)
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edge[:-1] |= labels[:-1] != labels[1:]
    return edge


def match(drawn: Bool[np.ndarray, "h w"], true: Bool[np.ndarray, "h w"]) -> Matches:
    """Counts what of each boundary is near the other.

    Args:
      drawn: boundary of segments.
      true: outlines of the objects.
    """
    reach = TOLERANCE * np.hypot(*drawn.shape)
    return Matches(
        float((drawn & near(true, reach)).sum()),
        float(drawn.sum()),
        float((true & near(drawn, reach)).sum()),
        float(true.sum()),
    )


def near(edge: Bool[np.ndarray, "h w"], reach: float) -> Bool[np.ndarray, "h w"]:
    """True within `reach` pixels of a boundary, from centre to centre.

    Args:
      edge: the boundary.
      reach: in pixels.
    """
    if not edge.any():
        return np.zeros(edge.shape, bool)
    distance = cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return distance <= reach


def total(matches: list[Matches]) -> Matches:
    """Sums over images."""
    return Matches(*(sum(column) for column in zip(*matches, strict=True)))


def ods_and_ois(matches: list[list[Matches]]) -> tuple[float, float]:
    """F-measures at the scale that is best for the data set, and at each image's best.

    Args:
      matches: by image, then by scale.
    """
    at_scales = [total(list(column)).f_measure() for column in zip(*matches, strict=True)]
    best = [max(row, key=Matches.f_measure) for row in matches]
    return max(at_scales), total(best).f_measure()


def best_overlaps(
    labels: list[Int[np.ndarray, "h w"]], objects: list[Bool[np.ndarray, "h w"]]
) -> Float[np.ndarray, " objects"]:
    """The largest IoU of any segment of any scale with each object.

    Args:
      labels: segments of every scale, from 0.
      objects: their masks.
    """
    best = np.zeros(len(objects))
    for segments in labels:
        size = np.bincount(segments.ravel())
        for i, mask in enumerate(objects):
            inside = np.bincount(segments[mask], minlength=size.size)
            union = size + mask.sum() - inside
            best[i] = max(best[i], (inside / np.maximum(union, 1)).max())
    return best
