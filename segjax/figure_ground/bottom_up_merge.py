"""One coarsening of `bottom_up`: the cheapest borders between segments go.

Every segment chooses the neighbour that it is least different from; of the chosen borders the
cheapest go, as many as bring the next level down to its capacity, and segments that this
connects become one (Borůvka's algorithm, cut short). So homogeneous regions coarsen quickly and
salient segments stay as they are, as in an adaptive pyramid. Statistics of the new segments are
computed from their parts before costs are computed again.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32, UInt32

from segjax.figure_ground.bottom_up_graph import Borders, Segments
from segjax.figure_ground.bottom_up_pixels import distance, opponent, plane_sums
from segjax.types import struct

# Two numbers of segments fill one sortable word.
MAX_SEGMENTS = 2**16 - 1
_NO_PAIR = np.uint32(2**32 - 1)


@dataclasses.dataclass(frozen=True)
class MergeCost:
    """How different two neighbouring segments are.

    Attributes:
      border: weight of the mean contrast along their border.
      colour: weight of the distance between their mean features.
      texture: weight of the distance between their mean filter responses.
      balance: exponent of the smaller size: 0 ignores sizes, 0.5 is as in Ward's method.
      enclosure: exponent of the shared part of the shorter outline, by which costs are divided:
        segments with a long common border join first, which keeps outlines simple.
      affinity: contrast at which affinity has fallen to 1/e, for the saliency.
    """

    border: float = 1.0
    colour: float = 1.0
    texture: float = 2.0
    balance: float = 0.15
    enclosure: float = 0.25
    affinity: float = 0.1

    def __post_init__(self) -> None:
        # Costs are ordered by their bits, which is wrong for negative ones.
        if min(self.border, self.colour, self.texture) < 0 or self.affinity <= 0:
            raise ValueError(
                f"border is {self.border}, colour {self.colour}, texture {self.texture}, affinity "
                f"{self.affinity}: wanted weights of 0 or more and an affinity above 0"
            )


@struct
class Coarsened:
    """The next level, in arrays of the same length.

    Attributes:
      segments: of the next level.
      borders: between those.
      parent: the new number of every old segment.
      dropped: segments beyond the capacity, which joined the last one.
    """

    segments: Segments
    borders: Borders
    parent: Int32[Array, " n"]
    dropped: Int32[Array, ""]


def coarsen(
    segments: Segments,
    borders: Borders,
    capacity: Int32[Array, ""],
    cost: MergeCost,
    most: int = MAX_SEGMENTS,
) -> Coarsened:
    """Joins segments until the next level holds them.

    Args:
      segments: of this level.
      borders: between them.
      capacity: segments of the next level, at least half of this level's.
      cost: what joins first.
      most: a bound on `capacity` that is known when the program is compiled.
    """
    valid = segments.size > 0
    # Which segments join is not differentiable.
    costs = jax.lax.stop_gradient(merge_costs(segments, borders, cost))
    root = choose(costs, borders, valid, capacity)
    is_root = (root == jnp.arange(root.size, dtype=jnp.int32)) & valid
    number = jnp.cumsum(is_root, dtype=jnp.int32) - 1
    parent = jnp.clip(number[root], 0, capacity - 1)
    return Coarsened(
        _join_segments(segments, borders, parent, cost),
        _join_borders(borders, parent, most),
        parent,
        jnp.maximum(is_root.sum(dtype=jnp.int32) - capacity, 0),
    )


def merge_costs(segments: Segments, borders: Borders, cost: MergeCost) -> Float32[Array, " e"]:
    """The cost of joining the segments at every border; infinite for invalid rows."""
    count = jnp.maximum(segments.size, 1.0)
    feature = opponent(segments.colour / count[None])
    response = segments.response / count[None]
    low, high = borders.low, borders.high

    difference = (
        cost.border * borders.mean_contrast
        + cost.colour * distance(feature[:, low] - feature[:, high])
        + cost.texture * distance(response[:, low] - response[:, high])
    )
    ends, length = jnp.concatenate([low, high]), jnp.concatenate([borders.length] * 2)
    outline = plane_sums(length[None], ends, count.size)[0]
    shared = borders.length / jnp.maximum(jnp.minimum(outline[low], outline[high]), 1.0)
    size = jnp.minimum(count[low], count[high])
    # Not 0 for equal segments either: then too, size and outline tell what joins first.
    cost_of_each = (difference + 1e-4) * size**cost.balance
    return jnp.where(
        borders.valid, cost_of_each / jnp.maximum(shared, 1e-3) ** cost.enclosure, jnp.inf
    )


def choose(
    costs: Float32[Array, " e"],
    borders: Borders,
    valid: Bool[Array, " n"],
    capacity: Int32[Array, ""],
) -> Int32[Array, " n"]:
    """Which segments join, as the number of one of each new segment's parts.

    Args:
      costs: of every border, not negative; equal ones by position.
      borders: between the segments.
      valid: which segments there are.
      capacity: how many are to remain, or fewer where costs are equal.
    """
    number = valid.size
    pick = _cheapest_border(costs, borders, number)
    index = jnp.arange(costs.size, dtype=jnp.int32)
    picked = ((pick[borders.low] == index) | (pick[borders.high] == index)) & borders.valid
    wanted = jnp.maximum(valid.sum(dtype=jnp.int32) - capacity, 0)
    limit = _smallest(costs, picked, wanted)
    accepted = (pick < costs.size) & (costs.at[pick].get(mode="clip") <= limit) & (wanted > 0)
    this = jnp.arange(number, dtype=jnp.int32)
    other = (borders.low + borders.high).at[pick].get(mode="clip") - this
    root = jnp.where(accepted, other, this)
    # Costs fall along chosen borders, so every chain ends at two segments that chose each other.
    root = jnp.where((root[root] == this) & (this < root), this, root)
    jumps = max(number - 1, 1).bit_length()
    return jax.lax.fori_loop(0, jumps, lambda _, r: r[r], root)


def _cheapest_border(
    costs: Float32[Array, " e"], borders: Borders, number: int
) -> Int32[Array, " n"]:
    """The first of the cheapest borders of every segment; beyond the last without any."""
    ends = jnp.concatenate([borders.low, borders.high])
    both = jnp.concatenate([costs, costs])
    best = jnp.full(number, jnp.inf).at[ends].min(both)
    index = jnp.arange(costs.size, dtype=jnp.int32)
    cheapest = jnp.isfinite(both) & (both == best[ends])
    candidates = jnp.where(cheapest, jnp.concatenate([index, index]), costs.size)
    return jnp.full(number, costs.size, jnp.int32).at[ends].min(candidates)


def _smallest(
    values: Float32[Array, " e"], among: Bool[Array, " e"], k: Int32[Array, ""]
) -> Float32[Array, ""]:
    """The k-th smallest (from 1) of some values that are not negative; their largest if fewer.

    By bisection of the bits, which are in the order of the values: sorting takes longer.
    """
    bits = jnp.where(among, jax.lax.bitcast_convert_type(values, jnp.int32), 2**31 - 1)

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        enough = (bits <= middle).sum(dtype=jnp.int32) >= k
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    largest = jnp.where(among, bits, 0).max(initial=0)
    _, limit = jax.lax.fori_loop(0, 31, halve, (jnp.zeros_like(largest), largest))
    return jax.lax.bitcast_convert_type(limit, jnp.float32)


def _join_segments(
    segments: Segments, borders: Borders, parent: Int32[Array, " n"], cost: MergeCost
) -> Segments:
    """Sums over the parts; affinities along borders that went are inside now."""
    number = parent.size
    target = jnp.where(segments.size > 0, parent, number)
    parts = (
        segments.size[None],
        segments.colour,
        segments.square[None],
        segments.response,
        segments.response_square,
        segments.inside[None],
    )
    sums = plane_sums(jnp.concatenate(parts), target, number)
    gone = borders.valid & (parent[borders.low] == parent[borders.high])
    place = jnp.where(gone, parent[borders.low], number)
    inside = plane_sums(affinity(borders, cost)[None], place, number)[0]
    return Segments(sums[0], sums[1:4], sums[4], sums[5:9], sums[9:13], sums[13] + inside)


def affinity(borders: Borders, cost: MergeCost) -> Float32[Array, " e"]:
    """What ties the segments at every border together: its length where there is no contrast."""
    return borders.length * jnp.exp(-borders.mean_contrast / cost.affinity)


def _join_borders(borders: Borders, parent: Int32[Array, " n"], most: int) -> Borders:
    """Borders between the new segments, those between equal ones added."""
    one, other = parent[borders.low], parent[borders.high]
    low, high = jnp.minimum(one, other), jnp.maximum(one, other)
    stays = borders.valid & (low != high)
    pair = jnp.where(stays, low.astype(jnp.uint32) * most + high.astype(jnp.uint32), _NO_PAIR)
    pairs = _distinct(pair)
    # A search in the sorted pairs: sorting positions along with the pairs takes six times as long.
    place = jnp.searchsorted(pairs, pair).astype(jnp.int32)
    place = jnp.where(stays, place, pair.size)
    sums = plane_sums(jnp.stack([borders.length, borders.contrast]), place, pair.size)
    there = pairs != _NO_PAIR
    new_low, new_high = (
        jnp.where(there, part, 0).astype(jnp.int32) for part in (pairs // most, pairs % most)
    )
    return Borders(new_low, new_high, sums[0], sums[1])


def _distinct(pair: UInt32[Array, " e"]) -> UInt32[Array, " e"]:
    """The different pairs in ascending order, filled up with the largest word."""
    ordered = jnp.sort(pair)
    first = jnp.concatenate([jnp.ones(1, bool), ordered[1:] != ordered[:-1]])
    place = jnp.where(first, jnp.cumsum(first, dtype=jnp.int32) - 1, pair.size)
    return jnp.full_like(pair, _NO_PAIR).at[place].set(ordered, mode="drop")
