"""Resampling of masks between image and box, and packing for run-length encoding.

All resampling here is separable: two dense weight matrices per mask and two matrix products.
This needs no gathers, handles boxes of any shape, and has fixed shapes throughout.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32, UInt8

from segjax.ops.roi_align_taps import FAR, cell_weights, make_axis


@jax.named_scope("mask_targets")
def mask_targets(
    gt_masks: UInt8[Array, "N Mh Mw"] | Float[Array, "N Mh Mw"],
    frames: Float32[Array, "N 4"],
    boxes: Float32[Array, "N 4"],
    size: int,
    *,
    aligned: bool,
    threshold: float | None,
) -> Float32[Array, "N size size"]:
    """Resamples each raster over a box, for the targets of the mask head.

    This is RoIAlign with adaptive sampling on the raster, exact for boxes of every shape, as in
    all three peers (torchvision `project_masks_on_boxes`, Detectron2
    `BitMasks.crop_and_resize`, mmdet `BitmapMasks.crop_and_resize`).

    Args:
      gt_masks: rasters of the objects, 0/1 or soft.
      frames: box in pixels that each raster covers. Use the whole image to match the peers
        exactly. A frame without area yields zeros.
      boxes: regions in pixels to resample over. Results are finite for any value.
      size: side of the target, in bins.
      aligned: False for torchvision, True for Detectron2 and mmdet; see `RoIAlign.aligned`.
      threshold: None returns the mean coverage, 0..1 (torchvision). A number returns 1
        where the coverage reaches it and 0 elsewhere (0.5 in Detectron2 and mmdet).

    Returns:
      Targets in 0..1.
    """
    # Differences of larger coordinates would overflow.
    frames, boxes = jnp.clip(frames, -FAR, FAR), jnp.clip(boxes, -FAR, FAR)
    rows = _target_weights(frames[:, 1::2], boxes[:, 1::2], gt_masks.shape[1], size, aligned)
    cols = _target_weights(frames[:, 0::2], boxes[:, 0::2], gt_masks.shape[2], size, aligned)
    targets = _resample(gt_masks.astype(jnp.float32), rows, cols)
    if threshold is None:
        return targets
    return (targets >= threshold).astype(jnp.float32)


def _target_weights(
    frame: Float32[Array, "N 2"],
    box: Float32[Array, "N 2"],
    cells: int,
    size: int,
    aligned: bool,
) -> Float32[Array, "N size cells"]:
    """Weight of each raster row (or column) in each bin, for intervals `low..high` in pixels."""
    extent = frame[:, 1] - frame[:, 0]
    scale = jnp.where(extent > 0, cells / jnp.where(extent > 0, extent, 1.0), 0.0)
    low, high = ((box[:, i] - frame[:, 0]) * scale for i in (0, 1))
    sizes = jnp.full(low.shape, cells, jnp.int32)
    axis = make_axis(low, high, sizes, num_bins=size, sampling_ratio=0, aligned=aligned)
    weights = cell_weights(
        axis, jnp.broadcast_to(jnp.arange(cells, dtype=jnp.int32), (len(low), size, cells))
    )
    return jnp.where((extent > 0)[:, None, None], weights, 0.0)


@jax.named_scope("paste_masks")
def paste_masks(
    mask_probs: Float32[Array, "N M M"],
    boxes: Float32[Array, "N 4"],
    height: int,
    width: int,
    *,
    padded: bool,
    origin: Int32[Array, "N 2"] | None = None,
) -> Float32[Array, "N height width"]:
    """Resamples the mask of each box to the pixels of the image.

    Args:
      mask_probs: probability of each cell of the grid over the box.
      boxes: boxes in pixels; masks of empty or inverted boxes are zero.
      height: height of the image, in pixels.
      width: width of the image, in pixels.
      padded: False for Detectron2 and mmdet: bilinear at pixel centres, zero outside the
        box. True for torchvision (`paste_masks_in_image`): the mask is padded by one cell.
        Its box is enlarged to match, truncated to whole pixels, and filled up to and including
        the pixel of its far corner.
      origin: (x, y) in the image of the first pixel of each result, to paste windows; None
        is (0, 0). Values in a window equal those of pasting into the whole image.

    Returns:
      Soft masks, zero outside the boxes. The peers threshold them at 0.5.
    """
    boxes = jnp.clip(boxes, -FAR, FAR)
    weights = _padded_weights if padded else _grid_weights
    x, y = jnp.arange(width, dtype=jnp.float32)[None], jnp.arange(height, dtype=jnp.float32)[None]
    if origin is not None:
        x, y = x + origin[:, :1], y + origin[:, 1:]
    rows = weights(boxes[:, 1::2], y, mask_probs.shape[1])
    cols = weights(boxes[:, 0::2], x, mask_probs.shape[2])
    empty = (boxes[:, 2:] <= boxes[:, :2]).any(axis=-1)
    rows = jnp.where(empty[:, None, None], 0.0, rows)
    return _resample(mask_probs, rows, cols)


def _grid_weights(
    box: Float32[Array, "N 2"], pixel: Float32[Array, "#N pixels"], cells: int
) -> Float32[Array, "N pixels cells"]:
    """Bilinear weights of the cells at each pixel centre; zero padding beyond the outer cells."""
    low, high = box[:, :1], box[:, 1:]
    # Keeps gradients finite. A box this small practically never contains a pixel centre.
    extent = jnp.maximum(high - low, 1e-6)
    position = (pixel + 0.5 - low) / extent * cells - 0.5
    return _hat(position, cells)


def _padded_weights(
    box: Float32[Array, "N 2"], pixel: Float32[Array, "#N pixels"], cells: int
) -> Float32[Array, "N pixels cells"]:
    """Weights as in torchvision: the outermost of the `cells + 2` padded cells are zero."""
    middle = (box[:, 1:] + box[:, :1]) * 0.5
    # The minimum never applies but keeps XLA from fusing multiply and add. The next line
    # truncates, so a last bit that differs from torchvision's moves the box by a whole pixel.
    half = jnp.minimum((box[:, 1:] - box[:, :1]) * 0.5 * ((cells + 2) / cells), 1e30)
    low, high = jnp.trunc(middle - half), jnp.trunc(middle + half)
    extent = jnp.maximum(high - low + 1.0, 1.0)
    scale = (cells + 2) / extent
    position = jnp.clip(scale * (pixel - low + 0.5) - 0.5, 0.0, cells + 1.0)
    inside = (pixel >= low) & (pixel <= high)
    return jnp.where(inside[..., None], _hat(position - 1.0, cells), 0.0)


def _hat(position: Float32[Array, "N P"], cells: int) -> Float32[Array, "N P cells"]:
    """Linear interpolation weight of each cell at each position, in cells."""
    cell = jnp.arange(cells, dtype=jnp.float32)[None, None]
    return jnp.maximum(1.0 - jnp.abs(position[..., None] - cell), 0.0)


def _resample(
    masks: Float32[Array, "N h w"],
    rows: Float32[Array, "N H h"],
    cols: Float32[Array, "N W w"],
) -> Float32[Array, "N H W"]:
    """Applies row weights, then column weights, in full float32 because results get thresholded."""
    exact = jax.lax.Precision.HIGHEST
    partial = jnp.einsum("nHh,nhw->nHw", rows, masks, precision=exact)
    return jnp.einsum("nHw,nWw->nHW", partial, cols, precision=exact)


def pack_mask_bits(masks: Bool[Array, "N H W"]) -> UInt8[Array, "N W packed"]:
    """Packs masks column by column, eight pixels per byte, in the pixel order of COCO's RLE.

    Args:
      masks: binary masks.

    Returns:
      Packed columns `[N, W, ceil(H / 8)]`; `np.unpackbits(packed, axis=-1, count=H)` unpacks them.
    """
    count, height, width = masks.shape
    padded = jnp.pad(masks, ((0, 0), (0, -height % 8), (0, 0)))
    bits = padded.reshape(count, -1, 8, width).astype(jnp.uint8)
    weights = jnp.asarray([128, 64, 32, 16, 8, 4, 2, 1], jnp.uint8)[None, None, :, None]
    return (bits * weights).sum(axis=2, dtype=jnp.uint8).transpose(0, 2, 1)
