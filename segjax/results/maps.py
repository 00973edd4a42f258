"""Semantic and panoptic maps of a picture, pixel by pixel, on the host."""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int32, Integer

from segjax.data.images import IGNORE
from segjax.data.segments import VOID, PanopticCategory, Segment
from segjax.results.panoptic_merge import Dropped


@dataclasses.dataclass(frozen=True, eq=False)
class SemanticMap:
    """The class of every pixel of one image.

    Attributes:
      labels: 0..C-1, or 255 where the class is unknown.
      names: names of the classes, by label; () where unknown.
      contested_pixels: pixels that objects of several classes claimed, and the best got; 0 for
        a map that was not made from objects.
    """

    labels: Integer[np.ndarray, "h w"]
    names: tuple[str, ...] = ()
    contested_pixels: int = 0

    def __post_init__(self) -> None:
        check_label_count(len(self.names))
        known = self.labels[self.labels != IGNORE]
        highest = len(self.names) or IGNORE
        if known.size and not 0 <= int(known.min()) <= int(known.max()) < highest:
            raise ValueError(
                f"the map holds labels from {known.min()} to {known.max()}: wanted"
                f" 0..{highest - 1}, or {IGNORE} for unknown"
            )

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        height, width = self.labels.shape
        return height, width

    def name(self, label: int) -> str:
        """The class name of a label; "class 3" where names are unknown."""
        return self.names[label] if label < len(self.names) else f"class {label}"

    def areas(self) -> dict[str, int]:
        """Pixels of every class that is there, the largest first; unknown pixels not counted."""
        labels, areas = np.unique(self.labels[self.labels != IGNORE], return_counts=True)
        order = np.argsort(-areas, kind="stable")
        return {self.name(int(labels[i])): int(areas[i]) for i in order}


@dataclasses.dataclass(frozen=True)
class PanopticSegment:
    """One region of a panoptic map: an object, or all of a kind of stuff.

    Attributes:
      id: the value of its pixels, above 0.
      category: its class.
      area: in pixels, above 0.
      score: score of the object it comes from; None for stuff and ground truth.
      is_crowd: ground truth only: several objects of the class that were not told apart.
      instance: place of the instance among the detections it came from; None for stuff and ground
        truth.
    """

    id: int
    category: PanopticCategory
    area: int
    score: float | None = None
    is_crowd: bool = False
    instance: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class PanopticMap:
    """The segment of every pixel of one image.

    Attributes:
      ids: the segment's id; 0 where there is none ("void").
      segments: one for every id in the map.
      categories: all classes that segments could have, in the order of the semantic labels;
        instance classes are the things among them, in this order.
      dropped: what did not get into the map, if it was merged from instances and stuff.
    """

    ids: Int32[np.ndarray, "h w"]
    segments: tuple[PanopticSegment, ...]
    categories: tuple[PanopticCategory, ...]
    dropped: Dropped | None = None

    def __post_init__(self) -> None:
        check_categories(self.categories)
        strange = {segment.category for segment in self.segments} - set(self.categories)
        if strange:
            raise ValueError(
                f"a segment is of {sorted(strange, key=repr)[0]}, which is not in categories"
            )
        ids, areas = np.unique(self.ids[self.ids != VOID], return_counts=True)
        if ids.size and ids[0] < VOID:
            raise ValueError(f"the map holds the id {ids[0]}: wanted {VOID} (void) or more")
        found = dict(zip(ids.tolist(), areas.tolist(), strict=True))
        listed = {segment.id: segment.area for segment in self.segments}
        if len(listed) < len(self.segments) or found != listed:
            raise ValueError(
                "segments and map disagree: the map holds {id: pixels} "
                f"{_difference(found, listed)}, the segments say {_difference(listed, found)}:"
                " wanted one segment for every id above 0, with its area"
            )

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        height, width = self.ids.shape
        return height, width

    def mask(self, segment_id: int) -> Bool[np.ndarray, "h w"]:
        """Mask of one segment over the whole image."""
        return self.ids == segment_id

    def to_segments(self) -> tuple[Int32[np.ndarray, "h w"], list[Segment]]:
        """The map as scoring takes it: ids and what they are."""
        return self.ids, [Segment(s.id, s.category.id, s.is_crowd) for s in self.segments]

    @classmethod
    def from_segments(
        cls,
        ids: Integer[np.ndarray, "h w"],
        segments: Sequence[Segment],
        categories: Sequence[PanopticCategory],
    ) -> "PanopticMap":
        """The map of ids and what they are, as reading gives it.

        Segments without a pixel are left out.

        Raises:
          ValueError: if a pixel has an id that no segment has, or a segment an unknown category.
        """
        of_id = {category.id: category for category in categories}
        unknown = {segment.category_id for segment in segments} - set(of_id)
        if unknown:
            raise ValueError(f"category ids {sorted(unknown)} are not among {sorted(of_id)}")
        present, counts = np.unique(ids, return_counts=True)
        areas = dict(zip(present.tolist(), counts.tolist(), strict=True))
        kept = tuple(
            PanopticSegment(s.id, of_id[s.category_id], areas[s.id], is_crowd=s.is_crowd)
            for s in segments
            if s.id in areas
        )
        return cls(ids.astype(np.int32), kept, tuple(categories))


def check_categories(categories: Sequence[PanopticCategory]) -> None:
    """Raises a `ValueError` unless every category has an id and a name of its own."""
    for field in ("id", "name"):
        counts = collections.Counter(getattr(category, field) for category in categories)
        for value, count in counts.items():
            if count > 1:
                raise ValueError(f"{count} categories have the {field} {value!r}: wanted one")


def check_label_count(count: int) -> None:
    """Raises a `ValueError` for more classes than labels can tell apart."""
    if count > IGNORE:
        raise ValueError(
            f"{count} classes, but labels are 8 bits and {IGNORE} marks unknown pixels: wanted at"
            f" most {IGNORE}"
        )


def _difference(here: dict[int, int], there: dict[int, int]) -> dict[int, int]:
    """The first few entries that the other lacks or has otherwise."""
    return dict([pair for pair in here.items() if there.get(pair[0]) != pair[1]][:3])
