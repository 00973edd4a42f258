"""A detector's masks made to follow the contours of the image."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32, UInt8

from segjax.figure_ground.bottom_up import BottomUp, bottom_up
from segjax.figure_ground.combined import CombineConfig, log_odds_at
from segjax.figure_ground.hierarchy import Hierarchy
from segjax.ops.soft_masks import BoxMasks
from segjax.types import Detections


@dataclasses.dataclass(frozen=True)
class MaskRefinement:
    """`refine_masks` with its settings, as an option of prediction and evaluation.

    Attributes:
      side: cells of the resulting grids, along both axes.
      own_weight: weight of the mask's own value at a pixel, relative to that of its segment.
      grouping: how segments are made.
      combining: how segments and masks are weighed.
    """

    side: int = 56
    own_weight: float = 5.0
    grouping: BottomUp = BottomUp()
    combining: CombineConfig = CombineConfig()

    def __post_init__(self) -> None:
        if self.side < 1:
            raise ValueError(f"side is {self.side}: a mask has at least 1 cell along an axis")
        if not self.own_weight >= 0:  # NaN neither
            raise ValueError(f"own_weight is {self.own_weight}: wanted 0 or more")

    def __call__(
        self, images: UInt8[Array, "B H W 3"] | Float32[Array, "B H W 3"], detections: Detections
    ) -> Detections:
        """Refines the masks of a batch; boxes, scores and classes stay.

        Args:
          images: the padded input of the detector.
          detections: what it found in them, boxes in pixels of the input.

        Raises:
          ValueError: if the detections have no masks.
        """
        masks = detections.masks
        if not isinstance(masks, BoxMasks):
            raise ValueError(
                f"the detections have {'no masks' if masks is None else type(masks).__name__} to"
                " refine: wanted masks over boxes, as those of a mask head"
            )

        def one(row: tuple[Array, Array, Array, Array]) -> Array:
            return refine_masks(
                *row,
                side=self.side,
                own_weight=self.own_weight,
                grouping=self.grouping,
                combining=self.combining,
            )

        rows = (images, masks.probs, masks.boxes, detections.valid)
        # One image after the other: the tables of segments and detections are large.
        refined = jax.lax.map(one, rows)
        return dataclasses.replace(detections, masks=dataclasses.replace(masks, probs=refined))


def refine_masks(
    image: UInt8[Array, "..."] | Float[Array, "..."],
    mask_probs: Float32[Array, "_ _ _"],
    boxes: Float32[Array, "_ _"],
    valid: Bool[Array, " _"] | None = None,
    *,
    side: int = 56,
    own_weight: float = 5.0,
    grouping: BottomUp = BottomUp(),
    combining: CombineConfig = CombineConfig(),
) -> Float32[Array, "_ {side} {side}"]:
    """Refines the soft masks of an image's detections; jit, and vmap for batches.

    Each mask is the top-down map of its box in one hierarchy of segments of the image; outside
    of the box all is ground. What the segment of a pixel says and what the mask itself says of
    the pixel are added as log-odds: contours win where the mask is in doubt, and a confident
    mask where contours are missing. The result has the form of `BoxMasks.probs`, finer.

    Args:
      image: RGB, [H, W, 3], uint8 or floats in 0..1; the padded input of the detector.
      mask_probs: [D, M, M], the probability of each cell of a grid over the box to belong to the
        object.
      boxes: [D, 4] of the detections, x0 y0 x1 y1 in pixels of the image.
      valid: [D], False for rows that only fill the shape, whose masks become 0; None if all count.
      side: cells of the resulting grids, along both axes.
      own_weight: log-odds that a mask value of 1 adds at its own pixel, and a value of 0 takes
        away; 0 leaves the segments alone to decide.
      grouping: how segments are made.
      combining: how segments and masks are weighed.

    Returns:
      Probabilities on a grid over each box; threshold them at 0.5. NaN for all if a value of the
      image is not finite, for one detection if one of its mask is not.

    Raises:
      ValueError: if masks, boxes and `valid` are not of the same detections, or as for
        `bottom_up`.
    """
    hierarchy = bottom_up(image, grouping)
    return refine_in_hierarchy(
        hierarchy, mask_probs, boxes, valid, side=side, own_weight=own_weight, combining=combining
    )


def refine_in_hierarchy(
    hierarchy: Hierarchy,
    mask_probs: Float32[Array, "_ _ _"],
    boxes: Float32[Array, "_ _"],
    valid: Bool[Array, " _"] | None = None,
    *,
    side: int = 56,
    own_weight: float = 5.0,
    combining: CombineConfig = CombineConfig(),
) -> Float32[Array, "_ {side} {side}"]:
    """`refine_masks` where the image's hierarchy is there already.

    Args:
      hierarchy: hierarchy of the image.
      mask_probs: as there.
      boxes: as there.
      valid: as there.
      side: as there.
      own_weight: as there.
      combining: as there.

    Returns:
      As there.

    Raises:
      ValueError: if masks, boxes and `valid` are not of the same detections.
    """
    _check_detections(mask_probs, boxes, valid)
    preference = mask_preference(hierarchy, mask_probs, boxes)
    y, x = (_cell_pixels(boxes, side, hierarchy.leaf.shape[a], a) for a in (0, 1))
    leaf = hierarchy.leaf[y[:, :, None], x[:, None, :]]
    odds = log_odds_at(hierarchy, preference, combining, leaf)
    own = 2 * _on_grid(mask_probs, side) - 1
    refined = jax.nn.sigmoid(odds + own_weight * own)
    return refined if valid is None else jnp.where(valid[:, None, None], refined, 0.0)


def _check_detections(mask_probs: Array, boxes: Array, valid: Array | None) -> None:
    number, rows, columns = mask_probs.shape
    flags = (number,) if valid is None else valid.shape
    if boxes.shape != (number, 4) or flags != (number,) or rows != columns or not rows:
        raise ValueError(
            f"masks are {mask_probs.shape}, boxes {boxes.shape}, valid {flags}: wanted [D, M, M], "
            "[D, 4] and [D] of the same detections"
        )


def mask_preference(
    hierarchy: Hierarchy, mask_probs: Float32[Array, "D M M"], boxes: Float32[Array, "D 4"]
) -> Float32[Array, "n0 D"]:
    """Evidence of masks for the finest segments, at their centres: 1 object, -1 not; -1 outside.

    Args:
      hierarchy: hierarchy of the image.
      mask_probs: mask probabilities of each detection, over its box.
      boxes: boxes of the detections.
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


def _on_grid(masks: Float32[Array, "D M M"], side: int) -> Float32[Array, "D {side} {side}"]:
    """Values of each mask at the centres of the cells of a finer grid, as `_bilinear`."""
    shape = (masks.shape[0], side, side)
    return jax.image.resize(masks, shape, "linear", antialias=False)


def _cell_pixels(
    boxes: Float32[Array, "D 4"], side: int, length: int, axis: int
) -> Int32[Array, "D {side}"]:
    """The row (axis 0) or column (1) of the image under the centre of every cell of a grid."""
    low, high = boxes[:, 1 - axis], boxes[:, 3 - axis]
    part = (jnp.arange(side, dtype=jnp.float32) + 0.5) / side
    place = low[:, None] + part[None] * (high - low)[:, None]
    return jnp.clip(jnp.floor(place).astype(jnp.int32), 0, length - 1)
