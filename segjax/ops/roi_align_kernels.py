"""The loops that read and write the flattened pyramid for RoIAlign."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32

from segjax.ops.roi_align_taps import Axis, cell_range, cell_weights, fixed_taps

CHUNK = 16


class Regions(NamedTuple):
    """Regions placed in a flattened pyramid.

    Attributes:
      y: their rows.
      x: their columns.
      offset: index of the first cell of their image's map of their level.
    """

    y: Axis
    x: Axis
    offset: Int32[Array, " N"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def pool(
    sampling_ratio: int, flat: Float[Array, "P C"], regions: Regions
) -> Float[Array, "N S S C"]:
    """RoIAlign of regions placed in a flattened pyramid.

    Args:
      sampling_ratio: samples along each axis of a bin, 0 for adaptive.
      flat: all cells of all levels and images.
      regions: where the regions lie in it.

    Returns:
      Pooled bins in the dtype of `flat`.
    """
    if sampling_ratio:
        return _fixed_forward(sampling_ratio, flat, regions).astype(flat.dtype)
    return _adaptive_forward(flat, regions).astype(flat.dtype)


def _pool_fwd(sampling_ratio, flat, regions):
    return pool(sampling_ratio, flat, regions), (jnp.zeros((0,), flat.dtype), flat.shape, regions)


def _pool_bwd(sampling_ratio, saved, grad):
    like, shape, regions = saved
    total = _zeros(shape, grad, regions.y.start)
    grad = grad.astype(jnp.float32)
    if sampling_ratio:
        total = _fixed_backward(sampling_ratio, total, regions, grad)
    else:
        total = _adaptive_backward(total, regions, grad)
    return total.astype(like.dtype), None


pool.defvjp(_pool_fwd, _pool_bwd)


def _zeros(shape, *sources):
    """Float32 zeros that a loop may add `sources` to.

    Inside `jax.shard_map` a carry must vary over the mesh's axes as what is added does; only
    the type of the unused sum is taken from it.
    """
    varying = sum(jnp.sum(source).astype(jnp.float32) for source in sources)
    return jnp.zeros_like(jnp.broadcast_to(varying, shape))


def _cell_index(regions, rows, cols):
    """[N,S] rows, [N,S] cols -> [N,S,S] index into the flat pyramid."""
    width = regions.x.size[:, None, None]
    return regions.offset[:, None, None] + rows[:, :, None] * width + cols[:, None, :]


def _fixed_forward(samples, flat, regions):
    rows, row_weights = fixed_taps(regions.y, samples)
    cols, col_weights = fixed_taps(regions.x, samples)
    total = 0.0
    for i in range(2 * samples):
        for j in range(2 * samples):
            index = _cell_index(regions, rows[..., i], cols[..., j])
            weight = row_weights[:, :, None, i] * col_weights[:, None, :, j]
            taken = flat.at[index].get(mode="promise_in_bounds").astype(jnp.float32)
            total += taken * weight[..., None]
    return total


def _fixed_backward(samples, total, regions, grad):
    rows, row_weights = fixed_taps(regions.y, samples)
    cols, col_weights = fixed_taps(regions.x, samples)
    for i in range(2 * samples):
        for j in range(2 * samples):
            index = _cell_index(regions, rows[..., i], cols[..., j])
            weight = row_weights[:, :, None, i] * col_weights[:, None, :, j]
            total = total.at[index].add(grad * weight[..., None], mode="promise_in_bounds")
    return total


def _chunks(regions, chunk):
    """Sort by number of cells; pads to whole chunks. Returns order, chunks' regions, trip counts."""
    n = regions.offset.shape[0]
    row0, row_reads = cell_range(regions.y)
    col0, col_reads = cell_range(regions.x)
    order = jnp.lexsort((col_reads, row_reads))
    return order, row0, row_reads, col0, col_reads


def _adaptive_forward(flat, regions):
    row0, row_reads = cell_range(regions.y)
    col0, col_reads = cell_range(regions.x)
    n, bins = row0.shape

    def add_row(i, total):
        rows = row0 + i
        wy = cell_weights(regions.y, rows[..., None])[..., 0]
        rows = jnp.minimum(rows, regions.y.size[:, None] - 1)

        def add_col(j, total):
            cols = col0 + j
            wx = cell_weights(regions.x, cols[..., None])[..., 0]
            cols = jnp.minimum(cols, regions.x.size[:, None] - 1)
            index = _cell_index(regions, rows, cols)
            taken = flat.at[index].get(mode="promise_in_bounds").astype(jnp.float32)
            return total + taken * (wy[:, :, None] * wx[:, None, :])[..., None]

        return jax.lax.fori_loop(0, col_reads.max(), add_col, total)

    total = _zeros((n, bins, bins, flat.shape[-1]), flat, regions.y.start)
    return jax.lax.fori_loop(0, row_reads.max(), add_row, total)


def _adaptive_backward(total, regions, grad):
    row0, row_reads = cell_range(regions.y)
    col0, col_reads = cell_range(regions.x)

    def add_row(i, total):
        rows = row0 + i
        wy = cell_weights(regions.y, rows[..., None])[..., 0]
        rows = jnp.minimum(rows, regions.y.size[:, None] - 1)

        def add_col(j, total):
            cols = col0 + j
            wx = cell_weights(regions.x, cols[..., None])[..., 0]
            cols = jnp.minimum(cols, regions.x.size[:, None] - 1)
            index = _cell_index(regions, rows, cols)
            weight = wy[:, :, None] * wx[:, None, :]
            return total.at[index].add(grad * weight[..., None], mode="promise_in_bounds")

        return jax.lax.fori_loop(0, col_reads.max(), add_col, total)

    return jax.lax.fori_loop(0, row_reads.max(), add_row, total)
