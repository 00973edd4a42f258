"""Panoptic quality (PQ), the product of recognition quality (RQ) and segmentation quality (SQ).

Follows Kirillov et al., "Panoptic Segmentation" (1801.00868), as in COCO's reference
implementation, panopticapi's `pq_compute`. All counts are sums over images, so that the results
of several processes can be added.
"""

import collections
import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer

from segjax.data.segments import VOID, PanopticCategory, Segment

# A true and a predicted id are packed into one int64, to count pairs.
_ID_BITS = 31


@dataclasses.dataclass(frozen=True)
class Quality:
    """Quality of one class, or means over classes. Fractions in 0..1; NaN without segments.

    Attributes:
      pq: panoptic quality; `sq * rq` for a single class.
      sq: segmentation quality, the mean IoU of matched segments; 0 without matches.
      rq: recognition quality, tp / (tp + fp / 2 + fn / 2).
      num_classes: number of classes with segments, which the means are taken over.
    """

    pq: float
    sq: float
    rq: float
    num_classes: int


@dataclasses.dataclass(frozen=True)
class PanopticScores:
    """Panoptic quality of one evaluation.

    Attributes:
      all: means over all classes.
      things: means over thing classes.
      stuff: means over stuff classes.
      per_class: quality by category id.
      class_names: class names by category id; two categories can have the same name.
      num_images: number of images scored.
    """

    all: Quality
    things: Quality
    stuff: Quality
    per_class: dict[int, Quality]
    class_names: dict[int, str]
    num_images: int

    def metrics(self) -> dict[str, float]:
        """Returns metrics by name, such as `panoptic/PQ` and `panoptic/SQ_things`; may be NaN."""
        found = {}
        for suffix, mean in (("", self.all), ("_things", self.things), ("_stuff", self.stuff)):
            for name in ("pq", "sq", "rq"):
                found[f"panoptic/{name.upper()}{suffix}"] = getattr(mean, name)
        return found

    def text(self) -> str:
        """Formats a table in percent: the means as in panopticapi, then one line per class."""
        rows = [("All", self.all), ("Things", self.things), ("Stuff", self.stuff)]
        common = collections.Counter(self.class_names.values())
        for number, quality in self.per_class.items():
            name = self.class_names[number]
            rows.append((f"{name} (id {number})" if common[name] > 1 else name, quality))
        width = max(len(name) for name, _ in rows)
        head = f"{'':<{width}}{'PQ':>7}{'SQ':>7}{'RQ':>7}{'N':>5}"
        lines = [
            f"{name:<{width}}{_percent(q.pq)}{_percent(q.sq)}{_percent(q.rq)}{q.num_classes:>5}"
            for name, q in rows
        ]
        return "\n".join([f"{self.num_images} images", head, *lines])


def _percent(value: float) -> str:
    return f"{'n/a':>7}" if math.isnan(value) else f"{100 * value:>7.1f}"


