"""Balanced random samples of positives and negatives.

All three peers follow the rule of Fast R-CNN (Girshick, 2015): positives up to a given
fraction, negatives for the rest, both drawn uniformly without replacement. If there are
no more positives or negatives than their quota, all are taken, whatever the key.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int, Int32, PRNGKeyArray, UInt32

from segjax.types import struct

Key = PRNGKeyArray | UInt32[Array, "2"]


@struct
class SampledIndices:
    """Sample of fixed size: positives first, then negatives, then padding.

    Attributes:
      index: positions in the sampled array, ascending within each kind; 0 for padding.
      label: 1 positive, 0 negative, -1 padding.
      valid: False for padding.
    """

    index: Int32[Array, "S"]
    label: Int32[Array, "S"]
    valid: Bool[Array, "S"]


def _priorities(key: Key, size: int) -> Float32[Array, "N"]:
    """Draws a random positive float for each position.

    `top_k` is only fast for float32, and `random.uniform` has only 2**23 distinct values: ties,
    which `top_k` resolves by position, would favour early anchors. Reinterpreting 30 random
    bits as a normal float keeps the order of the integers and all 2**30 values.
    """
    bits = jax.random.bits(key, (size,), jnp.uint32)
    smallest_normal = jnp.uint32(0x00800000)
    return jax.lax.bitcast_convert_type(smallest_normal + (bits >> 2), jnp.float32)


def _draw(
    priorities: Float32[Array, "N"],
    candidates: Bool[Array, "N"],
    quota: int,
    limit: Int32[Array, ""],
) -> tuple[Int32[Array, "Q"], Int32[Array, ""]]:
    """Draws `min(limit, quota, number of candidates)` candidates uniformly.

    Returns:
      The drawn positions in ascending order, padded with N to Q = min(quota, N), and their
      number.
    """
    size = candidates.shape[0]
    quota = min(quota, size)
    priority, index = jax.lax.top_k(jnp.where(candidates, priorities, 0.0), quota)
    # Any prefix of a random order is a uniform sample, so one draw of fixed size serves every
    # `limit`, which is only known at run time.
    drawn = (priority > 0) & (jnp.arange(quota, dtype=jnp.int32) < limit)
    return jnp.sort(jnp.where(drawn, index, size)), drawn.sum(dtype=jnp.int32)


def _draw_both(
    key: Key, labels: Int[Array, "N"], num: int, positive_fraction: float | int
) -> tuple[Int32[Array, "P"], Int32[Array, ""], Int32[Array, "Q"], Int32[Array, ""]]:
    """Draws positives, then negatives; returns the positions and the number of each."""
    if num < 1 or not 0 <= positive_fraction <= 1:
        raise ValueError(
            f"num is {num} and positive_fraction {positive_fraction}: "
            "give num >= 1 and a fraction in 0..1"
        )
    # No position is both positive and negative, so one random order serves both draws.
    priorities = _priorities(key, labels.shape[0])
    quota = int(num * positive_fraction)
    positives, num_positive = _draw(priorities, labels == 1, quota, jnp.int32(quota))
    negatives, num_negative = _draw(priorities, labels == 0, num, num - num_positive)
    return positives, num_positive, negatives, num_negative


def sample_labels(
    key: Key, labels: Int[Array, "N"], num: int, positive_fraction: float | int
) -> tuple[Bool[Array, "N"], Bool[Array, "N"]]:
    """Marks a sample of the labels (the RPN's anchors).

    Args:
      key: PRNG key; use `jax.vmap` for the keys of a batch.
      labels: 1 positive, 0 negative; anything else is never drawn.
      num: maximum number to draw.
      positive_fraction: fraction in 0..1; at most `int(num * positive_fraction)` are positive.

    Returns:
      The drawn positives and the drawn negatives, as masks.

    Raises:
      ValueError: if num or positive_fraction is out of range.
    """
    positives, _, negatives, _ = _draw_both(key, labels, num, positive_fraction)
    none = jnp.zeros(labels.shape, bool)
    # Padding positions are N, which is out of range and dropped.
    return none.at[positives].set(True, mode="drop"), none.at[negatives].set(True, mode="drop")


@jax.named_scope("sample")
def sample_indices(
    key: Key, labels: Int[Array, "N"], num: int, positive_fraction: float | int
) -> SampledIndices:
    """Gathers a sample of the labels into `num` rows (the box head's regions).

    Args:
      key: PRNG key; use `jax.vmap` for the keys of a batch.
      labels: 1 positive, 0 negative; anything else is never drawn.
      num: size S of the sample; it may exceed N.
      positive_fraction: fraction in 0..1; at most `int(num * positive_fraction)` are positive.

    Returns:
      Positions and their labels. Each position occurs at most once.

    Raises:
      ValueError: if num or positive_fraction is out of range.
    """
    positives, num_positive, negatives, num_negative = _draw_both(
        key, labels, num, positive_fraction
    )
    place = jnp.arange(num, dtype=jnp.int32)
    positive = place < num_positive
    negative = ~positive & (place < num_positive + num_negative)
    # Pad to `num` rows: the quotas may be smaller, even 0. Padding is never selected below.
    from_positives = jnp.pad(positives, (0, max(num - positives.shape[0], 0)))[:num]
    from_negatives = jnp.pad(negatives, (0, max(num - negatives.shape[0], 0)))[:num]
    from_negatives = from_negatives[jnp.clip(place - num_positive, 0, num - 1)]
    index = jnp.where(positive, from_positives, jnp.where(negative, from_negatives, 0))
    label = jnp.where(positive, 1, jnp.where(negative, 0, -1))
    return SampledIndices(index, label.astype(jnp.int32), positive | negative)
