"""Losses of boxes and of their classes."""

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

from segjax.ops import losses as loss_ops
from segjax.ops.boxes import DeltaCoder
from segjax.types import LossTerm


@dataclasses.dataclass(frozen=True)
class SmoothL1:
    """Smooth L1 of box deltas (Fast R-CNN, 1504.08083): `segjax.protocols.BoxLoss`.

    Attributes:
      beta: deviation below which the loss is quadratic; 0 is L1.
    """

    beta: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.beta) and self.beta >= 0):
            raise ValueError(f"beta is {self.beta}: wanted a finite number, 0 or more")

    def __call__(
        self,
        deltas: Float32[Array, "*n 4"],
        regions: Float32[Array, "*r 4"],
        gt_boxes: Float32[Array, "*n 4"],
        coder: DeltaCoder,
        positive: Bool[Array, "*n"],
        count: Float32[Array, ""],
    ) -> LossTerm:
        """Sum of the four coordinates' losses over the positive rows, and `count`.

        Args:
          deltas: predicted.
          regions: boxes that the deltas start from, in pixels; broadcast over leading axes.
          gt_boxes: boxes that they should arrive at, in pixels.
          coder: scale of the deltas.
          positive: rows that show an object.
          count: normaliser.
        """
        targets = coder.encode(gt_boxes, regions)
        loss = loss_ops.smooth_l1(deltas, targets, self.beta).sum(-1)
        return LossTerm(jnp.where(positive, loss, 0.0).sum(), count)


@dataclasses.dataclass(frozen=True)
class SoftmaxCrossEntropy:
    """Softmax cross entropy of regions' classes, background last."""

    def __call__(
        self,
        logits: Float32[Array, "N K1"],
        classes: Int32[Array, " N"],
        valid: Bool[Array, " N"],
        count: Float32[Array, ""],
    ) -> LossTerm:
        """Sum over the valid rows, and `count`.

        Args:
          logits: logits of K classes and background.
          classes: 0..K, K for background.
          valid: rows that count.
          count: normaliser.
        """
        loss = loss_ops.softmax_cross_entropy(logits, classes)
        return LossTerm(jnp.where(valid, loss, 0.0).sum(), count)


@dataclasses.dataclass(frozen=True)
class SigmoidCrossEntropy:
    """Binary cross entropy of objectness."""

    def __call__(
        self,
        logits: Float32[Array, "*n"],
        positive: Bool[Array, "*n"],
        valid: Bool[Array, "*n"],
        count: Float32[Array, ""],
    ) -> LossTerm:
        """Sum over the valid rows, and `count`.

        Args:
          logits: logits that a box is an object.
          positive: whether each is one.
          valid: rows that count.
          count: normaliser.
        """
        loss = loss_ops.sigmoid_cross_entropy(logits, positive.astype(jnp.float32))
        return LossTerm(jnp.where(valid, loss, 0.0).sum(), count)
