"""Positions that RoIAlign reads along one axis, and their weights.

RoIAlign is separable: the value of a bin is the mean of `ny * nx` bilinear samples, which is a
weighted sum over rows of a weighted sum over columns. The functions below therefore handle one
axis, and are called for both axes of a region with their own `Axis`.

Samples follow `torchvision.ops.roi_align` and `mmcv.ops.RoIAlign`. A sample before -1 or after
the size of the axis is zero but still counts in the mean. A sample in -1..0 reads the first
cell, and one after the centre of the last cell reads the last cell.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32

# Coordinates are clamped to +-FAR. This is still far outside every feature map, but products
# and differences stay finite in float32.
FAR = 1e9
# A cell is read by the samples less than one cell away on either side. Adaptive samples are
# more than half a cell apart (two thirds if there are three or more), so at most five read it.
# The sixth compensates for rounding in the estimate of the first.
CANDIDATES = 6


class Axis(NamedTuple):
    """Samples of regions along one axis, in cells of their feature map.

    Attributes:
      start: start of each bin.
      bin: length of a bin.
      samples: number of samples in a bin, an integer stored as float; 0 for an empty region
        under adaptive sampling.
      size: number of cells of the feature map along the axis.
    """

    start: Float32[Array, "N S"]
    bin: Float32[Array, " N"]
    samples: Float32[Array, " N"]
    size: Int32[Array, " N"]


class Regions(NamedTuple):
    """Regions placed in a flattened pyramid of features `[P, C]`.

    Attributes:
      y: samples along the rows.
      x: samples along the columns.
      offset: index in the flattened pyramid of the first cell of the region's feature map.
    """

    y: Axis
    x: Axis
    offset: Int32[Array, " N"]

    def cells(self, rows: Int32[Array, "N S"], cols: Int32[Array, "N S"]) -> Int32[Array, "N S S"]:
        """Indices in the flattened pyramid of each combination of the given rows and columns."""
        width = self.x.size[:, None, None]
        return self.offset[:, None, None] + rows[:, :, None] * width + cols[:, None, :]


def make_axis(
    low: Float32[Array, " N"],
    high: Float32[Array, " N"],
    size: Int32[Array, " N"],
    *,
    num_bins: int,
    sampling_ratio: int,
    aligned: bool,
) -> Axis:
    """Places samples in the intervals `low..high` along one axis.

    Args:
      low: start of each region in cells; any value.
      high: end of each region in cells; any value.
      size: number of cells along the axis.
      num_bins: number of bins in a region.
      sampling_ratio: samples in a bin, or 0 for as many as the bin has cells, rounded up.
      aligned: shift by half a cell so that 0.5 is the centre of the first cell. If False,
        regions are at least one cell long.
    """
    # Regions with NaN are moved far outside, because no map may be indexed with NaN.
    bad = jnp.isnan(low) | jnp.isnan(high)
    low, high = (jnp.where(bad, FAR, jnp.clip(v, -FAR, FAR)) for v in (low, high))
    start = low - 0.5 if aligned else low
    length = (high - 0.5) - start if aligned else jnp.maximum(high - start, 1.0)
    # For samples exactly on the rim, the last bit decides whether they count. The selects and
    # the minimum do not change any value. They keep XLA from multiplying by reciprocals and from
    # fusing multiply and add, both of which round differently from the peers.
    regular = low <= FAR
    if sampling_ratio > 0:
        count = jnp.where(regular, float(sampling_ratio), 1.0)
    else:
        count = _ceil_div(length, num_bins)
    bin_size = length / jnp.where(regular, float(num_bins), 1.0)
    bins = jnp.arange(num_bins, dtype=jnp.float32)[None]
    offsets = jnp.minimum(bins * bin_size[:, None], 1e30)
    return Axis(start[:, None] + offsets, bin_size, count, size)


def sample_position(axis: Axis, index: Float32[Array, "#N #S K"]) -> Float32[Array, "N S K"]:
    """Position of sample `index` of every bin, in the peers' order of operations."""
    size, count = axis.bin[:, None, None], axis.samples[:, None, None]
    return axis.start[..., None] + (index + 0.5) * size / jnp.maximum(count, 1.0)


