"""Encoded image files to arrays, with the header checked before anything is decoded."""

import io

import numpy as np
from jaxtyping import UInt8

# The label of pixels that count for nothing.
IGNORE = 255

# Larger images are refused by their header: a few kilobytes can unfold into gigabytes.
MAX_IMAGE_PIXELS = 50_000_000


# Of PNG's colour types, for one channel and for three: the name and the bits a channel.
_PNG = b"\x89PNG\r\n\x1a\n"
_MAP_KINDS = {
    1: {0: ("gray", (8,)), 3: ("palette", (1, 2, 4, 8))},
    3: {2: ("RGB", (8,))},
}


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
    _check_size(data, height, width)
    _decode_with_pillow(data)


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
      ImageError: if it is no such PNG, of another size, damaged or too large.
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
