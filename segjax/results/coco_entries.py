"""Converts ground truth and COCO results to pycocotools entries, and validates the results."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.data import rle
from segjax.data.truth import ImageObjects


def truth_entries(
    images: Mapping[int, ImageObjects], image_ids: Sequence[int], *, masks: bool
) -> list[dict[str, Any]]:
    """Converts ground-truth objects to pycocotools annotations, numbered from 1.

    Args:
      images: objects by image id.
      image_ids: ids of the images to convert.
      masks: include segmentations; an object without one gets the pixels of its box.

    Returns:
      Annotations. The extra key `masked` is True for objects with a segmentation of their own.
    """
    entries: list[dict[str, Any]] = []
    for image_id in image_ids:
        objects = images[image_id]
        size = [objects.height, objects.width]
        for row, counts in enumerate(objects.masks):
            entry = {
                # Ids start at 1, as pycocotools treats a match with annotation 0 as no match.
                "id": len(entries) + 1,
                "image_id": image_id,
                "category_id": int(objects.category_ids[row]),
                "bbox": objects.boxes[row].tolist(),
                "area": float(objects.areas[row]),
                "iscrowd": int(objects.is_crowd[row]),
                "masked": counts != "",
            }
            if masks:
                mask: rle.Rle = {"size": size, "counts": counts}
                entry["segmentation"] = mask if counts else _box_mask(entry["bbox"], *size)
            entries.append(entry)
    return entries


def _box_mask(bbox: Sequence[float], height: int, width: int) -> rle.Rle:
    """Rasterises a box as a mask over its image."""
    mask = np.zeros((height, width), bool)
    x, y, w, h = bbox
    mask[max(round(y), 0) : max(round(y + h), 0), max(round(x), 0) : max(round(x + w), 0)] = True
    return rle.encode(mask)


def result_entry(
    number: int,
    source: Mapping[str, Any],
    sizes: Mapping[int, tuple[int, int]],
    categories: Mapping[int, str],
    *,
    masks: bool,
) -> dict[str, Any]:
    """Converts a COCO result to a validated pycocotools annotation.

    Args:
      number: index of the detection, from 0.
      source: COCO result.
      sizes: (height, width) of the images, by id.
      categories: category names by id.
      masks: check and include the segmentation.

    Raises:
      ValueError: for an unknown image or category, numbers that are not finite, or a missing or
        malformed segmentation; the message names the detection.
    """
    image_id, category_id = int(source["image_id"]), int(source["category_id"])
    name = f"detection {number} (image {image_id}, category {category_id})"
    if image_id not in sizes:
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
        entry["segmentation"] = _checked_mask(source["segmentation"], sizes[image_id], name)
    return entry


def checked_rle(segmentation: Any, height: int, width: int) -> rle.Rle:
    """Converts any COCO segmentation to validated, compressed RLE.

    Args:
      segmentation: polygons, or RLE, compressed or not.
      height: height of the image in pixels.
      width: width of the image in pixels.

    Raises:
      ValueError: if the segmentation is malformed or has another size.
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
    rle.counts_from_string(counts, height, width)  # raises if malformed
    return {"size": [height, width], "counts": counts}


def _checked_bbox(bbox: Sequence[float | int], name: str) -> list[float]:
    values = [float(value) for value in bbox]
    if len(values) != 4 or not all(map(math.isfinite, values)) or min(values[2:]) < 0:
        raise ValueError(f"{name} has bbox {values}: wanted finite x, y, width >= 0, height >= 0")
    return values


def _checked_mask(segmentation: Any, size: tuple[int, int], name: str) -> rle.Rle:
    try:
        return checked_rle(segmentation, *size)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
