"""Bilinear resizing of feature maps with PyTorch's two conventions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int32


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
    if size == x.shape[1:3]:
        return x
    weights = (
        jnp.asarray(interpolation_matrix(old, new, align_corners), _weights_dtype(x))
        for old, new in zip(x.shape[1:3], size, strict=True)
    )
    rows, columns = (jnp.broadcast_to(w[None], (len(x), *w.shape)) for w in weights)
    return _interpolate(x, rows, columns)


def resize_corners_within(
    x: Float[Array, "B H W C"],
    size: tuple[int, int],
    old_sizes: Int32[Array, "B 2"],
    new_sizes: Int32[Array, "B 2"],
) -> Float[Array, "B h w C"]:
    """`resize_bilinear` with `align_corners`, of a part of each map, at its upper left.

    Corners are those of the part: what a canvas adds at the right and at the bottom does not
    move anything.

    Args:
      x: maps [B, H, W, C].
      size: new (height, width).
      old_sizes: (height, width) of each map's part, at most (H, W).
      new_sizes: (height, width) that the parts become, at most `size`.

    Returns:
      [B, h, w, C], of the dtype of `x`; beyond the new sizes the part's edge continues.
    """
    rows, columns = (
        _corner_weights(old_sizes[:, axis], new_sizes[:, axis], x.shape[1 + axis], size[axis])
        for axis in (0, 1)
    )
    return _interpolate(x, rows, columns)


def _interpolate(
    x: Float[Array, "B H W C"], rows: Float[Array, "B h H"], columns: Float[Array, "B w W"]
) -> Float[Array, "B h w C"]:
    """Both axes as products with their weights, in the dtype of `x`."""
    # In this order, and with weights for each image, the last product leaves its axes as they
    # are wanted. A transposition after it takes longer, and where the next product reads its
    # result, XLA of jaxlib 0.10 finds no tiles for the two together on NVIDIA GPUs.
    x = _weighted("bxw,bhwc->bxhc", "bxw,bxhc->bhwc", columns, x)
    return _weighted("byh,bxhc->byxc", "byh,byxc->bxhc", rows, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _weighted(forward: str, backward: str, weights: Array, x: Array) -> Array:
    """`jnp.einsum(forward, weights, x)`; `backward` gives the gradient of `x`, the only one."""
    del backward
    if x.dtype != jnp.bfloat16:
        return jnp.einsum(forward, weights, x, precision="highest").astype(x.dtype)
    # At full precision a float32 product is six bfloat16 passes on a TPU, and no work for a GPU's
    # tensor cores. Two passes do: weights as the sum of two bfloat16 numbers are exact to 2^-17.
    # One number of 8 bits would not do, as a cell's weights would no longer add up to 1.
    high = weights.astype(jnp.bfloat16)
    low = (weights - high.astype(jnp.float32)).astype(jnp.bfloat16)
    sums = (
        jnp.einsum(forward, part, x, preferred_element_type=jnp.float32) for part in (high, low)
    )
    return functools.reduce(jnp.add, sums).astype(x.dtype)


def _weighted_fwd(forward: str, backward: str, weights: Array, x: Array) -> tuple[Array, Array]:
    return _weighted(forward, backward, weights, x), weights


def _weighted_bwd(forward: str, backward: str, weights: Array, grad: Array) -> tuple[Array, Array]:
    return jnp.zeros_like(weights), _weighted(backward, forward, weights, grad)


_weighted.defvjp(_weighted_fwd, _weighted_bwd)


def _corner_weights(
    old: Int32[Array, " B"], new: Int32[Array, " B"], old_cells: int, new_cells: int
) -> Float[Array, "B n o"]:
    """Weights of `old_cells` cells in each of `new_cells`, for each image's own part."""
    last_old, last_new = (old - 1).astype(jnp.float32), (new - 1).astype(jnp.float32)
    step = last_old / jnp.maximum(last_new, 1.0)
    place = jnp.arange(new_cells, dtype=jnp.float32)[None] * step[:, None]
    place = jnp.minimum(place, last_old[:, None])
    cell = jnp.arange(old_cells, dtype=jnp.float32)[None, None]
    return jnp.maximum(1.0 - jnp.abs(place[..., None] - cell), 0.0)


def _weights_dtype(x: Array) -> DTypeLike:
    """Weights of 8 bits would not add up to 1."""
    return jnp.promote_types(x.dtype, jnp.float32)


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


def image_weights(
    cells: int,
    padded: int,
    image_size: Int32[Array, ""],
    output_size: Int32[Array, ""],
    pixel: Float[Array, " n"],
) -> Float[Array, "n {cells}"]:
    """Weights of a padded input's cells at pixels of the image at another size, along one axis.

    Two bilinear interpolations in one matrix, as in Detectron2's `sem_seg_postprocess`: up to the
    padded input, cropped to the image, then to the output.

    Args:
      cells: cells of the map that covers the padded input.
      padded: pixels of the padded input.
      image_size: pixels of the image inside the padding.
      output_size: pixels of the image at the size wanted.
      pixel: which of these, as whole numbers.
    """
    up = jnp.asarray(interpolation_matrix(cells, padded, align_corners=False), jnp.float32)
    old, new = image_size.astype(jnp.float32), output_size.astype(jnp.float32)
    place = jnp.clip((pixel + 0.5) * old / new - 0.5, 0.0, old - 1)
    cell = jnp.arange(padded, dtype=jnp.float32)
    down = jnp.maximum(1 - jnp.abs(place[:, None] - cell[None]), 0.0)
    return jnp.matmul(down, up, precision="highest")
