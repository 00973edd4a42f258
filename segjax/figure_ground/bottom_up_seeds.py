"""Weighted aggregation, first half: seeds of the next level, and interpolation weights.

Follows Sharon, Galun, Sharon, Basri & Brandt, "Hierarchy and adaptivity in segmenting visual
scenes" (Nature 2006), as in algebraic multigrid. Segments are visited in the order of their
sizes. A segment becomes a seed unless a large part of its coupling is to existing seeds. Every
other segment is interpolated between the seeds around it, in proportion to its couplings.

Unlike in the paper, a segment also stays a seed if its coupling to its surroundings is small
compared with that inside. Otherwise salient segments would join others on the next level.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

from segjax.types import struct


@dataclasses.dataclass(frozen=True)
class Aggregation:
    """Settings of weighted aggregation.

    Attributes:
      seed: fraction of a segment's coupling that must be to seeds for it not to become a seed.
      alone: coupling to seeds, relative to that inside, below which an isolated segment always
        stays a seed; 0 as in the paper.
      parts: maximum number of seeds that a segment is interpolated between.
      contrast: mean contrast along a border at which the coupling falls to 1/e.
      colour: distance of mean colours at which each level lowers a coupling to 1/e.
      texture: distance of mean filter responses at which each level lowers a coupling to 1/e.
    """

    seed: float = 0.3
    alone: float = 1e-5
    parts: int = 3
    contrast: float = 0.1
    colour: float = 0.1
    texture: float = 0.05

    def __post_init__(self) -> None:
        if not (0 < self.seed <= 1 and self.alone >= 0 and self.parts >= 1):
            raise ValueError(
                f"seed is {self.seed}, alone {self.alone}, parts {self.parts}: wanted a part of "
                "the coupling above 0 and up to 1, one of 0 or more, and at least 1"
            )
        if not all(scale > 0 for scale in (self.contrast, self.colour, self.texture)):
            raise ValueError(
                f"contrast is {self.contrast}, colour {self.colour}, texture {self.texture}: "
                "wanted scales above 0; infinity switches one off"
            )


@struct
class Links:
    """Pairs of coupled segments of one level, each once, ordered by `low`, then by `high`.

    Attributes:
      low: index of the segment with the lower number.
      high: index of the segment with the higher number.
      coupling: strength of the coupling between the two.
      length: length of the common border, in pairs of adjacent pixels; interpolated where
        segments overlap, 0 for padding rows.
      contrast: sum of the contrast along that border.
    """

    low: Int32[Array, " e"]
    high: Int32[Array, " e"]
    coupling: Float32[Array, " e"]
    length: Float32[Array, " e"]
    contrast: Float32[Array, " e"]

    @property
    def valid(self) -> Bool[Array, " e"]:
        """False for padding rows."""
        return self.length > 0

    @property
    def directed(self) -> tuple[Int32[Array, " _"], Int32[Array, " _"], Float32[Array, " _"]]:
        """Every pair in both directions: one end, the other end, and the coupling, 0 if invalid."""
        coupling = jnp.where(self.valid, self.coupling, 0.0)
        return (
            jnp.concatenate([self.low, self.high]),
            jnp.concatenate([self.high, self.low]),
            jnp.concatenate([coupling, coupling]),
        )

    def total(self, number: int) -> Float32[Array, " {number}"]:
        """Sums the couplings of every segment to all others.

        Args:
          number: number of segments.
        """
        one, _, coupling = self.directed
        return jax.ops.segment_sum(coupling, one, number)


@struct
class Interpolation:
    """Weights that tie the segments of a level to its seeds.

    Attributes:
      seed: True for segments that are seeds.
      parent: segment numbers of the seeds of every segment, the strongest first.
      weight: fraction of the segment that belongs to each of these. Weights add up to 1; unused
        entries are 0, and padding rows are all 0.
      adrift: number of segments not coupled to any seed; the last seed becomes their parent.
    """

    seed: Bool[Array, " n"]
    parent: Int32[Array, "s n"]
    weight: Float32[Array, "s n"]
    adrift: Int32[Array, ""]


def ranks(size: Float32[Array, " n"]) -> Int32[Array, " n"]:
    """Ranks segments, from 0, in the order in which they may become seeds.

    The largest segments come first. Sizes that differ by less than a thousandth are in a
    pseudo-random, reproducible order. In the order of their positions in the image, every
    segment would have to wait for the one before it.

    Args:
      size: size of every segment.
    """
    index = jnp.arange(size.size, dtype=jnp.uint32)
    # Fibonacci hashing: multiplication by 2^32 divided by the golden ratio scatters the indices.
    chance = (index * jnp.uint32(2654435769) >> 8).astype(jnp.float32) / 2**24
    order = jnp.argsort(-size * (1 + 1e-3 * chance))
    return jnp.zeros(size.size, jnp.int32).at[order].set(index.astype(jnp.int32))


def choose_seeds(
    rank: Int32[Array, " n"],
    links: Links,
    valid: Bool[Array, " n"],
    seats: Int32[Array, ""],
    needed: Float32[Array, " n"],
) -> Bool[Array, " n"]:
    """Chooses the seeds, exactly as a sequential sweep through all segments does.

    A segment is decided as soon as all of its neighbours with lower ranks are. Segments are
    decided in parallel, so that a few rounds replace the sweep.

    Args:
      rank: position of every segment in the sweep.
      links: links between the segments.
      valid: False for padding rows.
      seats: maximum number of seeds, at least 1; the sweep stops there.
      needed: coupling to seeds from which on a segment does not become a seed.
    """
    number = rank.size
    low_first = rank[links.low] < rank[links.high]
    before = jnp.where(low_first, links.low, links.high)
    after = jnp.where(low_first, links.high, links.low)

    def settle(state: tuple[Array, Array]) -> tuple[Array, Array]:
        seed, decided = state
        coupling = jnp.where(links.valid & seed[before], links.coupling, 0.0)
        to_seeds = jax.ops.segment_sum(coupling, after, number)
        unknown = (links.valid & ~decided[before]).astype(jnp.float32)
        waits = jax.ops.segment_sum(unknown, after, number) > 0
        hangs = (to_seeds > 0) & (to_seeds >= needed)
        return seed | ~(decided | hangs | waits), decided | hangs | ~waits

    start = (jnp.zeros(number, bool), ~valid)
    seed, _ = jax.lax.while_loop(lambda state: ~state[1].all(), settle, start)
    # Keep the first `seats` seeds of the sweep, and restore the order of segments.
    in_order = jnp.zeros(number, bool).at[rank].set(seed)
    return (in_order & (jnp.cumsum(in_order, dtype=jnp.int32) <= seats))[rank]


def interpolate(
    links: Links, seed: Bool[Array, " n"], valid: Bool[Array, " n"], parts: int
) -> Interpolation:
    """Computes the weights `w_ik / sum of w_ik over seeds k`, for the strongest seeds of each.

    If seats were short, some segments have no seed next to them. They take the weights of the
    neighbour with the strongest coupling among those that have weights.

    Args:
      links: links between the segments.
      seed: True for segments that are seeds.
      valid: False for padding rows.
      parts: maximum number of seeds per segment.
    """
    parent, weight = _strongest_seeds(links, seed, parts)
    source, reached = _nearest_with_weights(links, (weight[0] > 0) | ~valid)
    adrift = valid & ~reached
    last = jnp.where(seed, jnp.arange(seed.size, dtype=jnp.int32), 0).max()
    parent = jnp.where(adrift[None], last, parent[:, source])
    whole = jnp.zeros_like(weight).at[0].set(1.0)
    weight = jnp.where(adrift[None], whole, weight[:, source]) * valid[None]
    return Interpolation(seed, parent, weight, adrift.sum(dtype=jnp.int32))


def _strongest_seeds(
    links: Links, seed: Bool[Array, " n"], parts: int
) -> tuple[Int32[Array, "{parts} n"], Float32[Array, "{parts} n"]]:
    """Finds the strongest seeds around each segment and their weights; seeds get themselves, 1."""
    one, other, coupling = links.directed
    coupling = jnp.where(seed[other], coupling, 0.0)
    parent, weight = [], []
    for _ in range(parts):
        pick = _strongest(one, coupling, seed.size)
        parent.append(other.at[pick].get(mode="fill", fill_value=0))
        weight.append(coupling.at[pick].get(mode="fill", fill_value=0.0))
        coupling = coupling.at[pick].set(0.0, mode="drop")
    weights = jnp.stack(weight)
    total = weights.sum(0, keepdims=True)
    weights = weights / jnp.where(total > 0, total, 1.0)
    whole = jnp.zeros_like(weights).at[0].set(1.0)
    this = jnp.arange(seed.size, dtype=jnp.int32)
    parents = jnp.stack(parent).at[0].set(jnp.where(seed, this, parent[0]))
    return parents, jnp.where(seed[None], whole, weights)


def _strongest(
    one: Int32[Array, " e"], values: Float32[Array, " e"], number: int
) -> Int32[Array, " {number}"]:
    """Index of each segment's first largest value above 0; `one.size` if there is none."""
    # The choice of the strongest is not differentiable.
    values = jax.lax.stop_gradient(values)
    best = jnp.zeros(number).at[one].max(values)
    index = jnp.arange(one.size, dtype=jnp.int32)
    candidates = jnp.where((values > 0) & (values == best[one]), index, one.size)
    return jnp.full(number, one.size, jnp.int32).at[one].min(candidates)


def _nearest_with_weights(
    links: Links, has_weights: Bool[Array, " n"]
) -> tuple[Int32[Array, " n"], Bool[Array, " n"]]:
    """Finds the segment whose weights each takes: itself, or else a strongly coupled neighbour.

    Returns:
      The number of that segment, and True if there is one.
    """
    number = has_weights.size
    one, other, coupling = jax.lax.stop_gradient(links.directed)

    def spread(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        source, reached, _ = state
        pick = _strongest(one, jnp.where(reached[other], coupling, 0.0), number)
        found = ~reached & (pick < one.size)
        through = source[other.at[pick].get(mode="fill", fill_value=0)]
        return jnp.where(found, through, source), reached | found, found.any()

    start = (jnp.arange(number, dtype=jnp.int32), has_weights, ~has_weights.all())
    source, reached, _ = jax.lax.while_loop(lambda state: state[2], spread, start)
    return source, reached
