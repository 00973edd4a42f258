"""Combines bottom-up and top-down segmentation by exact inference over a segmentation hierarchy.

Follows Borenstein, Sharon & Ullman, "Combining top-down and bottom-up segmentation" (CVPR workshop
2004). Every segment is labelled figure or ground, and pays for disagreeing with the top-down map
and with its parent. The terms of the cost form a tree, so that one pass up and one pass down
compute its minimum (min-sum) or the probability of every segment (sum-product). With two labels,
a message is a single number: the preference of the subtree for figure.
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
      coupling: cost per pixel of a segment that disagrees with its parent, if nothing separates
        it from its surroundings. Disagreeing with a fully confident map costs 1 per pixel.
      salience: saliency at which half of the coupling remains; low values are salient, as in
        `Hierarchy.saliency`.
      salient_parts: weight of the agreement between the map and fully salient segments above the
        finest level; 0 compares only the finest segments with the map.
      temperature: cost that makes a label e times less probable, as a fraction of the mean size
        of the finest segments. Only probabilities depend on it.
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
    """Figure and ground of one image.

    Attributes:
      figure: True for segments that are figure in the cheapest labelling; False for invalid ones.
      probability: probability that each segment is figure.
      map: True for pixels whose finest segment is figure.
      soft: probability that the finest segment of each pixel is figure.
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
    """Labels the segments of a hierarchy as figure or ground.

    Supports `jax.jit`, and `jax.vmap` for batches.

    Args:
      hierarchy: hierarchy of one image.
      evidence: top-down map: probability that each pixel is figure, [H, W].
      confidence: weight of the map at every pixel, 0..1, [H, W]; None is 1 everywhere.
      config: weights of the cost.

    Returns:
      The cheapest labelling, and probabilities. NaN values make the probabilities of all
      segments that they reach NaN; the labels of these segments are meaningless.

    Raises:
      ValueError: if the maps do not have the size of the image.
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
    """`combine` for values of the finest segments, and for any number D of top-down maps at once.

    Args:
      hierarchy: hierarchy of one image.
      preference: confidence times (2 p - 1) of every finest segment, -1..1.
      config: weights of the cost.

    Returns:
      True for segments that are figure, and the probability that each segment is figure.
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
    """Log-odds of the probabilities from `combine_leaves`, only for some of the finest segments.

    This takes half the time, because most segments are on the finest level.

    Args:
      hierarchy: hierarchy of one image.
      preference: preferences as in `combine_leaves`, for D top-down maps.
      config: weights of the cost.
      leaf: indices of the finest segments to return for each map.
    """
    gain, coupling = terms(hierarchy, preference, config)
    heat = _heat(hierarchy, config)
    gain, coupling = gain / heat, coupling / heat
    belief = _pass_up(hierarchy, gain, coupling, _softened)
    column = jnp.arange(leaf.shape[0], dtype=jnp.int32).reshape(-1, *[1] * (leaf.ndim - 1))
    odds = belief[0][leaf, column]
    if len(belief) == 1:
        return odds
    # One array for all levels above: otherwise XLA recomputes them for each element.
    above = _odds_down_to(1, hierarchy, belief, coupling)
    parent = hierarchy.parent[leaf] - hierarchy.level_sizes[0]
    return _odds_below(above[parent, column], odds, coupling[leaf])


def _heat(hierarchy: Hierarchy, config: CombineConfig) -> Float32[Array, ""]:
    """Cost that makes a label e times less probable, in pixels.

    It is relative to the mean size of the finest segments, because neighbouring pixels are not
    independent evidence.
    """
    number = hierarchy.level_sizes[0]
    pixels = hierarchy.size[:number].sum() / jnp.maximum(hierarchy.valid[:number].sum(), 1)
    return config.temperature * jnp.maximum(pixels, 1.0)