class PanopticQuality:
    """Accumulates panoptic quality over images.

    A prediction matches a true segment of the same class if their IoU is above 0.5; the union
    excludes pixels that are void in the ground truth. Unmatched true segments are false
    negatives, except for crowds. Unmatched predictions are false positives, unless more than half
    of their pixels are void or crowd of the same class. If an image has several crowds of a
    class, only the last one listed is considered here, as in panopticapi.
    """

    def __init__(self, categories: Sequence[PanopticCategory]):
        """Starts with zero counts.

        Args:
          categories: all classes that can occur.

        Raises:
          ValueError: if two categories have the same id.
        """
        counts = collections.Counter(category.id for category in categories)
        twice = sorted(number for number, count in counts.items() if count > 1)
        if twice:
            raise ValueError(f"category ids {twice} occur twice: wanted one category per id")
        self.categories = tuple(categories)
        self._row = {category.id: row for row, category in enumerate(self.categories)}
        self._sums = np.zeros((len(self.categories), 4), np.float64)
        self._num_images = 0

    def add(
        self,
        gt_ids: Integer[np.ndarray, "h w"],
        gt_segments: Sequence[Segment],
        pred_ids: Integer[np.ndarray, "ph pw"],
        pred_segments: Sequence[Segment],
    ) -> None:
        """Adds one image.

        Args:
          gt_ids: true segment id of every pixel, 0 for void.
          gt_segments: true segments. One without pixels counts as missed, as in panopticapi.
          pred_ids: predicted ids, of the same shape; 0 where nothing is predicted.
          pred_segments: predicted segments; `is_crowd` is not used.

        Raises:
          ValueError: if the maps differ in shape, have ids outside 0..2^31-1 or ids without a
            segment, or if segments share an id, have an unknown category, or are predicted
            without pixels.
        """
        if gt_ids.shape != pred_ids.shape:
            raise ValueError(
                f"the prediction is {pred_ids.shape} and the ground truth {gt_ids.shape} pixels:"
                " wanted one shape, that of the original image"
            )
        self._check_segments(gt_segments, "ground truth")
        self._check_segments(pred_segments, "prediction")
        pixels = _joint_pixels(gt_ids, gt_segments, pred_ids, pred_segments)
        gt_rows = np.array([self._row[s.category_id] for s in gt_segments], np.int64)
        pred_rows = np.array([self._row[s.category_id] for s in pred_segments], np.int64)
        crowd = np.array([s.is_crowd for s in gt_segments], bool)
        iou, matched = _matches(pixels, gt_rows, pred_rows, crowd)
        missed = ~matched.any(axis=1) & ~crowd
        wrong = ~matched.any(axis=0) & ~_excused(pixels, gt_rows, pred_rows, crowd)
        true, _ = np.nonzero(matched)
        count = len(self.categories)
        self._sums += np.stack(
            [
                np.bincount(gt_rows[true], iou[matched], minlength=count),
                np.bincount(gt_rows[true], minlength=count),
                np.bincount(pred_rows[wrong], minlength=count),
                np.bincount(gt_rows[missed], minlength=count),
            ],
            axis=1,
        )
        self._num_images += 1

    def _check_segments(self, segments: Sequence[Segment], side: str) -> None:
        counts = collections.Counter(segment.id for segment in segments)
        for segment in segments:
            if segment.category_id not in self._row:
                raise ValueError(
                    f"segment {segment.id} of the {side} has category {segment.category_id}:"
                    f" the category ids are {sorted(self._row)}"
                )
            if not VOID < segment.id < 1 << _ID_BITS:
                raise ValueError(
                    f"the {side} describes segment {segment.id}: wanted ids from 1 to 2^31-1"
                    f" ({VOID} is void)"
                )
            if counts[segment.id] > 1:
                raise ValueError(
                    f"the {side} describes segment {segment.id} {counts[segment.id]} times:"
                    " wanted one description per id"
                )

    def state(self) -> Float64[np.ndarray, "n 4"]:
        """Returns all counts as an array, to be summed over processes and passed to `merge`.

        Returns:
          One row per category, in the order given: sum of matched IoU, true positives, false
          positives, false negatives. The last row is [images, 0, 0, 0].
        """
        return np.concatenate([self._sums, [[float(self._num_images), 0.0, 0.0, 0.0]]])

    def merge(self, state: Float64[np.ndarray, "n 4"]) -> None:
        """Adds the counts of another process with the same categories.

        Args:
          state: `state()` of another process, or the sum of several.

        Raises:
          ValueError: if the state has another number of categories.
        """
        wanted = (len(self.categories) + 1, 4)
        if state.shape != wanted:
            raise ValueError(
                f"the state is {state.shape}: wanted {wanted}, of {len(self.categories)} categories"
            )
        self._sums += state[:-1]
        self._num_images += int(state[-1, 0])

    def results(self) -> PanopticScores:
        """Computes the quality of all images added so far."""
        per_class = {
            category.id: _quality(*row)
            for category, row in zip(self.categories, self._sums.tolist(), strict=True)
        }
        things = {category.id for category in self.categories if category.is_thing}
        return PanopticScores(
            all=_mean(list(per_class.values())),
            things=_mean([q for number, q in per_class.items() if number in things]),
            stuff=_mean([q for number, q in per_class.items() if number not in things]),
            per_class=per_class,
            class_names={category.id: category.name for category in self.categories},
            num_images=self._num_images,
        )


