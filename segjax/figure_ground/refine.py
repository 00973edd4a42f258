"""A detector's masks made to follow the contours of the image."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32, UInt8

from segjax.figure_ground.bottom_up import BottomUp, bottom_up
from segjax.figure_ground.combined import CombineConfig, combine_leaves
from segjax.figure_ground.hierarchy import Hierarchy


def refine_masks(
    image: Float32[Array, "H W 3"] | UInt8[Array, "H W 3"],
    mask_probs: Float32[Array, "D M M"],
    boxes: Float32[Array, "D 4"],
    valid: Bool[Array, " D"] | None = None,
    *,
    side: int = 112,
    grouping: BottomUp = BottomUp(),
    combining: CombineConfig = CombineConfig(),
) -> Float32[Array, "D {side} {side}"]:
    """Refines the soft masks of an image's detections; jit, and vmap for batches.

    Each mask is the top-down map of its box in one hierarchy of segments of the image; outside
    of the box all is ground. The result has the form of `Detections.mask_probs`, finer.

    Args:
      image: RGB, uint8 or floats in 0..1; the padded input of the detector.
      mask_probs: the probability of each cell of an M x M grid over the box to belong to the
        object.
      boxes: of the detections, in pixels of the image.
      valid: False for rows that only fill the shape, whose masks become 0; None if all count.
      side: cells of the resulting grids, along both axes.
      grouping: how segments are made.
      combining: how segments and masks are weighed.

    Returns:
      Probabilities on a grid over each box; threshold them at 0.5.
    """
    hierarchy = bottom_up(image, grouping)
    return refine_in_hierarchy(hierarchy, mask_probs, boxes, valid, side=side, combining=combining)


def refine_in_hierarchy(
    hierarchy: Hierarchy,
    mask_probs: Float32[Array, "D M M"],
    boxes: Float32[Array, "D 4"],
    valid: Bool[Array, " D"] | None = None,
    *,
    side: int = 112,
    combining: CombineConfig = CombineConfig(),
) -> Float32[Array, "D {side} {side}"]:
    """`refine_masks` where the image's hierarchy is there already.

    Args:
      hierarchy: of the image.
      mask_probs: as there.
      boxes: as there.
      valid: as there.
      side: as there.
      combining: as there.
    """
    preference = mask_preference(hierarchy, mask_probs, boxes)
    _, probability = combine_leaves(hierarchy, preference, combining)
    y, x = (_cell_pixels(boxes, side, hierarchy.leaf.shape[a], a) for a in (0, 1))
    leaf = hierarchy.leaf[y[:, :, None], x[:, None, :]]
    detection = jnp.arange(boxes.shape[0], dtype=jnp.int32)[:, None, None]
    refined = probability[leaf, detection]
    return refined if valid is None else jnp.where(valid[:, None, None], refined, 0.0)


def mask_preference(
    hierarchy: Hierarchy, mask_probs: Float32[Array, "D M M"], boxes: Float32[Array, "D 4"]
) -> Float32[Array, "n0 D"]:
    """What masks say of the finest segments, at their centres: 1 object, -1 not; -1 outside.

    Args:
      hierarchy: of the image.
      mask_probs: of every detection, over its box.
      boxes: of the detections.
    """
    cells = mask_probs.shape[1]
    places, inside = [], jnp.ones((), bool)
    for axis, centre in enumerate(_centres(hierarchy)):
        low, high = boxes[:, 1 - axis], boxes[:, 3 - axis]
        part = (centre[:, None] - low[None]) / jnp.maximum(high - low, 1e-3)[None]
        inside = inside & (part >= 0) & (part < 1)
        places.append(jnp.clip(part * cells - 0.5, 0.0, cells - 1.0))
    return jnp.where(inside, 2 * _bilinear(mask_probs, *places) - 1, -1.0)


def _centres(hierarchy: Hierarchy) -> tuple[Float32[Array, " n0"], Float32[Array, " n0"]]:
    """Mean row and column of the finest segments' pixels; of pixel i that is i + 0.5."""
    rows, columns = jnp.indices(hierarchy.leaf.shape, jnp.float32) + 0.5
    return hierarchy.leaf_means(rows), hierarchy.leaf_means(columns)


def _bilinear(
    masks: Float32[Array, "D M M"], y: Float32[Array, "n D"], x: Float32[Array, "n D"]
) -> Float32[Array, "n D"]:
    """Values of each mask between the centres of its cells."""
    number, cells, _ = masks.shape
    y0, x0 = jnp.floor(y).astype(jnp.int32), jnp.floor(x).astype(jnp.int32)
    y1, x1 = jnp.minimum(y0 + 1, cells - 1), jnp.minimum(x0 + 1, cells - 1)
    flat = masks.reshape(-1)
    start = jnp.arange(number, dtype=jnp.int32)[None] * cells * cells
    right, down = x - x0, y - y0
    upper = (1 - right) * flat[start + y0 * cells + x0] + right * flat[start + y0 * cells + x1]
    lower = (1 - right) * flat[start + y1 * cells + x0] + right * flat[start + y1 * cells + x1]
    return (1 - down) * upper + down * lower


def _cell_pixels(
    boxes: Float32[Array, "D 4"], side: int, length: int, axis: int
) -> Int32[Array, "D {side}"]:
    """The row (axis 0) or column (1) of the image under the centre of every cell of a grid."""
    low, high = boxes[:, 1 - axis], boxes[:, 3 - axis]
    part = (jnp.arange(side, dtype=jnp.float32) + 0.5) / side
    place = low[:, None] + part[None] * (high - low)[:, None]
    return jnp.clip(jnp.floor(place).astype(jnp.int32), 0, length - 1)
