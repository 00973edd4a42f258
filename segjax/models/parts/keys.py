"""Independent random keys for the draws of a model, made of each image's key."""

import jax
from jaxtyping import Array, Key


def split_keys(keys: Key[Array, " B"]) -> tuple[Key[Array, " B"], Key[Array, " B"]]:
    """Two independent keys from each image's key."""
    pairs = jax.vmap(lambda key: jax.random.split(key, 2))(keys)
    return pairs[:, 0], pairs[:, 1]


def fold_keys(keys: Key[Array, " B"], number: int) -> Key[Array, " B"]:
    """Each image's key for one of several independent draws."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
