"""Elementwise losses; callers apply masks, sum and normalise."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32


def sigmoid_cross_entropy(
    logits: Float[Array, "*n"], targets: Float[Array, "*n"]
) -> Float[Array, "*n"]:
    """Binary cross entropy of `logits` against `targets` in 0..1, elementwise.

    Finite for every finite logit, like torch's binary_cross_entropy_with_logits.
    """
    return jnp.maximum(logits, 0) - logits * targets + jnp.log1p(jnp.exp(-jnp.abs(logits)))


def softmax_cross_entropy(
    logits: Float[Array, "*n K"], labels: Int32[Array, "*n"]
) -> Float[Array, "*n"]:
    """Cross entropy of `logits` [..., K] against class indices 0..K-1."""
    log_probs = jax.nn.log_softmax(logits)
    # Not a gather: its gradient scatters into zeros of the size of the logits, 0.2 GB for the
    # 54 classes at an image's pixels.
    own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    return -jnp.where(own, log_probs, 0.0).sum(-1)


def smooth_l1(
    values: Float[Array, "*n"], targets: Float[Array, "*n"], beta: float
) -> Float[Array, "*n"]:
    """Smooth L1 (Fast R-CNN, 1504.08083): quadratic below `beta`, linear above; L1 if it is 0."""
    error = jnp.abs(values - targets)
    if beta == 0:  # the quadratic branch would divide by zero
        return error
    return jnp.where(error < beta, 0.5 * error**2 / beta, error - 0.5 * beta)
