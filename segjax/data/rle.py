"""Run-length encoded masks in COCO's format, read and written without trusting the input.

A mask is scanned column by column and stored as the lengths of alternating runs of zeros and
ones, starting with zeros. The compressed form writes each length (from the fourth on, its
difference to the length two before) as a little-endian base-32 number in printable characters.

pycocotools writes past its buffers on malformed strings. This module therefore parses strings
itself, and only passes validated polygons to pycocotools.
"""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from jaxtyping import Bool, Int64, Integer, UInt8

MAX_MASK_PIXELS = 1 << 28
MAX_POLYGON_POINTS = 100_000
# 7 digits of 5 bits can represent any difference of two run lengths below 2**32.
_MAX_DIGITS = 7


class Rle(TypedDict):
    """A mask as stored by COCO: `size` is `[height, width]`, `counts` the compressed runs."""

    size: list[int]
    counts: str


class RleError(ValueError):
    """Raised for run-length strings and polygons that do not describe a mask."""


def counts_from_string(text: str, height: int, width: int) -> Int64[np.ndarray, " runs"]:
    """Parses and validates a compressed run-length string.

    Args:
      text: COCO's `counts`.
      height: rows of the mask, in pixels.
      width: columns of the mask, in pixels.

    Returns:
      The run lengths, zeros first; they sum to `height * width`.

    Raises:
      RleError: if there is a character outside the alphabet, an unfinished or overlong number, or a
        negative run, or if the runs do not fill the mask.
    """
    _check_size(height, width)
    try:
        digits = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        raise RleError("RLE counts contain characters that are not ASCII") from None
    if digits.size == 0:
        raise RleError("RLE counts are empty: a mask has at least one run")
    if digits.min() < 0 or digits.max() > 63:
        raise RleError("RLE counts contain a character outside '0'..'o'")
    # Bit 5 of a digit marks that the number continues, bit 4 of the last one is the sign.
    ends = np.flatnonzero(digits < 32)
    if ends.size == 0 or ends[-1] != digits.size - 1:
        raise RleError("RLE counts end in the middle of a number")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _MAX_DIGITS:
        raise RleError(f"RLE counts hold a number of more than {_MAX_DIGITS} digits")
    shift = 5 * (np.arange(digits.size) - np.repeat(starts, lengths))
    values = np.add.reduceat((digits & 31) << shift, starts)
    values -= np.where(digits[ends] & 16, np.int64(1) << (5 * lengths), 0)
    # From the fourth on, values are differences to the length two before. The first is not part of
    # that chain, so that even indices accumulate from 2.
    counts = values.copy()
    counts[1::2] = np.cumsum(values[1::2])
    counts[2::2] = np.cumsum(values[2::2])
    return check_counts(counts, height, width)


def check_counts(
    counts: Integer[np.ndarray, " runs"], height: int, width: int
) -> Int64[np.ndarray, " runs"]:
    """Validates uncompressed run lengths against the size of their mask.

    Args:
      counts: run lengths in pixels, zeros first.
      height: rows of the mask.
      width: columns of the mask.

    Returns:
      The run lengths as int64.

    Raises:
      RleError: if a run is negative, or the runs do not sum to `height * width`.
    """
    _check_size(height, width)
    if counts.size == 0 or counts.min() < 0:
        raise RleError("RLE counts are empty or hold a negative run")
    # Bound each run before the sum, so that the sum cannot wrap around.
    if counts.max() > height * width or counts.sum() != height * width:
        raise RleError(f"RLE runs do not add up to the {height} x {width} pixels of the mask")
    return counts.astype(np.int64)


def string_from_counts(counts: Integer[np.ndarray, " runs"]) -> str:
    """Compresses run lengths to the same string as pycocotools.

    Args:
      counts: nonnegative run lengths in pixels, zeros first.

    Returns:
      The compressed `counts`.
    """
    values = counts.astype(np.int64)
    values[3:] -= counts.astype(np.int64)[1:-2]
    columns, used = [], []
    more = np.ones(values.shape, bool)
    while more.any():
        digit = values & 31
        values = values >> 5  # arithmetic shift, which keeps the sign
        used.append(more)
        more = more & np.where(digit & 16, values != -1, values != 0)
        columns.append(digit + 32 * more + 48)
    return np.stack(columns, 1)[np.stack(used, 1)].astype(np.uint8).tobytes().decode("ascii")