def terms(
    hierarchy: Hierarchy, preference: Float32[Array, "n0 *D"], config: CombineConfig
) -> tuple[Float32[Array, "N *D"], Float32[Array, " N"]]:
    """Computes the terms of the cost.

    Args:
      hierarchy: hierarchy of one image.
      preference: preference of each finest segment for figure, -1..1.
      config: weights of the cost.

    Returns:
      The gain of labelling each segment figure rather than ground, in pixels, and the cost of
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
    """Finds the labels that minimise a cost over the tree, exactly.

    The cost is the sum of `-gain` over all figure segments and of `coupling` over all segments
    that differ from their parents.

    Args:
      hierarchy: hierarchy that defines the tree.
      gain: gain of labelling a segment as figure.
      coupling: non-negative cost of differing from the parent; not used at the top level.

    Returns:
      True for figure. Ties are resolved as ground, from the top down.
    """
    belief = _pass_up(hierarchy, gain, coupling, _clipped)
    slices = level_slices(hierarchy.level_sizes)
    figure = [belief[-1] > 0]
    for level in range(len(slices) - 2, -1, -1):
        # Once the parent is labelled, disagreeing with it only costs `coupling`.
        rows = slices[level]
        above = figure[-1][hierarchy.parent[rows] - rows.stop]
        weight = _beside(coupling[rows], gain)
        figure.append(belief[level] + jnp.where(above, weight, -weight) > 0)
    return jnp.concatenate(figure[::-1])


def sum_product(
    hierarchy: Hierarchy, gain: Float32[Array, "N *D"], coupling: Float32[Array, " N"]
) -> Float32[Array, "N *D"]:
    """Log-odds that each segment is figure, if labellings have probability exp(-cost).

    Args:
      hierarchy: hierarchy that defines the tree.
      gain: as in `min_sum`.
      coupling: as in `min_sum`.
    """
    belief = _pass_up(hierarchy, gain, coupling, _softened)
    return _odds_down_to(0, hierarchy, belief, coupling)


def _odds_down_to(
    finest: int, hierarchy: Hierarchy, belief: list[Array], coupling: Float32[Array, " N"]
) -> Array:
    """Log-odds of the segments of level `finest` and all coarser levels, finest first."""
    slices = level_slices(hierarchy.level_sizes)
    odds = [belief[-1]]
    for level in range(len(slices) - 2, finest - 1, -1):
        rows = slices[level]
        above = odds[-1][hierarchy.parent[rows] - rows.stop]
        odds.append(_odds_below(above, belief[level], _beside(coupling[rows], above)))
    return jnp.concatenate(odds[::-1])


def _odds_below(above: Array, belief: Array, weight: Array) -> Array:
    """Log-odds of segments from those of their parents and the preferences of their subtrees."""
    # The odds of the parent include this segment's own message, which must not be counted twice.
    return belief + _softened(above - _softened(belief, weight), weight)


def _pass_up(
    hierarchy: Hierarchy,
    gain: Float32[Array, "N *D"],
    coupling: Float32[Array, " N"],
    message: Callable[[Array, Array], Array],
) -> list[Array]:
    """Preference of each segment's subtree, itself included, for figure; one array per level."""
    sizes, slices = hierarchy.level_sizes, level_slices(hierarchy.level_sizes)
    belief = [gain[slices[0]]]
    for level in range(len(sizes) - 1):
        told = message(belief[-1], _beside(coupling[slices[level]], gain))
        belief.append(gain[slices[level + 1]] + sum_children(told, hierarchy.parent, sizes, level))
    return belief


def _clipped(belief: Array, weight: Array) -> Array:
    """Message to a parent in min-sum: a preference is limited to the cost of disagreeing."""
    return jnp.clip(belief, -weight, weight)


def _softened(belief: Array, weight: Array) -> Array:
    """Message in sum-product: log((e^(w + b) + 1) / (e^w + e^b)), computed without overflow."""
    agree, differ = (1 + jnp.exp(-jnp.abs(weight + sign * belief)) for sign in (1, -1))
    return _clipped(belief, weight) + jnp.log(agree / differ)


def _beside(values: Array, like: Array) -> Array:
    """Appends axes of length 1 to match the rank of another array."""
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))
