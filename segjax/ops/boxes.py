"""Bounding boxes: areas, overlaps, clipping, and encoding as deltas to anchors.

Boxes are `(x0, y0, x1, y1)` in absolute pixels, half-open: no function here adds
the "+1 pixel" of Detectron1 and mmdet's legacy coders.

Every function is total: values and gradients are finite for zero-area, inverted,
denormal and astronomically large boxes. An untrained network produces all of them,
and a single NaN in a padded row poisons the whole gradient.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32, Num

# An area is the product of two sides, and a union adds two areas. With coordinates within
# +-4e18, sides stay below 8e18, areas below 6.4e37 and unions below 1.3e38, which float32
# can represent. No image comes close, so meaningful boxes are unaffected.
COORDINATE_LIMIT = 4e18

# The smallest normal float32. Smaller values may be flushed to zero, depending on the
# processor, and their reciprocals overflow, so areas below it count as zero.
_TINY = 1.1754944e-38

# Lower limit, in pixels, on sides used as divisors.
_MIN_SIDE = 1e-6


def bound_coordinates(boxes: Float[Array, "*b 4"]) -> Float[Array, "*b 4"]:
    """Clamps coordinates to +-`COORDINATE_LIMIT`, so that areas do not overflow.

    NaN stays NaN.
    """
    return jnp.clip(boxes, -COORDINATE_LIMIT, COORDINATE_LIMIT)


def _product(width: Float[Array, "..."], height: Float[Array, "..."]) -> Float[Array, "..."]:
    """Width times height, 0 unless both are positive; always rounded exactly once.

    This clamps one side before the product, and then the product itself. Clamping both sides
    would produce the same number but leave a bare product next to the sums of the union.
    Compilers contract those to a fused multiply-add in some loops and not in others. IoU(a, b)
    would then differ from IoU(b, a) in the last bit, ties would break, and the NMS methods
    would disagree. The maximum in between prevents the contraction at no cost.
    """
    return jnp.maximum(jnp.maximum(width, 0.0) * height, 0.0)


def box_area(boxes: Float[Array, "*b 4"]) -> Float[Array, "*b"]:
    """Area of each box in square pixels; 0 for empty and inverted boxes.

    Args:
      boxes: boxes in pixels.

    Returns:
      Areas in 0..6.4e37 (coordinates beyond 4e18 count as 4e18).
    """
    x0, y0, x1, y1 = jnp.moveaxis(bound_coordinates(boxes), -1, 0)
    return _product(x1 - x0, y1 - y0)


@jax.custom_jvp
def _ratio(part: Float[Array, "*s"], whole: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`part / whole`; 0 with zero gradient where `whole` is not a positive normal float."""
    proper = whole >= _TINY
    return jnp.where(proper, part / jnp.where(proper, whole, 1.0), 0.0)


@_ratio.defjvp
def _ratio_jvp(primals, tangents):
    # The default rule squares the divisor, which under- or overflows for areas that are
    # themselves representable. This form divides by it twice instead.
    part, whole = primals
    part_dot, whole_dot = tangents
    out = _ratio(part, whole)
    proper = whole >= _TINY
    safe = jnp.where(proper, whole, 1.0)
    return out, jnp.where(proper, (part_dot - out * whole_dot) / safe, 0.0)


class Sides(NamedTuple):
    """Boxes as one array per coordinate, with precomputed areas.

    The long axis is the minor one, so that comparisons vectorise.
    """

    x0: Float[Array, "*b"]
    y0: Float[Array, "*b"]
    x1: Float[Array, "*b"]
    y1: Float[Array, "*b"]
    area: Float[Array, "*b"]

    def at(self, index: Any) -> "Sides":
        """Indexes every array with `index`."""
        return Sides(*(value[index] for value in self))


def sides_of(boxes: Float[Array, "*b 4"]) -> Sides:
    """Splits boxes into areas and coordinates, the latter clamped to +-`COORDINATE_LIMIT`."""
    x0, y0, x1, y1 = jnp.moveaxis(bound_coordinates(boxes), -1, 0)
    return Sides(x0, y0, x1, y1, box_area(boxes))


def _intersection(a: Sides, b: Sides) -> Float[Array, "..."]:
    return _product(
        jnp.minimum(a.x1, b.x1) - jnp.maximum(a.x0, b.x0),
        jnp.minimum(a.y1, b.y1) - jnp.maximum(a.y0, b.y0),
    )