def encode(mask: Bool[np.ndarray, "h w"] | UInt8[np.ndarray, "h w"]) -> Rle:
    """Encodes a mask.

    Args:
      mask: mask that is nonzero on the object.

    Returns:
      The mask as RLE.
    """
    height, width = mask.shape
    padded = np.concatenate([[False], np.ravel(mask.astype(bool), order="F"), [False]])
    changes = np.flatnonzero(padded[1:] != padded[:-1])
    # If the last pixel is one, its run closes at the end of the mask, and no run of zeros follows.
    closed = changes.size and changes[-1] == height * width
    edges = changes if closed else [*changes, height * width]
    counts = np.diff(np.asarray(edges, np.int64), prepend=0)
    return {"size": [height, width], "counts": string_from_counts(counts)}


def from_places(places: Int64[np.ndarray, " pixels"], height: int, width: int) -> Rle:
    """Encodes a list of pixels, without a raster of the whole image.

    Args:
      places: `column * height + row` of each pixel, strictly ascending.
      height: rows of the mask.
      width: columns of the mask.

    Returns:
      The mask as RLE.
    """
    starts = places[np.diff(places, prepend=-2) != 1]
    ends = places[np.diff(places, append=height * width + 1) != 1] + 1
    return _from_runs(starts, ends, height, width)


def encode_part(
    mask: Bool[np.ndarray, "h w"], corner: tuple[int, int], height: int, width: int
) -> Rle:
    """Encodes a mask that covers a part of an image; pixels outside the image are dropped.

    Args:
      mask: True where the object is.
      corner: (x, y) of the part's first pixel in the image.
      height: rows of the image.
      width: columns of the image.

    Returns:
      The mask over the whole image as RLE.
    """
    columns, rows = (found.astype(np.int64) for found in np.nonzero(mask.T))
    columns, rows = columns + corner[0], rows + corner[1]
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    return from_places((columns * height + rows)[inside], height, width)


def placed(rle: Rle, corner: tuple[int, int], height: int, width: int) -> Rle:
    """Moves the mask of a part of an image to its place in the image, without decoding it.

    Args:
      rle: mask of the part as RLE.
      corner: (x, y) of the part's first pixel in the image; the part must be inside.
      height: rows of the image.
      width: columns of the image.

    Returns:
      The mask over the whole image as RLE.

    Raises:
      RleError: if the RLE is malformed, or the part reaches beyond the image.
    """
    rows, columns = rle["size"]
    x, y = corner
    if not (0 <= y <= height - rows and 0 <= x <= width - columns):
        raise RleError(
            f"a part of {rows} x {columns} pixels at row {y}, column {x} is not inside an image of"
            f" {height} x {width}"
        )
    counts = counts_from_string(rle["counts"], rows, columns)
    ends = np.cumsum(counts)[1::2]
    starts = ends - counts[1::2]
    starts, ends = starts[starts < ends], ends[starts < ends]
    # A run over several columns of the part is several runs in a taller image.
    first = starts // rows
    pieces = (ends - 1) // rows - first + 1
    number = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    column = np.repeat(first, pieces) + number
    low = np.maximum(np.repeat(starts, pieces), column * rows)
    high = np.minimum(np.repeat(ends, pieces), (column + 1) * rows)
    shift = (column + x) * height + y - column * rows
    low, high = low + shift, high + shift
    apart = np.append(low[1:] != high[:-1], True)[: low.size]
    return _from_runs(low[np.roll(apart, 1)], high[apart], height, width)


def union(masks: Sequence[Rle]) -> Rle:
    """Unites masks of one size.

    Args:
      masks: at least one.

    Returns:
      The pixels that are in any of the masks.

    Raises:
      RleError: if the RLE is malformed, or the sizes differ.
    """
    height, width = masks[0]["size"]
    if any(mask["size"] != [height, width] for mask in masks):
        raise RleError(f"masks of different sizes: {[mask['size'] for mask in masks]}")
    edges = [np.cumsum(counts_from_string(mask["counts"], height, width)) for mask in masks]
    # Runs of ones lie between every second edge and the next.
    starts = np.concatenate([found[:-1][::2] for found in edges])
    ends = np.concatenate([found[1::2] for found in edges])
    starts, ends = starts[starts < ends], ends[starts < ends]
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(ends[order])
    last = np.append(starts[1:] > reach[:-1], True)[: starts.size]  # of runs that touch
    return _from_runs(starts[np.roll(last, 1)], reach[last], height, width)


