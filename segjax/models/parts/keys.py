"""Derives independent random keys for the draws of a model from the key of each image."""

import jax
from jaxtyping import Array, Key


def split_keys(keys: Key[Array, " B"]) -> tuple[Key[Array, " B"], Key[Array, " B"]]:
    """Splits the key of each image into two independent keys."""
    pairs = jax.vmap(lambda key: jax.random.split(key, 2))(keys)
    return pairs[:, 0], pairs[:, 1]


def fold_keys(keys: Key[Array, " B"], number: int) -> Key[Array, " B"]:
    """Derives the key of each image for draw `number` out of several independent draws."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
