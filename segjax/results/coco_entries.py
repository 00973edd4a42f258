"""COCO annotations and results, checked before pycocotools sees them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.data import rle


def ground_truth_entry(
    number: int,
    source: Mapping[str, Any],
    images: Mapping[int, Mapping[str, Any]],
    *,
    masks: bool,
) -> dict[str, Any]:
    """An annotation as pycocotools wants it.

    Harmless gaps are filled as training fills them: a missing `bbox` is the mask's, a missing
    `area` the mask's or the box's. An object without a mask can be neither found nor missed
    where masks are scored: its box becomes a crowd region.

    Args:
      number: its new id, from 1.
      source: the annotation.
      images: image entries by id.
      masks: check and keep the segmentation.

    Raises:
      ValueError: for an unknown image, a box that is not finite, or a malformed segmentation;
        the message names the annotation.
    """
    name = f"annotation {source.get('id', f'number {number}')}"
    image = images.get(int(source["image_id"]))
    if image is None:
        raise ValueError(f"{name} is of image {source['image_id']}, which the file lacks")
    mask = None
    if masks or source.get("bbox") is None:
        mask = _ground_truth_mask(source.get("segmentation"), image, name)
    bbox = source.get("bbox")
    if bbox is None:
        if mask is None:
            raise ValueError(f"{name} has neither bbox nor segmentation")
        x0, y0, x1, y1 = rle.to_bbox(mask)
        bbox = [x0, y0, x1 - x0, y1 - y0]
    entry = {
        "id": number,
        "image_id": int(source["image_id"]),
        "category_id": int(source["category_id"]),
        "bbox": _checked_bbox(bbox, name),
        "iscrowd": int(source.get("iscrowd", 0)),
    }
    area = source.get("area")
    if area is None:
        area = entry["bbox"][2] * entry["bbox"][3] if mask is None else rle.area(mask)
    entry["area"] = float(area)
    if masks:
        entry["segmentation"] = _box_mask(entry["bbox"], image) if mask is None else mask
        entry["masked"] = mask is not None
    return entry


def _ground_truth_mask(segmentation: Any, image: Mapping[str, Any], name: str) -> rle.Rle | None:
    """The mask; None where there is none but polygons of fewer than three points."""
    if isinstance(segmentation, list):
        segmentation = [polygon for polygon in segmentation if len(polygon) >= 6]
    return _checked_mask(segmentation, image, name) if segmentation else None


def _box_mask(bbox: Sequence[float], image: Mapping[str, Any]) -> rle.Rle:
    """The pixels of a box, as a mask over its image."""
    mask = np.zeros((int(image["height"]), int(image["width"])), bool)
    x, y, w, h = bbox
    mask[max(round(y), 0) : max(round(y + h), 0), max(round(x), 0) : max(round(x + w), 0)] = True
    return rle.encode(mask)


def result_entry(
    number: int,
    source: Mapping[str, Any],
    images: Mapping[int, Mapping[str, Any]],
    categories: Mapping[int, str],
    *,
    masks: bool,
) -> dict[str, Any]:
    """A detection as pycocotools wants it.

    Args:
      number: its place among the detections, from 0.
      source: the COCO result.
      images: image entries by id.
      categories: category names by id.
      masks: check and keep the segmentation.

    Raises:
      ValueError: for an unknown image or category, numbers that are not finite, or a missing or
        malformed segmentation; the message names the detection.
    """
    image_id, category_id = int(source["image_id"]), int(source["category_id"])
    name = f"detection {number} (image {image_id}, category {category_id})"
    if image_id not in images:
        raise ValueError(f"{name} is of an image that the ground truth lacks")
    if category_id not in categories:
        raise ValueError(f"{name}: the category ids of the ground truth are {sorted(categories)}")
    score = float(source["score"])
    if not math.isfinite(score):
        raise ValueError(f"{name} has score {score}: wanted a finite number")
    entry = {
        "id": number + 1,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": _checked_bbox(source["bbox"], name),
        "score": score,
        "iscrowd": 0,
    }
    if masks:
        if "segmentation" not in source:
            raise ValueError(f"{name} has no segmentation: score boxes only with masks=False")
        entry["segmentation"] = _checked_mask(source["segmentation"], images[image_id], name)
    return entry


def area_of(entry: Mapping[str, Any], *, of_mask: bool) -> float:
    """Pixels of the mask, or of the box."""
    if of_mask:
        return float(rle.area(entry["segmentation"]))
    return entry["bbox"][2] * entry["bbox"][3]


def for_scoring(entry: Mapping[str, Any], *, of_mask: bool) -> dict[str, Any]:
    """An entry of this module for one IoU type.

    The size class of a detection is that of its mask, or of its box, by what is scored.
    """
    if "score" in entry:
        return dict(entry) | {"area": area_of(entry, of_mask=of_mask)}
    crowd = entry["iscrowd"] or (of_mask and not entry["masked"])
    return dict(entry) | {"iscrowd": int(crowd)}


def checked_rle(segmentation: Any, height: int, width: int) -> rle.Rle:
    """Any COCO segmentation as compressed run lengths that are known to be well formed.

    Args:
      segmentation: polygons, or a run-length dict, compressed or not.
      height: rows of the image.
      width: columns of the image.

    Raises:
      ValueError: if it is malformed or of another size.
    """
    if isinstance(segmentation, Sequence) and not isinstance(segmentation, str | bytes):
        polygons = [[float(value) for value in polygon] for polygon in segmentation]
        return rle.from_polygons(polygons, height, width)
    if not isinstance(segmentation, Mapping) or set(segmentation) != {"size", "counts"}:
        raise ValueError("segmentation is neither a list of polygons nor {size, counts}")
    size, counts = list(segmentation["size"]), segmentation["counts"]
    if size != [height, width]:
        raise ValueError(f"segmentation is of size {size}, the image {[height, width]}")
    if isinstance(counts, bytes):
        counts = counts.decode("ascii")
    if not isinstance(counts, str):
        return rle.from_counts(counts, height, width)
    rle.counts_from_string(counts, height, width)
    return {"size": [height, width], "counts": counts}


def _checked_bbox(bbox: Sequence[float | int], name: str) -> list[float]:
    values = [float(value) for value in bbox]
    if len(values) != 4 or not all(map(math.isfinite, values)) or min(values[2:]) < 0:
        raise ValueError(f"{name} has bbox {values}: wanted finite x, y, width >= 0, height >= 0")
    return values


def _checked_mask(segmentation: Any, image: Mapping[str, Any], name: str) -> rle.Rle:
    try:
        return checked_rle(segmentation, int(image["height"]), int(image["width"]))
    except ValueError as error:
        raise ValueError(f"{name} of image {image['id']}: {error}") from error
