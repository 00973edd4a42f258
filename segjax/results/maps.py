"""Semantic and panoptic maps of an image, on the host."""

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
    """Class of every pixel of one image.

    Attributes:
      labels: class labels 0..C-1, or 255 for unknown.
      names: class names, by label; () if unknown.
      contested_pixels: number of pixels claimed by objects of several classes, in a map made from
        objects; 0 for other maps.
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
        """Returns the class name of a label; for example "class 3" if it is unknown."""
        return self.names[label] if label < len(self.names) else f"class {label}"

    def areas(self) -> dict[str, int]:
        """Returns the pixel count of every class in the map, largest first, without unknown."""
        labels, areas = np.unique(self.labels[self.labels != IGNORE], return_counts=True)
        order = np.argsort(-areas, kind="stable")
        return {self.name(int(labels[i])): int(areas[i]) for i in order}


@dataclasses.dataclass(frozen=True)
class PanopticSegment:
    """One segment of a panoptic map: an object, or all pixels of a stuff class.

    Attributes:
      id: value of the segment's pixels, above 0.
      category: class of the segment.
      area: area in pixels, above 0.
      score: score of the object that the segment comes from; None for stuff and ground truth.
      is_crowd: True for several objects that are annotated as one (ground truth only).
      instance: index of the object among the detections that were merged; None for stuff and
        ground truth.
    """

    id: int
    category: PanopticCategory
    area: int
    score: float | None = None
    is_crowd: bool = False
    instance: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class PanopticMap:
    """Segment of every pixel of one image.

    Attributes:
      ids: segment ids; 0 for void.
      segments: one segment for every id in the map.
      categories: all possible classes of segments, in the order of semantic labels. The things
        among them are the instance classes, in this order.
      dropped: counts of omitted instances and pixels, for a map merged from instances and stuff.
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
        """Returns the mask of one segment over the whole image."""
        return self.ids == segment_id

    def to_segments(self) -> tuple[Int32[np.ndarray, "h w"], list[Segment]]:
        """Returns ids and segments, the input of the panoptic quality metric."""
        return self.ids, [Segment(s.id, s.category.id, s.is_crowd) for s in self.segments]

    @classmethod
    def from_segments(
        cls,
        ids: Integer[np.ndarray, "h w"],
        segments: Sequence[Segment],
        categories: Sequence[PanopticCategory],
    ) -> "PanopticMap":
        """Creates a map from ids and segments, as read from a dataset.

        Segments without pixels are omitted.

        Raises:
          ValueError: if an id has no segment, or a segment has an unknown category.
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
    """Raises a `ValueError` if two categories share an id or a name."""
    for field in ("id", "name"):
        counts = collections.Counter(getattr(category, field) for category in categories)
        for value, count in counts.items():
            if count > 1:
                raise ValueError(f"{count} categories have the {field} {value!r}: wanted one")


def check_label_count(count: int) -> None:
    """Raises a `ValueError` if there are more classes than 8-bit labels can represent."""
    if count > IGNORE:
        raise ValueError(
            f"{count} classes, but labels are 8 bits and {IGNORE} marks unknown pixels: wanted at"
            f" most {IGNORE}"
        )


def _difference(here: dict[int, int], there: dict[int, int]) -> dict[int, int]:
    """Returns the first few entries of `here` that are missing or different in `there`."""
    return dict([pair for pair in here.items() if there.get(pair[0]) != pair[1]][:3])
