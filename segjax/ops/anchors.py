"""Anchors: reference boxes at every cell of every pyramid level.

As in all three peers, the anchors of a cell are centred at `index * stride`, not at the
middle of the cell, and anchors are ordered by (row, column, shape).
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float32


def base_anchors(
    sizes: Sequence[float | int], ratios: Sequence[float | int], *, rounded: bool
) -> Float32[np.ndarray, "A 4"]:
    """Anchor shapes of one level, centred on the origin.

    Args:
      sizes: square roots of the anchors' areas in pixels.
      ratios: aspect ratios, height / width.
      rounded: round the corners to whole pixels, halves to even, as in torchvision's
        `AnchorGenerator.generate_anchors`. Detectron2 and mmdet keep them exact.

    Returns:
      `len(ratios) * len(sizes)` boxes in pixels, with ratios as the outer loop.

    Raises:
      ValueError: if `sizes` or `ratios` is empty or contains a number that is not positive.
    """
    for name, values in (("sizes", sizes), ("ratios", ratios)):
        if len(values) == 0 or min(values) <= 0:
            raise ValueError(f"{name} are {tuple(values)}: give at least one positive number")
    root = np.sqrt(np.asarray(ratios, np.float64))[:, None]
    scales = np.asarray(sizes, np.float64)[None, :]
    half_widths, half_heights = (scales / root).ravel() / 2, (scales * root).ravel() / 2
    boxes = np.stack([-half_widths, -half_heights, half_widths, half_heights], axis=1)
    # Round in float64, before the cast. np.round rounds halves to even, like torch.round.
    return (np.round(boxes) if rounded else boxes).astype(np.float32)


def level_stride(
    padded_size: tuple[int, int], feature_shape: tuple[int, int], nominal: int, from_shape: bool
) -> tuple[int, int]:
    """Distance in pixels between neighbouring cells of a level.

    Args:
      padded_size: (height, width) of the padded input.
      feature_shape: (height, width) of the level.
      nominal: nominal stride of the level, 4..64 for P2..P6.
      from_shape: divide the padded size by the feature size, rounding down, as in torchvision;
        use it with weights trained there. At height 800, P6 has 13 rows and its anchors are 61
        pixels apart rather than 64. The two agree if the padded size is a multiple of 64.
        Detectron2 and mmdet use the nominal stride.

    Returns:
      (vertical, horizontal) stride in pixels.
    """
    if not from_shape:
        return nominal, nominal
    return padded_size[0] // feature_shape[0], padded_size[1] // feature_shape[1]


def level_anchors(
    base: Float32[np.ndarray, "A 4"] | Float32[Array, "A 4"],
    feature_shape: tuple[int, int],
    stride: tuple[int, int],
) -> Float32[Array, "N 4"]:
    """All anchors of one level, N = H * W * A.

    Args:
      base: anchor shapes of the level, from `base_anchors`.
      feature_shape: (height, width) of the level.
      stride: (vertical, horizontal) distance between cells in pixels.

    Returns:
      Boxes in pixels, ordered by (row, column, shape).
    """
    height, width = feature_shape
    num_shapes = base.shape[0]
    grid = (height, width, num_shapes)
    # Iota rather than a NumPy constant: a quarter of a million anchors would bloat the
    # executable and its cache. Integer products are exact, whatever the compiler fuses.
    shift_y = (lax.broadcasted_iota(jnp.int32, grid, 0) * stride[0]).astype(jnp.float32)
    shift_x = (lax.broadcasted_iota(jnp.int32, grid, 1) * stride[1]).astype(jnp.float32)
    shifts = jnp.stack([shift_x, shift_y, shift_x, shift_y], axis=-1)  # [H, W, A, 4]
    return (shifts + jnp.asarray(base)[None, None]).reshape(height * width * num_shapes, 4)
