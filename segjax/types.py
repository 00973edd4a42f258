"""Data structures shared by all parts of segjax, as frozen dataclasses of arrays.

Axis letters, here and elsewhere: B image, A anchor, R region (proposal), G ground truth, K class,
L level, H W C, M mask side, D detection. Boxes are `(x0, y0, x1, y1)` in absolute pixels of the
padded input, float32, half-open. `*B` represents any leading axes; a single image has none. All
arrays have fixed shapes, and `valid` marks the rows that are real.
"""

import dataclasses
from typing import Any, Literal, Protocol, TypeVar, dataclass_transform, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int32, UInt8

_T = TypeVar("_T")
_S = TypeVar("_S")


def static_field(**field: Any) -> Any:
    """Declares a static field of a `struct`: hashable, and a constant in compiled programs.

    Args:
      **field: arguments of `dataclasses.field`, such as a default.
    """
    return dataclasses.field(metadata={"static": True}, **field)


# Compute dtype of a network. Parameters are always float32.
Dtype = Literal["float32", "bfloat16"]

# Semantic label of pixels to ignore.
IGNORE = 255


@dataclass_transform(frozen_default=True)
def struct(cls: type[_T]) -> type[_T]:
    """Makes `cls` a frozen dataclass and a pytree.

    Fields declared with `static_field()` are not leaves of the pytree. Programs are compiled for
    their values. Unflattening bypasses `__init__`, because JAX also unflattens with placeholders
    (axis numbers, shardings, `object()`), which run-time shape checks on `__init__` would reject.
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
    """A training or evaluation batch on the device.

    Attributes:
      images: uint8 RGB images, padded at the right and the bottom.
      image_sizes: (height, width) of each image without padding.
      gt_boxes: ground-truth boxes; padding rows are zero.
      gt_classes: ground-truth class indices 0..K-1, without background.
      gt_valid: True for rows that are objects, False for padding.
      gt_is_crowd: True for crowd regions, which are never targets.
      gt_masks: ground-truth masks, as 0/1 rasters over their frames.
      gt_mask_frames: box `(x0, y0, x1, y1)` that each raster covers, in pixels of the padded
        input: the object's bounding box, or the whole image for exact parity with peers.
      gt_semantic: class of every pixel, 255 for pixels to ignore (including padding); None if the
        data have no semantic labels.
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
    """Proposals of the RPN, best first, or of a cascade stage, in any order.

    Attributes:
      boxes: proposal boxes in pixels of the padded input.
      scores: objectness as logits or probabilities, depending on `RPN.ranked_by`; 0 after a
        cascade stage.
      valid: True for real proposals, False for padding rows.
    """

    boxes: Float32[Array, "*B R 4"]
    scores: Float32[Array, "*B R"]
    valid: Bool[Array, "*B R"]


@struct
class RoISamples:
    """Regions sampled for training, with positives before negatives.

    Attributes:
      boxes: boxes of the regions, without gradients.
      valid: True for real regions, False for padding rows.
      positive: True for regions matched to an object.
      classes: class of each region, 0..K-1, or K for background.
      gt_index: row of the matched ground truth.
      is_gt: True for regions that are ground-truth boxes themselves.
      max_positives: upper bound on positives per image, which come first.
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
    """Soft masks predicted by a model: a struct of arrays with one row per mask.

    `BoxMasks` and `CanvasMasks` in `segjax.ops.soft_masks` implement this protocol. Code that
    pastes, encodes or merges masks only uses these methods and does not depend on the model.
    """

    def to_original(
        self: _S, image_sizes: Int32[Array, "B 2"], original_sizes: Int32[Array, "B 2"]
    ) -> _S:
        """Converts masks of a batch from pixels of the padded input to original pixels."""
        ...

    def paste(
        self, height: int, width: int, origin: Int32[Array, "N 2"] | None = None
    ) -> Bool[Array, "N height width"]:
        """Returns binary masks of the whole image, or of windows that start at `origin` (x, y)."""
        ...

    def regions(
        self, row: int, index: np.ndarray, image_size: tuple[int, int]
    ) -> Int32[np.ndarray, "n 4"]:
        """Returns integer boxes (x0, y0, x1, y1) that contain the masks `index` of image `row`."""
        ...


@struct
class Detections:
    """Final detections, best first.

    Attributes:
      boxes: bounding boxes in pixels of the padded input; None for models that only predict masks.
      scores: class probabilities in 0..1; 0 in padding rows.
      classes: class indices 0..K-1.
      valid: True for real detections, False for padding rows.
      masks: soft masks, [B, D]; None for models without masks.
      semantic_logits: semantic logits over the padded input, at reduced resolution; None for
        models without a semantic branch.
    """

    boxes: Float32[Array, "*B D 4"] | None
    scores: Float32[Array, "*B D"]
    classes: Int32[Array, "*B D"]
    valid: Bool[Array, "*B D"]
    masks: Masks | None = None
    semantic_logits: Float32[Array, "*B h w K"] | None = None


@struct
class LossTerm:
    """A loss as a sum and a normaliser, so that both can be summed over shards first.

    Attributes:
      sum: weighted sum over this shard.
      count: this shard's share of the normaliser.
    """

    sum: Float[Array, ""]
    count: Float[Array, ""]

    def mean(self) -> Float[Array, ""]:
        """Returns `sum / max(count, 1)`, which is zero if there is nothing to average."""
        return self.sum / jax.numpy.maximum(self.count, 1.0)

    def scaled(self, weight: float) -> "LossTerm":
        """Returns the loss multiplied by a weight."""
        return LossTerm(self.sum * weight, self.count)
