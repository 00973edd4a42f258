"""Soft masks of detections, over their boxes or over the whole image.

Both classes implement `segjax.types.Masks`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32

from segjax.ops.boxes import rescale_boxes
from segjax.ops.masks import paste_masks
from segjax.ops.resize import image_weights
from segjax.types import static_field, struct


@struct
class BoxMasks:
    """Masks on a grid over their boxes, as predicted by the heads of Mask R-CNN.

    Attributes:
      probs: probability that each cell of the grid belongs to the object, 0..1.
      boxes: x0 y0 x1 y1 in pixels of the padded input, or of the original after `to_original`.
      padded: True pastes like torchvision, with soft values > 0.5; False like Detectron2 and
        MMDetection, with values >= 0.5. See `segjax.ops.masks.paste_masks`.
    """

    probs: Float32[Array, "*B D M M"]
    boxes: Float32[Array, "*B D 4"]
    padded: bool = static_field(default=False)

    def to_original(
        self, image_sizes: Int32[Array, "B 2"], original_sizes: Int32[Array, "B 2"]
    ) -> "BoxMasks":
        """Returns the same masks, over boxes [B, D, 4] in pixels of the original images.

        Args:
          image_sizes: (height, width) of each resized image inside the padding.
          original_sizes: (height, width) of each image before it was resized.
        """
        boxes = rescale_boxes(self.boxes, image_sizes, original_sizes)
        return dataclasses.replace(self, boxes=boxes)

    def paste(
        self, height: int, width: int, origin: Int32[Array, "N 2"] | None = None
    ) -> Bool[Array, "N height width"]:
        """Returns binary masks of the whole image or of windows of it.

        Args:
          height: height of the result, in pixels.
          width: width of the result, in pixels.
          origin: (x, y) in the image of the first pixel of each result; None is (0, 0).
        """
        soft = paste_masks(self.probs, self.boxes, height, width, padded=self.padded, origin=origin)
        return soft > 0.5 if self.padded else soft >= 0.5

    def regions(
        self, row: int, index: np.ndarray, image_size: tuple[int, int]
    ) -> Int32[np.ndarray, "n 4"]:
        """Returns whole-pixel boxes (x0, y0, x1, y1) that contain all pixels a paste can set.

        Runs on the host.

        Args:
          row: index of the image in the batch.
          index: indices [n] of its masks.
          image_size: (height, width) of the image, in pixels.
        """
        boxes, cells = np.asarray(self.boxes)[row][index], self.probs.shape[-1]
        height, width = image_size
        extent = boxes[:, 2:] - boxes[:, :2]
        # torchvision's enlarged and truncated boxes extend by less than a cell plus two pixels.
        margin = np.maximum(np.nan_to_num(extent), 0) / cells + 2
        low, high = np.floor(boxes[:, :2] - margin), np.ceil(boxes[:, 2:] + margin)
        limit = np.array([width, height], np.float32)
        return np.concatenate(
            [np.clip(np.nan_to_num(side), 0, limit) for side in (low, high)], axis=1
        ).astype(np.int32)


@struct
class CanvasMasks:
    """Masks over the whole padded input, as predicted by query models (2112.01527).

    Logits are resized bilinearly to the padded input, cropped to the image and resized to the
    output. A pixel belongs to the object if its logit is then 0 or more.

    Attributes:
      logits: logits of the cells of the padded input.
      image_sizes: (height, width) of the image inside the padding, for each mask.
      output_sizes: (height, width) of the image to paste masks into: `image_sizes`, or the size
        of the original after `to_original`.
      stride: pixels of the padded input per cell.
    """

    logits: Float32[Array, "*B D h w"]
    image_sizes: Int32[Array, "*B D 2"]
    output_sizes: Int32[Array, "*B D 2"]
    stride: int = static_field()

    @classmethod
    def of(
        cls, logits: Float32[Array, "B D h w"], image_sizes: Int32[Array, "B 2"], stride: int
    ) -> "CanvasMasks":
        """Creates the masks of a batch, with outputs in pixels of its padded input."""
        sizes = jnp.broadcast_to(image_sizes[:, None], (*logits.shape[:2], 2))
        return cls(logits, sizes, sizes, stride)

    def to_original(
        self, image_sizes: Int32[Array, "B 2"], original_sizes: Int32[Array, "B 2"]
    ) -> "CanvasMasks":
        """Returns the same masks, for pasting into the original images.

        Args:
          image_sizes: (height, width) of each resized image inside the padding.
          original_sizes: (height, width) of each image before it was resized.
        """
        del image_sizes  # already stored in the masks
        sizes = jnp.broadcast_to(original_sizes[:, None], self.output_sizes.shape)
        return dataclasses.replace(self, output_sizes=sizes)

    def paste(
        self, height: int, width: int, origin: Int32[Array, "N 2"] | None = None
    ) -> Bool[Array, "N height width"]:
        """Returns binary masks of the whole image or of windows of it.

        Args:
          height: height of the result, in pixels.
          width: width of the result, in pixels.
          origin: (x, y) in the image of the first pixel of each result; None is (0, 0).
        """
        if origin is None:
            origin = jnp.zeros((len(self.logits), 2), jnp.int32)
        return jax.vmap(lambda mask, first: mask._paste_one(height, width, first))(self, origin)

    def _paste_one(
        self, height: int, width: int, origin: Int32[Array, "2"]
    ) -> Bool[Array, "{height} {width}"]:
        weights, inside = [], []
        for axis, side in enumerate((height, width)):
            pixel = jnp.arange(side, dtype=jnp.float32) + origin[1 - axis]
            cells = self.logits.shape[axis]
            old, new = self.image_sizes[axis], self.output_sizes[axis]
            weights.append(image_weights(cells, cells * self.stride, old, new, pixel))
            inside.append(pixel < new)
        tall = jnp.matmul(weights[0], self.logits, precision="highest")
        soft = jnp.matmul(tall, weights[1].T, precision="highest")
        return (soft >= 0) & inside[0][:, None] & inside[1][None]

    def regions(
        self, row: int, index: np.ndarray, image_size: tuple[int, int]
    ) -> Int32[np.ndarray, "n 4"]:
        """Returns the whole image for each mask, as its extent is not known before pasting."""
        height, width = image_size
        return np.tile(np.array([0, 0, width, height], np.int32), (len(index), 1))
