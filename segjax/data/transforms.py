"""Geometry of one example: image, boxes, masks and labels moved together, on the host."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8

from segjax.data import rle as rle_lib
from segjax.data.config import DataConfig
from segjax.data.images import decode_image, decode_labels


@dataclasses.dataclass(frozen=True)
class Objects:
    """The objects of one image, in the pixels of the image as stored.

    Attributes:
      boxes: `(x0, y0, x1, y1)`, clipped to the image.
      classes: class indices.
      is_crowd: True for regions of many objects.
      areas: pixels, as annotated.
      masks: compressed RLE counts, "" where there is no mask.
    """

    boxes: Float[np.ndarray, "n 4"]
    classes: Int64[np.ndarray, " n"]
    is_crowd: Bool[np.ndarray, " n"]
    areas: Float[np.ndarray, " n"]
    masks: tuple[str, ...]

    def take(self, index: Int64[np.ndarray, " k"]) -> "Objects":
        """Returns the objects of the given indices."""
        return Objects(
            self.boxes[index],
            self.classes[index],
            self.is_crowd[index],
            self.areas[index],
            tuple(self.masks[i] for i in index),
        )


@dataclasses.dataclass(frozen=True)
class Example:
    """One image ready for its canvas.

    Attributes:
      image: RGB.
      image_id: of the annotation file.
      original_size: (height, width) of the file.
      boxes: in pixels of `image`, float32.
      classes: class indices.
      is_crowd: True for regions of many objects.
      masks: 0/1 rasters: of the boxes, or of all of `image`.
      truncated: objects dropped because there were too many.
      degenerate: objects dropped for want of size or mask.
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


def resized_size(height: int, width: int, short_side: int, config: DataConfig) -> tuple[int, int]:
    """Computes what an image is resized to.

    Follows Detectron2's ResizeShortestEdge and MMDetection's Resize with "nearest" rounding,
    torchvision's GeneralizedRCNNTransform with "floor".

    Args:
      height: pixels.
      width: pixels.
      short_side: wanted length of the shorter side, in pixels, for `resize="shortest_edge"`.
      config: `resize`, `long_side`, `size` and `size_rounding` are used.

    Returns:
      Height and width in pixels, at least 1.
    """
    if config.resize == "none":
        return height, width
    if config.resize == "shortest_edge":
        scale = min(short_side / min(height, width), config.long_side / max(height, width))
    else:
        assert config.size is not None
        if config.resize == "stretch":
            return config.size
        scale = min(config.size[0] / height, config.size[1] / width)
    extra = 0.5 if config.size_rounding == "nearest" else 0.0
    return max(int(height * scale + extra), 1), max(int(width * scale + extra), 1)


