"""RoIAlign over a feature pyramid, and the assignment of boxes to its levels.

Follows He et al., "Mask R-CNN" (2017), section 3, with the conventions of torchvision,
Detectron2 and MMDetection (mmcv).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32

from segjax.ops.roi_align_kernels import pool
from segjax.ops.roi_align_taps import Regions, make_axis

LevelConvention = Literal["torchvision", "detectron2", "mmdet"]


@dataclasses.dataclass(frozen=True)
class RoIAlign:
    """Settings of RoIAlign.

    Attributes:
      output_size: bins along each axis of a region.
      sampling_ratio: samples along each axis of a bin; 0 takes as many as the bin has cells,
        rounded up. This is exact for boxes of every shape.
      aligned: True for correct coordinates, with the half-cell offset (Detectron2, mmdet). False
        (torchvision) shifts regions by half a cell and makes them at least one cell wide and high.
    """

    output_size: int
    sampling_ratio: int
    aligned: bool

    def __post_init__(self) -> None:
        if self.output_size < 1:
            raise ValueError(f"output_size is {self.output_size}: it must be at least 1")
        if self.sampling_ratio < 0:
            raise ValueError(
                f"sampling_ratio is {self.sampling_ratio}: give 0 for adaptive sampling or the "
                "number of samples along each axis of a bin"
            )

    def __call__(
        self,
        features: Sequence[Float[Array, "B _h _w C"]],
        rois: Float32[Array, "B R 4"],
        level: Int32[Array, "B R"],
        strides: Sequence[float | int],
    ) -> Float[Array, "B R S S C"]:
        """Calls `multilevel_roi_align` with these settings."""
        return multilevel_roi_align(
            features,
            rois,
            level,
            strides,
            output_size=self.output_size,
            sampling_ratio=self.sampling_ratio,
            aligned=self.aligned,
        )


@jax.named_scope("roi_align")
def multilevel_roi_align(
    features: Sequence[Float[Array, "B _h _w C"]],
    rois: Float32[Array, "B R 4"],
    level: Int32[Array, "B R"],
    strides: Sequence[float | int],
    *,
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Float[Array, "B R S S C"]:
    """Pools each region from its level of the pyramid into `S x S` bins.

    A bin is the mean of its bilinear samples; samples more than a cell outside the map count
    as zero. Values are accumulated in float32 and returned in the dtype of the features.

    Values and gradients are finite for any region: zero-area, inverted, outside, 1e30. The
    gradient with respect to the features is accumulated in float32 even for bfloat16
    features. The gradient with respect to the regions is zero, as in the peers.

    Args:
      features: feature maps of the levels, finest first, of any size, all with the same `B`
        and `C`.
      rois: regions in pixels.
      level: index into `features` for each region; clipped to the existing levels.
      strides: pixels per cell of each level.
      output_size: `S`, bins along each axis.
      sampling_ratio: samples along each axis of a bin; 0 for adaptive, `ceil(bin)`.
      aligned: see `RoIAlign.aligned`.

    Returns:
      Pooled features `[B, R, S, S, C]`.

    Raises:
      ValueError: if `features` is empty or does not match `strides` in length.
    """
    if not features or len(features) != len(strides):
        raise ValueError(
            f"{len(features)} feature maps and {len(strides)} strides: give one stride a map"
        )
    shapes = [(f.shape[1], f.shape[2]) for f in features]
    channels = features[0].shape[-1]
    flat = jnp.concatenate([f.reshape(-1, channels) for f in features])
    placed = _place_regions(shapes, rois, level, strides, sampling_ratio, output_size, aligned)
    min_width = min(width for _, width in shapes)
    out = pool(sampling_ratio, min_width, flat, jax.lax.stop_gradient(placed))
    return out.reshape(*level.shape, output_size, output_size, channels)


def _place_regions(
    shapes: Sequence[tuple[int, int]],
    rois: Float32[Array, "B R 4"],
    level: Int32[Array, "B R"],
    strides: Sequence[float | int],
    sampling_ratio: int,
    output_size: int,
    aligned: bool,
) -> Regions:
    """Computes the samples of each region and the offset of its map in the flattened pyramid."""
    batch, regions = level.shape
    index = jnp.clip(level, 0, len(shapes) - 1).reshape(-1)
    heights, widths = (jnp.asarray(v, jnp.int32)[index] for v in zip(*shapes, strict=True))
    begins = [0]
    for h, w in shapes:
        begins.append(begins[-1] + batch * h * w)
    image = jnp.repeat(jnp.arange(batch, dtype=jnp.int32), regions)
    offset = jnp.asarray(begins[:-1], jnp.int32)[index] + image * heights * widths
    scale = jnp.asarray([1.0 / s for s in strides], jnp.float32)[index]
    x0, y0, x1, y1 = (rois.reshape(-1, 4)[:, i] * scale for i in range(4))
    axis = functools.partial(
        make_axis, num_bins=output_size, sampling_ratio=sampling_ratio, aligned=aligned
    )
    return Regions(axis(y0, y1, heights), axis(x0, x1, widths), offset)


def assign_levels(
    boxes: Float32[Array, "*b 4"],
    *,
    convention: LevelConvention,
    num_levels: int = 4,
    canonical_size: float = 224,
    canonical_level: int = 4,
    min_level: int = 2,
) -> Int32[Array, "*b"]:
    """Assigns boxes to levels by their size (Lin et al., "Feature Pyramid Networks", eq. 1).

    A small constant keeps exact powers of two from being rounded down. The peers differ in it:
    torchvision adds 1e-6 to the logarithm, Detectron2 1e-8 and mmdet 1e-6 to its argument.

    Args:
      boxes: boxes in pixels; boxes without area go to the finest level.
      convention: library that defines the constant.
      num_levels: number of levels to choose from.
      canonical_size: side in pixels of a box that belongs to `canonical_level`.
      canonical_level: level of boxes of `canonical_size`.
      min_level: the finest level.

    Returns:
      Level indices in 0..num_levels-1, 0 the finest.
    """
    sides = boxes[..., 2:] - boxes[..., :2]
    size = jnp.sqrt(jnp.maximum(sides[..., 0] * sides[..., 1], 0.0))
    if convention == "torchvision":
        level = (canonical_level + _log2(size / canonical_size)) + 1e-6 - min_level
    elif convention == "detectron2":
        level = canonical_level + _log2(size / canonical_size + 1e-8) - min_level
    elif convention == "mmdet":
        finest = canonical_size / 2.0 ** (canonical_level - min_level)
        level = _log2(size / finest + 1e-6)
    else:
        raise ValueError(
            f"convention is {convention!r}: choose 'torchvision', 'detectron2' or 'mmdet'"
        )
    return jnp.clip(jnp.floor(level), 0, num_levels - 1).astype(jnp.int32)


def _log2(x: Float32[Array, "*b"]) -> Float32[Array, "*b"]:
    """Base-2 logarithm, exact at powers of two.

    `log(x) / log(2)` is not exact there, and would put a box of side 112 one level too low.
    """
    mantissa, exponent = jnp.frexp(x)
    # With the mantissa in 0.7..1.4, its logarithm is small next to any exponent except 0.
    low = mantissa < 0.70710678
    mantissa = jnp.where(low, 2.0 * mantissa, mantissa)
    exponent = (exponent - low).astype(jnp.float32)
    return jnp.where(x > 0, exponent + jnp.log(mantissa) * 1.4426950408889634, -jnp.inf)
