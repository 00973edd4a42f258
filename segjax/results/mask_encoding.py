"""Encodes soft masks as RLE of full-size masks.

Each mask is pasted, thresholded and packed to bits on the device, in a window around it. The host
encodes the window's bits as RLE. Compute and transfers scale with the area of the boxes, not of
the image, as full-size masks are never materialised.
"""

import functools
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Int32, UInt8

from segjax.data import rle
from segjax.ops.masks import pack_mask_bits
from segjax.types import Masks

# Window sides are powers of two from here on, up to the image size (rounded up to a multiple), so
# that the masks of all images share a few compiled programs.
SMALLEST_WINDOW = 64
CANVAS_MULTIPLE = 128
# Pixels pasted at a time, which limits each float32 canvas to 4 MiB, and the range of the number
# of masks per chunk.
CHUNK_PIXELS = 2**20
CHUNK_MASKS = (2, 32)


def encode_masks(
    masks: Masks, row: int, index: np.ndarray, image_size: tuple[int, int]
) -> tuple[rle.Rle, ...]:
    """Pastes and encodes masks of one image.

    Args:
      masks: masks of a batch [B, D] on the device, in pixels of the original images.
      row: index of the image in the batch.
      index: integer indices [n] of the detections to encode.
      image_size: (height, width) of the original image.

    Returns:
      Compressed COCO RLE, in the order of `index`.
    """
    regions = masks.regions(row, index, image_size)
    shapes = [_window_shape(region, image_size) for region in regions]
    encoded: list[rle.Rle] = [_run_lengths(np.zeros(0, np.int64), image_size)] * len(index)
    for shape in sorted(set(shapes)):
        members = np.array([i for i, other in enumerate(shapes) if other == shape])
        low, high = CHUNK_MASKS
        chunk = max(low, min(high, CHUNK_PIXELS // (shape[0] * shape[1])))
        for start in range(0, len(members), chunk):
            chosen = members[start : start + chunk]
            filled = np.resize(chosen, chunk)  # repeats masks, to keep the shape fixed
            packed = _paste_bits(
                masks,
                np.int32(row),
                index[filled].astype(np.int32),
                regions[filled, :2],
                shape=shape,
            )
            for i, bits in zip(chosen, jax.device_get(packed), strict=False):
                encoded[i] = window_rle(bits, regions[i], image_size)
    return tuple(encoded)


def _window_shape(region: np.ndarray, image_size: tuple[int, int]) -> tuple[int, int]:
    """Returns (height, width) of the smallest window that contains the region."""
    longest = max(int(region[2] - region[0]), int(region[3] - region[1]), SMALLEST_WINDOW)
    side = 1 << (longest - 1).bit_length()
    height, width = (min(side, -(-s // CANVAS_MULTIPLE) * CANVAS_MULTIPLE) for s in image_size)
    return height, width


@functools.partial(jax.jit, static_argnames=("shape",))
def _paste_bits(
    masks: Masks,
    row: Any,
    index: Int32[Array, "n"],
    origin: Int32[Array, "n 2"],
    *,
    shape: tuple[int, int],
) -> UInt8[Array, "n W Hbytes"]:
    """Pastes a chunk of masks into windows and packs the binary masks to bits, by column."""
    chosen = jax.tree.map(lambda leaf: leaf[row][index], masks)
    return pack_mask_bits(chosen.paste(*shape, origin=origin))


def window_rle(
    bits: UInt8[np.ndarray, "w hb"],
    region: Int32[np.ndarray, "4"],
    image_size: tuple[int, int],
) -> rle.Rle:
    """Encodes a mask that is zero outside a region as RLE.

    Args:
      bits: columns of the window, eight pixels per byte in the order of `numpy.unpackbits`. The
        window starts at the first pixel of the region.
      region: (x0, y0, x1, y1) in integer pixels of the image.
      image_size: (height, width) of the image.
    """
    x0, y0, x1, y1 = (int(side) for side in region)
    if x1 <= x0 or y1 <= y0:
        return _run_lengths(np.zeros(0, np.int64), image_size)
    columns = np.unpackbits(bits[: x1 - x0], axis=1, count=y1 - y0).astype(bool)
    return _run_lengths(_edges(columns, x0, y0, image_size[0]), image_size)


def _edges(columns: Bool[np.ndarray, "w h"], x0: int, y0: int, height: int) -> np.ndarray:
    """Returns alternating starts and ends of runs, as column-major pixel indices of the image."""
    framed = np.zeros((columns.shape[0], columns.shape[1] + 2), bool)
    framed[:, 1:-1] = columns
    column, pixel = np.nonzero(framed[:, 1:] != framed[:, :-1])
    edges = (column + x0) * height + pixel + y0
    # A run that ends at the bottom of a column can continue at the top of the next one.
    touching = np.flatnonzero(edges[1:] == edges[:-1])
    return np.delete(edges, np.concatenate([touching, touching + 1]))


def _run_lengths(edges: np.ndarray, image_size: tuple[int, int]) -> rle.Rle:
    height, width = image_size
    closed = edges if edges.size and edges[-1] == height * width else [*edges, height * width]
    counts = np.diff(np.asarray(closed, np.int64), prepend=0)
    return {"size": [height, width], "counts": rle.string_from_counts(counts)}