def resize_image(
    image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int], interpolation: str = "cv2"
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Resizes bilinearly.

    Args:
      image: RGB.
      size: new height and width.
      interpolation: "cv2" without antialiasing, "pil" with.

    Returns:
      The resized image.
    """
    import cv2
    from PIL import Image

    if image.shape[:2] == size:
        return image
    width_height = (size[1], size[0])
    if interpolation == "pil":
        picture = Image.fromarray(image).resize(width_height, Image.Resampling.BILINEAR)
        return np.asarray(picture)
    return np.asarray(cv2.resize(image, width_height, interpolation=cv2.INTER_LINEAR), np.uint8)


def resize_labels(
    labels: UInt8[np.ndarray, "h w"], size: tuple[int, int]
) -> UInt8[np.ndarray, "h2 w2"]:
    """Resizes labels, each pixel taking the one under its centre.

    As Pillow (Detectron2) and the rasters of masks do, so that labels lie where the bilinear image
    lies. OpenCV's INTER_NEAREST (MMDetection) takes the one under the pixel's upper left corner,
    up to half a pixel away.

    Args:
      labels: of the image as stored.
      size: new height and width.

    Returns:
      The resized labels.
    """
    old = labels.shape
    if old == size:
        return labels
    rows, columns = (
        np.floor((np.arange(new) + 0.5) * (side / new)).astype(np.int64)
        for new, side in zip(size, old, strict=True)
    )
    return labels[np.minimum(rows, old[0] - 1)][:, np.minimum(columns, old[1] - 1)]


def flip_boxes(boxes: Float[np.ndarray, "n 4"], width: float | int) -> Float[np.ndarray, "n 4"]:
    """Mirrors boxes left to right.

    Args:
      boxes: `(x0, y0, x1, y1)` in pixels.
      width: of the image.

    Returns:
      The mirrored boxes, still with x0 <= x1.
    """
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)


def read_objects(record: dict[str, Any]) -> Objects:
    """Takes the objects out of a record of `tfds_builder`.

    Args:
      record: one example of the dataset.

    Returns:
      Its objects, boxes as corners clipped to the image.
    """
    fields = record["objects"]
    count = len(fields["label"])
    xywh = np.asarray(fields["bbox"], np.float64).reshape(count, 4)
    height, width = int(record["image/height"]), int(record["image/width"])
    size = np.array([width, height] * 2, np.float64)
    empty = rle_lib.empty_counts(height, width)
    masks = [text.decode("ascii") for text in fields["segmentation"]]
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    return Objects(
        boxes=np.clip(corners, 0, size[None]),
        classes=np.asarray(fields["label"], np.int64),
        is_crowd=np.asarray(fields["is_crowd"], bool),
        areas=np.asarray(fields["area"], np.float64),
        # A mask without a pixel teaches nothing: the object counts as one without a mask.
        masks=tuple("" if mask == empty else mask for mask in masks),
    )


def cap_objects(objects: Objects, limit: int) -> tuple[Objects, int]:
    """Keeps at most `limit` objects: crowds go first, then the smallest.

    Args:
      objects: of one image.
      limit: how many to keep.

    Returns:
      The kept objects in their order, and how many were dropped.
    """
    count = len(objects.masks)
    if count <= limit:
        return objects, 0
    rank = np.lexsort((np.arange(count), -objects.areas, objects.is_crowd))
    return objects.take(np.sort(rank[:limit])), count - limit


def make_example(
    record: dict[str, Any], rng: np.random.Generator | None, config: DataConfig
) -> Example:
    """Decodes, resizes and flips one image with its objects.

    Args:
      record: one example of the dataset.
      rng: source of scale and flip; None for evaluation, which draws nothing and takes
        `eval_short_side`.
      config: how; `semantic` other than "none" takes the record's labels too, `instances=False`
        leaves out its objects.

    Returns:
      The example.
    """
    import cv2

    image = decode_image(record["image"])
    height, width = image.shape[:2]
    short_side = config.eval_short_side or max(config.short_side)
    flip = False
    if rng is not None:
        short_side = int(rng.choice(np.asarray(config.short_side)))
        flip = bool(rng.random() < 0.5) and config.flip
    size = resized_size(height, width, short_side, config)
    image = resize_image(image, size, config.interpolation)
    objects = read_objects(record)
    if not config.instances:
        objects = objects.take(np.zeros(0, np.int64))
    objects, degenerate = _drop_degenerate(objects, size[0] / height, size[1] / width, config)
    objects, truncated = cap_objects(objects, config.max_instances)
    scale = np.array([size[1] / width, size[0] / height] * 2)
    boxes, masks = objects.boxes * scale[None], _masks(objects, (height, width), size, config)
    labels = None
    if config.semantic != "none":
        labels = resize_labels(decode_labels(record["semantic"]), size)
    if flip:
        image, masks = np.asarray(cv2.flip(image, 1), np.uint8), masks[:, :, ::-1]
        boxes = flip_boxes(boxes, size[1])
        labels = labels if labels is None else labels[:, ::-1]
    return Example(
        image=image,
        image_id=int(record["image/id"]),
        original_size=(height, width),
        boxes=boxes.astype(np.float32),
        classes=objects.classes,
        is_crowd=objects.is_crowd,
        masks=masks,
        truncated=truncated,
        degenerate=degenerate,
        semantic=labels,
    )


def _drop_degenerate(
    objects: Objects, y_scale: float, x_scale: float, config: DataConfig
) -> tuple[Objects, int]:
    """Drops objects whose box is too thin in the input, or that lack a mask where masks count."""
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    keep = (sides * np.array([[x_scale, y_scale]]) > config.min_box_size).all(axis=1)
    if config.masks:
        keep &= np.array([mask != "" for mask in objects.masks], bool)
    kept = np.flatnonzero(keep)
    return objects.take(kept), len(objects.masks) - len(kept)


def _masks(
    objects: Objects, original: tuple[int, int], size: tuple[int, int], config: DataConfig
) -> UInt8[np.ndarray, "n mh mw"]:
    """Rasters the masks over their boxes, or over the whole resized image (nearest pixel)."""
    if not (config.masks and config.instances):
        return np.zeros((len(objects.masks), 1, 1), np.uint8)
    grid = (config.mask_size, config.mask_size)
    boxes = objects.boxes
    if config.mask_frame == "image":
        grid = size
        boxes = np.broadcast_to(np.array([0.0, 0.0, original[1], original[0]]), boxes.shape)
    rasters = np.zeros((len(objects.masks), *grid), np.uint8)
    for index, (counts, box) in enumerate(zip(objects.masks, boxes, strict=True)):
        rle: rle_lib.Rle = {"size": list(original), "counts": counts}
        rasters[index] = rle_lib.decode_crop(rle, box.tolist(), grid)
    return rasters