def empty_counts(height: int, width: int) -> str:
    """Returns the canonical counts of an empty mask, to compare other counts with."""
    return string_from_counts(np.array([height * width]))


def decode(rle: Rle) -> UInt8[np.ndarray, "h w"]:
    """Decodes a mask of at most `MAX_MASK_PIXELS` pixels.

    Args:
      rle: mask as RLE.

    Returns:
      The mask, 0 or 1.

    Raises:
      RleError: if the RLE is malformed.
    """
    height, width = rle["size"]
    counts = counts_from_string(rle["counts"], height, width)
    values = (np.arange(counts.size) % 2).astype(np.uint8)
    return np.repeat(values, counts).reshape(width, height).T


def decode_crop(
    rle: Rle, box: Sequence[float | int], size: tuple[int, int] = (112, 112)
) -> UInt8[np.ndarray, "mh mw"]:
    """Samples a mask on a grid over a box, without decoding the rest of the image.

    Each cell takes the pixel under its centre. On average, this preserves the area of the mask, and
    parts thinner than a cell are thinned out rather than erased.

    Args:
      rle: mask as RLE.
      box: `(x0, y0, x1, y1)` in pixels of the mask, half-open.
      size: number of rows and columns of the grid.

    Returns:
      The raster, 0 or 1; zero outside the image.

    Raises:
      RleError: if the RLE is malformed.
    """
    height, width = rle["size"]
    counts = counts_from_string(rle["counts"], height, width)
    x0, y0, x1, y1 = box
    rows = np.floor(y0 + (np.arange(size[0]) + 0.5) * ((y1 - y0) / size[0])).astype(np.int64)
    columns = np.floor(x0 + (np.arange(size[1]) + 0.5) * ((x1 - x0) / size[1])).astype(np.int64)
    row_inside = (rows >= 0) & (rows < height)
    column_inside = (columns >= 0) & (columns < width)
    first = int(np.clip(columns[0], 0, width - 1))
    last = int(np.clip(columns[-1], first, width - 1)) + 1
    strip = _decode_columns(counts, first, last, height)
    raster = strip[
        np.clip(columns - first, 0, last - first - 1)[None, :],
        np.clip(rows, 0, height - 1)[:, None],
    ]
    if row_inside.all() and column_inside.all():
        return raster
    return raster * (row_inside[:, None] & column_inside[None, :])


def area(rle: Rle) -> int:
    """Counts the pixels of a mask.

    Args:
      rle: mask as RLE.

    Returns:
      The area in pixels.
    """
    return measure(rle)[0]


def to_bbox(rle: Rle) -> tuple[int, int, int, int]:
    """Finds the bounding box of a mask.

    Args:
      rle: mask as RLE.

    Returns:
      `(x0, y0, x1, y1)` in pixels, half-open; zeros for an empty mask.
    """
    return measure(rle)[1]


def measure(rle: Rle) -> tuple[int, tuple[int, int, int, int]]:
    """Computes the area and bounding box of a mask in one pass.

    Args:
      rle: mask as RLE.

    Returns:
      The results of `area` and `to_bbox`.

    Raises:
      RleError: if the RLE is malformed.
    """
    height, width = rle["size"]
    counts = counts_from_string(rle["counts"], height, width)
    ends = np.cumsum(counts)[1::2]
    starts = ends - counts[1::2]
    starts, ends = starts[starts < ends], ends[starts < ends]
    if starts.size == 0:
        return 0, (0, 0, 0, 0)
    first, last = starts // height, (ends - 1) // height
    # A run over two columns touches the bottom of the first and the top of the next.
    if (first != last).any():
        y0, y1 = 0, height
    else:
        y0, y1 = int((starts % height).min()), int(((ends - 1) % height).max()) + 1
    return int((ends - starts).sum()), (int(first[0]), y0, int(last[-1]) + 1, y1)


def canonical(rle: Rle) -> Rle:
    """Rewrites RLE without empty runs, except possibly the first, and with the fewest digits.

    Args:
      rle: mask as RLE.

    Returns:
      The same mask; equal masks produce equal strings.

    Raises:
      RleError: if the RLE is malformed.
    """
    counts = counts_from_string(rle["counts"], *rle["size"])
    return {"size": list(rle["size"]), "counts": string_from_counts(_drop_empty_runs(counts))}


