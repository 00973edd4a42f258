"""Detects class fragments by normalised cross-correlation with the grey levels of an image.

A fragment is a square patch in the upper left of a padded one, so that fragments of several sizes
share one array and one convolution. Follows Borenstein and Ullman, "Class-specific, top-down
segmentation", ECCV 2002.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32, UInt8

from segjax.types import struct

# Windows whose grey levels (0..1) have a lower standard deviation count as flat.
LEAST_CONTRAST = 0.01
# Score that `correlate` returns where a fragment does not fit into the image.
OUTSIDE = -1.0
_LUMINANCE = (0.299, 0.587, 0.114)


@struct
class Peaks:
    """Places where fragments match best.

    Attributes:
      scores: normalised correlations in -1..1.
      y: row of the upper left corner of the window, in pixels of the searched image.
      x: column of that corner.
    """

    scores: Float32[Array, "*B F P"]
    y: Int32[Array, "*B F P"]
    x: Int32[Array, "*B F P"]


@partial(jax.jit, static_argnames="downsample")
def grey_levels(
    images: UInt8[Array, "B H W 3"] | Float[Array, "B H W 3"], downsample: int
) -> Float32[Array, "B h w"]:
    """Reduces images to the mean luminance of square cells, in which fragments are matched.

    Args:
      images: RGB, 0..255 if uint8, else 0..1.
      downsample: side of a cell in pixels; edge pixels are repeated to fill the last cells.

    Returns:
      Grey levels `[B, ceil(H / downsample), ceil(W / downsample)]`, in 0..1.
    """
    levels = jnp.asarray(images, jnp.float32)
    if jnp.issubdtype(images.dtype, jnp.integer):
        levels = levels / 255
    grey = jnp.einsum("bhwc,c->bhw", levels, jnp.asarray(_LUMINANCE), precision="highest")
    batch, height, width = grey.shape
    grey = jnp.pad(grey, ((0, 0), (0, -height % downsample), (0, -width % downsample)), "edge")
    h, w = (side // downsample for side in grey.shape[1:])
    return grey.reshape(batch, h, downsample, w, downsample).mean(axis=(2, 4))


def normalise_patches(
    patches: Float32[Array, "F S S"], sizes: Int32[Array, " F"]
) -> Float32[Array, "F S S"]:
    """Normalises each patch, within its size, to mean 0 and norm 1.

    Args:
      patches: grey levels.
      sizes: side of the part of each patch that counts, in the upper left corner.

    Returns:
      Patches as `correlate` takes them, 0 beyond their size; flat patches are all 0.
    """
    inside = window_mask(sizes, patches.shape[1])
    area = (sizes**2).astype(jnp.float32)[:, None, None]
    mean = jnp.where(inside, patches, 0.0).sum(axis=(1, 2), keepdims=True) / area
    centred = jnp.where(inside, patches - mean, 0.0)
    norm = jnp.sqrt((centred**2).sum(axis=(1, 2), keepdims=True))
    least = LEAST_CONTRAST * jnp.sqrt(area)
    return jnp.where(norm < least, 0.0, centred / jnp.maximum(norm, least))


def window_mask(sizes: Int32[Array, " F"], side: int) -> Bool[Array, "F side side"]:
    """Returns masks that are True in the upper left `sizes` x `sizes` cells."""
    inside = jnp.arange(side)[None] < sizes[:, None]
    return inside[:, :, None] & inside[:, None, :]


def correlate(
    image: Float32[Array, "h w"], patches: Float32[Array, "F S S"], sizes: Int32[Array, " F"]
) -> Float32[Array, "F h w"]:
    """Correlates every patch with every window of its size, invariant to gain and offset.

    Args:
      image: grey levels in 0..1.
      patches: patches that `normalise_patches` returned.
      sizes: side of each patch.

    Returns:
      Correlation coefficient of window and patch, in -1..1, at the upper left corner of each
      window; 0 for flat windows, and `OUTSIDE` where the window does not fit into the image.

    Raises:
      ValueError: if the patches are larger than the image.
    """
    # Centring first: sums of squares then lose fewer digits to cancellation.
    centred = image - image.mean()
    products = _products(centred, patches)
    area = (sizes**2).astype(jnp.float32)[:, None, None]
    sums = _window_sums(jnp.stack([centred, centred**2]), sizes)
    spread = jnp.maximum(sums[:, 1] - sums[:, 0] ** 2 / area, 0.0)
    flat = spread < LEAST_CONTRAST**2 * area
    scores = products * jax.lax.rsqrt(jnp.where(flat, 1.0, spread))
    scores = jnp.where(flat, 0.0, jnp.clip(scores, -1.0, 1.0))
    return jnp.where(_fits(sizes, image.shape), scores, OUTSIDE)


def _products(
    image: Float32[Array, "h w"], patches: Float32[Array, "F S S"]
) -> Float32[Array, "F h w"]:
    """Sums the products of each patch with the window at each corner.

    Uses Fourier transforms, because XLA's convolution of one channel with large kernels is about
    thirty times slower on a CPU. They are cyclic: windows that leave the image wrap around.
    """
    height, width = image.shape
    if patches.shape[1] > min(height, width):
        raise ValueError(
            f"patches have {patches.shape[1]} cells a side, the image has {height} x {width}: give "
            "larger images, a smaller `downsample` or smaller `sizes`"
        )
    spectra = jnp.conj(jnp.fft.rfft2(patches, (height, width)))
    return jnp.fft.irfft2(jnp.fft.rfft2(image)[None] * spectra, (height, width))


def _fits(sizes: Int32[Array, " F"], shape: tuple[int, ...]) -> Bool[Array, "F h w"]:
    """Returns True for corners whose windows fit into an image of this shape."""
    height, width = shape
    rows = jnp.arange(height)[None] + sizes[:, None] <= height
    columns = jnp.arange(width)[None] + sizes[:, None] <= width
    return rows[:, :, None] & columns[:, None, :]


def _window_sums(
    maps: Float32[Array, "C h w"], sizes: Int32[Array, " F"]
) -> Float32[Array, "F C h w"]:
    """Sums over the window at each corner, by differences of cumulative sums.

    Each axis is summed separately, because cumulative sums over the whole image would have larger
    rounding errors. Pixels outside the image count as 0.
    """

    def along_rows(values: Float32[Array, "*n"], size: Int32[Array, ""]) -> Float32[Array, "*n"]:
        running = jnp.pad(jnp.cumsum(values, axis=-2), ((0, 0), (1, 0), (0, 0)))
        rows = values.shape[-2]
        ends = jnp.minimum(jnp.arange(rows) + size, rows)
        return jnp.take(running, ends, axis=-2) - running[:, :rows]

    def both(size: Int32[Array, ""]) -> Float32[Array, "C h w"]:
        columns = along_rows(maps, size).swapaxes(-1, -2)
        return along_rows(columns, size).swapaxes(-1, -2)

    return jax.vmap(both)(sizes)


@partial(jax.jit, static_argnames="count")
def find_peaks(
    images: Float32[Array, "B h w"],
    patches: Float32[Array, "F S S"],
    sizes: Int32[Array, " F"],
    count: int = 1,
) -> Peaks:
    """Finds the best places of every fragment in every image, one image at a time.

    Args:
      images: grey levels in 0..1.
      patches: patches that `normalise_patches` returned.
      sizes: side of each patch.
      count: number P of places per fragment and image, which are at least half a fragment
        apart in rows or in columns.

    Returns:
      Peaks [B, F, P], best first; scores are `OUTSIDE` if an image has no further place.
    """

    def of_image(image: Float32[Array, "h w"]) -> Peaks:
        return _peaks(correlate(image, patches, sizes), sizes, count)

    return jax.lax.map(of_image, images)


def _peaks(scores: Float32[Array, "F h w"], sizes: Int32[Array, " F"], count: int) -> Peaks:
    """Repeatedly takes the maximum and suppresses its neighbourhood."""
    height, width = scores.shape[1:]
    rows, columns = jnp.arange(height)[None], jnp.arange(width)[None]
    found = []
    for _ in range(count):
        flat = scores.reshape(scores.shape[0], -1)
        place = flat.argmax(axis=1).astype(jnp.int32)
        y, x = place // width, place % width
        found.append((flat.max(axis=1), y, x))
        near_rows = 2 * jnp.abs(rows - y[:, None]) < sizes[:, None]
        near_columns = 2 * jnp.abs(columns - x[:, None]) < sizes[:, None]
        scores = jnp.where(near_rows[:, :, None] & near_columns[:, None, :], OUTSIDE, scores)
    best, y, x = (jnp.stack(values, axis=1) for values in zip(*found, strict=True))
    return Peaks(best, y, x)
