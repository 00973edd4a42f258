"""Sorting of pairs packed into words, and selection of the k-th value without sorting."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32, UInt32

# Two segment numbers have to fit into one sortable 32-bit word.
MAX_SEGMENTS = 2**16 - 1
NO_PAIR = np.uint32(2**32 - 1)


def pair_words(
    one: Int32[Array, "*e"], other: Int32[Array, "*e"], there: Bool[Array, "*e"], most: int
) -> UInt32[Array, "*e"]:
    """Packs pairs of segments into words that sort by the lower number, then by the higher one.

    Args:
      one: one segment of each pair.
      other: the other segment.
      there: False for padding rows, which become `NO_PAIR`.
      most: upper limit on the number of segments; at most `MAX_SEGMENTS`.
    """
    low, high = jnp.minimum(one, other), jnp.maximum(one, other)
    word = low.astype(jnp.uint32) * most + high.astype(jnp.uint32)
    return jnp.where(there, word, NO_PAIR)


def pairs_of_words(
    words: UInt32[Array, " e"], most: int
) -> tuple[Int32[Array, " e"], Int32[Array, " e"]]:
    """Unpacks pairs, lower numbers first; `NO_PAIR` becomes 0 and 0.

    Args:
      words: words that `pair_words` returned.
      most: the same limit as in `pair_words`.
    """
    there = words != NO_PAIR
    low, high = (
        jnp.where(there, part, 0).astype(jnp.int32) for part in (words // most, words % most)
    )
    return low, high


def distinct(words: UInt32[Array, " e"]) -> UInt32[Array, " e"]:
    """Returns the distinct words in ascending order, padded with `NO_PAIR`."""
    ordered = jnp.sort(words)
    first = jnp.concatenate([jnp.ones(1, bool), ordered[1:] != ordered[:-1]])
    place = jnp.where(first, jnp.cumsum(first, dtype=jnp.int32) - 1, words.size)
    return jnp.full_like(words, NO_PAIR).at[place].set(ordered, mode="drop")


def smallest(
    values: Float32[Array, " e"], among: Bool[Array, " e"], k: Int32[Array, ""]
) -> Float32[Array, ""]:
    """Returns the k-th smallest of some values, or the largest if there are fewer.

    Bisects the bit patterns, which for non-negative floats are in the order of the values. This
    is faster than sorting.

    Args:
      values: values that are neither negative nor NaN.
      among: True for the values to consider; if there are none, the result is 0.
      k: rank of the value, from 1.
    """
    bits = jnp.where(among, jax.lax.bitcast_convert_type(values, jnp.int32), 2**31 - 1)

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        enough = (bits <= middle).sum(dtype=jnp.int32) >= k
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    # Non-negative floats have 31 significant bits, so 31 halvings suffice.
    largest = jnp.where(among, bits, 0).max(initial=0)
    _, limit = jax.lax.fori_loop(0, 31, halve, (jnp.zeros_like(largest), largest))
    return jax.lax.bitcast_convert_type(limit, jnp.float32)
