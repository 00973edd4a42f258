"""Bottom-up and top-down segmentation combined: exact inference over a segmentation hierarchy.

Borenstein, Sharon & Ullman, "Combining top-down and bottom-up segmentation" (CVPR workshop 2004):
every segment is figure or ground; it pays for disagreeing with the top-down map, and for
disagreeing with its parent. The cost's terms follow a tree, so one pass up and one pass down give
its minimum (min-sum) or every segment's probability (sum-product). With two labels a message is
one number: by how much the part below prefers figure.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32

from segjax.figure_ground.hierarchy import Hierarchy, level_slices, sum_children
from segjax.types import struct


@dataclasses.dataclass(frozen=True)
class CombineConfig:
    """Weights of the cost.

    Attributes:
      coupling: cost, for each of its pixels, of a segment that disagrees with its parent, where
        nothing separates it from its surroundings. Disagreeing with a fully confident map costs
        1 a pixel.
      salience: saliency (as `Hierarchy.saliency`: low is salient) at which half of the coupling
        is left.
      salient_parts: weight of the agreement of larger segments with the map, for fully salient
        ones; 0 compares only the finest segments with it.
      temperature: cost that makes a label e times less probable, as a part of the mean size of
        the finest segments; for the probabilities alone.
    """

    coupling: float = 0.5
    salience: float = 0.1
    salient_parts: float = 0.25
    temperature: float = 0.25

    def __post_init__(self) -> None:
        weights, scales = (self.coupling, self.salient_parts), (self.salience, self.temperature)
        if not (all(w >= 0 for w in weights) and all(s > 0 for s in scales)):  # NaN is neither
            raise ValueError(
                f"coupling is {self.coupling}, salient_parts {self.salient_parts}, salience "
                f"{self.salience}, temperature {self.temperature}: wanted the first two not "
                "negative and the others positive"
            )


@struct
class Combined:
    """Figure and ground of one image; D stands for several top-down maps of it, if any.

    Attributes:
      figure: True for segments that are figure in the cheapest labelling; False for invalid ones.
      probability: probability that each segment is figure.
      map: True where the finest segment of a pixel is figure.
      soft: probability of the pixel's finest segment.
    """

    figure: Bool[Array, "N"]
    probability: Float32[Array, "N"]
    map: Bool[Array, "H W"]
    soft: Float32[Array, "H W"]


def combine(
    hierarchy: Hierarchy,
    evidence: Float[Array, "..."],
    confidence: Float[Array, "..."] | None = None,
    config: CombineConfig = CombineConfig(),
) -> Combined:
    """Labels the segments of a hierarchy as figure or ground; jit, and vmap for batches.

    Args:
      hierarchy: hierarchy of one image.
      evidence: the top-down map: probability of every pixel to be figure, [H, W].
      confidence: weight of the map at every pixel, 0..1, [H, W]; None is 1 everywhere.
      config: weights.

    Returns:
      The cheapest labelling, and probabilities. Where values are NaN the probabilities of all
      that they reach are NaN too, and the labelling there means nothing.

    Raises:
      ValueError: if the maps are not of the image's size.
    """
    for name, values in (("evidence", evidence), ("confidence", confidence)):
        if values is not None and values.shape != hierarchy.leaf.shape:
            raise ValueError(
                f"{name} is {values.shape}, the hierarchy's image {hierarchy.leaf.shape}: wanted "
                "one value for every pixel; use jax.vmap for batches"
            )
    preference = 2 * evidence.astype(jnp.float32) - 1
    if confidence is not None:
        preference = preference * confidence.astype(jnp.float32)
    figure, probability = combine_leaves(hierarchy, hierarchy.leaf_means(preference), config)
    leaf = hierarchy.leaf
    return Combined(figure, probability, figure[leaf], probability[leaf])


def combine_leaves(
    hierarchy: Hierarchy, preference: Float32[Array, "n0 *D"], config: CombineConfig
) -> tuple[Bool[Array, "N *D"], Float32[Array, "N *D"]]:
    """`combine` from the finest segments, for any number of top-down maps at once.

    Args:
      hierarchy: hierarchy of one image.
      preference: confidence times (2 p - 1) of every finest segment, -1..1.
      config: weights.

    Returns:
      Whether each segment is figure, and how probably.
    """
    gain, coupling = terms(hierarchy, preference, config)
    figure = min_sum(hierarchy, gain, coupling) & _beside(hierarchy.valid, gain)
    heat = _heat(hierarchy, config)
    return figure, jax.nn.sigmoid(sum_product(hierarchy, gain / heat, coupling / heat))


def log_odds_at(
    hierarchy: Hierarchy,
    preference: Float32[Array, "n0 D"],
    config: CombineConfig,
    leaf: Int32[Array, "D *S"],
) -> Float32[Array, "D *S"]:
    """Log-odds, of the probabilities of `combine_leaves`, for some finest segments alone.

    Takes half of the time: most segments are on the finest level.

    Args:
      hierarchy: hierarchy of one image.
      preference: as there, of D top-down maps.
      config: weights.
      leaf: the finest segments wanted of each map.
    """
    gain, coupling = terms(hierarchy, preference, config)
    heat = _heat(hierarchy, config)
    gain, coupling = gain / heat, coupling / heat
    belief = _pass_up(hierarchy, gain, coupling, _softened)
    column = jnp.arange(leaf.shape[0], dtype=jnp.int32).reshape(-1, *[1] * (leaf.ndim - 1))
    odds = belief[0][leaf, column]
    if len(belief) == 1:
        return odds
    # Kept in one array with the levels above: else XLA computes these again for each element.
    above = _odds_down_to(1, hierarchy, belief, coupling)
    parent = hierarchy.parent[leaf] - hierarchy.level_sizes[0]
    return _odds_below(above[parent, column], odds, coupling[leaf])


def _heat(hierarchy: Hierarchy, config: CombineConfig) -> Float32[Array, ""]:
    """Cost that makes a label e times less probable, in pixels.

    Neighbouring pixels are not independent evidence: costs count by the finest segment's size.
    """
    number = hierarchy.level_sizes[0]
    pixels = hierarchy.size[:number].sum() / jnp.maximum(hierarchy.valid[:number].sum(), 1)
    return config.temperature * jnp.maximum(pixels, 1.0)


def terms(
    hierarchy: Hierarchy, preference: Float32[Array, "n0 *D"], config: CombineConfig
) -> tuple[Float32[Array, "N *D"], Float32[Array, " N"]]:
    """The cost's terms.

    Args:
      hierarchy: hierarchy of one image.
      preference: preference of each finest segment for figure, -1..1.
      config: weights.

    Returns:
      What each segment gains by being figure rather than ground, in pixels; and what it pays for
      disagreeing with its parent.
    """
    number = hierarchy.level_sizes[0]
    size = _beside(hierarchy.size[:number], preference)
    gain = hierarchy.sums_upwards(preference * size)
    salience = config.salience / (config.salience + hierarchy.saliency)
    weight = jnp.where(hierarchy.level == 0, 1.0, config.salient_parts * salience)
    coupling = config.coupling * (1 - salience) * hierarchy.size
    return gain * _beside(weight, gain), coupling


def min_sum(
    hierarchy: Hierarchy, gain: Float32[Array, "N *D"], coupling: Float32[Array, " N"]
) -> Bool[Array, "N *D"]:
    """The labels that minimise a cost over the tree, exactly.

    The cost is the sum of `-gain` over all figure segments and of `coupling` over all segments
    that differ from their parents.

    Args:
      hierarchy: whose tree.
      gain: gain of labelling a segment as figure.
      coupling: not negative; of the top level's segments it counts nothing.

    Returns:
      True for figure. Of equal costs ground is chosen, from the top on.
    """
    belief = _pass_up(hierarchy, gain, coupling, _clipped)
    slices = level_slices(hierarchy.level_sizes)
    figure = [belief[-1] > 0]
    for level in range(len(slices) - 2, -1, -1):
        rows = slices[level]
        above = figure[-1][hierarchy.parent[rows] - rows.stop]
        weight = _beside(coupling[rows], gain)
        figure.append(belief[level] + jnp.where(above, weight, -weight) > 0)
    return jnp.concatenate(figure[::-1])


def sum_product(
    hierarchy: Hierarchy, gain: Float32[Array, "N *D"], coupling: Float32[Array, " N"]
) -> Float32[Array, "N *D"]:
    """Log-odds of every segment to be figure, where labellings have probability exp(-cost).

    Args:
      hierarchy: whose tree.
      gain: as in `min_sum`.
      coupling: as in `min_sum`.
    """
    belief = _pass_up(hierarchy, gain, coupling, _softened)
    return _odds_down_to(0, hierarchy, belief, coupling)


def _odds_down_to(
    finest: int, hierarchy: Hierarchy, belief: list[Array], coupling: Float32[Array, " N"]
) -> Array:
    """Log-odds of the segments of all levels from one on, the finest of these first."""
    slices = level_slices(hierarchy.level_sizes)
    odds = [belief[-1]]
    for level in range(len(slices) - 2, finest - 1, -1):
        rows = slices[level]
        above = odds[-1][hierarchy.parent[rows] - rows.stop]
        odds.append(_odds_below(above, belief[level], _beside(coupling[rows], above)))
    return jnp.concatenate(odds[::-1])


def _odds_below(above: Array, belief: Array, weight: Array) -> Array:
    """Log-odds of segments from those of their parents and what the trees below prefer."""
    # The parent's odds hold what this segment told it; that must not come back.
    return belief + _softened(above - _softened(belief, weight), weight)


def _pass_up(
    hierarchy: Hierarchy,
    gain: Float32[Array, "N *D"],
    coupling: Float32[Array, " N"],
    message: Callable[[Array, Array], Array],
) -> list[Array]:
    """By level, by how much the tree below every segment, itself included, prefers figure."""
    sizes, slices = hierarchy.level_sizes, level_slices(hierarchy.level_sizes)
    belief = [gain[slices[0]]]
    for level in range(len(sizes) - 1):
        told = message(belief[-1], _beside(coupling[slices[level]], gain))
        belief.append(gain[slices[level + 1]] + sum_children(told, hierarchy.parent, sizes, level))
    return belief


def _clipped(belief: Array, weight: Array) -> Array:
    """Clips the message to a parent: no preference counts more than disagreeing costs."""
    return jnp.clip(belief, -weight, weight)


def _softened(belief: Array, weight: Array) -> Array:
    """`_clipped` in sum-product: log((e^(w + b) + 1) / (e^w + e^b)), without overflow."""
    agree, differ = (1 + jnp.exp(-jnp.abs(weight + sign * belief)) for sign in (1, -1))
    return _clipped(belief, weight) + jnp.log(agree / differ)


def _beside(values: Array, like: Array) -> Array:
    """Adds the trailing axes of another array."""
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))
