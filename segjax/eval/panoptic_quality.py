"""Panoptic quality: how well a panoptic map finds (RQ) and outlines (SQ) the true segments.

Follows Kirillov et al., "Panoptic Segmentation" (1801.00868), in the form of COCO's reference
implementation, panopticapi's `pq_compute`. Counts are sums over images, so that parts computed
by several processes add up to the whole.
"""

import collections
import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer

from segjax.data.segments import VOID, PanopticCategory, Segment

# Two ids share one int64 while they are counted together.
_ID_BITS = 31


@dataclasses.dataclass(frozen=True)
class Quality:
    """Quality of one class, or means over classes. Fractions in 0..1; nan without segments.

    Attributes:
      pq: panoptic quality; of one class, `sq * rq`.
      sq: segmentation quality, the mean IoU of the matched segments; 0 without any.
      rq: recognition quality, tp / (tp + fp / 2 + fn / 2).
      num_classes: classes that have segments and so count in the means.
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
      things: means over the classes of things.
      stuff: means over the classes of stuff.
      per_class: category id to quality.
      class_names: category id to name; two categories may share one.
      num_images: images scored.
    """

    all: Quality
    things: Quality
    stuff: Quality
    per_class: dict[int, Quality]
    class_names: dict[int, str]
    num_images: int

    def metrics(self) -> dict[str, float]:
        """Flat names for logs, as `panoptic/PQ`, `panoptic/SQ_things`; nan where undefined."""
        found = {}
        for suffix, mean in (("", self.all), ("_things", self.things), ("_stuff", self.stuff)):
            for name in ("pq", "sq", "rq"):
                found[f"panoptic/{name.upper()}{suffix}"] = getattr(mean, name)
        return found

    def text(self) -> str:
        """A table in percent: the means as panopticapi prints them, then a line per class."""
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
    """Adds up panoptic quality over images.

    A prediction and a true segment of its class match where their IoU is above 0.5; pixels that
    are void in the ground truth do not count in the union. Unmatched true segments are false
    negatives, crowds excepted; unmatched predictions are false positives, except where more than
    half of one is void or crowd of its class. Of several crowds of one class in an image the
    last one described counts there, as in panopticapi.
    """

    def __init__(self, categories: Sequence[PanopticCategory]):
        """Makes an empty sum.

        Args:
          categories: every class that may occur.

        Raises:
          ValueError: for two categories of one id.
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
        """Counts one image.

        Args:
          gt_ids: the true segment id of every pixel, 0 for void.
          gt_segments: what the true ids are; one without pixels is missed, as in panopticapi.
          pred_ids: predicted ids, of the same shape; 0 where nothing is predicted.
          pred_segments: what the predicted ids are; `is_crowd` is not used.

        Raises:
          ValueError: for maps of two shapes, ids outside 0..2^31-1, ids on pixels that no
            segment describes, an id described twice, an unknown category, or a predicted
            segment without pixels.
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
        """All that was counted, to be summed over processes and given to `merge`.

        Returns:
          A row per category, in the order given: the sum of matched IoU, and true positives,
          false positives and false negatives; the last row holds the number of images, thrice 0.
        """
        return np.concatenate([self._sums, [[float(self._num_images), 0.0, 0.0, 0.0]]])

    def merge(self, state: Float64[np.ndarray, "n 4"]) -> None:
        """Adds what another process counted with the same categories.

        Args:
          state: `state()` of another process, or the sum of several.

        Raises:
          ValueError: for a state of another number of categories.
        """
        wanted = (len(self.categories) + 1, 4)
        if state.shape != wanted:
            raise ValueError(
                f"the state is {state.shape}: wanted {wanted}, of {len(self.categories)} categories"
            )
        self._sums += state[:-1]
        self._num_images += int(state[-1, 0])

    def results(self) -> PanopticScores:
        """The quality of everything counted so far."""
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
    """Pixels of each true segment (void first) under each predicted one (void first)."""
    _check_range(gt_ids, "ground truth")
    _check_range(pred_ids, "prediction")
    pairs = ((gt_ids.astype(np.int64) << _ID_BITS) | pred_ids).ravel()
    # Neighbours mostly agree: counting runs leaves few values to sort.
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
    """The place of every id in the description, from 1; 0 for void."""
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
    """IoU of every pair without void, and which match; a segment has one match at most."""
    both = pixels[1:, 1:]
    gt_area, pred_area = pixels[1:].sum(axis=1), pixels[:, 1:].sum(axis=0)
    union = gt_area[:, None] + (pred_area - pixels[0, 1:])[None] - both
    alike = (gt_rows[:, None] == pred_rows[None]) & ~crowd[:, None]
    return both / np.maximum(union, 1), alike & (2 * both > union)


def _excused(
    pixels: Int64[np.ndarray, "g1 p1"],
    gt_rows: Int64[np.ndarray, " g"],
    pred_rows: Int64[np.ndarray, " p"],
    crowd: Bool[np.ndarray, " g"],
) -> Bool[np.ndarray, " p"]:
    """Predictions more than half of which are void or crowd of their class."""
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
