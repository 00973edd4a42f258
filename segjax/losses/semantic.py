"""Losses of semantic branches."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32, UInt8

from segjax.ops import losses as loss_ops
from segjax.ops.resize import resize_bilinear
from segjax.types import IGNORE, LossTerm


@dataclasses.dataclass(frozen=True)
class SemanticLoss:
    """Loss of a semantic branch; the default is the mean cross-entropy.

    Attributes:
      weight: weight of the cross-entropy. All weights are 0 or more.
      full_resolution: True upsamples the logits to the labels (Detectron2); False takes every
        n-th label (mmdet).
      averaged_over: "labelled" divides by the (weighted) number of labelled cells. "all" divides
        by all cells of the images, each padded to its own multiples of the model's
        `padding.divisor`, whatever the canvas. mmdet does so for HTC, so that ignore regions and
        padding weaken the loss.
      class_weights: factor on the cells of each class; None for equal weights.
      focal_gamma: exponent of the focal loss (1708.02002), which weights cells by
        (1 - p)^gamma; 0 is plain cross-entropy.
      hardest: fraction of the labelled cells to keep in each image, those with the largest loss,
        rounded up (bootstrapped cross-entropy, 1604.04339); 1 keeps all. Padding, ignore regions
        and classes of weight 0 do not count as labelled.
      dice_weight: weight of an additional dice loss (1606.04797), averaged over the classes in
        each image; 0 for none.
    """

    weight: float = 1.0
    full_resolution: bool = False
    averaged_over: Literal["labelled", "all"] = "labelled"
    class_weights: tuple[float, ...] | None = None
    focal_gamma: float = 0.0
    hardest: float = 1.0
    dice_weight: float = 0.0

    def __post_init__(self) -> None:
        for name in ("weight", "focal_gamma", "dice_weight"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}: wanted a finite number, 0 or more")
        weights = (1.0,) if self.class_weights is None else self.class_weights
        if not (all(math.isfinite(w) and w >= 0 for w in weights) and any(weights)):
            raise ValueError(
                f"class_weights are {weights}: wanted finite numbers, 0 or more, not all 0"
            )
        if not 0 < self.hardest <= 1:
            raise ValueError(f"hardest is {self.hardest}: give a part in 0..1, above 0")
        if self.hardest < 1 and self.averaged_over == "all":
            raise ValueError('hardest below 1 and averaged_over="all" contradict each other')

    def __call__(
        self,
        logits: Float32[Array, "B h w K"],
        labels: UInt8[Array, "B H W"] | None,
        image_sizes: Int32[Array, "B 2"],
        size_divisor: int,
    ) -> dict[str, LossTerm]:
        """Computes "loss_semantic" and, with a dice loss, "loss_semantic_dice".

        Args:
          logits: logits of a semantic head.
          labels: class of every pixel of the canvas, 255 in ignore regions; H and W are the same
            multiple of h and w.
          image_sizes: (height, width) inside the padding.
          size_divisor: number of pixels to whose multiples a single image is padded.

        Raises:
          ValueError: if there are no labels, or sizes or weights do not match.
        """
        logits, targets = self._aligned(logits, labels)
        counted = targets != IGNORE
        targets = jnp.where(counted, targets, 0)  # 255 is not an index of a class
        cells = None
        if self.averaged_over == "all":
            assert labels is not None  # `_aligned` has checked this
            stride = labels.shape[1] // logits.shape[1]
            cells = _cells_of_images(image_sizes, stride, size_divisor)
        terms = {"loss_semantic": self._cross_entropy(logits, targets, counted, cells)}
        if self.dice_weight:
            terms["loss_semantic_dice"] = _dice(logits, targets, counted).scaled(self.dice_weight)
        return terms

    def _aligned(
        self, logits: Float32[Array, "B h w K"], labels: UInt8[Array, "B H W"] | None
    ) -> tuple[Float32[Array, "B p q K"], Int32[Array, "B p q"]]:
        """Returns logits and labels at the same resolution."""
        if labels is None:
            raise ValueError(
                "the model has a semantic branch, the batch no gt_semantic: choose where labels"
                ' come from with DataConfig(semantic="stuffthingmaps", "panoptic", "folder" or'
                ' "instances")'
            )
        _, height, width = labels.shape
        stride = height // logits.shape[1]
        if (height, width) != (stride * logits.shape[1], stride * logits.shape[2]):
            raise ValueError(
                f"semantic labels of {(height, width)} pixels are no multiple of the logits'"
                f" {logits.shape[1:3]} cells: pad images and labels to the same canvas"
            )
        if self.full_resolution:
            return (
                resize_bilinear(logits, (height, width), align_corners=False),
                labels.astype(jnp.int32),
            )
        # Like torch's nearest interpolation, take the top left pixel of each cell.
        return logits, labels[:, ::stride, ::stride].astype(jnp.int32)

    def _cross_entropy(
        self,
        logits: Float32[Array, "B p q K"],
        targets: Int32[Array, "B p q"],
        counted: Bool[Array, "B p q"],
        cells: Float32[Array, ""] | None,
    ) -> LossTerm:
        loss = loss_ops.softmax_cross_entropy(logits, targets)
        if self.focal_gamma:
            # p is exp(-loss), and expm1 keeps digits of 1 - p near 0. The lower bound keeps
            # gradients finite: exponents below 1 have an infinite slope at 0.
            unsure = jnp.maximum(-jnp.expm1(-loss), jnp.finfo(jnp.float32).tiny)
            loss = loss * unsure**self.focal_gamma
        weights = counted.astype(jnp.float32)
        if self.class_weights is not None:
            if len(self.class_weights) != logits.shape[-1]:
                raise ValueError(
                    f"{len(self.class_weights)} class_weights for {logits.shape[-1]} classes"
                )
            weights *= jnp.asarray(self.class_weights, jnp.float32)[targets]
        loss = jnp.where(counted, loss * weights, 0.0)
        if self.hardest < 1:
            return self._of_hardest(loss, weights).scaled(self.weight)
        number = weights.sum() if cells is None else cells
        return LossTerm(loss.sum(), number).scaled(self.weight)

    def _of_hardest(
        self, loss: Float32[Array, "B p q"], weights: Float32[Array, "B p q"]
    ) -> LossTerm:
        loss, weights = (x.reshape(x.shape[0], -1) for x in (loss, weights))
        counted = weights > 0
        number = jnp.ceil(self.hardest * counted.sum(1, keepdims=True, dtype=jnp.float32))
        # Sort cells that do not count last, even behind labelled cells of loss 0.
        ranked = jnp.where(counted, jax.lax.stop_gradient(loss), -1.0)
        order = jnp.argsort(ranked, axis=1, descending=True)
        loss, weights = (jnp.take_along_axis(x, order, axis=1) for x in (loss, weights))
        chosen = jnp.arange(loss.shape[1], dtype=jnp.float32)[None] < number
        return LossTerm(jnp.where(chosen, loss, 0.0).sum(), jnp.where(chosen, weights, 0.0).sum())


def _cells_of_images(
    image_sizes: Int32[Array, "B 2"], stride: int, divisor: int
) -> Float32[Array, ""]:
    """Counts the cells of all images, each padded to multiples of `divisor` pixels."""
    padded = (image_sizes + divisor - 1) // divisor * divisor
    return (padded // stride).prod(-1).sum().astype(jnp.float32)


def _dice(
    logits: Float32[Array, "B p q K"], targets: Int32[Array, "B p q"], counted: Bool[Array, "B p q"]
) -> LossTerm:
    """Returns 1 - dice coefficient, summed over the classes that occur in each image."""
    mask = counted[..., None].astype(jnp.float32)
    probs = jax.nn.softmax(logits) * mask
    truth = jax.nn.one_hot(targets, logits.shape[-1]) * mask
    shared = (probs * truth).sum((1, 2))
    total = (probs**2).sum((1, 2)) + truth.sum((1, 2))
    occurs = truth.sum((1, 2)) > 0
    loss = 1 - 2 * shared / jnp.where(occurs, total, 1.0)
    return LossTerm(jnp.where(occurs, loss, 0.0).sum(), occurs.sum().astype(jnp.float32))
