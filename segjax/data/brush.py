"""Run lengths of Label Studio's brush, in the format of the JavaScript library thi.ng/rle-pack.

The data are a stream of bits. It begins with the number of words (32 bits), the bits per word minus
1 (5 bits), and four widths of counts minus 1 (4 bits each). Blocks follow: 1 bit that is set if one
word is repeated, 2 bits that select the width of the count, the count minus 1, and one word or as
many as counted. The words are the bytes of an RGBA image with the mask in its alpha channel.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from segjax.data.rle import MAX_MASK_PIXELS, RleError


class _Bits:
    """Reads whole numbers from a stream of bits, the most significant bit first."""

    def __init__(self, data: UInt8[np.ndarray, " bytes"]) -> None:
        self._bits = np.unpackbits(data)
        self._place = 0

    def number(self, width: int) -> int:
        return int(self.numbers(1, width)[0])

    def numbers(self, count: int, width: int) -> Int64[np.ndarray, " count"]:
        end = self._place + count * width
        if end > self._bits.size:
            raise RleError("the brush's run lengths end in the middle of a number")
        bits = self._bits[self._place : end].reshape(count, width)
        self._place = end
        return bits @ (np.int64(1) << np.arange(width - 1, -1, -1, dtype=np.int64))


def decode_brush(data: Sequence[Any], height: int, width: int) -> Bool[np.ndarray, "h w"]:
    """Decodes a mask.

    Args:
      data: bytes, as numbers 0..255: the list "rle" of an export.
      height: rows of the image.
      width: columns of the image.

    Returns:
      True where the alpha channel is not 0.

    Raises:
      RleError: if the data are malformed, or belong to an image of another size.
    """
    array = np.asarray(data)
    if array.ndim != 1 or array.dtype.kind not in "iu" or not array.size:
        raise RleError("the brush's run lengths are not a list of bytes")
    if array.min() < 0 or array.max() > 255:
        raise RleError("the brush's run lengths hold numbers outside 0..255")
    bits = _Bits(array.astype(np.uint8))
    total, word = bits.number(32), bits.number(5) + 1
    if total != 4 * height * width or height * width > MAX_MASK_PIXELS:
        raise RleError(f"a brush mask of {total} bytes, wanted 4 x {height} x {width}")
    widths = [bits.number(4) + 1 for _ in range(4)]
    words, place = np.zeros(total, bool), 0
    while place < total:
        repeated = bits.number(1)
        count = bits.number(widths[bits.number(2)]) + 1
        if place + count > total:
            raise RleError("the brush's run lengths go beyond the image")
        words[place : place + count] = bits.numbers(1 if repeated else count, word) != 0
        place += count
    return words.reshape(height, width, 4)[..., 3]
