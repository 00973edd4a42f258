"""Exact RoIAlign with adaptive sampling: as many samples as a bin has cells (Detectron2, mmdet).

The number of cells that a bin reads is only known at run time, so loops with run-time bounds
read them. The largest region determines the bounds. Regions are therefore sorted by size and
processed in chunks, each with its own bounds.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32

from segjax.ops.roi_align_taps import Axis, Regions, cell_range, cell_weights, zeros_varying

# Cells along each axis that one step of the forward loop reads; the 2 x 2 reads are unrolled.
FORWARD_BLOCK = 2


class _Reads(NamedTuple):
    """Regions and the cells they read; arrays are `[N, ...]` or `[chunks, chunk, ...]`.

    Attributes:
      regions: the regions.
      first_row: first row that each bin reads.
      first_col: first column that each bin reads.
      num_rows: maximum number of rows that a bin of the region reads.
      num_cols: maximum number of columns that a bin of the region reads.
    """

    regions: Regions
    first_row: Int32[Array, "*n S"]
    first_col: Int32[Array, "*n S"]
    num_rows: Int32[Array, "*n"]
    num_cols: Int32[Array, "*n"]


def forward(flat: Float[Array, "P C"], regions: Regions, chunk: int) -> Float32[Array, "N S S C"]:
    """Sums the weighted cells of every bin, a block of gathers at a time."""
    bins = regions.y.start.shape[1]
    order, chunks = _sorted_chunks(regions, chunk)
    num_chunks, chunk = chunks.num_rows.shape
    shape = (num_chunks, chunk, bins, bins, flat.shape[1])

    def pool_chunk(index: Array, out: Array) -> Array:
        total = zeros_varying(shape[1:], flat, regions.y.start)

        def add_cells(rows: Array, cols: Array, weights: Array, total: Array) -> Array:
            cells = part.regions.cells(rows, cols)
            taken = flat.at[cells].get(mode="promise_in_bounds").astype(jnp.float32)
            return total + taken * weights[..., None]

        part = jax.tree.map(lambda a: a[index], chunks)
        total = _for_each_cell(part, FORWARD_BLOCK, add_cells, total)
        return jax.lax.dynamic_update_slice(out, total[None], (index, 0, 0, 0, 0))

    out = zeros_varying(shape, flat, regions.y.start)
    out = jax.lax.fori_loop(0, num_chunks, pool_chunk, out)
    return out.reshape(-1, *shape[2:])[jnp.argsort(order)]


def backward_scatter(
    total: Float32[Array, "P C"], regions: Regions, grad: Float32[Array, "N S S C"], chunk: int
) -> Float32[Array, "P C"]:
    """Adds the gradients of bins to the cells they read, by scatter-add."""
    order, chunks = _sorted_chunks(regions, chunk)
    num_chunks, chunk = chunks.num_rows.shape
    padding = num_chunks * chunk - len(grad)
    grads = jnp.pad(grad[order], ((0, padding), (0, 0), (0, 0), (0, 0)))
    grads = grads.reshape(num_chunks, chunk, *grad.shape[1:])

    def add_chunk(index: Array, total: Array) -> Array:
        part = jax.tree.map(lambda a: a[index], chunks)

        def add_cells(rows: Array, cols: Array, weights: Array, total: Array) -> Array:
            cells = part.regions.cells(rows, cols)
            update = grads[index] * weights[..., None]
            return total.at[cells].add(update, mode="promise_in_bounds")

        return _for_each_cell(part, 1, add_cells, total)

    return jax.lax.fori_loop(0, num_chunks, add_chunk, total)


def backward_rows(
    total: Float32[Array, "P C"],
    regions: Regions,
    grad: Float32[Array, "N S S C"],
    row_block: int,
) -> Float32[Array, "P C"]:
    """Like `backward_scatter`, but updates the channels of a few cells at a time, in place.

    Regions are processed one by one with their own bounds, so they do not have to be sorted.

    Args:
      total: array to add to.
      regions: the regions.
      grad: gradients of the bins.
      row_block: number of neighbouring cells of a row to update at once; at most the width of
        the narrowest map.
    """
    count, bins, _, channels = grad.shape
    bin_grads = grad.reshape(-1, channels)
    reads = _find_reads(regions)

    def add_region(n: Array, total: Array) -> Array:
        part = jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, n, 1), reads)
        axes = part.regions
        width = axes.x.size[0]

        def add_cells(i: Array, j: Array, total: Array) -> Array:
            rows, row_weights = _block_of_cells(axes.y, part.first_row, i, 1)
            wanted = part.first_col + j * row_block
            # A block that would cross the end of the row starts earlier; cells that are already
            # done get weight 0.
            start = jnp.minimum(wanted, width - row_block)
            cols = start[..., None] + jnp.arange(row_block, dtype=jnp.int32)[None, None]
            done = cols < wanted[..., None]
            col_weights = jnp.where(done, 0.0, cell_weights(axes.x, cols))
            row_starts = axes.offset[0] + rows[0, :, 0] * width

            def add_bin(index: Array, total: Array) -> Array:
                s, t = index // bins, index % bins
                bin_grad = jax.lax.dynamic_slice(bin_grads, (n * bins**2 + index, 0), (1, channels))
                weights = row_weights[0, s] * col_weights[0, t]
                at = (row_starts[s] + start[0, t], 0)
                old = jax.lax.dynamic_slice(total, at, (row_block, channels))
                new = old + weights[:, None] * bin_grad
                return jax.lax.dynamic_update_slice(total, new, at)

            return jax.lax.fori_loop(0, bins**2, add_bin, total)

        return _rows_and_columns(
            part.num_rows[0], -(-part.num_cols[0] // row_block), add_cells, total
        )

    return jax.lax.fori_loop(0, count, add_region, total)


def _find_reads(regions: Regions) -> _Reads:
    """Computes the cells that the regions read."""
    first_row, num_rows = cell_range(regions.y)
    first_col, num_cols = cell_range(regions.x)
    return _Reads(regions, first_row, first_col, num_rows, num_cols)


def _sorted_chunks(regions: Regions, chunk: int) -> tuple[Int32[Array, " N"], _Reads]:
    """Sorts regions by the number of rows, then columns, they read, and splits them into chunks.

    Returns:
      The order, and the sorted regions; the last one is repeated to fill the last chunk.
    """
    reads = _find_reads(regions)
    count = len(reads.num_rows)
    order = jnp.lexsort((reads.num_cols, reads.num_rows)).astype(jnp.int32)
    chunk = min(chunk, count)
    places = jnp.minimum(jnp.arange(-(-count // chunk) * chunk), count - 1)
    filled = order[places].reshape(-1, chunk)
    return order, jax.tree.map(lambda a: a[filled], reads)


def _for_each_cell(
    reads: _Reads,
    block: int,
    add: Callable[[Array, Array, Array, Array], Array],
    total: Float32[Array, "..."],
) -> Float32[Array, "..."]:
    """Calls `add(rows, cols, weights, total)` for every cell that any bin reads.

    Args:
      reads: cells that one chunk of regions reads.
      block: number of cells along each axis per step of the loop.
      add: takes rows `[N, S]` and columns `[N, S]` of the maps and the weights `[N, S, S]`
        of their cells, and returns the new total.
      total: initial total.
    """
    y, x = reads.regions.y, reads.regions.x

    def step(i: Array, j: Array, total: Array) -> Array:
        rows, row_weights = _block_of_cells(y, reads.first_row, i, block)
        cols, col_weights = _block_of_cells(x, reads.first_col, j, block)
        for a in range(block):
            for b in range(block):
                weights = row_weights[:, :, None, a] * col_weights[:, None, :, b]
                total = add(rows[..., a], cols[..., b], weights, total)
        return total

    steps = (-(-reads.num_rows.max() // block), -(-reads.num_cols.max() // block))
    return _rows_and_columns(*steps, step, total)


def _rows_and_columns(
    rows: Int32[Array, ""],
    cols: Int32[Array, ""],
    body: Callable[[Array, Array, Array], Array],
    total: Float32[Array, "..."],
) -> Float32[Array, "..."]:
    """Calls `body(row, col, total)` for all rows and columns, row by row."""

    # One loop instead of two nested ones: with bounds only known on the device, every test of
    # the loop condition makes the host wait for the GPU.
    def cell(n: Array, total: Array) -> Array:
        return body(n // cols, n % cols, total)

    return jax.lax.fori_loop(0, rows * cols, cell, total)


def _block_of_cells(
    axis: Axis, first: Int32[Array, "N S"], step: Int32[Array, ""], block: int
) -> tuple[Int32[Array, "N S block"], Float32[Array, "N S block"]]:
    """Cells that bins read in the given step, clipped to the map, and their weights."""
    cells = (first + step * block)[..., None] + jnp.arange(block, dtype=jnp.int32)[None, None]
    weights = cell_weights(axis, cells)
    return jnp.minimum(cells, axis.size[:, None, None] - 1), weights
