"""Refines the masks of a detector to follow the contours of the image."""

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
    """`refine_masks` and its settings, as an option of prediction and evaluation.

    Attributes:
      side: side of the refined grids, in cells.
      own_weight: weight of the mask's own value at a pixel, relative to that of its segment.
      grouping: settings of the bottom-up segments.
      combining: weights of segments and masks.
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
        """Refines the masks of a batch; boxes, scores and classes do not change.

        Args:
          images: padded input of the detector.
          detections: detections in these images, with boxes in pixels of the input.

        Raises:
          ValueError: if the detections have no masks over boxes.
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
        # One image at a time to save memory: tables of segments by detections are large.
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
    """Refines the soft masks of the detections in an image.

    Each mask is the top-down map of its box, in one hierarchy of segments of the image; everything
    outside the box is ground. For each pixel, the log-odds of its segment and of the mask itself
    are added. Contours therefore decide where the mask is uncertain, and a confident mask decides
    where contours are missing. The result is a finer version of `BoxMasks.probs`.

    Supports `jax.jit`, and `jax.vmap` for batches.

    Args:
      image: RGB, [H, W, 3], uint8 or floats in 0..1; padded input of the detector.
      mask_probs: probability that each cell of a grid over the box belongs to the object,
        [D, M, M].
      boxes: boxes of the detections, [D, 4], x0 y0 x1 y1 in pixels of the image.
      valid: False for padding rows, whose masks become 0, [D]; None if all are valid.
      side: side of the refined grids, in cells.
      own_weight: log-odds that a mask value of 1 adds at its own pixel, and that a value of 0
        subtracts; 0 lets the segments alone decide.
      grouping: settings of the bottom-up segments.
      combining: weights of segments and masks.

    Returns:
      Probabilities on a grid over each box, to be thresholded at 0.5. If any value of the image
      is not finite, all are NaN; if any value of a mask is not, that detection is NaN.

    Raises:
      ValueError: if masks, boxes and `valid` do not match, or as in `bottom_up`.
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
    """`refine_masks` for an image whose hierarchy is already computed.

    Args:
      hierarchy: hierarchy of the image.
      mask_probs: as in `refine_masks`.
      boxes: as in `refine_masks`.
      valid: as in `refine_masks`.
      side: as in `refine_masks`.
      own_weight: as in `refine_masks`.
      combining: as in `refine_masks`.

    Returns:
      Probabilities as in `refine_masks`.

    Raises:
      ValueError: if masks, boxes and `valid` do not match.
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
    """Evidence of masks at the centres of the finest segments: 1 for object, -1 for ground.

    Outside the box, it is -1.

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
    """Mean row and column of the pixels of each finest segment; pixel i is at i + 0.5."""
    rows, columns = jnp.indices(hierarchy.leaf.shape, jnp.float32) + 0.5
    return hierarchy.leaf_means(rows), hierarchy.leaf_means(columns)


def _bilinear(
    masks: Float32[Array, "D M M"], y: Float32[Array, "n D"], x: Float32[Array, "n D"]
) -> Float32[Array, "n D"]:
    """Interpolates each mask bilinearly between the centres of its cells."""
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
    """Resamples each mask at the cell centres of a finer grid, like `_bilinear`."""
    shape = (masks.shape[0], side, side)
    return jax.image.resize(masks, shape, "linear", antialias=False)


def _cell_pixels(
    boxes: Float32[Array, "D 4"], side: int, length: int, axis: int
) -> Int32[Array, "D {side}"]:
    """Row (axis 0) or column (axis 1) of the image at the centre of every cell of a grid."""
    low, high = boxes[:, 1 - axis], boxes[:, 3 - axis]
    part = (jnp.arange(side, dtype=jnp.float32) + 0.5) / side
    place = low[:, None] + part[None] * (high - low)[:, None]
    return jnp.clip(jnp.floor(place).astype(jnp.int32), 0, length - 1)
