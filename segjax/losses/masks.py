"""Losses of region masks."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32

from segjax.ops import losses as loss_ops
from segjax.types import LossTerm


@dataclasses.dataclass(frozen=True)
class MaskCrossEntropy:
    """Mean binary cross-entropy over the cells of positive regions (Mask R-CNN, section 3)."""

    def __call__(
        self,
        logits: Float32[Array, "N M M"],
        targets: Float32[Array, "N M M"],
        positive: Bool[Array, " N"],
    ) -> LossTerm:
        """Sums the loss over the positive rows, and counts their cells.

        Args:
          logits: mask logits of each region's own class.
          targets: target masks, 0..1.
          positive: True for rows that show an object.
        """
        loss = loss_ops.sigmoid_cross_entropy(logits, targets).sum((1, 2))
        count = positive.sum().astype(jnp.float32) * logits.shape[-1] ** 2
        return LossTerm(jnp.where(positive, loss, 0.0).sum(), count)
