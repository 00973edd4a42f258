"""The loss of semantic branches."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float32, UInt8

from segjax.ops import losses as loss_ops
from segjax.types import LossTerm

IGNORE = 255


def semantic_loss(
    logits: Float32[Array, "B h w K"],
    labels: UInt8[Array, "B H W"] | None,
    averaged_over: Literal["labelled", "all"] = "labelled",
) -> LossTerm:
    """Mean cross entropy of the pixels at the logits' stride.

    Args:
      logits: of a semantic head.
      labels: class of every pixel of the canvas, 255 where it counts for nothing;
        H and W are the same multiple of h and w. As torch's nearest interpolation
        does, each cell takes the label of its first row's first pixel.
      averaged_over: "labelled" divides by the cells that count, "all" by all cells,
        as mmdet does for HTC: padding and unlabelled ground then weaken the loss.

    Raises:
      ValueError: if there are no labels, or their size does not fit.
    """
    if labels is None:
        raise ValueError(
            "the model has a semantic branch, the batch no gt_semantic: choose where labels come"
            ' from with DataConfig(semantic="stuffthingmaps", "panoptic" or "instances")'
        )
    stride = labels.shape[1] // logits.shape[1]
    if labels.shape[1:] != (stride * logits.shape[1], stride * logits.shape[2]):
        raise ValueError(
            f"semantic labels of {labels.shape[1:]} pixels are no multiple of the logits'"
            f" {logits.shape[1:3]} cells: pad images and labels to the same multiple of 32"
        )
    labels = labels[:, ::stride, ::stride].astype(jnp.int32)
    counted = labels != IGNORE
    loss = loss_ops.softmax_cross_entropy(logits, jnp.where(counted, labels, 0))
    number = counted.size if averaged_over == "all" else counted.sum()
    return LossTerm(jnp.where(counted, loss, 0.0).sum(), jnp.asarray(number, jnp.float32))
