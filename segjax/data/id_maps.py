"""PNGs with object numbers as pixel values, in any of the pixel types that tools write."""

import io
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int32

from segjax.data import rle
from segjax.data.images import MAX_IMAGE_PIXELS, ImageError, read_header

_PNG = b"\x89PNG\r\n\x1a\n"


def is_colour(data: bytes) -> bool:
    """Returns True for a PNG that stores colours, not gray values or indices of a palette."""
    return data[:8] == _PNG and data[25:26] in (b"\2", b"\6")  # of the header, the first chunk


def decode_ids(
    data: bytes, max_pixels: int = MAX_IMAGE_PIXELS, *, palette: bool = False
) -> Int32[np.ndarray, "h w"]:
    """Decodes a PNG with numbers as pixel values.

    Args:
      data: contents of the file.
      max_pixels: largest accepted image, height x width.
      palette: True to read the colours of a palette instead of its indices.

    Returns:
      Gray values of 1 to 16 bits, indices of a palette, or `R + 256 G + 65536 B` for colours, the
      numbering of COCO's panoptic PNGs. An alpha channel is ignored.

    Raises:
      ImageError: if the data are not such a PNG, damaged, or too large.
    """
    from PIL import Image

    if data[:8] != _PNG:
        raise ImageError("is not a PNG: lossy files change numbers")
    read_header(data, max_pixels)
    try:
        with Image.open(io.BytesIO(data)) as image:
            shown = image.convert("RGB") if palette else image
            pixels = np.array(shown).astype(np.int32)
    except Exception as error:
        raise ImageError(f"cannot be decoded: {error}") from None
    if pixels.ndim == 2:
        return pixels
    if pixels.shape[2] == 2:  # gray with alpha
        return pixels[..., 0]
    return pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]


def masks_of(ids: Int32[np.ndarray, "h w"]) -> Iterator[tuple[int, rle.Rle]]:
    """Yields the number and the mask of each object, by ascending number.

    Args:
      ids: number of the object at each pixel; 0 for none.
    """
    height, width = ids.shape
    by_column = ids.T.ravel()
    places = np.flatnonzero(by_column)
    order = np.argsort(by_column[places], kind="stable")
    places = places[order]
    values = by_column[places]
    starts = np.flatnonzero(np.diff(values, prepend=0))
    for start, end in zip(starts, [*starts[1:], len(values)], strict=True):
        yield int(values[start]), rle.from_places(places[start:end], height, width)