def iou_of_sides(a: Sides, b: Sides) -> Float[Array, "..."]:
    """Elementwise intersection over union of boxes whose arrays broadcast.

    `pairwise_iou`, matching and all NMS methods share this formula. It rounds as in the peers:
    the order of operations is `inter / (area_a + area_b - inter)`.
    """
    inter = _intersection(a, b)
    return _ratio(inter, a.area + b.area - inter)


def _columns_and_rows(a: Float[Array, "*b N 4"], b: Float[Array, "*b M 4"]) -> tuple[Sides, Sides]:
    return sides_of(a).at((..., slice(None), None)), sides_of(b).at((..., None, slice(None)))


def pairwise_iou(a: Float[Array, "*b N 4"], b: Float[Array, "*b M 4"]) -> Float[Array, "*b N M"]:
    """Intersection over union of every box of `a` with every box of `b`.

    Args:
      a: boxes in pixels.
      b: boxes in pixels.

    Returns:
      Ratios in 0..1; 0 where the union is empty or either box is NaN.
    """
    return iou_of_sides(*_columns_and_rows(a, b))


def pairwise_ioa(a: Float[Array, "*b N 4"], b: Float[Array, "*b M 4"]) -> Float[Array, "*b N M"]:
    """Intersection over the area of the box in `a` (COCO's crowd overlap, mmdet's "iof").

    Args:
      a: boxes in pixels; their areas are the divisors.
      b: boxes in pixels.

    Returns:
      Ratios in 0..1; 0 where the box in `a` is empty or either box is NaN.
    """
    columns, rows = _columns_and_rows(a, b)
    inter = _intersection(columns, rows)
    return _ratio(inter, jnp.broadcast_to(columns.area, inter.shape))


def clip_boxes(
    boxes: Float[Array, "*b N 4"], image_size: Num[Array, "*b 2"]
) -> Float[Array, "*b N 4"]:
    """Clips boxes to their image, excluding the padding.

    Args:
      boxes: boxes in pixels.
      image_size: (height, width) of each image in pixels.

    Returns:
      Boxes with x in 0..width and y in 0..height; NaN stays NaN.
    """
    height, width = jnp.moveaxis(image_size.astype(boxes.dtype), -1, 0)
    upper = jnp.stack([width, height, width, height], axis=-1)[..., None, :]
    return jnp.minimum(jnp.maximum(boxes, 0.0), upper)


def rescale_boxes(
    boxes: Float32[Array, "B D 4"],
    image_sizes: Int32[Array, "B 2"],
    original_sizes: Int32[Array, "B 2"],
) -> Float32[Array, "B D 4"]:
    """Rescales boxes from resized to original pixels and clips them to the image.

    Each axis has its own factor, original / resized. The two differ because the resized sides
    are rounded (Detectron2, `detector_postprocess`; mmdet's `scale_factor`).

    Args:
      boxes: boxes in pixels of the resized image.
      image_sizes: (height, width) after resizing.
      original_sizes: (height, width) before resizing.
    """
    factors = original_sizes.astype(jnp.float32) / image_sizes.astype(jnp.float32)
    xyxy = jnp.stack([factors[:, 1], factors[:, 0]] * 2, axis=-1)
    return clip_boxes(boxes * xyxy[:, None, :], original_sizes)


def nonempty(
    boxes: Float[Array, "*b 4"], min_size: float | int = 0.0, *, inclusive: bool = False
) -> Bool[Array, "*b"]:
    """True where both sides are longer than `min_size`.

    Args:
      boxes: boxes in pixels.
      min_size: lower limit on both sides, in pixels.
      inclusive: also return True for sides equal to `min_size`. torchvision keeps proposals
        with sides >= 1e-3, Detectron2 and mmdet those with sides > 0.

    Returns:
      One flag per box; False for NaN.
    """
    x0, y0, x1, y1 = jnp.moveaxis(boxes, -1, 0)
    width, height = x1 - x0, y1 - y0
    if inclusive:
        return (width >= min_size) & (height >= min_size)
    return (width > min_size) & (height > min_size)


def _centre_form(boxes: Float[Array, "*b 4"]) -> tuple[Float[Array, "*b"], ...]:
    """Centres and sides of boxes; sides are at least `_MIN_SIDE`, to be safe as divisors."""
    x0, y0, x1, y1 = jnp.moveaxis(bound_coordinates(boxes), -1, 0)
    width, height = x1 - x0, y1 - y0
    # Centres use the sides before clamping, so that an inverted box keeps its midpoint.
    centre_x, centre_y = x0 + 0.5 * width, y0 + 0.5 * height
    return centre_x, centre_y, jnp.maximum(width, _MIN_SIDE), jnp.maximum(height, _MIN_SIDE)


