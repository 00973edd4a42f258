"""From a model's fixed-shape detections to objects in original pixels.

Boxes follow Detectron2's `detector_postprocess`: scaled per axis, clipped to the image, empty
ones dropped; `mask_encoding` does the masks.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32, UInt8

from segjax.eval.detections import ImageDetections
from segjax.eval.mask_encoding import encode_masks
from segjax.ops.boxes import clip_boxes, nonempty
from segjax.types import Detections


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
                detections.mask_probs,
                detections.boxes,
                row,
                index,
                (int(height), int(width)),
                paste_padded=paste_padded,
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
