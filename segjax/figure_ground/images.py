"""Checks of the images passed to the functions of this package."""

import jax.numpy as jnp
from jaxtyping import Array, Shaped


def check_image(image: Shaped[Array, "..."]) -> None:
    """Checks the shape and dtype of an image, but not its values.

    Args:
      image: array that should be RGB, [H, W, 3], uint8 or floats.

    Raises:
      ValueError: if its shape or dtype is different.
    """
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"the image is {image.shape}: wanted RGB, [height, width, 3]; repeat the channel of a "
            "grey image three times, leave out an alpha channel, and use jax.vmap for batches"
        )
    if image.dtype != jnp.uint8 and not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(f"the image is {image.dtype}: wanted uint8, or floats in 0..1")
