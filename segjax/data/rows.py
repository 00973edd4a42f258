"""Rows of a batch: a record decoded, transformed and brought to arrays of known sizes."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8

from segjax.data import rle as rle_lib
from segjax.data.config import DataConfig
from segjax.data.example import Example, Objects, read_example
from segjax.data.images import IGNORE
from segjax.data.protocols import Mix, Transform

Record = dict[str, Any]
HostBatch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Row:
    """One image ready for its canvas.

    Attributes:
      image: RGB.
      image_id: as in the annotation file.
      original_size: (height, width) of the file.
      boxes: `(x0, y0, x1, y1)` in pixels of `image`, float32.
      classes: class indices.
      is_crowd: True for regions of many objects.
      masks: 0/1 rasters over the boxes, or over all of `image`.
      truncated: number of objects dropped because there were too many.
      degenerate: number of objects dropped because they lack size or mask.
      semantic: label of every pixel of `image`, or None where none are wanted.
    """

    image: UInt8[np.ndarray, "h w 3"]
    image_id: int
    original_size: tuple[int, int]
    boxes: Float[np.ndarray, "n 4"]
    classes: Int64[np.ndarray, " n"]
    is_crowd: Bool[np.ndarray, " n"]
    masks: UInt8[np.ndarray, "n mh mw"]
    truncated: int
    degenerate: int
    semantic: UInt8[np.ndarray, "h w"] | None = None


def make_row(
    record: Record,
    rng: np.random.Generator | None,
    config: DataConfig,
    draw: Callable[[np.random.Generator], Record] | None = None,
) -> Row:
    """Decodes and transforms one image with its objects and labels.

    Args:
      record: one element of `open_records`.
      rng: source of everything random; None for evaluation, which draws nothing.
      config: how; `semantic` other than "none" takes the record's labels too, `instances=False`
        leaves out its objects.
      draw: draws another record of the split, for mixes; training with mixes needs it.

    Returns:
      The row, with objects dropped that are degenerate or over the cap.
    """

    def read(record: Record, steps: Sequence[Transform | Mix]) -> Example:
        example = read_example(
            record, instances=config.instances, semantic=config.semantic != "none"
        )
        return apply(steps, example, rng, other)

    def other(steps: Sequence[Transform | Mix]) -> Example:
        assert rng is not None and draw is not None
        return read(draw(rng), steps)

    return _row(read(record, config.steps()), config)


def apply(
    steps: Sequence[Transform | Mix],
    example: Example,
    rng: np.random.Generator | None,
    other: Callable[[Sequence[Transform | Mix]], Example] | None = None,
) -> Example:
    """Passes an example through transforms and mixes.

    Args:
      steps: what to do, in order.
      example: where it begins.
      rng: source of everything random; None for evaluation and prediction, which mix nothing.
      other: reads another image and passes it through the given steps, for mixes in training.

    Returns:
      The transformed example.
    """
    for place, step in enumerate(steps):
        if not isinstance(step, Mix):
            example = step(example, rng)
        elif rng is not None:
            assert other is not None
            before = steps[:place]
            example = step.mix(example, lambda before=before: other(before), rng)
    return example


def cap_objects(objects: Objects, limit: int) -> tuple[Objects, int]:
    """Keeps at most `limit` objects: crowds are dropped first, then the smallest.

    Args:
      objects: objects of one image.
      limit: how many to keep.

    Returns:
      The kept objects in their order, and how many were dropped.
    """
    count = len(objects)
    if count <= limit:
        return objects, 0
    rank = np.lexsort((np.arange(count), -objects.areas, objects.is_crowd))
    return objects.take(np.sort(rank[:limit])), count - limit


def empty_batch(rows: int, canvas: tuple[int, int], config: DataConfig) -> HostBatch:
    """A batch of filling rows: what `train_iterator` and `eval_iterator` write examples into.

    Args:
      rows: images.
      canvas: (height, width) of the padded images.
      config: which labels there are, and their sizes.
    """
    # Without instances one empty row is left, as no axis of a batch is empty.
    count = config.max_instances if config.instances else 1
    masks = config.masks and config.instances
    raster = (config.mask_size, config.mask_size) if masks else (1, 1)
    if masks and config.mask_frame == "image":
        raster = canvas
    return {
        "images": np.zeros((rows, *canvas, 3), np.uint8),
        # Filling rows count as whole canvases, so that nothing divides by an empty image.
        "image_sizes": np.tile(np.array(canvas, np.int32), (rows, 1)),
        "gt_boxes": np.zeros((rows, count, 4), np.float32),
        "gt_classes": np.zeros((rows, count), np.int32),
        "gt_valid": np.zeros((rows, count), bool),
        "gt_is_crowd": np.zeros((rows, count), bool),
        "gt_masks": np.zeros((rows, count, *raster), np.uint8),
        "gt_mask_frames": np.zeros((rows, count, 4), np.float32),
        **_empty_labels(rows, canvas, config),
        "image_ids": np.full(rows, -1, np.int64),
        "original_sizes": np.tile(np.array(canvas, np.int32), (rows, 1)),
        "example_valid": np.zeros(rows, bool),
        "truncated": np.zeros(rows, np.int32),
        "dropped_degenerate": np.zeros(rows, np.int32),
    }


def _empty_labels(rows: int, canvas: tuple[int, int], config: DataConfig) -> HostBatch:
    if config.semantic == "none":
        return {}
    return {"gt_semantic": np.full((rows, *canvas), IGNORE, np.uint8)}


def fill(batch: HostBatch, place: int, row: Row, config: DataConfig) -> None:
    """Writes a row into a batch.

    Args:
      batch: what `empty_batch` returned.
      place: which image of the batch.
      row: the image, at most as large as the canvas.
      config: which labels there are, and their sizes.
    """
    height, width = row.image.shape[:2]
    count = len(row.classes)
    batch["images"][place, :height, :width] = row.image
    batch["image_sizes"][place] = height, width
    batch["gt_boxes"][place, :count] = row.boxes
    batch["gt_classes"][place, :count] = row.classes
    batch["gt_valid"][place, :count] = True
    batch["gt_is_crowd"][place, :count] = row.is_crowd
    frames, masks = batch["gt_mask_frames"], batch["gt_masks"]
    mask_height, mask_width = row.masks.shape[1:]
    masks[place, :count, :mask_height, :mask_width] = row.masks
    frames[place, :count] = row.boxes
    if config.masks and config.mask_frame == "image":
        frames[place, :count] = 0, 0, masks.shape[3], masks.shape[2]
    if row.semantic is not None:
        batch["gt_semantic"][place, :height, :width] = row.semantic
    batch["image_ids"][place] = row.image_id
    batch["original_sizes"][place] = row.original_size
    batch["example_valid"][place] = True
    batch["truncated"][place] = row.truncated
    batch["dropped_degenerate"][place] = row.degenerate


def _row(example: Example, config: DataConfig) -> Row:
    objects, degenerate = _drop_degenerate(example.objects, config)
    objects, truncated = cap_objects(objects, config.max_instances)
    return Row(
        image=example.image,
        image_id=example.image_id,
        original_size=example.original_size,
        boxes=objects.boxes.astype(np.float32),
        classes=objects.classes,
        is_crowd=objects.is_crowd,
        masks=_rasters(objects, example.size, config),
        truncated=truncated,
        degenerate=degenerate,
        semantic=example.semantic,
    )


def _drop_degenerate(objects: Objects, config: DataConfig) -> tuple[Objects, int]:
    """Drops objects whose box is too thin in the input, or that lack a mask where masks count."""
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    keep = (sides > config.min_box_size).all(axis=1)
    if config.masks:
        keep &= np.array([mask is not None for mask in objects.masks], bool)
    kept = np.flatnonzero(keep)
    return objects.take(kept), len(objects) - len(kept)


def _rasters(
    objects: Objects, size: tuple[int, int], config: DataConfig
) -> UInt8[np.ndarray, "n mh mw"]:
    """Samples the masks over their boxes, or over the whole image (nearest pixel)."""
    if not (config.masks and config.instances):
        return np.zeros((len(objects), 1, 1), np.uint8)
    grid, frames = (config.mask_size, config.mask_size), objects.mask_boxes
    if config.mask_frame == "image":
        grid, frames = size, objects.mask_views
    rasters = np.zeros((len(objects), *grid), np.uint8)
    for index, (mask, frame) in enumerate(zip(objects.masks, frames, strict=True)):
        assert mask is not None, "objects without a mask were dropped"
        raster = rle_lib.decode_crop(mask, frame.tolist(), grid)
        rasters[index] = raster[:, ::-1] if objects.mirrored[index] else raster
    return rasters
