"""Code shared by both ways of coarsening: the finest level, and the hierarchy of all levels."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32, UInt8

from segjax.figure_ground.bottom_up_config import BottomUp
from segjax.figure_ground.bottom_up_graph import (
    Borders,
    Segments,
    first_borders,
    first_segments,
)
from segjax.figure_ground.bottom_up_pixels import (
    join_seeds,
    measure,
    opponent,
    plane_sums,
    squared_norm,
)
from segjax.figure_ground.hierarchy import Hierarchy, level_slices
from segjax.types import struct


@struct
class Finest:
    """Finest level of an image.

    Attributes:
      leaf: segment of every pixel.
      segments: segments of this level.
      borders: borders between the segments.
      lost: number of borders that do not fit.
      whole: True if all values of the image are finite. If not, the level is that of a black image.
    """

    leaf: Int32[Array, "H W"]
    segments: Segments
    borders: Borders
    lost: Int32[Array, ""]
    whole: Bool[Array, ""]


@struct
class Level:
    """Description of one level; see `Hierarchy` for the attributes."""

    size: Float32[Array, " n"]
    mean_colour: Float32[Array, "n 3"]
    texture: Float32[Array, "n 9"]
    boundary: Float32[Array, " n"]
    saliency: Float32[Array, " n"]


def finest(image: Float[Array, "H W 3"] | UInt8[Array, "H W 3"], config: BottomUp) -> Finest:
    """Computes the first coarsening, from pixels to small segments.

    Args:
      image: RGB, uint8 or floats in 0..1.
      config: settings of the grouping.
    """
    # NaN counts as further away than the frame around the grid of seeds, so pixels could join it.
    whole = jnp.isfinite(image).all()
    pixels = measure(jnp.where(whole, image, 0))
    rows, columns = (-(-side // config.cell) for side in image.shape[:2])
    row, column = join_seeds(pixels.feature, config.cell, config.rounds, config.compactness)
    leaf, number = row * columns + column, rows * columns
    segments = first_segments(pixels, leaf, number)
    room = config.room(number)
    borders, lost = first_borders(pixels.feature, row, column, (rows, columns), room)
    return Finest(leaf, segments, borders, lost, whole)


def describe(
    segments: Segments,
    ends: tuple[Int32[Array, " e"], Int32[Array, " e"]],
    along: Float32[Array, "3 e"],
) -> Level:
    """Describes a level: means and variances of its segments, their boundaries and saliencies.

    Args:
      segments: segments of the level.
      ends: the two segments at every border.
      along: length, contrast and affinity of every border; 0 for invalid rows.
    """
    colour, texture = appearance(segments)
    both = jnp.concatenate(ends)
    length, contrast, tied = plane_sums(jnp.concatenate([along, along], 1), both, texture.shape[1])
    return Level(
        segments.size,
        colour.T,
        texture.T,
        jnp.clip(contrast / jnp.maximum(length, 1e-6), 0.0, 1.0),
        tied / jnp.maximum(segments.inside, 1.0),
    )


def appearance(segments: Segments) -> tuple[Float32[Array, "3 n"], Float32[Array, "9 n"]]:
    """Computes mean colours and textures.

    Args:
      segments: segments of any levels.

    Returns:
      Mean colours; and mean responses, their variances, and the variance of the colour.
    """
    count = jnp.maximum(segments.size, 1.0)
    colour, response = segments.colour / count[None], segments.response / count[None]
    scatter = segments.response_square / count[None] - jnp.square(response)
    spread = segments.square / count - squared_norm(opponent(colour))
    texture = jnp.concatenate([response, scatter, spread[None]])
    # Variances are differences of sums and may be slightly negative.
    return colour, jnp.maximum(texture, 0.0)


def assemble(
    start: Finest,
    levels: list[Level],
    parents: list[Int32[Array, " _"]],
    dropped: Int32[Array, ""],
) -> Hierarchy:
    """Concatenates the levels to a hierarchy.

    Args:
      start: the finest level.
      levels: all levels, finest first.
      parents: parents of each level, numbered within the next level; for the top level, within
        itself.
      dropped: number of borders and segments that do not fit.

    Returns:
      The hierarchy. If the image is not finite, the descriptions of segments are NaN.
    """
    sizes = tuple(level.size.size for level in levels)
    number = jnp.concatenate([jnp.full(n, i, jnp.int32) for i, n in enumerate(sizes)])
    joined: Level = jax.tree.map(lambda *parts: jnp.concatenate(parts), *levels)
    described = jax.tree.map(lambda values: jnp.where(start.whole, values, jnp.nan), joined)
    return Hierarchy(
        leaf=start.leaf,
        parent=among_all(parents),
        level=number,
        valid=joined.size > 0,
        size=joined.size,
        mean_colour=described.mean_colour,
        texture=described.texture,
        boundary=described.boundary,
        saliency=described.saliency,
        dropped=dropped,
        level_sizes=sizes,
    )


def among_all(parents: list[Int32[Array, "*s _"]]) -> Int32[Array, "*s N"]:
    """Converts numbers within a level to numbers among the nodes of all levels.

    Args:
      parents: parents of each level, numbered within the next level; for the top level, within
        itself.
    """
    starts = [rows.start for rows in level_slices(tuple(p.shape[-1] for p in parents))]
    starts = [*starts[1:], starts[-1]]
    return jnp.concatenate([p + start for p, start in zip(parents, starts, strict=True)], axis=-1)
