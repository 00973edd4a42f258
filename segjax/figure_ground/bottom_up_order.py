"""Sorted words and ordered values, without sorting what does not have to be."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32, UInt32

# Two numbers of segments fill one sortable word.
MAX_SEGMENTS = 2**16 - 1
NO_PAIR = np.uint32(2**32 - 1)


def pair_words(
    one: Int32[Array, "*e"], other: Int32[Array, "*e"], there: Bool[Array, "*e"], most: int
) -> UInt32[Array, "*e"]:
    """Pairs of segments as words that sort by the lower number, then by the higher one.

    Args:
      one: a segment of each pair.
      other: the other one.
      there: False for rows that only fill the shape, which become `NO_PAIR`.
      most: segments there may be; `MAX_SEGMENTS` at the most.
    """
    low, high = jnp.minimum(one, other), jnp.maximum(one, other)
    word = low.astype(jnp.uint32) * most + high.astype(jnp.uint32)
    return jnp.where(there, word, NO_PAIR)


def pairs_of_words(
    words: UInt32[Array, " e"], most: int
) -> tuple[Int32[Array, " e"], Int32[Array, " e"]]:
    """The pairs again, lower numbers first; 0 and 0 for `NO_PAIR`.

    Args:
      words: values that `pair_words` returned.
      most: as there.
    """
    there = words != NO_PAIR
    low, high = (
        jnp.where(there, part, 0).astype(jnp.int32) for part in (words // most, words % most)
    )
    return low, high


def distinct(words: UInt32[Array, " e"]) -> UInt32[Array, " e"]:
    """The different words in ascending order, filled up with `NO_PAIR`."""
    ordered = jnp.sort(words)
    first = jnp.concatenate([jnp.ones(1, bool), ordered[1:] != ordered[:-1]])
    place = jnp.where(first, jnp.cumsum(first, dtype=jnp.int32) - 1, words.size)
    return jnp.full_like(words, NO_PAIR).at[place].set(ordered, mode="drop")


def smallest(
    values: Float32[Array, " e"], among: Bool[Array, " e"], k: Int32[Array, ""]
) -> Float32[Array, ""]:
    """The k-th smallest (from 1) of some values that are not negative; their largest if fewer.

    By bisection of the bits, which are in the order of the values: sorting takes longer.

    Args:
      values: not negative, not NaN.
      among: which of them count; if none, the result is 0.
      k: from 1.
    """
    bits = jnp.where(among, jax.lax.bitcast_convert_type(values, jnp.int32), 2**31 - 1)

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        enough = (bits <= middle).sum(dtype=jnp.int32) >= k
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    largest = jnp.where(among, bits, 0).max(initial=0)
    _, limit = jax.lax.fori_loop(0, 31, halve, (jnp.zeros_like(largest), largest))
    return jax.lax.bitcast_convert_type(limit, jnp.float32)
