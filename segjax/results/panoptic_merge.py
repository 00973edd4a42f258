"""Instances and a semantic map merged into one panoptic map, pixel by pixel on the host.

The rule of "Panoptic Feature Pyramid Networks" (1901.02446), section 3, as in Detectron2's
`combine_semantic_and_instance_outputs`. `segjax.ops.panoptic` is the same on a device, for a
model's own outputs; this form needs no compilation for each image size.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, Integer

from segjax.data.segments import VOID
from segjax.results.detections import ImageDetections


class MergedSegment(NamedTuple):
    """One region of the merged map, in the words of what it came from.

    Attributes:
      id: the value of its pixels: 1, 2, ... things by descending score, then stuff by label.
      class_index: the class of the instance, or the label of the semantic map.
      is_thing: which of the two.
      score: score of the instance; None for stuff.
      area: in pixels of the merged map.
      instance: place of the instance among those given; None for stuff.
    """

    id: int
    class_index: int
    is_thing: bool
    score: float | None
    area: int
    instance: int | None


@dataclasses.dataclass(frozen=True)
class Dropped:
    """Counts of what the merged map leaves out, by cause.

    Attributes:
      low_score: instances below the score threshold.
      empty: instances without a pixel.
      overlapping: instances of which better ones had taken too large a part.
      small_stuff: stuff classes with pixels left, but too few.
      small_stuff_pixels: the pixels of those, now void.
      other_pixels: pixels left to labels that are not stuff (things, or unknown), now void.
    """

    low_score: int = 0
    empty: int = 0
    overlapping: int = 0
    small_stuff: int = 0
    small_stuff_pixels: int = 0
    other_pixels: int = 0

    def __add__(self, other: "Dropped") -> "Dropped":
        """Counts of several maps together."""
        ours, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return Dropped(*(a + b for a, b in zip(ours, theirs, strict=True)))

    def text(self) -> str:
        """The counts in words."""
        return (
            f"left out of panoptic maps: {self.low_score} instances of low score,"
            f" {self.overlapping} overlapped, {self.empty} empty; {self.small_stuff} stuff"
            f" segments too small ({self.small_stuff_pixels} pixels); {self.other_pixels} pixels"
            " of things without an instance"
        )


class Merged(NamedTuple):
    """A merged map.

    Attributes:
      ids: the segment of every pixel, 0 for void.
      segments: every one has pixels.
      dropped: what was left out.
    """

    ids: Int32[np.ndarray, "h w"]
    segments: list[MergedSegment]
    dropped: Dropped


def merge_detections(
    instances: ImageDetections,
    semantic: Integer[np.ndarray, "h w"],
    *,
    stuff_labels: Sequence[int],
    score_threshold: float = 0.5,
    overlap_threshold: float = 0.5,
    stuff_area: int = 4096,
) -> Merged:
    """Merges instances and a semantic map so that every pixel has at most one segment.

    Instances come by descending score, the earlier first where scores are equal. One whose
    score is at least `score_threshold` takes the pixels of its mask that are still free, unless
    the part that is taken is more than `overlap_threshold` of its mask. Then every stuff class,
    by label, takes what is left to it, if that is `stuff_area` pixels or more. One mask at a time
    is decoded.

    The defaults are Detectron2's. MMDetection's `HeuristicFusionHead` follows the same rule with
    `score_threshold` 0.6 (as the score threshold of its detector, and there a score must be
    above it). An instance that is covered wholly never becomes a segment here; Detectron2 lists
    one without pixels where `overlap_threshold` is 1 or more.

    Args:
      instances: with masks; those without scores (ground truth) all count as certain.
      semantic: label of every pixel.
      stuff_labels: the labels that are stuff. All others, such as the one of all things together
        or 255 for unknown, never become segments.
      score_threshold: least score of an instance, compared in float32 as on a device.
      overlap_threshold: largest part of an instance's own area that better ones may have taken.
      stuff_area: smallest stuff segment, in pixels.

    Raises:
      ValueError: if the sizes differ, there are instances without masks, or a score is not a
        number.
    """
    if semantic.shape != instances.image_size:
        raise ValueError(
            f"the semantic map is {semantic.shape} (height, width), the instances are of an"
            f" image of {instances.image_size}: wanted both of the same image"
        )
    count = len(instances)
    scores = np.ones(count, np.float32) if instances.scores is None else instances.scores
    if np.isnan(scores).any():
        raise ValueError(
            f"the score of instance {int(np.isnan(scores).argmax())} is not a number: the model"
            " has diverged, or its weights are damaged"
        )
    ids = np.full(semantic.shape, VOID, np.int32)
    keep = scores >= np.float32(score_threshold)
    order = [int(i) for i in np.argsort(-scores, kind="stable") if keep[i]]
    segments: list[MergedSegment] = []
    empty, overlapping = _add_instances(ids, segments, order, instances, scores, overlap_threshold)
    small, small_pixels, other_pixels = _add_stuff(
        ids, segments, semantic, set(stuff_labels), stuff_area
    )
    low = int((~keep).sum())
    return Merged(
        ids, segments, Dropped(low, empty, overlapping, small, small_pixels, other_pixels)
    )


def _add_instances(
    ids: Int32[np.ndarray, "h w"],
    segments: list[MergedSegment],
    order: Sequence[int],
    instances: ImageDetections,
    scores: Float32[np.ndarray, "n"],
    overlap_threshold: float,
) -> tuple[int, int]:
    """Gives free pixels to instances; returns how many were empty, and overlapping too much."""
    empty = overlapping = 0
    for i in order:
        mask = instances.mask(i)
        free = mask & (ids == VOID)
        area, left = int(mask.sum()), int(free.sum())
        if not area:
            empty += 1
        elif not left or (area - left) / area > overlap_threshold:
            overlapping += 1
        else:
            number = len(segments) + 1
            ids[free] = number
            index, score = int(instances.classes[i]), float(scores[i])
            segments.append(MergedSegment(number, index, True, score, left, i))
    return empty, overlapping


def _add_stuff(
    ids: Int32[np.ndarray, "h w"],
    segments: list[MergedSegment],
    semantic: Integer[np.ndarray, "h w"],
    stuff_labels: set[int],
    stuff_area: int,
) -> tuple[int, int, int]:
    """Gives free pixels to stuff; returns classes too small, their pixels, and other pixels."""
    small = small_pixels = other_pixels = 0
    free = ids == VOID
    labels, areas = np.unique(semantic[free], return_counts=True)
    for label, area in zip(labels.tolist(), areas.tolist(), strict=True):
        if label not in stuff_labels:
            other_pixels += area
        elif area < stuff_area:
            small, small_pixels = small + 1, small_pixels + area
        else:
            number = len(segments) + 1
            ids[free & (semantic == label)] = number
            segments.append(MergedSegment(number, label, False, None, area, None))
    return small, small_pixels, other_pixels
