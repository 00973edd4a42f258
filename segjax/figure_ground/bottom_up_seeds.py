"""Weighted aggregation, first half: seeds of the next level, and what hangs on them how much.

After Sharon, Galun, Sharon, Basri & Brandt, "Hierarchy and adaptivity in segmenting visual
scenes" (Nature 2006), as in algebraic multigrid. Segments are looked at in the order of their
sizes; one becomes a seed unless a good part of its coupling is to seeds already. Every other
segment is interpolated between the seeds around it, in proportion to its couplings. Added to the
paper: a segment whose coupling to its surroundings is small compared with that inside stays a seed.
Otherwise salient segments would join others on the next level.
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
      seed: a segment is not a seed if this part of its coupling, or more, is to seeds.
      alone: coupling to seeds, as a part of that inside, below which a segment stays a seed all
        the same: nothing ties it to its surroundings. 0 as in the paper.
      parts: seeds that a segment is interpolated between, at the most.
      contrast: mean contrast along a border at which the coupling has fallen to 1/e.
      colour: distance of mean colours at which a level's coupling has fallen to 1/e once more.
      texture: the same, of mean responses of the filters.
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
    """Pairs of coupled segments of one level, each pair once, by `low`, then by `high`.

    Attributes:
      low: the segment of lower number.
      high: the segment of higher number.
      coupling: how much the two belong together.
      length: length of the common border, in pairs of adjacent pixels. Where segments overlap
        it is interpolated. 0 for rows that only fill the shape.
      contrast: summed along that border.
    """

    low: Int32[Array, " e"]
    high: Int32[Array, " e"]
    coupling: Float32[Array, " e"]
    length: Float32[Array, " e"]
    contrast: Float32[Array, " e"]

    @property
    def valid(self) -> Bool[Array, " e"]:
        """False for rows that only fill the shape."""
        return self.length > 0

    @property
    def directed(self) -> tuple[Int32[Array, " _"], Int32[Array, " _"], Float32[Array, " _"]]:
        """Every pair both ways: one segment, the other, their coupling; 0 for invalid rows."""
        coupling = jnp.where(self.valid, self.coupling, 0.0)
        return (
            jnp.concatenate([self.low, self.high]),
            jnp.concatenate([self.high, self.low]),
            jnp.concatenate([coupling, coupling]),
        )

    def total(self, number: int) -> Float32[Array, " {number}"]:
        """The coupling of every segment to all others.

        Args:
          number: number of segments.
        """
        one, _, coupling = self.directed
        return jax.ops.segment_sum(coupling, one, number)


@struct
class Interpolation:
    """Weights that tie the segments of a level to its seeds.

    Attributes:
      seed: whether a segment is one.
      parent: seeds that every segment hangs on, by their segment's number, the strongest first.
      weight: parts of the segment that belong to these; they add up to 1, and are 0 beyond the
        seeds that there are. Rows that only fill the shape are all 0.
      adrift: segments that nothing ties to any seed; they hang on the last one.
    """

    seed: Bool[Array, " n"]
    parent: Int32[Array, "s n"]
    weight: Float32[Array, "s n"]
    adrift: Int32[Array, ""]


def ranks(size: Float32[Array, " n"]) -> Int32[Array, " n"]:
    """The place of every segment in the order in which they may become seeds, from 0.

    By size; sizes that differ by less than a thousandth are ordered as by chance, always the same:
    in the order of places in the image each would have to wait for the one before it.

    Args:
      size: size of every segment.
    """
    index = jnp.arange(size.size, dtype=jnp.uint32)
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
    """Chooses the segments that become seeds, exactly as a sweep through all of them, one by one.

    Segments are decided together once those of their neighbours that come before them are, so
    that a few rounds take the place of the sweep.

    Args:
      rank: place of every segment in the sweep.
      links: between the segments.
      valid: which segments there are.
      seats: seeds at the most, at least 1; the sweep ends there.
      needed: coupling to seeds that makes a segment none.
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
    in_order = jnp.zeros(number, bool).at[rank].set(seed)
    return (in_order & (jnp.cumsum(in_order, dtype=jnp.int32) <= seats))[rank]


def interpolate(
    links: Links, seed: Bool[Array, " n"], valid: Bool[Array, " n"], parts: int
) -> Interpolation:
    """The weights `w_ik / sum of w_ik over seeds k`, of the seeds that each is coupled to most.

    A segment without a seed next to it, as there are where seats were short, takes over the
    weights of the neighbour that it is coupled to most, of those that have weights.

    Args:
      links: between the segments.
      seed: which segments are seeds.
      valid: which segments there are.
      parts: seeds for a segment, at the most.
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
    """The seeds around each segment, and their weights, 0 where there are none; of seeds, 1."""
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
    """The first of the largest values above 0 of every segment; beyond the last without any."""
    values = jax.lax.stop_gradient(values)
    best = jnp.zeros(number).at[one].max(values)
    index = jnp.arange(one.size, dtype=jnp.int32)
    candidates = jnp.where((values > 0) & (values == best[one]), index, one.size)
    return jnp.full(number, one.size, jnp.int32).at[one].min(candidates)


def _nearest_with_weights(
    links: Links, has_weights: Bool[Array, " n"]
) -> tuple[Int32[Array, " n"], Bool[Array, " n"]]:
    """Whose weights each segment takes over, its own if it has any; and whether it found any."""
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
