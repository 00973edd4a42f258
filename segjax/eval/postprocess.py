"""From a model's fixed-shape detections to objects in original pixels.

Boxes follow Detectron2's `detector_postprocess`: scaled per axis, clipped to the image, empty
ones dropped. Masks are pasted, thresholded and packed to bits on the device, a few at a time,
and become run lengths on the host: no full-size masks are held or moved.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32, UInt8

from segjax.data import rle
from segjax.eval.detections import ImageDetections
from segjax.ops.boxes import clip_boxes, nonempty
from segjax.ops.masks import pack_mask_bits, paste_masks
from segjax.types import Detections

# Canvases are rounded up to this, so that photos of many sizes share a few compiled programs.
CANVAS_MULTIPLE = 128
# Masks pasted at a time, and the bound on their soft float32 canvases (elements; 128 MiB).
PASTE_CHUNK = 16
PASTE_ELEMENTS = 2**25


@functools.partial(jax.jit, static_argnames="model")
def predict_original(
    model: Any,
    variables: Any,
    images: UInt8[Array, "B H W 3"],
    image_sizes: Int32[Array, "B 2"],
    original_sizes: Int32[Array, "B 2"],
) -> Detections:
    """The model's detections, boxes in original pixels.

    One jitted function for the whole process: a model compiles once per input shape, however
    often evaluation and prediction come back to it.

    Args:
      model: a linen module with a `predict` method, or anything hashable with its `apply`.
      variables: its parameters and statistics.
      images: padded uint8 RGB.
      image_sizes: (height, width) of each resized image inside the padding.
      original_sizes: (height, width) of each image before it was resized.

    Returns:
      Detections with boxes in original pixels; empty boxes are no longer valid.
    """
    detections = model.apply(variables, images, image_sizes, method="predict")
    boxes, valid = rescale_boxes(detections.boxes, image_sizes, original_sizes)
    return Detections(
        boxes=boxes,
        scores=detections.scores,
        classes=detections.classes,
        valid=detections.valid & valid,
        mask_probs=detections.mask_probs,
    )


def rescale_boxes(
    boxes: Float32[Array, "B D 4"],
    image_sizes: Int32[Array, "B 2"],
    original_sizes: Int32[Array, "B 2"],
) -> tuple[Float32[Array, "B D 4"], Bool[Array, "B D"]]:
    """Moves boxes from resized to original pixels and clips them to the image.

    Each axis has its own factor, original / resized: rounding the resized size makes the two
    differ (Detectron2, `detector_postprocess`; mmdet's `scale_factor`).

    Args:
      boxes: in pixels of the resized image.
      image_sizes: (height, width) after resizing.
      original_sizes: (height, width) before.

    Returns:
      The boxes in original pixels, and whether each has an extent inside the image.
    """
    factors = original_sizes.astype(jnp.float32) / image_sizes.astype(jnp.float32)
    xyxy = jnp.stack([factors[:, 1], factors[:, 0]] * 2, axis=-1)
    scaled = clip_boxes(boxes * xyxy[:, None, :], original_sizes)
    return scaled, nonempty(scaled, 0.0)


def collect(
    detections: Detections,
    original_sizes: Sequence[tuple[int, int]],
    *,
    paste_padded: bool,
    class_names: Sequence[str] = (),
    score_threshold: float = 0.0,
    max_detections: int | None = None,
) -> list[ImageDetections]:
    """Brings detections to the host, image by image.

    Args:
      detections: of `predict_original`, on the device.
      original_sizes: (height, width) of each image; rows of the batch beyond it only fill the
        shape and are left out.
      paste_padded: paste masks as torchvision does.
      class_names: the name of every class.
      score_threshold: leave out scores at or below it; NaN scores stay, to be noticed.
      max_detections: at most so many per image, the best; None takes all.

    Returns:
      One `ImageDetections` per size.
    """
    boxes, scores, classes, valid = jax.device_get(
        (detections.boxes, detections.scores, detections.classes, detections.valid)
    )
    collected = []
    for row, (height, width) in enumerate(original_sizes):
        keep = valid[row] & ~(scores[row] <= score_threshold)
        order = np.argsort(-scores[row], kind="stable")
        index = order[keep[order]][:max_detections]
        masks = None
        if detections.mask_probs is not None:
            masks = encode_masks(
                detections, row, index, (int(height), int(width)), paste_padded=paste_padded
            )
        collected.append(
            ImageDetections(
                boxes=boxes[row][index],
                scores=scores[row][index],
                classes=classes[row][index],
                image_size=(int(height), int(width)),
                class_names=tuple(class_names),
                mask_rles=masks,
            )
        )
    return collected


def encode_masks(
    detections: Detections,
    row: int,
    index: np.ndarray,
    image_size: tuple[int, int],
    *,
    paste_padded: bool,
) -> tuple[rle.Rle, ...]:
    """Pastes the masks of one image and encodes them as run lengths.

    Args:
      detections: on the device, boxes in original pixels, with `mask_probs`.
      row: which image of the batch.
      index: which detections, [n] integers.
      image_size: (height, width) of the original image.
      paste_padded: torchvision's paste, soft value > 0.5; else Detectron2's and mmdet's,
        value >= 0.5.

    Returns:
      A compressed COCO run-length dict per detection.
    """
    height, width = image_size
    canvas = tuple(-(-side // CANVAS_MULTIPLE) * CANVAS_MULTIPLE for side in image_size)
    size = np.array(image_size, np.int32)
    chunk = max(1, min(PASTE_CHUNK, PASTE_ELEMENTS // (canvas[0] * canvas[1])))
    encoded = []
    for start in range(0, len(index), chunk):
        rows = np.zeros(chunk, np.int32)
        wanted = index[start : start + chunk]
        rows[: len(wanted)] = wanted
        packed = jax.device_get(
            _paste_bits(
                detections.mask_probs,
                detections.boxes,
                np.int32(row),
                rows,
                size,
                canvas=canvas,
                padded=paste_padded,
            )
        )
        for bits in packed[: len(wanted), :width, : -(-height // 8)]:
            encoded.append(rle.from_bits(bits, height, width))
    return tuple(encoded)


@functools.partial(jax.jit, static_argnames=("canvas", "padded"))
def _paste_bits(
    mask_probs: Float32[Array, "B D M M"],
    boxes: Float32[Array, "B D 4"],
    row: Int32[Array, ""],
    index: Int32[Array, "n"],
    image_size: Int32[Array, "2"],
    *,
    canvas: tuple[int, ...],
    padded: bool,
) -> UInt8[Array, "n W Hbytes"]:
    """Pastes a chunk of masks onto the canvas and packs the binary masks, column by column."""
    height, width = canvas
    soft = paste_masks(mask_probs[row][index], boxes[row][index], height, width, padded=padded)
    binary = soft > 0.5 if padded else soft >= 0.5
    # Nothing beyond the image: its last byte of a column may reach below the image.
    inside_y = jnp.arange(height) < image_size[0]
    inside_x = jnp.arange(width) < image_size[1]
    return pack_mask_bits(binary & (inside_y[:, None] & inside_x[None, :])[None])
