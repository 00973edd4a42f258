"""Bilinear resizing of feature maps, with both of PyTorch's conventions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int32


def resize_bilinear(
    x: Float[Array, "B H W C"], size: tuple[int, int], *, align_corners: bool
) -> Float[Array, "B h w C"]:
    """Resizes like torch.nn.functional.interpolate(mode="bilinear"), without antialiasing.

    `jax.image.resize` has no `align_corners`, and antialiases by default when it shrinks.
    Both axes are matrix products, whose gradients XLA compiles well.

    Args:
      x: feature maps [B, H, W, C].
      size: new (height, width).
      align_corners: True keeps the centres of the corner pixels in place. False treats pixels
        as squares and keeps their outer edges in place.

    Returns:
      Resized maps [B, h, w, C], in the dtype of `x`.

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
    """`resize_bilinear` with `align_corners`, of the upper left part of each map.

    Corners are those of the part, so padding at the right and at the bottom does not shift
    anything.

    Args:
      x: feature maps [B, H, W, C].
      size: new (height, width).
      old_sizes: (height, width) of the part of each map, at most (H, W).
      new_sizes: (height, width) of the resized parts, at most `size`.

    Returns:
      Resized maps [B, h, w, C], in the dtype of `x`; beyond the new sizes, the edge of the part
      is repeated.
    """
    rows, columns = (
        _corner_weights(old_sizes[:, axis], new_sizes[:, axis], x.shape[1 + axis], size[axis])
        for axis in (0, 1)
    )
    return _interpolate(x, rows, columns)


def _interpolate(
    x: Float[Array, "B H W C"], rows: Float[Array, "B h H"], columns: Float[Array, "B w W"]
) -> Float[Array, "B h w C"]:
    """Multiplies both axes by their weights, in the dtype of `x`."""
    # In this order, and with weights for each image, the last product leaves its axes in the
    # right order. A transposition after it takes longer. If another product reads the transposed
    # result, XLA of jaxlib 0.10 finds no tiles for the two together on NVIDIA GPUs.
    x = _weighted("bxw,bhwc->bxhc", "bxw,bxhc->bhwc", columns, x)
    return _weighted("byh,bxhc->byxc", "byh,byxc->bxhc", rows, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _weighted(forward: str, backward: str, weights: Array, x: Array) -> Array:
    """Computes `jnp.einsum(forward, weights, x)`; `backward` is the einsum for the gradient of `x`.

    The weights get no gradient.
    """
    del backward
    if x.dtype != jnp.bfloat16:
        return jnp.einsum(forward, weights, x, precision="highest").astype(x.dtype)
    # A float32 product at full precision takes six bfloat16 passes on a TPU and cannot use a
    # GPU's tensor cores. Two passes suffice: the sum of two bfloat16 numbers represents weights
    # to 2^-17. A single one, with 8 bits, does not: the weights of a cell would not add up to 1.
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
    """Weights of `old_cells` cells in each of `new_cells` cells, for the part of each image."""
    last_old, last_new = (old - 1).astype(jnp.float32), (new - 1).astype(jnp.float32)
    step = last_old / jnp.maximum(last_new, 1.0)
    place = jnp.arange(new_cells, dtype=jnp.float32)[None] * step[:, None]
    place = jnp.minimum(place, last_old[:, None])
    cell = jnp.arange(old_cells, dtype=jnp.float32)[None, None]
    return jnp.maximum(1.0 - jnp.abs(place[..., None] - cell), 0.0)


def _weights_dtype(x: Array) -> DTypeLike:
    """Dtype of the weights: at least float32, as weights with 8 bits would not add up to 1."""
    return jnp.promote_types(x.dtype, jnp.float32)


def interpolation_matrix(
    old: int, new: int, align_corners: bool
) -> Float[np.ndarray, "{new} {old}"]:
    """Weights of `old` cells in each of `new` cells; every row adds up to 1, in float64."""
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
    """Weights of the cells of a padded input at pixels of the resized image, along one axis.

    Combines two bilinear interpolations in one matrix, as in Detectron2's `sem_seg_postprocess`:
    cells are upsampled to the padded input, cropped to the image, and resized to the output.

    Args:
      cells: number of cells of the map, which covers the padded input.
      padded: size of the padded input, in pixels.
      image_size: size of the image inside the padding, in pixels.
      output_size: size of the output, in pixels.
      pixel: indices of pixels of the output, as floats.
    """
    up = jnp.asarray(interpolation_matrix(cells, padded, align_corners=False), jnp.float32)
    old, new = image_size.astype(jnp.float32), output_size.astype(jnp.float32)
    place = jnp.clip((pixel + 0.5) * old / new - 0.5, 0.0, old - 1)
    cell = jnp.arange(padded, dtype=jnp.float32)
    down = jnp.maximum(1 - jnp.abs(place[:, None] - cell[None]), 0.0)
    return jnp.matmul(down, up, precision="highest")
