"""Segments and the borders between them, and their computation from pixels."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

from segjax.figure_ground.bottom_up_pixels import Pixels, distance, plane_sums, squared_norm
from segjax.types import struct

# If two adjacent pixels join different seeds, the seeds' cells are at most 3 rows and 3 columns
# apart: the cells of the pixels are at most 1 apart, and each pixel may join a seed 1 cell
# further. Relative to the first cell, the second is at one of 3 places in the same row or at one
# of 3 x 7 places in the rows below.
_PLACES = 24


@struct
class Segments:
    """Sums over the pixels of every segment of one level; they add up when segments join.

    Attributes:
      size: number of pixels; 0 for padding rows.
      colour: sum of RGB values.
      square: sum of the features' squared norms.
      response: sum of filter responses.
      response_square: sum of squared filter responses.
      inside: sum of affinities between neighbours within the segment.
    """

    size: Float32[Array, " n"]
    colour: Float32[Array, "3 n"]
    square: Float32[Array, " n"]
    response: Float32[Array, "4 n"]
    response_square: Float32[Array, "4 n"]
    inside: Float32[Array, " n"]


@struct
class Borders:
    """Pairs of segments that touch; each pair occurs once.

    Attributes:
      low: index of the segment with the lower number.
      high: index of the segment with the higher number.
      length: number of pairs of adjacent pixels across the border; 0 for padding rows.
      contrast: sum over these pairs of the distance between the features on both sides.
    """

    low: Int32[Array, " e"]
    high: Int32[Array, " e"]
    length: Float32[Array, " e"]
    contrast: Float32[Array, " e"]

    @property
    def valid(self) -> Bool[Array, " e"]:
        """False for padding rows."""
        return self.length > 0

    @property
    def mean_contrast(self) -> Float32[Array, " e"]:
        """Mean distance between the features on both sides."""
        return self.contrast / jnp.maximum(self.length, 1.0)


def first_segments(pixels: Pixels, label: Int32[Array, "H W"], number: int) -> Segments:
    """Sums measurements over the pixels that joined each seed.

    Args:
      pixels: measurements at every pixel.
      label: seed of every pixel.
      number: number of seeds.
    """
    planes = [
        jnp.ones((1, *label.shape)),
        pixels.colour,
        squared_norm(pixels.feature)[None],
        pixels.response,
        jnp.square(pixels.response),
    ]
    size, *rest = plane_sums(jnp.concatenate(planes), label, number)
    colour, square, response, response_square = rest[:3], rest[3], rest[4:8], rest[8:12]
    return Segments(
        size,
        jnp.stack(colour),
        square,
        jnp.stack(response),
        jnp.stack(response_square),
        inside=2 * size,  # about two pairs of neighbours per pixel, one along each axis
    )


def first_borders(
    feature: Float32[Array, "3 H W"],
    row: Int32[Array, "H W"],
    column: Int32[Array, "H W"],
    cells: tuple[int, int],
    capacity: int,
) -> tuple[Borders, Int32[Array, ""]]:
    """Finds the borders between the segments of pixels that joined seeds of a grid.

    Args:
      feature: features in which contrast is measured.
      row: row of the cell whose seed every pixel joined.
      column: column of that cell.
      cells: rows and columns of the grid.
      capacity: maximum number of borders.

    Returns:
      The borders, ordered by `low`, then by `high`, and the number of those that do not fit.
    """
    number = cells[0] * cells[1]
    length = contrast = jnp.zeros(_PLACES * number)
    for axis in (0, 1):
        place = _place_of_pairs(row, column, axis, cells)
        step = _contrast_of_pairs(feature, axis)
        length = length.at[place].add(1.0, mode="drop")
        contrast = contrast.at[place].add(step, mode="drop")
    table = (_PLACES, number)
    return _compact(length.reshape(table), contrast.reshape(table), capacity, cells[1])


def _place_of_pairs(
    row: Int32[Array, "H W"], column: Int32[Array, "H W"], axis: int, cells: tuple[int, int]
) -> Int32[Array, "h w"]:
    """Flat indices, in a table of places by cells, of the pixel pairs adjacent along an axis."""
    (y0, y1), (x0, x1) = (
        [jax.lax.slice_in_dim(m, start, m.shape[axis] - 1 + start, axis=axis) for start in (0, 1)]
        for m in (row, column)
    )
    down, right = y1 - y0, x1 - x0
    swapped = (down < 0) | ((down == 0) & (right < 0))
    step = jnp.where(swapped, -7 * down - right, 7 * down + right)
    low = jnp.where(swapped, y1 * cells[1] + x1, y0 * cells[1] + x0)
    # Pairs within one segment get an index out of range, so that scatters drop them.
    return jnp.where(step > 0, (step - 1) * (cells[0] * cells[1]) + low, 2**30)


def _contrast_of_pairs(feature: Float32[Array, "3 H W"], axis: int) -> Float32[Array, "h w"]:
    """Distance between the features on both sides of every border between pixels.

    Features are read one pixel further out, as smoothing mixes those next to the border.
    """
    length = feature.shape[1 + axis]
    wide = jnp.pad(feature, [(0, 0)] + [(int(a == axis),) * 2 for a in (0, 1)], mode="edge")
    before, after = (
        jax.lax.slice_in_dim(wide, start, start + length - 1, axis=1 + axis) for start in (0, 3)
    )
    return distance(after - before)


def _compact(
    length: Float32[Array, "p n"], contrast: Float32[Array, "p n"], capacity: int, columns: int
) -> tuple[Borders, Int32[Array, ""]]:
    """Gathers the occupied places of the table, cell by cell."""
    places, number = length.shape
    there = length > 0
    # Cumulative sums over places, then over cells, because a single long one is slow.
    before = jnp.cumsum(there, axis=0, dtype=jnp.int32) - 1
    count = before[-1] + 1
    position = before + (jnp.cumsum(count) - count)[None]
    position = jnp.where(there, position, capacity).reshape(-1)
    low = jnp.broadcast_to(jnp.arange(number, dtype=jnp.int32)[None], length.shape)
    # Inverts `_place_of_pairs`: place p is 7 * rows + columns - 1, where columns are in -3..3.
    place = jnp.arange(4, places + 4, dtype=jnp.int32)
    high = low + (place // 7 * columns + place % 7 - 3)[:, None]

    def kept(values: Array) -> Array:
        empty = jnp.zeros(capacity, values.dtype)
        return empty.at[position].set(values.reshape(-1), mode="drop")

    borders = Borders(kept(low), kept(high), kept(length), kept(contrast))
    return borders, jnp.maximum(count.sum() - capacity, 0)