# `max_ratio` already limits exp(delta) of the sides. This limit on the shifts of the centre is
# far beyond any image and only keeps shift * side within float32.
_MAX_SHIFT = 1e12


@dataclasses.dataclass(frozen=True)
class DeltaCoder:
    """Encodes boxes as deltas to anchors, after R-CNN (Girshick et al., 2014, appendix C).

    `dx = wx (cx - cx_a) / w_a`, `dw = ww log(w / w_a)`, and the same for y and h.
    The peers differ in the weights and in how decoding limits the sides. torchvision and
    Detectron2 multiply by weights, (10, 10, 5, 5) in the box head, and limit growth only.
    mmdet divides by standard deviations, the inverses of the weights, and limits both growth
    and shrinkage.

    Attributes:
      weights: factors applied to the deltas (dx, dy, dw, dh).
      symmetric_clamp: also limit shrinkage, to 1 / `max_ratio` (mmdet).
      max_ratio: largest factor by which decoding can enlarge a side.
    """

    weights: tuple[float | int, float | int, float | int, float | int] = (1.0, 1.0, 1.0, 1.0)
    symmetric_clamp: bool = False
    max_ratio: float | int = 1000 / 16

    def __post_init__(self) -> None:
        if len(self.weights) != 4 or min(self.weights) <= 0:
            raise ValueError(f"weights are {self.weights}: give four positive numbers")
        if self.max_ratio <= 1:
            raise ValueError(
                f"max_ratio is {self.max_ratio}: a side must be able to grow, give > 1"
            )

    def encode(
        self, boxes: Float[Array, "*#b 4"], anchors: Float[Array, "*#b 4"]
    ) -> Float[Array, "*b 4"]:
        """Computes the deltas that turn `anchors` into `boxes`.

        Args:
          boxes: target boxes in pixels.
          anchors: reference boxes in pixels, of the same or a broadcastable leading shape.

        Returns:
          (dx, dy, dw, dh) times the weights. Sides are clamped to at least 1e-6 pixels, so
          that deltas of empty boxes and anchors are finite.
        """
        x, y, width, height = _centre_form(boxes)
        x_a, y_a, width_a, height_a = _centre_form(anchors)
        deltas = (
            (x - x_a) / width_a,
            (y - y_a) / height_a,
            jnp.log(width / width_a),
            jnp.log(height / height_a),
        )
        return jnp.stack([d * w for d, w in zip(deltas, self.weights, strict=True)], axis=-1)

    def decode(
        self, deltas: Float[Array, "*#b 4"], anchors: Float[Array, "*#b 4"]
    ) -> Float[Array, "*b 4"]:
        """Applies `deltas` to `anchors`; the inverse of `encode`.

        Args:
          deltas: (dx, dy, dw, dh) times the weights.
          anchors: reference boxes in pixels, of the same or a broadcastable leading shape.

        Returns:
          Boxes in pixels, not clipped to the image; NaN where a delta is NaN.
        """
        x0, y0, x1, y1 = jnp.moveaxis(bound_coordinates(anchors), -1, 0)
        width_a, height_a = x1 - x0, y1 - y0
        scaled = [d / w for d, w in zip(jnp.moveaxis(deltas, -1, 0), self.weights, strict=True)]
        dx, dy = (jnp.clip(d, -_MAX_SHIFT, _MAX_SHIFT) for d in scaled[:2])
        width, height = (
            jnp.exp(self._limit(d)) * side
            for d, side in zip(scaled[2:], (width_a, height_a), strict=True)
        )
        x = dx * width_a + (x0 + 0.5 * width_a)
        y = dy * height_a + (y0 + 0.5 * height_a)
        half_width, half_height = 0.5 * width, 0.5 * height
        return jnp.stack(
            [x - half_width, y - half_height, x + half_width, y + half_height], axis=-1
        )

    def _limit(self, log_ratio: Float[Array, "*b"]) -> Float[Array, "*b"]:
        limit = math.log(self.max_ratio)
        log_ratio = jnp.minimum(log_ratio, limit)
        return jnp.maximum(log_ratio, -limit) if self.symmetric_clamp else log_ratio
