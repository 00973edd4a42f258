"""The structures that pass between the parts, as frozen dataclasses of arrays.

Axis letters, here and everywhere: B image, A anchor, R region (proposal),
G ground truth, K class, L level, H W C, M mask side, D detection.
Boxes are `(x0, y0, x1, y1)` in absolute pixels of the padded input, float32,
half-open. `*B` stands for any leading axes: one image has none. Every array has
a fixed shape; `valid` says which rows are real.
"""

import dataclasses
from typing import Any, Literal, Protocol, TypeVar, dataclass_transform, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int32, UInt8

_T = TypeVar("_T")
_S = TypeVar("_S")


def static_field(**field: Any) -> Any:
    """A field of a `struct` that is hashable and fixed when a program is compiled.

    Args:
      field: for `dataclasses.field`, such as a default.
    """
    return dataclasses.field(metadata={"static": True}, **field)


# What a network computes in; its parameters are float32 always.
Dtype = Literal["float32", "bfloat16"]

# Semantic label of pixels that count for nothing.
IGNORE = 255


@dataclass_transform(frozen_default=True)
def struct(cls: type[_T]) -> type[_T]:
    """Makes `cls` a frozen dataclass and a pytree.

    Fields made by `static_field()` are not arrays: they are compared when programs are compiled.
    Unflattening bypasses `__init__`: JAX also unflattens with placeholders
    (axis numbers, shardings, `object()`), which run-time shape checks on
    `__init__` would refuse.
    """
    data_cls: Any = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(data_cls)
    names = tuple(f.name for f in fields if not f.metadata.get("static"))
    static_names = tuple(f.name for f in fields if f.metadata.get("static"))

    def flatten_with_keys(value: Any) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        children = [(jax.tree_util.GetAttrKey(n), getattr(value, n)) for n in names]
        return children, tuple(getattr(value, n) for n in static_names)

    def unflatten(static: tuple[Any, ...], children: Any) -> Any:
        value = object.__new__(data_cls)
        for name, child in zip((*names, *static_names), (*children, *static), strict=True):
            object.__setattr__(value, name, child)
        return value

    jax.tree_util.register_pytree_with_keys(data_cls, flatten_with_keys, unflatten)
    return data_cls


@struct
class Batch:
    """One training or evaluation batch, as it arrives on the device.

    Attributes:
      images: uint8 RGB, padded at the right and the bottom.
      image_sizes: (height, width) of the picture inside the padding.
      gt_boxes: ground-truth boxes; padding rows are zero.
      gt_classes: class indices 0..K-1, without background.
      gt_valid: True where the row is an object.
      gt_is_crowd: True where the row is a crowd region (never a target).
      gt_masks: 0/1 rasters of the objects, each covering its frame.
      gt_mask_frames: the box `(x0, y0, x1, y1)` in padded-input pixels that
        each raster covers: the object's box, or the whole image for exact
        parity with the peers.
      gt_semantic: class of every pixel, 255 where it counts for nothing (also
        in the padding), or None where the data give no semantic labels.
    """

    images: UInt8[Array, "B H W 3"]
    image_sizes: Int32[Array, "B 2"]
    gt_boxes: Float32[Array, "B G 4"]
    gt_classes: Int32[Array, "B G"]
    gt_valid: Bool[Array, "B G"]
    gt_is_crowd: Bool[Array, "B G"]
    gt_masks: UInt8[Array, "B G Mh Mw"]
    gt_mask_frames: Float32[Array, "B G 4"]
    gt_semantic: UInt8[Array, "B H W"] | None = None


@struct
class Proposals:
    """Regions proposed by the RPN, best first, or refined by a stage of a cascade, in any order.

    Attributes:
      boxes: regions in padded-input pixels.
      scores: objectness, logits or probabilities as `RPN.ranked_by` says; 0 after a
        cascade's stage.
      valid: False for rows that only fill the fixed shape.
    """

    boxes: Float32[Array, "*B R 4"]
    scores: Float32[Array, "*B R"]
    valid: Bool[Array, "*B R"]


@struct
class RoISamples:
    """Regions drawn for training; all positives stand before the negatives.

    Attributes:
      boxes: the regions, without gradient.
      valid: False for rows that only fill the fixed shape.
      positive: True where the region shows an object.
      classes: its class 0..K-1, or K for background.
      gt_index: row of the ground truth it is matched to.
      is_gt: True for rows that are ground-truth boxes themselves.
      max_positives: rows that can be positive: the first ones of each image.
    """

    boxes: Float32[Array, "*B R 4"]
    valid: Bool[Array, "*B R"]
    positive: Bool[Array, "*B R"]
    classes: Int32[Array, "*B R"]
    gt_index: Int32[Array, "*B R"]
    is_gt: Bool[Array, "*B R"]
    max_positives: int = static_field()


@runtime_checkable
class Masks(Protocol):
    """Soft masks as a model predicts them, a struct of arrays that all have a row a mask.

    `segjax.ops.soft_masks` has `BoxMasks` and `CanvasMasks`. Whoever pastes, encodes or merges
    masks asks for these methods and knows no model.
    """

    def to_original(
        self: _S, image_sizes: Int32[Array, "B 2"], original_sizes: Int32[Array, "B 2"]
    ) -> _S:
        """Masks of a batch, from pixels of the padded input to those of the original images."""
        ...

    def paste(
        self, height: int, width: int, origin: Int32[Array, "N 2"] | None = None
    ) -> Bool[Array, "N height width"]:
        """Binary masks of N rows in windows of the image, (x, y) of whose first pixel is given."""
        ...

    def regions(
        self, row: int, index: np.ndarray, image_size: tuple[int, int]
    ) -> Int32[np.ndarray, "n 4"]:
        """Whole pixels (x0, y0, x1, y1) outside of which masks `index` of image `row` are empty."""
        ...


@struct
class Detections:
    """Final detections, best first.

    Attributes:
      boxes: in padded-input pixels; None for models that predict masks without boxes.
      scores: class probabilities in 0..1; 0 in padding rows.
      classes: class indices 0..K-1.
      valid: False for rows that only fill the fixed shape.
      masks: soft masks, [B, D] of them; None for models without masks.
      semantic_logits: logits of the class of every cell of the padded input; None for models
        without a semantic branch.
    """

    boxes: Float32[Array, "*B D 4"] | None
    scores: Float32[Array, "*B D"]
    classes: Int32[Array, "*B D"]
    valid: Bool[Array, "*B D"]
    masks: Masks | None = None
    semantic_logits: Float32[Array, "*B h w K"] | None = None


@struct
class LossTerm:
    """A loss as a sum and what to divide it by, so that shards can be added first.

    Attributes:
      sum: weighted sum over this shard's terms.
      count: this shard's part of the normaliser.
    """

    sum: Float[Array, ""]
    count: Float[Array, ""]

    def mean(self) -> Float[Array, ""]:
        """`sum / max(count, 1)`: zero where there is nothing to average."""
        return self.sum / jax.numpy.maximum(self.count, 1.0)

    def scaled(self, weight: float) -> "LossTerm":
        """The loss times a weight."""
        return LossTerm(self.sum * weight, self.count)
