"""Merges instances and a semantic map into a panoptic map, on the host.

Follows section 3 of "Panoptic Feature Pyramid Networks" (1901.02446), as Detectron2's
`combine_semantic_and_instance_outputs` does. `segjax.ops.panoptic` does the same on the device,
for a model's own outputs. The version here does not compile for each image size.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, Integer

from segjax.data.segments import VOID
from segjax.results.detections import ImageDetections


class MergedSegment(NamedTuple):
    """One segment of the merged map, in terms of the instance or label it comes from.

    Attributes:
      id: value of the segment's pixels: 1, 2, ... for things by descending score, then stuff by
        label.
      class_index: class of the instance, or label of the semantic map.
      is_thing: True for an instance, False for stuff.
      score: score of the instance; None for stuff.
      area: area in the merged map, in pixels.
      instance: index of the instance in the input; None for stuff.
    """

    id: int
    class_index: int
    is_thing: bool
    score: float | None
    area: int
    instance: int | None


@dataclasses.dataclass(frozen=True)
class Dropped:
    """Counts of instances, stuff and pixels that the merged map omits, by cause.

    Attributes:
      low_score: number of instances below the score threshold.
      empty: number of instances without pixels.
      overlapping: number of instances that better ones cover too much.
      small_stuff: number of stuff classes whose remaining area is too small.
      small_stuff_pixels: number of pixels of these classes, which become void.
      other_pixels: number of remaining pixels with labels that are not stuff (things or unknown),
        which become void.
    """

    low_score: int = 0
    empty: int = 0
    overlapping: int = 0
    small_stuff: int = 0
    small_stuff_pixels: int = 0
    other_pixels: int = 0

    def __add__(self, other: "Dropped") -> "Dropped":
        """Sums the counts of two maps."""
        ours, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return Dropped(*(a + b for a, b in zip(ours, theirs, strict=True)))

    def text(self) -> str:
        """Describes the counts in words."""
        return (
            f"left out of panoptic maps: {self.low_score} instances of low score,"
            f" {self.overlapping} overlapped, {self.empty} empty; {self.small_stuff} stuff"
            f" segments too small ({self.small_stuff_pixels} pixels); {self.other_pixels} pixels"
            " of things without an instance"
        )


class Merged(NamedTuple):
    """A merged map.

    Attributes:
      ids: segment id of every pixel, 0 for void.
      segments: segments of the map, each with at least one pixel.
      dropped: counts of omitted instances, stuff and pixels.
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

    Instances are processed by descending score, and in input order for equal scores. An instance
    with a score of at least `score_threshold` takes the free pixels of its mask, unless more than
    `overlap_threshold` of the mask is already taken. After that, every stuff class, by label,
    takes its remaining pixels if there are at least `stuff_area`. Only one mask is decoded at a
    time.

    The defaults are Detectron2's. MMDetection's `HeuristicFusionHead` follows the same rule with
    a `score_threshold` of 0.6, which is its detector's threshold and has to be exceeded. Here, a
    completely covered instance never becomes a segment, whereas Detectron2 lists it without
    pixels if `overlap_threshold` is 1 or more.

    Args:
      instances: objects with masks; without scores (ground truth), all scores count as 1.
      semantic: label of every pixel.
      stuff_labels: labels that are stuff. Other labels, such as a common one for all things, or
        255 for unknown, never become segments.
      score_threshold: minimum score of an instance, compared in float32 as on the device.
      overlap_threshold: maximum fraction of an instance's area that better ones may cover.
      stuff_area: minimum area of a stuff segment, in pixels.

    Raises:
      ValueError: if sizes differ, instances have no masks, or a score is NaN.
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
    """Assigns free pixels to instances; returns the numbers of empty and overlapping ones."""
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
    """Assigns free pixels to stuff; returns counts of small classes, their and other pixels."""
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
