"""Losses of boxes and their classes."""

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

from segjax.ops import losses as loss_ops
from segjax.ops.boxes import DeltaCoder
from segjax.types import LossTerm


@dataclasses.dataclass(frozen=True)
class SmoothL1:
    """Smooth L1 loss of box deltas (Fast R-CNN, 1504.08083): `segjax.protocols.BoxLoss`.

    Attributes:
      beta: difference below which the loss is quadratic; 0 is plain L1.
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
        """Sums the loss of all four coordinates over the positive rows; `count` is the normaliser.

        Args:
          deltas: predicted box deltas.
          regions: boxes in pixels to which the deltas apply; leading axes may broadcast.
          gt_boxes: ground-truth boxes in pixels.
          coder: encoder of target deltas.
          positive: True for rows that show an object.
          count: divisor of the sum.
        """
        targets = coder.encode(gt_boxes, regions)
        loss = loss_ops.smooth_l1(deltas, targets, self.beta).sum(-1)
        return LossTerm(jnp.where(positive, loss, 0.0).sum(), count)


@dataclasses.dataclass(frozen=True)
class SoftmaxCrossEntropy:
    """Softmax cross-entropy of the classes of regions, background last."""

    def __call__(
        self,
        logits: Float32[Array, "N K1"],
        classes: Int32[Array, " N"],
        valid: Bool[Array, " N"],
        count: Float32[Array, ""],
    ) -> LossTerm:
        """Sums the loss over the valid rows; `count` is the normaliser.

        Args:
          logits: logits of K classes and background.
          classes: target classes 0..K, where K is background.
          valid: True for rows that enter the loss.
          count: divisor of the sum.
        """
        loss = loss_ops.softmax_cross_entropy(logits, classes)
        return LossTerm(jnp.where(valid, loss, 0.0).sum(), count)


@dataclasses.dataclass(frozen=True)
class SigmoidCrossEntropy:
    """Binary cross-entropy of objectness."""

    def __call__(
        self,
        logits: Float32[Array, "*n"],
        positive: Bool[Array, "*n"],
        valid: Bool[Array, "*n"],
        count: Float32[Array, ""],
    ) -> LossTerm:
        """Sums the loss over the valid rows; `count` is the normaliser.

        Args:
          logits: objectness logits of boxes.
          positive: True for boxes that show an object.
          valid: True for rows that enter the loss.
          count: divisor of the sum.
        """
        loss = loss_ops.sigmoid_cross_entropy(logits, positive.astype(jnp.float32))
        return LossTerm(jnp.where(valid, loss, 0.0).sum(), count)
