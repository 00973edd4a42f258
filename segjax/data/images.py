"""Encoded image files to arrays, with the header checked before anything is decoded."""

import io
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped, UInt8

# The label of pixels that count for nothing.
IGNORE = 255

# Larger images are refused by their header: a few kilobytes can unfold into gigabytes.
MAX_IMAGE_PIXELS = 50_000_000


# 16-bit images whose every value is below are of 12 bits: cut to 8, they are black.
_DARK = 4096

# Of PNG's colour types, for one channel and for three: the name and the bits a channel.
_TIFF = (b"II*\0", b"MM\0*")
_PNG = b"\x89PNG\r\n\x1a\n"
_MAP_KINDS = {
    1: {0: ("gray", (8,)), 3: ("palette", (1, 2, 4, 8))},
    3: {2: ("RGB", (8,))},
}


class ImageError(ValueError):
    """An image file that cannot be used."""


class Header(NamedTuple):
    """Facts from an image file's header.

    Attributes:
      height: rows as stored.
      width: columns as stored.
      mode: Pillow's name of the pixels' kind.
      orientation: EXIF's number, 1..8, for how the picture is turned when it is shown; 1 for as
        stored.
    """

    height: int
    width: int
    mode: str
    orientation: int

    def size(self, upright: bool) -> tuple[int, int]:
        """Returns (height, width), as shown or as stored."""
        turned = upright and self.orientation in _SWAPPED
        return (self.width, self.height) if turned else (self.height, self.width)


# EXIF orientations that swap rows and columns.
_SWAPPED = (5, 6, 7, 8)
_EXIF_ORIENTATION = 0x0112


def read_size(
    data: bytes, max_pixels: int = MAX_IMAGE_PIXELS, upright: bool = False
) -> tuple[int, int]:
    """Reads height and width from the header alone.

    Args:
      data: the bytes of an image file of any format that Pillow knows.
      max_pixels: largest image, height x width.
      upright: True for the sizes of the picture as its EXIF orientation shows it.

    Returns:
      Height and width in pixels. As stored they follow COCO's tools, which ignore EXIF.

    Raises:
      ImageError: if this is not an image, or one of more than `max_pixels`.
    """
    return read_header(data, max_pixels).size(upright)


def turn_upright(
    image: Shaped[np.ndarray, "h w *c"], orientation: int
) -> Shaped[np.ndarray, "H W *c"]:
    """Turns stored pixels as EXIF's orientation shows them (Exif 2.32, table 6).

    Args:
      image: pixels as stored.
      orientation: 1..8.

    Returns:
      The same pixels in another order; a view.
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

    Gray becomes three equal channels, palettes are resolved, CMYK is converted, 16 bits a channel
    are cut to the upper 8, transparency is dropped (not blended), animations give their first
    frame. EXIF rotation is ignored (see `read_size`).

    Args:
      data: the bytes of the file.
      max_pixels: largest image, height x width.
      upright: True to turn the picture as its EXIF orientation says.

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
    """Decodes an image wholly, and strictly, to find damage that decoders paint over.

    Args:
      data: the bytes of the file.
      height: rows that it should have.
      width: columns that it should have.
      max_pixels: largest image, height x width.
      upright: True if the size is that of the picture as its EXIF orientation shows it.

    Returns:
      The header.

    Raises:
      ImageError: if it is damaged, truncated, too large, of another size, or would become black.
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
    _decode_with_pillow(data)
    _check_depth(data)
    return header


def decode_map(
    data: bytes, height: int, width: int, channels: int
) -> UInt8[np.ndarray, "h w *channels"]:
    """Decodes a PNG whose pixels are numbers, as they are stored: palettes are not resolved.

    Args:
      data: the bytes of the file.
      height: rows that it should have.
      width: columns that it should have.
      channels: 1 for 8 bits gray or a palette's indices, 3 for 8 bits RGB.

    Returns:
      The numbers; without last axis for 1 channel.

    Raises:
      ImageError: if it is not such a PNG, of another size, damaged or too large.
    """
    from PIL import Image

    _check_size(data, height, width)
    kinds = _MAP_KINDS[channels]
    wanted = " or ".join(
        f"{name} PNG of {bits[-1]} bits a channel" for name, bits in kinds.values()
    )
    if data[:8] != _PNG:
        raise ImageError(f"is no PNG: wanted a {wanted}")
    bits, colour = data[24], data[25]  # of the header chunk, which is the first by definition
    if bits not in kinds.get(colour, ("", ()))[1]:
        raise ImageError(f"is a PNG of colour type {colour}, {bits} bits: wanted a {wanted}")
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image, np.uint8)
    except Exception as error:
        raise ImageError(f"cannot be decoded: {error}") from None


def encode_labels(labels: UInt8[np.ndarray, "h w"]) -> bytes:
    """Encodes labels as a gray PNG."""
    import cv2

    return cv2.imencode(".png", labels)[1].tobytes()


def decode_labels(data: bytes) -> UInt8[np.ndarray, "h w"]:
    """Decodes what `encode_labels` made; for files of unknown origin there is `decode_map`."""
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
    """Reads an image file's header.

    Args:
      data: the bytes of the file.
      max_pixels: largest image, height x width.

    Raises:
      ImageError: if this is not an image, is too large, or has 32 bits a channel.
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
    except Exception as error:  # decoders of hostile files raise anything
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
    """Reads EXIF's orientation; Pillow turns TIFFs when it opens them, so that none is left."""
    if image.format == "TIFF":
        return 1
    try:
        found = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged metadata turn nothing
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
    """Refuses 12 bits stored as 16: decoding keeps the upper 8, which leaves them black."""
    import cv2

    if not (data[:8] == _PNG and data[24] == 16) and data[:4] not in _TIFF:
        return
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is not None and image.dtype == np.uint16 and 0 < image.max() < _DARK:
        raise ImageError(
            f"has 16 bits a channel and no value above {image.max()}: cut to 8 bits it would be"
            " nearly black; scale the values of 12-bit images to 8 or to 16 bits"
        )
