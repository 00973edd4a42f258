"""Checks of the images that the functions of this package take."""

import jax.numpy as jnp
from jaxtyping import Array, Shaped


def check_image(image: Shaped[Array, "..."]) -> None:
    """Refuses what is not an image, by its shape and type; values are not looked at.

    Args:
      image: RGB, [H, W, 3], uint8 or floats, if all is well.

    Raises:
      ValueError: if it is something else.
    """
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"the image is {image.shape}: wanted RGB, [height, width, 3]; repeat the channel of a "
            "grey image three times, leave out an alpha channel, and use jax.vmap for batches"
        )
    if image.dtype != jnp.uint8 and not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(f"the image is {image.dtype}: wanted uint8, or floats in 0..1")
