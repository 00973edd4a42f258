"""Bilinear resizing of feature maps with PyTorch's two conventions."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def resize_bilinear(
    x: Float[Array, "B H W C"], size: tuple[int, int], *, align_corners: bool
) -> Float[Array, "B h w C"]:
    """Resizes as torch.nn.functional.interpolate(mode="bilinear"), without antialiasing.

    `jax.image.resize` knows only pixel centres and antialiases what it shrinks.
    Both axes are products with a matrix, whose gradients XLA compiles well.

    Args:
      x: maps [B, H, W, C].
      size: new (height, width).
      align_corners: corner pixels' centres stay in the corners; otherwise pixels
        are squares and their outer edges stay.

    Returns:
      [B, h, w, C], of the dtype of `x`.

    Raises:
      ValueError: if a side of `size` is below 1.
    """
    if min(size) < 1:
        raise ValueError(f"size is {size}: give a height and a width of at least 1")
    height, width = x.shape[1:3]
    if size[0] != height:
        rows = jnp.asarray(interpolation_matrix(height, size[0], align_corners), x.dtype)
        x = jnp.einsum("yh,bhwc->bywc", rows, x)
    if size[1] != width:
        columns = jnp.asarray(interpolation_matrix(width, size[1], align_corners), x.dtype)
        x = jnp.einsum("xw,bywc->byxc", columns, x)
    return x


def interpolation_matrix(
    old: int, new: int, align_corners: bool
) -> Float[np.ndarray, "{new} {old}"]:
    """Weights of `old` cells in each of `new` cells; every row adds up to 1."""
    target = np.arange(new, dtype=np.float64)
    if align_corners:
        place = target * ((old - 1) / (new - 1) if new > 1 else 0.0)
    else:
        place = np.maximum((target + 0.5) * old / new - 0.5, 0.0)
    low = np.minimum(place.astype(np.int64), old - 1)
    high = np.minimum(low + 1, old - 1)
    weight = place - low
    matrix = np.zeros((new, old))
    np.add.at(matrix, (np.arange(new), low), 1 - weight)
    np.add.at(matrix, (np.arange(new), high), weight)
    return matrix
