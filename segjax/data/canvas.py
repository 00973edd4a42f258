"""Canvases: padded image sizes for training, evaluation and prediction."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, UInt8

from segjax.data.config import DataConfig
from segjax.data.example import Example
from segjax.data.rows import apply

Canvas = tuple[int, int]


def fit(
    image: UInt8[np.ndarray, "h w 3"], config: DataConfig, divisor: int
) -> tuple[UInt8[np.ndarray, "H W 3"], tuple[int, int]]:
    """Resizes an image as in evaluation, and pads it on the right and at the bottom.

    Args:
      image: RGB image of any size.
      config: resizing (`transforms`, or the individual fields) and `buckets`.
      divisor: divisor of the padded sides, in pixels, if none of `config.buckets` is large enough.

    Returns:
      The image padded with zeros, and its (height, width) without the padding.
    """
    resized = apply(config.steps(), Example.of_image(image), None)
    place = int(_smallest(np.array([resized.size]), config.buckets or ())[0])
    canvas = round_up(resized.size, divisor) if place < 0 else (config.buckets or ())[place]
    padded = np.zeros((*canvas, 3), np.uint8)
    padded[: resized.size[0], : resized.size[1]] = resized.image
    return padded, resized.size


def derive_canvases(sizes: Int64[np.ndarray, "images 2"], config: DataConfig) -> tuple[Canvas, ...]:
    """Chooses the canvases for a set of images.

    Args:
      sizes: (height, width) of the images as stored.
      config: resizing, `buckets` and `size_divisor`.

    Returns:
      `config.buckets` if set. Otherwise, one canvas for landscape and square images and one for
      portrait images, as small as possible. A joint canvas replaces the two if its area exceeds
      that of the smaller one by at most a quarter. Without images there is no canvas.
    """
    if config.buckets is not None:
        return config.buckets
    needed = _needed_sizes(np.unique(sizes, axis=0), config)
    portrait = needed[:, 0] > needed[:, 1]
    groups = [needed[portrait == side] for side in (False, True)]
    canvases = [
        round_up(group.max(axis=0).tolist(), config.size_divisor) for group in groups if len(group)
    ]
    if len(canvases) == 2:
        joint = (max(c[0] for c in canvases), max(c[1] for c in canvases))
        if joint[0] * joint[1] <= 1.25 * min(c[0] * c[1] for c in canvases):
            return (joint,)
    return tuple(canvases)


def assign_canvases(
    sizes: Int64[np.ndarray, "images 2"], canvases: Sequence[Canvas], config: DataConfig
) -> Int64[np.ndarray, " images"]:
    """Finds the smallest canvas that holds each image at every scale.

    Args:
      sizes: (height, width) of the images as stored.
      canvases: canvases to choose from.
      config: resizing of the images.

    Returns:
      The index of each image's canvas.

    Raises:
      ValueError: if an image fits on no canvas.
    """
    if not len(sizes):
        return np.zeros(0, np.int64)  # there may be no canvases either
    unique, inverse = np.unique(sizes, axis=0, return_inverse=True)
    needed = _needed_sizes(unique, config)
    best = _smallest(needed, canvases)
    homeless = np.flatnonzero(best < 0)
    if homeless.size:
        height, width = needed[homeless[0]]
        raise ValueError(
            f"an image becomes {height} x {width} pixels and fits on none of the canvases "
            f"{tuple(canvases)}: add a larger one to buckets, or resize to less"
        )
    return best[inverse.reshape(-1)]


def round_up(size: Sequence[int], divisor: int) -> Canvas:
    """Rounds a (height, width) up to multiples of `divisor`."""
    height, width = (-(-int(side) // divisor) * divisor for side in size)
    return height, width


def _smallest(
    sizes: Int64[np.ndarray, "n 2"], canvases: Sequence[Canvas]
) -> Int64[np.ndarray, " n"]:
    """Finds the smallest canvas by area that holds each size; -1 if none does."""
    if not canvases:
        return np.full(len(sizes), -1, np.int64)
    fits = (sizes[:, None] <= np.asarray(canvases)[None]).all(axis=2)
    areas = np.prod(np.asarray(canvases, np.int64), axis=1)
    best = np.where(fits, areas[None], np.iinfo(np.int64).max).argmin(axis=1)
    return np.where(np.any(fits, axis=1), best, -1)


def _needed_sizes(sizes: Int64[np.ndarray, "n 2"], config: DataConfig) -> Int64[np.ndarray, "n 2"]:
    """Returns the largest height and the largest width that each image can be resized to."""
    steps = config.steps()
    needed = np.zeros((len(sizes), 2), np.int64)
    for row, (height, width) in enumerate(sizes.tolist()):
        possible = {(height, width)}
        for step in steps:
            possible = {size for before in possible for size in step.sizes(*before)}
        needed[row] = np.array(sorted(possible)).max(axis=0)
    return needed
