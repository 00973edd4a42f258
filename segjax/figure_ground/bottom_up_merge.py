"""Plain coarsening step of `bottom_up`: removes the cheapest borders between segments.

Every segment chooses its most similar neighbour. The cheapest of the chosen borders are removed,
as many as needed to reduce the next level to its capacity, and the segments that this connects
become one (Borůvka's algorithm, cut short). Homogeneous regions therefore coarsen quickly, and
salient segments stay as they are, as in an adaptive pyramid. Statistics of the new segments are
computed from their parts before costs are computed again.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

from segjax.figure_ground.bottom_up_graph import Borders, Segments
from segjax.figure_ground.bottom_up_order import (
    MAX_SEGMENTS,
    distinct,
    pair_words,
    pairs_of_words,
    smallest,
)
from segjax.figure_ground.bottom_up_pixels import distance, opponent, plane_sums
from segjax.types import struct


@dataclasses.dataclass(frozen=True)
class MergeCost:
    """Cost of joining two neighbouring segments.

    Attributes:
      border: weight of the mean contrast along their border.
      colour: weight of the distance between their mean features.
      texture: weight of the distance between their mean filter responses.
      balance: exponent of the smaller size; 0 ignores sizes, 0.5 is Ward's method.
      enclosure: exponent of the shared fraction of the shorter outline, which divides the cost.
        Segments with a long common border join first, which keeps outlines simple.
      affinity: contrast at which the affinity, used for saliency, falls to 1/e.
    """

    border: float = 1.0
    colour: float = 1.0
    texture: float = 2.0
    balance: float = 0.15
    enclosure: float = 0.25
    affinity: float = 0.1

    def __post_init__(self) -> None:
        # Negative weights are invalid because `smallest` orders costs by their bit patterns.
        weights = (self.border, self.colour, self.texture)
        if not (all(weight >= 0 for weight in weights) and self.affinity > 0):
            raise ValueError(
                f"border is {self.border}, colour {self.colour}, texture {self.texture}, affinity "
                f"{self.affinity}: wanted weights of 0 or more and an affinity above 0"
            )


@struct
class Coarsened:
    """The next level, in arrays of the same length as the current one.

    Attributes:
      segments: segments of the next level.
      borders: borders between the new segments.
      parent: new number of every old segment.
      dropped: number of segments over the capacity, which join the last one.
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
    """Joins segments until the rest fit into the next level.

    Args:
      segments: segments of this level.
      borders: borders between the segments.
      capacity: capacity of the next level, at least half the segments of this one.
      cost: costs that determine which segments join first.
      most: upper limit on `capacity`, static.
    """
    valid = segments.size > 0
    # The choice of segments to join is not differentiable.
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
    """Computes the cost of joining the segments at every border; infinite for invalid rows."""
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
    # The offset lets size and outline decide among segments that are exactly alike.
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
    """Chooses the segments to join.

    Args:
      costs: non-negative cost of every border; equal costs are ordered by position.
      borders: borders between the segments.
      valid: False for padding rows.
      capacity: number of segments to keep; fewer remain if costs are equal.

    Returns:
      For each segment, the number of one representative part of the new segment it belongs to.
    """
    number = valid.size
    pick = _cheapest_border(costs, borders, number)
    index = jnp.arange(costs.size, dtype=jnp.int32)
    picked = ((pick[borders.low] == index) | (pick[borders.high] == index)) & borders.valid
    wanted = jnp.maximum(valid.sum(dtype=jnp.int32) - capacity, 0)
    limit = smallest(costs, picked, wanted)
    accepted = (pick < costs.size) & (costs.at[pick].get(mode="clip") <= limit) & (wanted > 0)
    this = jnp.arange(number, dtype=jnp.int32)
    other = (borders.low + borders.high).at[pick].get(mode="clip") - this
    root = jnp.where(accepted, other, this)
    # Costs decrease along chosen borders, so every chain ends at two segments that chose each
    # other. The one with the lower number becomes the root.
    root = jnp.where((root[root] == this) & (this < root), this, root)
    # Pointer jumping: every round doubles the distance, so log2 of the longest chain suffices.
    jumps = max(number - 1, 1).bit_length()
    return jax.lax.fori_loop(0, jumps, lambda _, r: r[r], root)


def _cheapest_border(
    costs: Float32[Array, " e"], borders: Borders, number: int
) -> Int32[Array, " n"]:
    """Index of each segment's first cheapest border; `costs.size` for segments without borders."""
    ends = jnp.concatenate([borders.low, borders.high])
    both = jnp.concatenate([costs, costs])
    best = jnp.full(number, jnp.inf).at[ends].min(both)
    index = jnp.arange(costs.size, dtype=jnp.int32)
    cheapest = jnp.isfinite(both) & (both == best[ends])
    candidates = jnp.where(cheapest, jnp.concatenate([index, index]), costs.size)
    return jnp.full(number, costs.size, jnp.int32).at[ends].min(candidates)


def _join_segments(
    segments: Segments, borders: Borders, parent: Int32[Array, " n"], cost: MergeCost
) -> Segments:
    """Sums over the parts; affinities along removed borders are added to `inside`."""
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
    """Affinity of the segments at each border: its length, damped by the mean contrast."""
    return borders.length * jnp.exp(-borders.mean_contrast / cost.affinity)


def _join_borders(borders: Borders, parent: Int32[Array, " n"], most: int) -> Borders:
    """Computes the borders between the new segments; borders of the same pair are summed."""
    one, other = parent[borders.low], parent[borders.high]
    stays = borders.valid & (one != other)
    words = pair_words(one, other, stays, most)
    ordered = distinct(words)
    # Searching in the sorted pairs is six times faster than sorting positions with them.
    place = jnp.searchsorted(ordered, words).astype(jnp.int32)
    place = jnp.where(stays, place, words.size)
    sums = plane_sums(jnp.stack([borders.length, borders.contrast]), place, words.size)
    low, high = pairs_of_words(ordered, most)
    return Borders(low, high, sums[0], sums[1])
