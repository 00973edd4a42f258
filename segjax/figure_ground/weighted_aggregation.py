"""Segmentation hierarchy by weighted aggregation, with its soft weights.

Follows Sharon, Galun, Sharon, Basri & Brandt, "Hierarchy and adaptivity in segmenting visual
scenes" (Nature 2006). Each level chooses seeds by coupling and interpolates every segment between
the seeds around it (`bottom_up_seeds.py`). It then computes statistics and couplings of the new
segments from the weighted parts, and lowers couplings by the differences of these statistics
(`bottom_up_links.py`). The saliency of a segment is its coupling to all others over that inside.

In the tree of the hierarchy, each segment is a child of the seed with its largest weight.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32, UInt8

from segjax.figure_ground.bottom_up_config import BottomUp
from segjax.figure_ground.bottom_up_graph import Segments
from segjax.figure_ground.bottom_up_levels import (
    Finest,
    Level,
    among_all,
    appearance,
    assemble,
    describe,
    finest,
)
from segjax.figure_ground.bottom_up_links import aggregate, first_links, strongest
from segjax.figure_ground.bottom_up_seeds import Aggregation, Links
from segjax.figure_ground.hierarchy import Hierarchy, level_slices
from segjax.figure_ground.images import check_image
from segjax.types import struct


@struct
class WeightedAggregation:
    """Hierarchy of overlapping segments, and its tree; nodes are numbered as in `Hierarchy`.

    Attributes:
      hierarchy: the tree. Sizes, colours and textures describe its segments; boundaries and
        saliencies describe the overlapping ones.
      parent: parents of every node in the next level, the one with the largest weight first;
        nodes of the top level are their own parents. S is `Aggregation.parts`.
      weight: fraction of the node that belongs to each parent, 0..1. These add up to 1, or to 0
        for padding rows.
    """

    hierarchy: Hierarchy
    parent: Int32[Array, "*B S N"]
    weight: Float32[Array, "*B S N"]

    def memberships(self, level: int) -> Float32[Array, "n0 n"]:
        """Computes the fraction of every finest segment that belongs to each segment of a level.

        This works on the hierarchy of one image, not on batches.

        Args:
          level: 0 for the finest; negative levels count from the top.

        Raises:
          IndexError: if there is no such level.
        """
        slices = level_slices(self.hierarchy.level_sizes)
        level = range(len(slices))[level]
        own = self.hierarchy.valid[slices[level]].astype(jnp.float32)
        parts = jnp.diag(own)
        for rows in slices[:level][::-1]:
            # Parents are numbered among all nodes, and those of `rows` start at `rows.stop`.
            parent = self.parent[:, rows] - rows.stop
            parts = (self.weight[:, rows, None] * parts[parent]).sum(0)
        return parts


def weighted_aggregation(
    image: UInt8[Array, "..."] | Float[Array, "..."],
    config: BottomUp = BottomUp(aggregation=Aggregation()),
) -> WeightedAggregation:
    """`bottom_up` by weighted aggregation, which also returns the weights.

    Supports `jax.jit`, and `jax.vmap` for batches.

    Args:
      image: RGB, [H, W, 3], uint8 or floats in 0..1.
      config: settings of the grouping. If its `aggregation` is None, the default `Aggregation`
        is used.

    Returns:
      The hierarchy and the weights; see `bottom_up` for shapes and for images that are not
      finite. Levels have as many segments as there are seeds, usually fewer than their capacity.

    Raises:
      ValueError: as in `bottom_up`.
    """
    check_image(image)
    sizes = config.level_sizes(*image.shape[:2])
    return _aggregate_levels(finest(image, config), sizes, config)


@struct
class _Coarser:
    """Result of a step: the level of the seeds, and the weights of the segments below."""

    level: Level
    parent: Int32[Array, "*steps s n"]
    weight: Float32[Array, "*steps s n"]
    dropped: Int32[Array, "*steps"]


def _aggregate_levels(
    start: Finest, sizes: tuple[int, ...], config: BottomUp
) -> WeightedAggregation:
    settings = config.aggregation or Aggregation()
    segments, links = start.segments, first_links(start.borders, settings)
    levels, parents, weights, dropped = [_describe(segments, links)], [], [], [start.lost]
    for first, last in config.spans(sizes):
        segments, links, lost = _cut(segments, links, sizes[first], config.room(sizes[first]))
        capacities = sizes[first + 1 : last + 1]
        segments, links, coarser = _aggregate_span(segments, links, capacities, settings)
        for step, (below, here) in enumerate(zip(sizes[first:last], capacities, strict=True)):
            parents.append(coarser.parent[step, :, :below])
            weights.append(coarser.weight[step, :, :below])
            levels.append(jax.tree.map(lambda v, i=step, n=here: v[i, :n], coarser.level))
        dropped += [lost, coarser.dropped.sum()]
    # Nodes of the top level are their own parents, with weight 1.
    own = (settings.parts, sizes[-1])
    parents.append(jnp.broadcast_to(jnp.arange(sizes[-1], dtype=jnp.int32), own))
    weights.append(jnp.zeros(own).at[0].set(1.0))
    levels = _with_statistics_of_the_tree(levels, [p[0] for p in parents[:-1]], start.segments)
    hierarchy = assemble(start, levels, [p[0] for p in parents], jnp.stack(dropped).sum())
    weight = jnp.concatenate(weights, 1) * hierarchy.valid[None]
    return WeightedAggregation(hierarchy, among_all(parents), weight)


def _aggregate_span(
    segments: Segments, links: Links, sizes: tuple[int, ...], config: Aggregation
) -> tuple[Segments, Links, _Coarser]:
    """Runs several steps in arrays of one length, as a loop that compiles once."""

    def step(
        state: tuple[Segments, Links], seats: Int32[Array, ""]
    ) -> tuple[tuple[Segments, Links], _Coarser]:
        made = aggregate(*state, seats, config, max(sizes))
        level = _describe(made.segments, made.links)
        return (made.segments, made.links), _Coarser(level, made.parent, made.weight, made.lost)

    state = (segments, links)
    (segments, links), coarser = jax.lax.scan(step, state, jnp.asarray(sizes, jnp.int32))
    return segments, links, coarser


def _cut(
    segments: Segments, links: Links, number: int, room: int
) -> tuple[Segments, Links, Int32[Array, ""]]:
    """Cuts off the unused ends of the arrays and counts the links that do not fit."""
    segments = jax.tree.map(lambda a: a[..., :number], segments)
    links, lost = strongest(links, room, number)
    return segments, links, lost


def _describe(segments: Segments, links: Links) -> Level:
    """Describes one level, using the couplings of its links."""
    along = jnp.stack([links.length, links.contrast, links.coupling])
    along = jnp.where(links.valid[None], along, 0.0)
    return describe(segments, (links.low, links.high), along)


def _with_statistics_of_the_tree(
    levels: list[Level], parents: list[Int32[Array, " _"]], segments: Segments
) -> list[Level]:
    """Replaces sizes, colours and textures of the levels by those of the tree's segments."""
    described = []
    for level, parent in zip(levels, [None, *parents], strict=True):
        if parent is not None:
            number = level.size.size
            segments = jax.tree.map(lambda v, p=parent, n=number: _sums(v, p, n), segments)
        colour, texture = appearance(segments)
        described.append(
            dataclasses.replace(level, size=segments.size, mean_colour=colour.T, texture=texture.T)
        )
    return described


def _sums(values: Float32[Array, "*c n"], parent: Int32[Array, " n"], number: int) -> Array:
    """Sums values over the children of every node of the next level."""
    return jax.ops.segment_sum(values.T, parent, number).T
