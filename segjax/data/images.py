"""Decodes image files to arrays, after checking their headers."""

import io
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped, UInt8

# Label of pixels that neither training nor evaluation counts.
IGNORE = 255

# Larger images are rejected based on their header: a few kilobytes can expand to gigabytes.
MAX_IMAGE_PIXELS = 50_000_000


# A 16-bit image with all values below this holds 12-bit data; its upper 8 bits are nearly black.
_DARK = 4096

_TIFF = (b"II*\0", b"MM\0*")
_PNG = b"\x89PNG\r\n\x1a\n"
# Accepted PNGs by number of channels: PNG colour type -> (name, bits per channel).
_MAP_KINDS = {
    1: {0: ("gray", (8,)), 3: ("palette", (1, 2, 4, 8))},
    3: {2: ("RGB", (8,))},
}


class ImageError(ValueError):
    """Raised for image files that cannot be used."""


class Header(NamedTuple):
    """Header of an image file.

    Attributes:
      height: rows as stored.
      width: columns as stored.
      mode: pixel format, as named by Pillow.
      orientation: EXIF orientation for display, 1..8; 1 means as stored.
    """

    height: int
    width: int
    mode: str
    orientation: int

    def size(self, upright: bool) -> tuple[int, int]:
        """Returns (height, width), upright or as stored."""
        turned = upright and self.orientation in _SWAPPED
        return (self.width, self.height) if turned else (self.height, self.width)


# EXIF orientations that swap rows and columns.
_SWAPPED = (5, 6, 7, 8)
_EXIF_ORIENTATION = 0x0112


def read_size(
    data: bytes, max_pixels: int = MAX_IMAGE_PIXELS, upright: bool = False
) -> tuple[int, int]:
    """Reads height and width from the header only.

    Args:
      data: contents of an image file, in any format that Pillow supports.
      max_pixels: largest accepted image, height x width.
      upright: return the size after applying the EXIF orientation. False follows COCO's tools,
        which ignore EXIF.

    Returns:
      Height and width in pixels.

    Raises:
      ImageError: if this is not an image, or has more than `max_pixels`.
    """
    return read_header(data, max_pixels).size(upright)


def turn_upright(
    image: Shaped[np.ndarray, "h w *c"], orientation: int
) -> Shaped[np.ndarray, "H W *c"]:
    """Applies an EXIF orientation to stored pixels (Exif 2.32, table 6).

    Args:
      image: pixels as stored.
      orientation: EXIF orientation, 1..8.

    Returns:
      The upright image, as a view.
    """
    rows, columns = orientation in (3, 4), orientation in (2, 3)
    if orientation in _SWAPPED:
        image = image.swapaxes(0, 1)
        rows, columns = orientation in (7, 8), orientation in (6, 7)
    return image[:: -1 if rows else 1, :: -1 if columns else 1]


