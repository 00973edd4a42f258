"""Encoded image files to RGB arrays, with the header checked before anything is decoded."""

import io

import numpy as np
from jaxtyping import UInt8

# Larger images are refused by their header: a few kilobytes can unfold into gigabytes.
MAX_IMAGE_PIXELS = 50_000_000


class ImageError(ValueError):
    """An image file that cannot be used."""


def read_size(data: bytes) -> tuple[int, int]:
    """Reads height and width from the header alone.

    Args:
      data: the bytes of an image file of any format that Pillow knows.

    Returns:
      Height and width in pixels, as stored: EXIF rotation is ignored, as COCO's tools do, since
      annotations refer to the stored pixels.

    Raises:
      ImageError: if this is no image, or one of more than `MAX_IMAGE_PIXELS`.
    """
    return _header(data)[:2]


def decode_image(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an image file to RGB.

    Gray becomes three equal channels, palettes are resolved, CMYK is converted, 16 bits a channel
    are cut to the upper 8, transparency is dropped (not blended), animations give their first
    frame. EXIF rotation is ignored (see `read_size`).

    Args:
      data: the bytes of the file.

    Returns:
      RGB pixels.

    Raises:
      ImageError: if this is no image, has more than `MAX_IMAGE_PIXELS`, or cannot be decoded.
    """
    import cv2

    height, width, mode = _header(data)
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
    return image


def verify_image(data: bytes, height: int, width: int) -> None:
    """Decodes an image wholly, and strictly, to find damage that decoders paint over.

    Args:
      data: the bytes of the file.
      height: rows that it should have.
      width: columns that it should have.

    Raises:
      ImageError: if it is damaged, truncated, too large, or of another size.
    """
    found = read_size(data)
    if found != (height, width):
        raise ImageError(
            f"is {found[0]} x {found[1]} (height x width), the annotations say {height} x {width}"
        )
    _decode_with_pillow(data)


def _header(data: bytes) -> tuple[int, int, str]:
    from PIL import Image

    if not data:
        raise ImageError("is empty")
    try:
        with Image.open(io.BytesIO(data)) as image:
            (width, height), mode = image.size, image.mode
    except Image.DecompressionBombError as error:
        raise ImageError(f"has too many pixels: {error}") from None
    except Exception as error:  # decoders of hostile files raise anything
        raise ImageError(f"is not an image that can be read: {error}") from None
    if width * height > MAX_IMAGE_PIXELS:
        raise ImageError(
            f"has {width * height} pixels ({height} x {width}), the limit is {MAX_IMAGE_PIXELS}"
        )
    if mode in ("F", "I"):
        raise ImageError(f'has 32 bits a channel (mode "{mode}"): convert it to 8 or 16 bits')
    return height, width, mode


def _decode_with_pillow(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:
        raise ImageError(f"cannot be decoded: {error}") from None
