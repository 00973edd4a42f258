"""Weighted aggregation, second half: statistics and couplings of the next level.

Let P be the weights from `interpolate`. Sums s over segments become P' s, and couplings W become
P' W P (Galerkin coarsening). Couplings are then lowered according to the differences in colour and
texture of the new segments.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

from segjax.figure_ground.bottom_up_graph import Borders, Segments
from segjax.figure_ground.bottom_up_order import distinct, pair_words, pairs_of_words, smallest
from segjax.figure_ground.bottom_up_pixels import distance, opponent, plane_sums
from segjax.figure_ground.bottom_up_seeds import (
    Aggregation,
    Interpolation,
    Links,
    choose_seeds,
    interpolate,
    ranks,
)
from segjax.types import struct

# Minimum coupling per length of border: segments that touch stay coupled, however different.
_LEAST_COUPLING = 1e-9


@struct
class Aggregated:
    """The next level, in arrays of the same length as the current one.

    Attributes:
      segments: segments of the next level, each the weighted sum of its parts.
      links: links between the new segments.
      parent: new segments that each old one belongs to, the largest share first.
      weight: fraction of the old segment that belongs to each parent; these add up to 1.
      lost: number of segments not coupled to any seed, plus links that do not fit.
    """

    segments: Segments
    links: Links
    parent: Int32[Array, "s n"]
    weight: Float32[Array, "s n"]
    lost: Int32[Array, ""]


def aggregate(
    segments: Segments, links: Links, seats: Int32[Array, ""], config: Aggregation, most: int
) -> Aggregated:
    """Performs one step of weighted aggregation.

    Args:
      segments: segments of this level.
      links: links between the segments.
      seats: maximum number of segments of the next level.
      config: settings of weighted aggregation.
      most: upper limit on `seats`, static.
    """
    valid = segments.size > 0
    seed = _seeds(jax.lax.stop_gradient(segments), jax.lax.stop_gradient(links), seats, config)
    hangs = interpolate(links, seed, valid, config.parts)
    parent = (jnp.cumsum(seed, dtype=jnp.int32) - 1)[hangs.parent]
    above, between = product(segments, links, dataclasses.replace(hangs, parent=parent), most)
    between, lost = strongest(modulated(above, between, config), links.low.size, valid.size)
    return Aggregated(above, between, parent, hangs.weight, hangs.adrift + lost)


def _seeds(
    segments: Segments, links: Links, seats: Int32[Array, ""], config: Aggregation
) -> Bool[Array, " n"]:
    """Chooses seeds: segments with little coupling to other seeds, relative to all or inside."""
    size = segments.size
    needed = jnp.maximum(config.seed * links.total(size.size), config.alone * segments.inside)
    return choose_seeds(ranks(size), links, size > 0, seats, needed)


def first_links(borders: Borders, config: Aggregation) -> Links:
    """Couples the finest segments by the lengths of their borders, damped by contrast.

    Args:
      borders: borders between the finest segments.
      config: settings of weighted aggregation.
    """
    coupling = borders.length * jnp.exp(-borders.mean_contrast / config.contrast)
    return _never_none(Links(borders.low, borders.high, coupling, borders.length, borders.contrast))


def product(
    segments: Segments, links: Links, hangs: Interpolation, most: int
) -> tuple[Segments, Links]:
    """Computes P' s for the sums of segments and P' W P for the links.

    Couplings between two parts of one new segment are added to its `inside`. The new links are
    those between different segments.

    Args:
      segments: segments of the old level.
      links: links between the old segments.
      hangs: interpolation weights, with the new numbers of the parents.
      most: upper limit on the number of new segments.

    Returns:
      The new segments, and their links in arrays of s * s times the old length.
    """
    one, other = hangs.parent[:, None, links.low], hangs.parent[None, :, links.high]
    factor = hangs.weight[:, None, links.low] * hangs.weight[None, :, links.high]
    factor = jnp.where(links.valid[None, None], factor, 0.0)
    one, other = jnp.broadcast_arrays(one, other)
    apart = (factor > 0) & (one != other)
    words = pair_words(one, other, apart, most).reshape(-1)
    ordered = distinct(words)
    place = jnp.where(apart.reshape(-1), jnp.searchsorted(ordered, words), words.size)
    planes = jnp.stack([links.coupling, links.length, links.contrast])
    planes = planes[:, None, None] * factor[None]
    sums = plane_sums(planes.reshape(3, -1), place.astype(jnp.int32), words.size)
    inside = plane_sums(jnp.where(apart, 0.0, planes[0])[None], one, segments.size.size)[0]
    low, high = pairs_of_words(ordered, most)
    above = _sums(segments, hangs)
    return dataclasses.replace(above, inside=above.inside + inside), Links(low, high, *sums)


def _sums(segments: Segments, hangs: Interpolation) -> Segments:
    """Sums the weighted parts of the old segments over the new ones."""
    leaves, structure = jax.tree.flatten(segments)
    rows = [leaf.reshape(-1, leaf.shape[-1]) for leaf in leaves]
    planes = jnp.concatenate(rows)[:, None] * hangs.weight[None]
    sums = plane_sums(planes, hangs.parent, hangs.seed.size)
    ends = [sum(len(row) for row in rows[: i + 1]) for i in range(len(rows) - 1)]
    parts = jnp.split(sums, ends)
    return jax.tree.unflatten(
        structure, [p.reshape(leaf.shape) for p, leaf in zip(parts, leaves, strict=True)]
    )


def modulated(segments: Segments, links: Links, config: Aggregation) -> Links:
    """Lowers couplings by the differences of the segments' mean colours and responses.

    Args:
      segments: segments of the level.
      links: links between the segments.
      config: settings with the scales of both differences.
    """
    # Not at least 1 pixel, as elsewhere: sizes are sums of weighted parts and may be smaller.
    count = jnp.maximum(segments.size, 1e-6)[None]
    feature, response = opponent(segments.colour / count), segments.response / count
    apart = sum(
        distance(means[:, links.low] - means[:, links.high]) / scale
        for means, scale in ((feature, config.colour), (response, config.texture))
    )
    return _never_none(dataclasses.replace(links, coupling=links.coupling * jnp.exp(-apart)))


def _never_none(links: Links) -> Links:
    """Enforces a minimum coupling, so that the graph stays connected."""
    least = _LEAST_COUPLING * links.length
    return dataclasses.replace(links, coupling=jnp.maximum(links.coupling, least))


def strongest(links: Links, room: int, number: int) -> tuple[Links, Int32[Array, ""]]:
    """Keeps the strongest links, relative to the total coupling of their weaker ends.

    Args:
      links: links of one level.
      room: number of links to keep.
      number: number of segments.

    Returns:
      Links in arrays of length `room`, and the number of links that do not fit.
    """
    total = links.total(number)
    weaker = jnp.maximum(jnp.minimum(total[links.low], total[links.high]), 1e-30)
    share = jax.lax.stop_gradient(jnp.where(links.valid, links.coupling / weaker, 0.0))
    count = links.valid.sum(dtype=jnp.int32)
    limit = smallest(share, links.valid, count - room + 1)
    kept = links.valid & ((count <= room) | (share >= limit))
    return _packed(links, kept, room), jnp.maximum(count - room, 0)


def _packed(links: Links, kept: Bool[Array, " e"], room: int) -> Links:
    """Removes the gaps between kept links, preserving their order."""
    place = jnp.where(kept, jnp.cumsum(kept, dtype=jnp.int32) - 1, room)
    return jax.tree.map(
        lambda values: jnp.zeros(room, values.dtype).at[place].set(values, mode="drop"), links
    )