def fixed_taps(axis: Axis, samples: int) -> tuple[Int32[Array, "N S T"], Float32[Array, "N S T"]]:
    """The `T = 2 * samples` cells that a bin reads and their weights, in the order of samples.

    Args:
      axis: samples of the regions, with the same number per bin.
      samples: number of samples in a bin.

    Returns:
      Cell indices in 0..size-1 and weights.
    """
    index = jnp.arange(samples, dtype=jnp.float32)[None, None, :]
    position = sample_position(axis, index)
    last = (axis.size - 1).astype(jnp.float32)[:, None, None]
    inside = (position >= -1.0) & (position <= last + 1.0)
    clamped = jnp.clip(position, 0.0, last)
    low = jnp.floor(clamped)
    fraction = clamped - low
    share = jnp.where(inside, 1.0 / samples, 0.0)
    cells = jnp.stack([low, jnp.minimum(low + 1.0, last)], axis=-1)
    weights = jnp.stack([(1.0 - fraction) * share, fraction * share], axis=-1)
    shape = (*position.shape[:2], 2 * samples)
    return cells.astype(jnp.int32).reshape(shape), weights.reshape(shape)


def cell_range(axis: Axis) -> tuple[Int32[Array, "N S"], Int32[Array, " N"]]:
    """Range of cells that adaptive sampling reads.

    Returns:
      The first cell of every bin, in 0..size-1, and the largest number of cells that any bin
      of the region reads, counted from its first cell; 0 for regions without samples.
    """
    ends = jnp.stack([jnp.zeros_like(axis.samples), jnp.maximum(axis.samples - 1.0, 0.0)], axis=-1)
    position = sample_position(axis, ends[:, None, :])
    last = (axis.size - 1).astype(jnp.float32)[:, None]
    first_cell = jnp.clip(jnp.floor(position[..., 0]), 0.0, last)
    last_cell = jnp.clip(jnp.floor(position[..., 1]) + 1.0, 0.0, last)
    outside = (position[..., 1] < -1.0) | (position[..., 0] > last + 1.0)
    reads = jnp.where(outside, 0.0, last_cell - first_cell + 1.0).max(axis=-1)
    reads = jnp.where(axis.samples > 0, reads, 0.0)
    return first_cell.astype(jnp.int32), reads.astype(jnp.int32)


def cell_weights(axis: Axis, cells: Int32[Array, "N S T"]) -> Float32[Array, "N S T"]:
    """Weights of the given cells in the adaptive mean of each bin.

    All samples that read a cell are merged into one weight: `n + 1` cells rather than the
    `2 * n` taps of `n` samples. Their bilinear weights are evaluated one by one, so this is exact.

    Args:
      axis: samples of the regions, with an adaptive number per bin.
      cells: cell indices, any value; those outside the map get weight 0.
    """
    last = (axis.size - 1).astype(jnp.float32)[:, None, None, None]
    count = axis.samples[:, None, None, None]
    cell = cells.astype(jnp.float32)[..., None]
    first = sample_position(axis, jnp.zeros((1, 1, 1)))[..., None]
    step = jnp.maximum(axis.bin[:, None, None, None] / jnp.maximum(count, 1.0), 0.5)
    nearest = jnp.maximum(jnp.floor((cell - 1.0 - first) / step), 0.0)
    index = nearest + jnp.arange(CANDIDATES, dtype=jnp.float32)[None, None, None, :]
    flat = index.reshape(*index.shape[:2], -1)
    position = sample_position(axis, flat).reshape(index.shape)
    counts = (index < count) & (position >= -1.0) & (position <= last + 1.0)
    distance = jnp.abs(jnp.clip(position, 0.0, last) - cell)
    weight = jnp.where(counts, jnp.maximum(1.0 - distance, 0.0), 0.0).sum(axis=-1)
    inside = (cell >= 0.0) & (cell <= last)
    return jnp.where(inside[..., 0], weight / jnp.maximum(axis.samples, 1.0)[:, None, None], 0.0)


def zeros_varying(shape: tuple[int, ...], *sources: Float[Array, "..."]) -> Float32[Array, "..."]:
    """Float32 zeros, as the start value of a loop that adds `sources`.

    Inside `jax.shard_map`, the carry of a loop must vary over the same mesh axes as what is
    added to it. Only the type of the sum is used, so it is never computed.
    """
    varying = jnp.sum(jnp.stack([jnp.sum(s).astype(jnp.float32) for s in sources]))
    return jnp.zeros_like(jnp.broadcast_to(varying, shape))


def _ceil_div(length: Float32[Array, " N"], parts: int) -> Float32[Array, " N"]:
    """`max(ceil(length / parts), 0)`, however the compiler divides by a constant.

    XLA may multiply by the rounded reciprocal instead. 21 / 7 then exceeds 3, and its ceiling
    is 4. The products below are exact. A true division never rounds across an integer, so the
    peers compute the same.
    """
    count = jnp.ceil(length / parts)
    count = jnp.where((count - 1.0) * parts >= length, count - 1.0, count)
    count = jnp.where(count * parts < length, count + 1.0, count)
    return jnp.maximum(count, 0.0)
