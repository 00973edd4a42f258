"""COCO average precision and recall of boxes and masks, computed by pycocotools.

pycocotools' `COCOeval` computes all numbers (Lin et al., "Microsoft COCO", 2014, and
cocodataset.org/#detection-eval). This module adds arbitrary `max_dets`, a table per class,
boundary AP, support for empty results, and errors that name the entry. It also validates RLE text
first, because pycocotools writes past its buffers if the text is malformed.
"""

import collections
import contextlib
import dataclasses
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from segjax.data import rle
from segjax.data.truth import InstanceTruth
from segjax.eval.boundary import boundary_rle
from segjax.results.coco_entries import result_entry, truth_entries

IouType = Literal["bbox", "segm", "boundary"]


@dataclasses.dataclass(frozen=True)
class AveragePrecision:
    """COCO metrics of one IoU type. Fractions in 0..1; NaN where there is nothing to average.

    Attributes:
      ap: AP, averaged over IoU 0.50:0.95 and classes, at the largest of `max_dets`.
      ap50: AP at IoU 0.50.
      ap75: AP at IoU 0.75.
      ap_small: AP of objects with an area below 32^2 pixels.
      ap_medium: AP of objects with an area from 32^2 to 96^2 pixels.
      ap_large: AP of objects with an area above 96^2 pixels.
      ar: average recall for each of `max_dets`.
      ar_small: average recall of small objects, at the largest of `max_dets`.
      ar_medium: average recall of medium objects, at the largest of `max_dets`.
      ar_large: average recall of large objects, at the largest of `max_dets`.
      per_class: AP by category id; NaN for a class without ground truth.
      max_dets: limits on detections per image and class, ascending.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar: tuple[float, ...]
    ar_small: float
    ar_medium: float
    ar_large: float
    per_class: dict[int, float]
    max_dets: tuple[int, ...]

    def summary(self) -> str:
        """Formats the metrics as pycocotools prints them, with -1.000 for undefined numbers."""
        last = self.max_dets[-1]
        rows = [
            ("AP", "0.50:0.95", "all", last, self.ap),
            ("AP", "0.50", "all", last, self.ap50),
            ("AP", "0.75", "all", last, self.ap75),
            ("AP", "0.50:0.95", "small", last, self.ap_small),
            ("AP", "0.50:0.95", "medium", last, self.ap_medium),
            ("AP", "0.50:0.95", "large", last, self.ap_large),
            *(
                ("AR", "0.50:0.95", "all", n, r)
                for n, r in zip(self.max_dets, self.ar, strict=True)
            ),
            ("AR", "0.50:0.95", "small", last, self.ar_small),
            ("AR", "0.50:0.95", "medium", last, self.ar_medium),
            ("AR", "0.50:0.95", "large", last, self.ar_large),
        ]
        return "\n".join(_summary_line(*row) for row in rows)


def _summary_line(kind: str, iou: str, area: str, max_dets: int, value: float) -> str:
    title = {"AP": "Average Precision", "AR": "Average Recall"}[kind]
    shown = -1.0 if math.isnan(value) else value
    return (
        f" {title:<18} ({kind}) @[ IoU={iou:<9} | area={area:>6s} | maxDets={max_dets:>3d} ]"
        f" = {shown:0.3f}"
    )


@dataclasses.dataclass(frozen=True)
class CocoScores:
    """Box, mask and boundary scores of one evaluation.

    Attributes:
      box: scores of the boxes.
      segm: scores of the masks; None for detections without masks.
      class_names: class names by category id; two categories can have the same name.
      num_images: number of images scored.
      num_objects: number of ground-truth objects in these images, excluding crowds.
      num_detections: number of detections.
      boundary: boundary AP (2103.16562) of the masks; None if not requested.
    """

    box: AveragePrecision
    segm: AveragePrecision | None
    class_names: dict[int, str]
    num_images: int
    num_objects: int
    num_detections: int
    boundary: AveragePrecision | None = None

    def _kinds(self) -> list[tuple[str, AveragePrecision]]:
        """Returns the scores of all evaluated kinds, with their names in logs."""
        kinds = (("box", self.box), ("segm", self.segm), ("boundary", self.boundary))
        return [(title, scores) for title, scores in kinds if scores is not None]

    def metrics(self) -> dict[str, float]:
        """Returns metrics by name, such as `box/AP` and `segm/AP50`; NaN where undefined."""
        found = {}
        for title, scores in self._kinds():
            values = {
                "AP": scores.ap,
                "AP50": scores.ap50,
                "AP75": scores.ap75,
                "APs": scores.ap_small,
                "APm": scores.ap_medium,
                "APl": scores.ap_large,
                **{f"AR{n}": r for n, r in zip(scores.max_dets, scores.ar, strict=True)},
                "ARs": scores.ar_small,
                "ARm": scores.ar_medium,
                "ARl": scores.ar_large,
            }
            found |= {f"{title}/{name}": value for name, value in values.items()}
        return found

    def per_class_table(self) -> str:
        """Formats the AP of every class in percent, one line each; n/a without ground truth."""
        names = _distinct(self.class_names)
        width = max([len("class"), *map(len, names.values())])
        columns = [(f" {title:>5} AP", scores.per_class) for title, scores in self._kinds()]
        head = f"{'class':<{width}}" + "".join(title for title, _ in columns)
        rows = [
            f"{name:<{width}}"
            + "".join(f"{_percent(table[number]):>{len(title)}}" for title, table in columns)
            for number, name in names.items()
        ]
        return "\n".join([head, *rows])

    def text(self) -> str:
        """Formats a full report: counts, summaries and the table of classes."""
        parts = [
            f"{self.num_images} images, {self.num_objects} objects,"
            f" {self.num_detections} detections",
            *(f"{title}\n{scores.summary()}" for title, scores in self._kinds()),
        ]
        return "\n".join([*parts, self.per_class_table()])


def _distinct(names: Mapping[int, str]) -> dict[int, str]:
    """Appends the category id to names that several categories share."""
    common = collections.Counter(names.values())
    return {i: f"{name} (id {i})" if common[name] > 1 else name for i, name in names.items()}


def _percent(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{100 * value:.1f}"


def coco_scores(
    ground_truth: InstanceTruth,
    detections: Sequence[Mapping[str, Any]],
    *,
    masks: bool,
    max_dets: Sequence[int] = (1, 10, 100),
    image_ids: Iterable[int] | None = None,
    boundary: bool = False,
) -> CocoScores:
    """Scores detections against the ground truth of a split.

    When masks are scored, an object without a segmentation is neither a hit nor a miss: its box
    becomes a crowd region.

    Args:
      ground_truth: `Dataset.instances(split)`, or `segjax.data.truth.truth_of(load_coco(...))` for
        an annotation file.
      detections: COCO results with `image_id`, `category_id`, `bbox` (x, y, width, height in
        pixels of the original image), `score`, and a `segmentation` if `masks` is set.
      masks: also score the masks.
      max_dets: limits on detections per image and class, best first. AP uses the largest one,
        which is 100 for COCO.
      image_ids: images to score; None for all images of the ground truth. Objects in images
        without detections count as missed.
      boundary: also compute boundary AP of the masks. Both the IoU of the masks and that of the
        bands along their outlines (`segjax.eval.boundary`) must reach the threshold. Crowds only
        use the IoU of the masks.

    Returns:
      Scores per IoU type; NaN if no class has ground truth (empty splits).

    Raises:
      ValueError: for non-positive `max_dets`, `boundary` without `masks`, a detection of an
        unknown image or category, a number that is not finite, or a malformed segmentation. The
        message names the entry.
    """
    limits = _checked_max_dets(max_dets)
    if boundary and not masks:
        raise ValueError("boundary=True scores masks, and masks is False: wanted masks=True")
    categories = dict(ground_truth.categories)
    # Read only once, as every access to a split on disk decodes a record.
    images = dict(ground_truth.images.items())
    sizes = {number: (objects.height, objects.width) for number, objects in images.items()}
    wanted = sorted(images) if image_ids is None else sorted({int(i) for i in image_ids})
    annotations = truth_entries(images, wanted, masks=masks)
    results = [
        result_entry(number, entry, sizes, categories, masks=masks)
        for number, entry in enumerate(detections)
    ]
    kinds: list[IouType] = ["bbox"]
    if masks:
        kinds.append("segm")
    if boundary:
        kinds.append("boundary")
    scores = {}
    for kind in kinds:
        truth = _index(sizes, categories, [_of_kind(entry, kind) for entry in annotations])
        found = _index(sizes, categories, [_sized(entry, kind) for entry in results])
        scores[kind] = _score(truth, found, kind, wanted, limits, sorted(categories))
    return CocoScores(
        box=scores["bbox"],
        segm=scores.get("segm"),
        class_names={number: categories[number] for number in sorted(categories)},
        num_images=len(wanted),
        num_objects=sum(not entry["iscrowd"] for entry in annotations),
        num_detections=len(results),
        boundary=scores.get("boundary"),
    )


def _checked_max_dets(max_dets: Sequence[int]) -> list[int]:
    limits = sorted({int(limit) for limit in max_dets})
    if not limits or limits[0] < 1:
        raise ValueError(f"max_dets is {tuple(max_dets)}: wanted positive numbers, as (1, 10, 100)")
    return limits


def _of_kind(entry: Mapping[str, Any], kind: IouType) -> dict[str, Any]:
    """Adapts an object to an IoU type: for masks, an object without one becomes a crowd."""
    crowd = entry["iscrowd"] or (kind != "bbox" and not entry["masked"])
    return dict(entry) | {"iscrowd": int(crowd)}


def _sized(entry: Mapping[str, Any], kind: IouType) -> dict[str, Any]:
    """Sets the area of a detection, which determines its size class, from its box or mask."""
    if kind == "bbox":
        return dict(entry) | {"area": entry["bbox"][2] * entry["bbox"][3]}
    return dict(entry) | {"area": float(rle.area(entry["segmentation"]))}


def _index(
    sizes: Mapping[int, tuple[int, int]],
    categories: Mapping[int, str],
    entries: list[dict[str, Any]],
) -> Any:
    """Builds a `pycocotools.coco.COCO` from entries."""
    from pycocotools.coco import COCO

    coco: Any = COCO()
    coco.dataset = {
        "images": [{"id": i, "height": h, "width": w} for i, (h, w) in sizes.items()],
        "categories": [{"id": number, "name": name} for number, name in categories.items()],
        "annotations": entries,
    }
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        coco.createIndex()
    return coco


def _score(
    truth: Any,
    found: Any,
    kind: IouType,
    image_ids: Sequence[int],
    max_dets: Sequence[int],
    category_ids: Sequence[int],
) -> AveragePrecision:
    """Runs COCOeval for one IoU type."""
    from pycocotools.cocoeval import COCOeval

    if kind == "boundary":
        evaluation = _boundary_evaluation(truth, found)
    else:
        evaluation = COCOeval(truth, found, kind)
    evaluation.params.imgIds = list(image_ids)
    evaluation.params.catIds = list(category_ids)
    evaluation.params.maxDets = list(max_dets)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    return _summarize(evaluation, category_ids)


def _boundary_evaluation(truth: Any, found: Any) -> Any:
    """Makes a COCOeval for masks that uses the minimum of mask IoU and boundary IoU."""
    from pycocotools.cocoeval import COCOeval

    class BoundaryEvaluation(COCOeval):
        def computeIoU(self: Any, imgId: Any, catId: Any) -> Any:
            overlaps: Any = COCOeval.computeIoU(self, imgId, catId)
            if len(overlaps):
                # Same order as the rows of `overlaps`, which stop at the limit on detections.
                best_first = sorted(self._dts[imgId, catId], key=lambda d: -d["score"])
                truths = self._gts[imgId, catId]
                _lower_to_boundary_iou(overlaps, best_first, truths, min(self.params.iouThrs))
            return overlaps

    return BoundaryEvaluation(truth, found, "segm")


def _lower_to_boundary_iou(
    overlaps: np.ndarray,
    detections: Sequence[Mapping[str, Any]],
    truths: Sequence[Mapping[str, Any]],
    threshold: float,
) -> None:
    """Lowers mask IoU to boundary IoU, in place, for pairs where the latter is smaller.

    Crowds keep their mask IoU, as in the reference implementation. They are regions of many
    objects, without a meaningful outline.
    """
    from pycocotools import mask as mask_utils

    crowd = np.array([bool(entry["iscrowd"]) for entry in truths])
    # Most pairs are below the lowest threshold and cannot match, whatever their boundary IoU.
    near = (overlaps >= threshold) & ~crowd[None]
    if not near.any():
        return
    rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
    first: Any = [boundary_rle(detections[row]["segmentation"]) for row in rows.tolist()]
    second: Any = [boundary_rle(truths[column]["segmentation"]) for column in columns.tolist()]
    bands = np.array(mask_utils.iou(first, second, [0] * len(columns)))
    block = np.ix_(rows, columns)
    overlaps[block] = np.where(near[block], np.minimum(overlaps[block], bands), overlaps[block])


def _summarize(evaluation: Any, category_ids: Sequence[int]) -> AveragePrecision:
    """Summarises like COCOeval.summarize, which only works for three limits that include 100."""
    # precision: [IoU, recall, class, area range, max_dets]; recall: [IoU, class, area, max_dets]
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    # IoU 0.50, 0.55, ..., 0.95; areas all, small, medium, large.
    small, medium, large = 1, 2, 3
    return AveragePrecision(
        ap=_mean(precision[:, :, :, 0, -1]),
        ap50=_mean(precision[0, :, :, 0, -1]),
        ap75=_mean(precision[5, :, :, 0, -1]),
        ap_small=_mean(precision[:, :, :, small, -1]),
        ap_medium=_mean(precision[:, :, :, medium, -1]),
        ap_large=_mean(precision[:, :, :, large, -1]),
        ar=tuple(_mean(recall[:, :, 0, limit]) for limit in range(recall.shape[-1])),
        ar_small=_mean(recall[:, :, small, -1]),
        ar_medium=_mean(recall[:, :, medium, -1]),
        ar_large=_mean(recall[:, :, large, -1]),
        per_class={i: _mean(precision[:, :, k, 0, -1]) for k, i in enumerate(category_ids)},
        max_dets=tuple(evaluation.params.maxDets),
    )


def _mean(values: np.ndarray) -> float:
    """Returns the mean of the defined entries; pycocotools marks undefined ones with -1."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else math.nan