def from_counts(counts: Sequence[Any], height: int, width: int) -> Rle:
    """Converts the uncompressed form, which COCO uses for crowds, to compressed RLE.

    Args:
      counts: run lengths in pixels, zeros first.
      height: rows of the mask.
      width: columns of the mask.

    Returns:
      The mask as RLE.

    Raises:
      RleError: if the runs are not integers, are negative, or do not fill the mask.
    """
    values = np.asarray(counts)
    if values.ndim != 1 or values.size == 0 or values.dtype.kind not in "iu":
        raise RleError("uncompressed RLE counts must be a list of whole numbers")
    checked = _drop_empty_runs(check_counts(values, height, width))
    return {"size": [height, width], "counts": string_from_counts(checked)}


def from_polygons(polygons: Sequence[Any], height: int, width: int) -> Rle:
    """Rasterises the union of polygons as in COCO.

    Args:
      polygons: polygons `[x0, y0, x1, y1, ...]` in pixels, with at least three points each.
      height: rows of the mask.
      width: columns of the mask.

    Returns:
      The mask as RLE.

    Raises:
      RleError: if there are no polygons, or if one has fewer than three or too many points, an odd
        number of coordinates, or coordinates that are not finite or more than one image size
        outside the image.
    """
    from pycocotools import mask as mask_utils

    _check_size(height, width)
    checked: Any = [_check_polygon(polygon, height, width) for polygon in polygons]
    if not checked:
        raise RleError("a segmentation without polygons")
    merged: Any = mask_utils.merge(mask_utils.frPyObjects(checked, height, width))
    return {"size": [height, width], "counts": merged["counts"].decode("ascii")}


def _from_runs(
    starts: Int64[np.ndarray, " runs"], ends: Int64[np.ndarray, " runs"], height: int, width: int
) -> Rle:
    """Encodes ascending, half-open runs of ones that do not touch."""
    edges = np.stack([starts, ends], axis=1).ravel()
    if not edges.size or edges[-1] < height * width:
        edges = np.append(edges, height * width)
    return {"size": [height, width], "counts": string_from_counts(np.diff(edges, prepend=0))}


def _decode_columns(
    counts: Int64[np.ndarray, " runs"], first: int, last: int, height: int
) -> UInt8[np.ndarray, "columns h"]:
    """Decodes columns `first..last-1` into the rows of an array."""
    edges = np.clip(np.cumsum(counts), first * height, last * height)
    runs = np.diff(edges, prepend=first * height)
    values = (np.arange(counts.size) % 2).astype(np.uint8)
    return np.repeat(values, runs).reshape(last - first, height)


def _drop_empty_runs(counts: Int64[np.ndarray, " runs"]) -> Int64[np.ndarray, " kept"]:
    """Joins the neighbours of empty runs; only the first run may remain empty."""
    values = np.arange(counts.size) % 2
    values, lengths = values[counts > 0], counts[counts > 0]
    starts = np.flatnonzero(np.diff(values, prepend=-1))
    joined = np.add.reduceat(lengths, starts)
    return joined if values[0] == 0 else np.concatenate([[0], joined])


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1 or height * width > MAX_MASK_PIXELS:
        raise RleError(
            f"a mask of {height} x {width} pixels: both sides must be positive and the area at "
            f"most {MAX_MASK_PIXELS}"
        )


def _check_polygon(polygon: Sequence[Any], height: int, width: int) -> list[float]:
    if len(polygon) < 6 or len(polygon) % 2:
        raise RleError(f"a polygon of {len(polygon)} numbers: wanted x, y of three or more points")
    if len(polygon) > 2 * MAX_POLYGON_POINTS:
        raise RleError(f"a polygon of more than {MAX_POLYGON_POINTS} points")
    points = np.asarray(polygon)
    if points.ndim != 1 or points.dtype.kind not in "iuf" or not np.isfinite(points).all():
        raise RleError("a polygon holds something that is not a finite number")
    # pycocotools traces every edge pixel by pixel: distant points would cost gigabytes.
    limit = np.array([width, height], np.float64)
    far = (points.reshape(-1, 2) < -limit) | (points.reshape(-1, 2) > 2 * limit)
    if far.any():
        raise RleError("a polygon reaches further than one image size outside the image")
    return points.astype(np.float64).tolist()