def _joint_pixels(
    gt_ids: Integer[np.ndarray, "h w"],
    gt_segments: Sequence[Segment],
    pred_ids: Integer[np.ndarray, "h w"],
    pred_segments: Sequence[Segment],
) -> Int64[np.ndarray, "g p"]:
    """Counts the pixels that each true and each predicted segment share (void comes first)."""
    _check_range(gt_ids, "ground truth")
    _check_range(pred_ids, "prediction")
    pairs = ((gt_ids.astype(np.int64) << _ID_BITS) | pred_ids).ravel()
    # Neighbouring pixels mostly agree, so that counting runs leaves few values to sort. The -1
    # differs from all pairs, which makes the first run start at pixel 0.
    starts = np.flatnonzero(np.diff(pairs, prepend=-1))
    lengths = np.diff(starts, append=pairs.size)
    values, of_run = np.unique(pairs[starts], return_inverse=True)
    counts = np.bincount(of_run.ravel(), lengths, minlength=values.size)
    rows = _places(values >> _ID_BITS, gt_segments, "ground truth")
    columns = _places(values & ((1 << _ID_BITS) - 1), pred_segments, "prediction")
    pixels = np.zeros((len(gt_segments) + 1, len(pred_segments) + 1), np.int64)
    pixels[rows, columns] = counts.astype(np.int64)
    empty = np.flatnonzero(pixels[:, 1:].sum(axis=0) == 0)
    if empty.size:
        names = [pred_segments[int(place)].id for place in empty]
        raise ValueError(
            f"the prediction describes segments {names}, which have no pixels: leave them out"
        )
    return pixels


def _check_range(ids: Integer[np.ndarray, "h w"], side: str) -> None:
    if ids.size and not (ids.min() >= 0 and ids.max() < 1 << _ID_BITS):
        raise ValueError(
            f"the {side} has ids from {ids.min()} to {ids.max()}: wanted 0 (void) to 2^31-1"
        )


def _places(
    ids: Int64[np.ndarray, " n"], segments: Sequence[Segment], side: str
) -> Int64[np.ndarray, " n"]:
    """Returns the position of every id in the list of segments, starting at 1; 0 for void."""
    known = {VOID: 0} | {segment.id: place for place, segment in enumerate(segments, start=1)}
    unknown = sorted(set(ids.tolist()) - set(known))
    if unknown:
        raise ValueError(
            f"pixels of the {side} have ids {unknown}, which no segment describes:"
            f" wanted {VOID} (void) or one of {sorted(set(known) - {VOID})}"
        )
    return np.array([known[number] for number in ids.tolist()], np.int64)


def _matches(
    pixels: Int64[np.ndarray, "g1 p1"],
    gt_rows: Int64[np.ndarray, " g"],
    pred_rows: Int64[np.ndarray, " p"],
    crowd: Bool[np.ndarray, " g"],
) -> tuple[Float64[np.ndarray, "g p"], Bool[np.ndarray, "g p"]]:
    """Returns the IoU of every pair, without void, and True for matches.

    Segments do not overlap, so that each has at most one partner with an IoU above 0.5.
    """
    both = pixels[1:, 1:]
    gt_area, pred_area = pixels[1:].sum(axis=1), pixels[:, 1:].sum(axis=0)
    union = gt_area[:, None] + (pred_area - pixels[0, 1:])[None] - both
    alike = (gt_rows[:, None] == pred_rows[None]) & ~crowd[:, None]
    # Unions can be empty, as true segments may have no pixels. Integers make IoU > 0.5 exact.
    return both / np.maximum(union, 1), alike & (2 * both > union)


def _excused(
    pixels: Int64[np.ndarray, "g1 p1"],
    gt_rows: Int64[np.ndarray, " g"],
    pred_rows: Int64[np.ndarray, " p"],
    crowd: Bool[np.ndarray, " g"],
) -> Bool[np.ndarray, " p"]:
    """Returns True for predictions that are mostly void, or crowd of the same class."""
    # As in panopticapi, later crowds of a class overwrite earlier ones.
    crowd_of = {int(gt_rows[place]): int(place) for place in np.flatnonzero(crowd)}
    unknown = pixels[0, 1:].copy()
    for place, row in enumerate(pred_rows.tolist()):
        if row in crowd_of:
            unknown[place] += pixels[crowd_of[row] + 1, place + 1]
    return 2 * unknown > pixels[:, 1:].sum(axis=0)


def _quality(iou: float, tp: float, fp: float, fn: float) -> Quality:
    if tp + fp + fn == 0:
        return Quality(math.nan, math.nan, math.nan, 0)
    weight = tp + fp / 2 + fn / 2
    return Quality(pq=iou / weight, sq=iou / tp if tp else 0.0, rq=tp / weight, num_classes=1)


def _mean(classes: Sequence[Quality]) -> Quality:
    counted = [quality for quality in classes if quality.num_classes]
    if not counted:
        return Quality(math.nan, math.nan, math.nan, 0)
    pq, sq, rq = (
        sum(getattr(quality, name) for quality in counted) / len(counted)
        for name in ("pq", "sq", "rq")
    )
    return Quality(pq, sq, rq, len(counted))