def decode_image(
    data: bytes, max_pixels: int = MAX_IMAGE_PIXELS, upright: bool = False
) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an image file to RGB.

    Gray is replicated to three channels, palettes are resolved, and CMYK is converted. Channels of
    16 bits keep their upper 8, transparency is dropped (not blended), and animations return their
    first frame.

    Args:
      data: contents of the file.
      max_pixels: largest accepted image, height x width.
      upright: apply the EXIF orientation, which is ignored otherwise (see `read_size`).

    Returns:
      RGB pixels.

    Raises:
      ImageError: if this is not an image, has more than `max_pixels`, or cannot be decoded.
    """
    import cv2

    height, width, mode, orientation = read_header(data, max_pixels)
    image = None
    # OpenCV is faster, but reads CMYK without its colour transform.
    if mode != "CMYK":
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is not None:
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
    else:
        image = _decode_with_pillow(data)
    if image.shape != (height, width, 3):
        raise ImageError(f"decoded to {image.shape}, but the header says {height} x {width}")
    return np.ascontiguousarray(turn_upright(image, orientation)) if upright else image


def verify_image(
    data: bytes,
    height: int,
    width: int,
    max_pixels: int = MAX_IMAGE_PIXELS,
    upright: bool = False,
) -> Header:
    """Decodes an image completely and strictly, to find damage that lenient decoders conceal.

    Args:
      data: contents of the file.
      height: expected number of rows.
      width: expected number of columns.
      max_pixels: largest accepted image, height x width.
      upright: True if the expected size is the one after applying the EXIF orientation.

    Returns:
      The header.

    Raises:
      ImageError: if the image is damaged, truncated, too large, differs in size, or would decode to
        black.
    """
    header = read_header(data, max_pixels)
    found, turned = header.size(upright), header.size(not upright)
    if found != (height, width):
        text = (
            f"is {found[0]} x {found[1]} (height x width), the annotations say {height} x {width}"
        )
        if turned == (height, width):
            other = "stored" if upright else "upright"
            text += (
                f", its size {other} (EXIF orientation {header.orientation}):"
                f" --data.exif={other} reads it so"
            )
        raise ImageError(text)
    # Pillow raises on truncated files, which OpenCV decodes in part.
    _decode_with_pillow(data)
    _check_depth(data)
    return header


def decode_map(
    data: bytes, height: int, width: int, channels: int
) -> UInt8[np.ndarray, "h w *channels"]:
    """Decodes a PNG of labels or ids. Palettes are not resolved: their indices are the values.

    Args:
      data: contents of the file.
      height: expected number of rows.
      width: expected number of columns.
      channels: 1 for 8-bit gray or palette indices, 3 for 8-bit RGB.

    Returns:
      The stored values, without the last axis for 1 channel.

    Raises:
      ImageError: if it is not such a PNG, differs in size, is damaged or too large.
    """
    from PIL import Image

    _check_size(data, height, width)
    kinds = _MAP_KINDS[channels]
    wanted = " or ".join(
        f"{name} PNG of {bits[-1]} bits a channel" for name, bits in kinds.values()
    )
    if data[:8] != _PNG:
        raise ImageError(f"is no PNG: wanted a {wanted}")
    bits, colour = data[24], data[25]  # PNG requires the header chunk (IHDR) to be the first
    if bits not in kinds.get(colour, ("", ()))[1]:
        raise ImageError(f"is a PNG of colour type {colour}, {bits} bits: wanted a {wanted}")
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image, np.uint8)
    except Exception as error:
        raise ImageError(f"cannot be decoded: {error}") from None


def encode_labels(labels: UInt8[np.ndarray, "h w"]) -> bytes:
    """Encodes labels as a grayscale PNG."""
    import cv2

    return cv2.imencode(".png", labels)[1].tobytes()


def decode_labels(data: bytes) -> UInt8[np.ndarray, "h w"]:
    """Decodes the output of `encode_labels`; use `decode_map` for files of unknown origin."""
    import cv2

    labels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return np.asarray(labels, np.uint8)


def _check_size(data: bytes, height: int, width: int) -> None:
    found = read_size(data)
    if found != (height, width):
        raise ImageError(
            f"is {found[0]} x {found[1]} (height x width), the annotations say {height} x {width}"
        )


def read_header(data: bytes, max_pixels: int = MAX_IMAGE_PIXELS) -> Header:
    """Reads the header of an image file.

    Args:
      data: contents of the file.
      max_pixels: largest accepted image, height x width.

    Raises:
      ImageError: if this is not an image, is too large, or has 32 bits per channel.
    """
    from PIL import Image

    if not data:
        raise ImageError("is empty")
    try:
        with Image.open(io.BytesIO(data)) as image:
            (width, height), mode = image.size, image.mode
            orientation = _orientation(image)
    except Image.DecompressionBombError as error:
        raise ImageError(f"has too many pixels: {error}") from None
    except Exception as error:  # on malformed files, decoders raise all kinds of exceptions
        raise ImageError(f"is not an image that can be read: {error}") from None
    if width * height > max_pixels:
        raise ImageError(
            f"has {width * height / 1e6:.1f} megapixels ({height} x {width}), the limit is"
            f" {max_pixels / 1e6:g}: --data.max-image-pixels raises it"
        )
    if mode in ("F", "I"):
        raise ImageError(f'has 32 bits a channel (mode "{mode}"): convert it to 8 or 16 bits')
    return Header(height, width, mode, orientation)


def _orientation(image: Any) -> int:
    """Returns the EXIF orientation still to be applied; Pillow already applies that of TIFFs."""
    if image.format == "TIFF":
        return 1
    try:
        found = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged metadata must not make a readable image fail
        return 1
    return found if found in range(1, 9) else 1


def _decode_with_pillow(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:
        raise ImageError(f"cannot be decoded: {error}") from None


def _check_depth(data: bytes) -> None:
    """Rejects 12-bit data in 16-bit images: the upper 8 bits, which decoding keeps, are black."""
    import cv2

    if not (data[:8] == _PNG and data[24] == 16) and data[:4] not in _TIFF:
        return
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is not None and image.dtype == np.uint16 and 0 < image.max() < _DARK:
        raise ImageError(
            f"has 16 bits a channel and no value above {image.max()}: cut to 8 bits it would be"
            " nearly black; scale the values of 12-bit images to 8 or to 16 bits"
        )
