"""Converts images from any common source to uint8 RGB."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import numpy as np
from jaxtyping import UInt8

from segjax.data.images import decode_image

# Users choose the images to predict themselves, so that the limit is much higher than for training.
MAX_PIXELS = 500_000_000
MAX_DOWNLOAD = 200 << 20  # bytes
_TIMEOUT = 30  # seconds


def as_image(source: Any) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an image from any source as RGB.

    The EXIF orientation of photos is applied.

    Args:
      source: path; URL (http, https); PIL image; or NumPy, JAX or PyTorch array, [h, w]
        grayscale, [h, w, 1 | 3 | 4] or [1 | 3 | 4, h, w], with uint8, bool, uint16 (reduced to the
        upper 8 bits) or floats in 0..1.

    Returns:
      RGB pixels; transparency is dropped.

    Raises:
      OSError: if a file cannot be opened, or a URL cannot be fetched.
      ValueError: if the source is not an image; the message describes it, and what is expected.
    """
    if isinstance(source, str) and is_url(source):
        return decode_image(fetch_image(source), MAX_PIXELS, upright=True)
    if isinstance(source, str | os.PathLike):
        data = Path(source).expanduser().read_bytes()
        return decode_image(data, MAX_PIXELS, upright=True)
    if hasattr(source, "getexif"):  # a PIL image; avoids importing PIL for other sources
        return _of_pil(source)
    if hasattr(source, "detach"):  # a PyTorch tensor, which NumPy can only read on the CPU
        source = source.detach().cpu()
    if isinstance(source, list | tuple) or not hasattr(source, "__array__"):
        raise ValueError(
            f"a picture is a {type(source).__name__}: wanted a path, a URL, a PIL image or an"
            " array; give several pictures as a list to the predictor"
        )
    return _of_array(np.asarray(source))


def is_url(source: str) -> bool:
    """Returns True for http and https URLs."""
    return source.startswith(("http://", "https://"))


def fetch_image(url: str) -> bytes:
    """Downloads an image.

    Args:
      url: http or https URL.

    Returns:
      The bytes of the file.

    Raises:
      OSError: if the download fails.
      ValueError: if the content type is not an image, or the file exceeds `MAX_DOWNLOAD`.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"{url} is not of the web (http, https)")
    with urlopen(Request(url, headers={"User-Agent": "segjax"}), timeout=_TIMEOUT) as answer:
        kind = answer.headers.get_content_type()
        if not kind.startswith("image/") and kind != "application/octet-stream":
            raise ValueError(f"{url} is {kind}, wanted an image")
        data = answer.read(MAX_DOWNLOAD + 1)
    if len(data) > MAX_DOWNLOAD:
        raise ValueError(f"{url} has more than {MAX_DOWNLOAD >> 20} MiB")
    return data


def _of_pil(image: Any) -> UInt8[np.ndarray, "h w 3"]:
    from PIL import ImageOps

    if image.mode in ("I", "F", "I;16"):
        return _of_array(np.asarray(image, np.uint16 if image.mode != "F" else np.float32))
    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def _of_array(array: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    channels = array[..., None] if array.ndim == 2 else array
    if channels.ndim == 3 and channels.shape[2] not in (1, 3, 4) and channels.shape[0] in (1, 3, 4):
        channels = channels.transpose(1, 2, 0)
    if channels.ndim != 3 or channels.shape[2] not in (1, 3, 4) or not array.size:
        raise ValueError(
            f"image is {array.dtype} {array.shape}: wanted [h, w], [h, w, 1 | 3 | 4] or"
            " [1 | 3 | 4, h, w] with at least one pixel"
        )
    pixels = _as_bytes(channels)
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    return np.array(pixels[..., :3], order="C")


def _as_bytes(array: np.ndarray) -> UInt8[np.ndarray, "h w c"]:
    """Converts common dtypes to 8 bits."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return (array >> 8).astype(np.uint8)
    if np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if low >= 0 and high <= 1:
            return np.rint(array * 255).astype(np.uint8)
        raise ValueError(
            f"image is {array.dtype} with values {low:g}..{high:g}: wanted floats in 0..1, or uint8"
        )
    low, high = int(array.min()), int(array.max())
    if np.issubdtype(array.dtype, np.integer) and low >= 0 and high <= 255:
        return array.astype(np.uint8)
    raise ValueError(
        f"image is {array.dtype} with values {low}..{high}: wanted uint8, bool, uint16 or floats"
        " in 0..1"
    )
