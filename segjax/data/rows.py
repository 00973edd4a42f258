"""Rows of a batch: decodes and transforms records, and writes them into arrays of fixed shape."""

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
    """One image, ready to be written into a batch.

    Attributes:
      image: RGB image.
      image_id: id in the annotation file.
      original_size: (height, width) of the stored image.
      boxes: boxes `(x0, y0, x1, y1)` in pixels of `image`, float32.
      classes: class indices of the objects.
      is_crowd: True for regions of many objects.
      masks: 0/1 rasters over the boxes, or over the whole `image`.
      truncated: number of objects dropped because there were too many.
      degenerate: number of objects dropped because their box is too small or they lack a mask.
      semantic: label of every pixel of `image`; None without semantic labels.
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
      record: element of `open_records`.
      rng: random generator; None for evaluation, which is deterministic.
      config: transforms and sizes. Reads the labels unless `semantic` is "none"; skips the objects
        if `instances` is False.
      draw: draws another record of the split; required for training with mixes.

    Returns:
      The row, without objects that are degenerate or exceed `max_instances`.
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
    """Applies transforms and mixes to an example.

    Args:
      steps: transforms and mixes, in order.
      example: example to transform.
      rng: random generator; None for evaluation and prediction, which skip mixes.
      other: reads another image and applies the given steps to it; required for mixes in training.

    Returns:
      The transformed example.
    """
    for place, step in enumerate(steps):
        if not isinstance(step, Mix):
            example = step(example, rng)
        elif rng is not None:
            assert other is not None
            # The other image gets the steps before the mix; the ones after it apply to the result.
            before = steps[:place]
            example = step.mix(example, lambda before=before: other(before), rng)
    return example


def cap_objects(objects: Objects, limit: int) -> tuple[Objects, int]:
    """Keeps at most `limit` objects, dropping crowds first, then the smallest objects.

    Args:
      objects: objects of one image.
      limit: maximum number of objects to keep.

    Returns:
      The kept objects in their original order, and the number of dropped ones.
    """
    count = len(objects)
    if count <= limit:
        return objects, 0
    # `lexsort` sorts by its last key first: non-crowds, then large areas, then input order.
    rank = np.lexsort((np.arange(count), -objects.areas, objects.is_crowd))
    return objects.take(np.sort(rank[:limit])), count - limit


def empty_batch(rows: int, canvas: tuple[int, int], config: DataConfig) -> HostBatch:
    """Returns a batch of padding rows, which `train_iterator` and `eval_iterator` fill.

    Args:
      rows: number of images.
      canvas: (height, width) of the padded images.
      config: selects the labels and their sizes.
    """
    # Without instances, keep one empty row: batches must not have axes of size 0.
    count = config.max_instances if config.instances else 1
    masks = config.masks and config.instances
    raster = (config.mask_size, config.mask_size) if masks else (1, 1)
    if masks and config.mask_frame == "image":
        raster = canvas
    return {
        "images": np.zeros((rows, *canvas, 3), np.uint8),
        # Padding rows claim the whole canvas, so that nothing divides by a size of 0.
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
      batch: batch from `empty_batch`.
      place: index of the row in the batch.
      row: image to write, at most as large as the canvas.
      config: the config that was passed to `empty_batch`.
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
        # These rasters cover the whole canvas, including its padding.
        frames[place, :count] = 0, 0, masks.shape[3], masks.shape[2]
    if row.semantic is not None:
        batch["gt_semantic"][place, :height, :width] = row.semantic
    batch["image_ids"][place] = row.image_id
    batch["original_sizes"][place] = row.original_size
    batch["example_valid"][place] = True
    batch["truncated"][place] = row.truncated
    batch["dropped_degenerate"][place] = row.degenerate


def _row(example: Example, config: DataConfig) -> Row:
    # Degenerate objects go first, so that they do not take rows from others.
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
    """Drops objects whose box is too thin in the input, or that lack a mask if masks are used."""
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    keep = (sides > config.min_box_size).all(axis=1)
    if config.masks:
        keep &= np.array([mask is not None for mask in objects.masks], bool)
    kept = np.flatnonzero(keep)
    return objects.take(kept), len(objects) - len(kept)


def _rasters(
    objects: Objects, size: tuple[int, int], config: DataConfig
) -> UInt8[np.ndarray, "n mh mw"]:
    """Samples the masks over their boxes or over the whole image, taking the nearest pixels."""
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
