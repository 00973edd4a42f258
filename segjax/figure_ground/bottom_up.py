"""Bottom-up grouping of an image into a hierarchy of segments.

Follows Sharon, Galun, Sharon, Basri & Brandt, "Hierarchy and adaptivity in segmenting visual
scenes" (Nature 2006). Affinities come from brightness, colour and filter responses. Each level
aggregates the one below, and statistics recomputed on every level modulate its affinities. The
work per level shrinks geometrically.

There are two ways to compute the next level: weighted aggregation, as in the paper
(`weighted_aggregation.py`), and a plain merge, which joins the most similar segments first until
the rest fit into the capacity of the next level. Both start from the same finest segments, whose
seeds form a fixed grid.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, UInt8

from segjax.figure_ground.bottom_up_config import BottomUp
from segjax.figure_ground.bottom_up_graph import Borders, Segments
from segjax.figure_ground.bottom_up_levels import Finest, Level, assemble, describe, finest
from segjax.figure_ground.bottom_up_merge import MergeCost, affinity, coarsen
from segjax.figure_ground.hierarchy import Hierarchy
from segjax.figure_ground.images import check_image
from segjax.figure_ground.weighted_aggregation import weighted_aggregation
from segjax.types import struct

__all__ = ["BottomUp", "bottom_up"]


def bottom_up(
    image: UInt8[Array, "..."] | Float[Array, "..."], config: BottomUp = BottomUp()
) -> Hierarchy:
    """Groups the pixels of an image into a hierarchy of segments.

    Supports `jax.jit`, and `jax.vmap` for batches. Memory is linear in the number of pixels, and
    time almost linear because borders are sorted.

    Args:
      image: RGB, [H, W, 3], uint8 or floats in 0..1.
      config: settings of the grouping.

    Returns:
      The hierarchy. Its shapes depend on the image size and the config only. If any value of the
      image is not finite, all colours, textures, boundaries and saliencies are NaN.

    Raises:
      ValueError: for an image that is not RGB of uint8 or floats, or is empty or too large.
    """
    if config.aggregation is not None:
        return weighted_aggregation(image, config).hierarchy
    check_image(image)
    sizes = config.level_sizes(*image.shape[:2])
    start = finest(image, config)
    return _merge_levels(start, sizes, config)


def _merge_levels(start: Finest, sizes: tuple[int, ...], config: BottomUp) -> Hierarchy:
    """Merges the segments of each level into those of the next."""
    segments, borders, cost = start.segments, start.borders, config.cost
    levels, parents, dropped = [_describe(segments, borders, cost)], [], [start.lost]
    for first, last in config.spans(sizes):
        segments, borders, lost = _cut(segments, borders, sizes[first], config.room(sizes[first]))
        capacities = sizes[first + 1 : last + 1]
        segments, borders, coarser = _coarsen_span(segments, borders, capacities, cost)
        parents += [coarser.parent[i, :size] for i, size in enumerate(sizes[first:last])]
        levels += [coarser.cut(i, size) for i, size in enumerate(capacities)]
        dropped += [lost, coarser.dropped.sum()]
    parents.append(jnp.arange(sizes[-1], dtype=jnp.int32))
    return assemble(start, levels, parents, jnp.stack(dropped).sum())


@struct
class _Coarser:
    """Result of a span of steps: the level that each step computes."""

    level: Level
    parent: Int32[Array, "*steps n"]
    dropped: Int32[Array, "*steps"]

    def cut(self, step: int, size: int) -> Level:
        """Returns the level of a step, without the unused ends of the arrays."""
        return jax.tree.map(lambda values: values[step, :size], self.level)


def _coarsen_span(
    segments: Segments, borders: Borders, sizes: tuple[int, ...], cost: MergeCost
) -> tuple[Segments, Borders, _Coarser]:
    """Runs several coarsening steps in arrays of one length, as a loop that compiles once."""

    def step(
        state: tuple[Segments, Borders], capacity: Int32[Array, ""]
    ) -> tuple[tuple[Segments, Borders], _Coarser]:
        made = coarsen(*state, capacity, cost, max(sizes))
        level = _describe(made.segments, made.borders, cost)
        return (made.segments, made.borders), _Coarser(level, made.parent, made.dropped)

    state = (segments, borders)
    (segments, borders), coarser = jax.lax.scan(step, state, jnp.asarray(sizes, jnp.int32))
    return segments, borders, coarser


def _cut(
    segments: Segments, borders: Borders, number: int, room: int
) -> tuple[Segments, Borders, Int32[Array, ""]]:
    """Cuts off the unused ends of the arrays and counts the borders that do not fit."""
    lost = borders.valid[room:].sum(dtype=jnp.int32)
    segments = jax.tree.map(lambda a: a[..., :number], segments)
    return segments, jax.tree.map(lambda a: a[:room], borders), lost


def _describe(segments: Segments, borders: Borders, cost: MergeCost) -> Level:
    """Describes one level, using the affinities of its borders."""
    along = jnp.stack([borders.length, borders.contrast, affinity(borders, cost)])
    along = jnp.where(borders.valid[None], along, 0.0)
    return describe(segments, (borders.low, borders.high), along)
