"""Bottom-up grouping of an image into a hierarchy of segments.

Follows Sharon, Galun, Sharon, Basri & Brandt, "Hierarchy and adaptivity in segmenting visual
scenes" (Nature 2006) in its plan: affinities from brightness, colour and filter responses, each
level an aggregation of the one below, statistics computed anew on every level and modulating the
affinities there, work that shrinks geometrically. Two things differ, for the sake of fixed shapes
and of a tree: every segment has one parent, the one it is coupled to most; and above the first
level, whose seeds stand in a fixed pattern, no seeds are chosen: segments join in the order of
their coupling until the next level's capacity holds them.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32, UInt8

from segjax.figure_ground.bottom_up_graph import (
    Borders,
    Segments,
    first_borders,
    first_segments,
)
from segjax.figure_ground.bottom_up_merge import MAX_SEGMENTS, MergeCost, affinity, coarsen
from segjax.figure_ground.bottom_up_pixels import (
    join_seeds,
    measure,
    opponent,
    plane_sums,
    squared_norm,
)
from segjax.figure_ground.hierarchy import Hierarchy, level_slices
from segjax.figure_ground.images import check_image
from segjax.types import struct

# Levels below this share one program: it costs more to compile another than to run this one.
_FEW_SEGMENTS = 1000


@dataclasses.dataclass(frozen=True)
class BottomUp:
    """How an image is grouped.

    Attributes:
      cell: pixels between the seeds of the finest level, along each axis.
      rounds: how often pixels choose among the seeds around them.
      compactness: distance in colour (of 0..1) that weighs as much as that between seeds.
      shrink: capacity of each level as a part of the one below, 0.5 to 1.
      coarsest: segments at which grouping ends.
      borders_per_segment: capacity for neighbours. A planar graph has at most 3; segments that are
        in several pieces, as in busy photographs and noise, have more: see `Hierarchy.dropped`.
      cost: what joins first.
    """

    cell: int = 4
    rounds: int = 2
    compactness: float = 0.055
    shrink: float = 0.6
    coarsest: int = 4
    borders_per_segment: float = 6.0
    cost: MergeCost = MergeCost()

    def __post_init__(self) -> None:
        if self.cell < 2 or self.rounds < 1 or self.coarsest < 1:
            raise ValueError(
                f"cell is {self.cell}, rounds {self.rounds}, coarsest {self.coarsest}: wanted at "
                "least 2, 1 and 1"
            )
        if self.compactness < 0 or self.borders_per_segment <= 0:
            raise ValueError(
                f"compactness is {self.compactness}, borders_per_segment "
                f"{self.borders_per_segment}: wanted 0 or more, and above 0"
            )
        if not 0.5 <= self.shrink < 1:
            raise ValueError(
                f"shrink is {self.shrink}: wanted 0.5 to below 1; one round joins no more than "
                "half of the segments for certain"
            )

    def level_sizes(self, height: int, width: int) -> tuple[int, ...]:
        """Capacities of the levels for an image.

        Args:
          height: rows of the image.
          width: columns of the image.

        Raises:
          ValueError: for an image that is empty or too large.
        """
        if min(height, width) < 1:
            raise ValueError(f"the image is {height} x {width}: wanted at least one pixel")
        sizes = [-(-height // self.cell) * -(-width // self.cell)]
        while sizes[-1] > self.coarsest:
            # One less at least: of few segments, the part rounds up to all of them.
            next_size = min(math.ceil(sizes[-1] * self.shrink), sizes[-1] - 1)
            sizes.append(max(self.coarsest, next_size))
        if len(sizes) > 1 and sizes[1] > MAX_SEGMENTS:
            raise ValueError(
                f"an image of {height} x {width} has {sizes[1]} segments on the second level, "
                f"{MAX_SEGMENTS} at most: raise cell, {self.cell} now, or resize the image"
            )
        return tuple(sizes)

    @staticmethod
    def spans(sizes: tuple[int, ...]) -> list[tuple[int, int]]:
        """First and last levels of the steps that share one program.

        Arrays stay as long as at the first, so spans are short where levels are large.
        """
        spans, start = [], 0
        while start < len(sizes) - 1:
            stop = start + 3 if sizes[start] > _FEW_SEGMENTS else len(sizes) - 1
            spans.append((start, min(stop, len(sizes) - 1)))
            start = spans[-1][1]
        return spans

    def room(self, segments: int) -> int:
        """Capacity for the borders between so many segments."""
        return math.ceil(self.borders_per_segment * segments)


def bottom_up(
    image: UInt8[Array, "..."] | Float[Array, "..."], config: BottomUp = BottomUp()
) -> Hierarchy:
    """Groups the pixels of an image into a hierarchy of segments; jit, and vmap for batches.

    Memory is linear in the number of pixels, time all but linear: borders are sorted.

    Args:
      image: RGB, [H, W, 3], uint8 or floats in 0..1.
      config: how.

    Returns:
      The hierarchy; its shapes follow from the image's and the config. If any value of the image
      is not finite, colours, textures, boundaries and saliencies are NaN throughout.

    Raises:
      ValueError: for an image that is not RGB of uint8 or floats, or is empty or too large.
    """
    check_image(image)
    # NaN is further from everything than what lies beyond the frame, and would be put there.
    whole = jnp.isfinite(image).all()
    image = jnp.where(whole, image, 0)
    height, width = image.shape[:2]
    sizes = config.level_sizes(height, width)
    cells = (-(-height // config.cell), -(-width // config.cell))
    pixels = measure(image)
    row, column = join_seeds(pixels.feature, config.cell, config.rounds, config.compactness)
    label = row * cells[1] + column
    segments = first_segments(pixels, label, sizes[0])
    borders, lost = first_borders(pixels.feature, row, column, cells, config.room(sizes[0]))
    levels, parents, dropped = [_describe(segments, borders, config.cost)], [], [lost]
    for start, stop in config.spans(sizes):
        segments, borders, lost = _cut(segments, borders, sizes[start], config.room(sizes[start]))
        segments, borders, coarser = _coarsen_span(
            segments, borders, sizes[start + 1 : stop + 1], config.cost
        )
        parents += [coarser.parent[i, :size] for i, size in enumerate(sizes[start:stop])]
        levels += [coarser.cut(i, size) for i, size in enumerate(sizes[start + 1 : stop + 1])]
        dropped += [lost, coarser.dropped.sum()]
    levels = [_nan_unless(whole, level) for level in levels]
    return _assemble(label, levels, parents, jnp.stack(dropped).sum())


@struct
class _Coarser:
    """What a span of levels gives: of every step, the level that it made."""

    level: "_Level"
    parent: Int32[Array, "*steps n"]
    dropped: Int32[Array, "*steps"]

    def cut(self, step: int, size: int) -> "_Level":
        """The level of a step, without the unused ends of the arrays."""
        return jax.tree.map(lambda values: values[step, :size], self.level)


def _coarsen_span(
    segments: Segments, borders: Borders, sizes: tuple[int, ...], cost: MergeCost
) -> tuple[Segments, Borders, _Coarser]:
    """Some steps of coarsening in arrays of one length: one loop instead of a program each."""

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
    """Cuts off the unused ends of the arrays; and how many borders found no room."""
    lost = borders.valid[room:].sum(dtype=jnp.int32)
    segments = jax.tree.map(lambda a: a[..., :number], segments)
    return segments, jax.tree.map(lambda a: a[:room], borders), lost


@struct
class _Level:
    """The part of a hierarchy that describes one level."""

    size: Float32[Array, " n"]
    mean_colour: Float32[Array, "n 3"]
    texture: Float32[Array, "n 9"]
    boundary: Float32[Array, " n"]
    saliency: Float32[Array, " n"]


def _describe(segments: Segments, borders: Borders, cost: MergeCost) -> _Level:
    """Means and variances of the segments of a level, and what ties them to their neighbours."""
    count = jnp.maximum(segments.size, 1.0)
    colour, response = segments.colour / count[None], segments.response / count[None]
    scatter = segments.response_square / count[None] - jnp.square(response)
    spread = segments.square / count - squared_norm(opponent(colour))
    texture = jnp.concatenate([response, scatter, spread[None]])
    along = jnp.stack([borders.length, borders.contrast, affinity(borders, cost)])
    ends = jnp.concatenate([borders.low, borders.high])
    along = jnp.where(borders.valid[None], along, 0.0)
    length, contrast, tied = plane_sums(jnp.concatenate([along, along], 1), ends, count.size)
    return _Level(
        segments.size,
        colour.T,
        jnp.maximum(texture, 0.0).T,
        jnp.clip(contrast / jnp.maximum(length, 1.0), 0.0, 1.0),
        tied / jnp.maximum(segments.inside, 1.0),
    )


def _nan_unless(whole: Bool[Array, ""], level: _Level) -> _Level:
    """What describes the segments, or NaN; sizes stay."""
    described = jax.tree.map(lambda values: jnp.where(whole, values, jnp.nan), level)
    return dataclasses.replace(described, size=level.size)


def _assemble(
    label: Int32[Array, "H W"],
    levels: list[_Level],
    parents: list[Int32[Array, " _"]],
    dropped: Int32[Array, ""],
) -> Hierarchy:
    """Puts the levels one behind the other."""
    sizes = tuple(level.size.size for level in levels)
    starts = [rows.start for rows in level_slices(sizes)]
    parents = [p + start for p, start in zip(parents, starts[1:], strict=True)]
    parents.append(starts[-1] + jnp.arange(sizes[-1], dtype=jnp.int32))
    number = jnp.concatenate([jnp.full(n, i, jnp.int32) for i, n in enumerate(sizes)])
    joined = jax.tree.map(lambda *parts: jnp.concatenate(parts), *levels)
    return Hierarchy(
        leaf=label,
        parent=jnp.concatenate(parents),
        level=number,
        valid=joined.size > 0,
        size=joined.size,
        mean_colour=joined.mean_colour,
        texture=joined.texture,
        boundary=joined.boundary,
        saliency=joined.saliency,
        dropped=dropped,
        level_sizes=sizes,
    )
