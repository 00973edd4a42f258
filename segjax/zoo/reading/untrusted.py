"""Limits on the cost and the names of files from untrusted sources."""

import dataclasses
import math
from typing import Any

import numpy as np

from segjax.data.store import bad_name

MAX_STEPS = 300_000  # a cascade of 1,500 tensors and its optimizer's state take about 150,000
MAX_TENSORS = 20_000
MAX_DIMS = 16


class UnsafeFileError(ValueError):
    """A file that asks for more than reading numbers: it is refused, and the text says why."""


@dataclasses.dataclass
class Budget:
    """Budget that is left for reading; a file that needs more was built to do harm.

    Attributes:
      bytes: bytes of tensors and decoded texts. Twice the file is enough for any honest file, as
        shared data are made once, plus a little for small broadcast tensors.
      steps: instructions of pickles.
    """

    bytes: int
    steps: int = MAX_STEPS

    @staticmethod
    def of_file(size: int) -> "Budget":
        """Returns the budget of a file of `size` bytes."""
        return Budget(2 * size + (1 << 20))

    def spend(self, count: int) -> None:
        """Takes bytes off.

        Raises:
          UnsafeFileError: if there are fewer.
        """
        self.bytes -= count
        if self.bytes < 0:
            raise UnsafeFileError(
                "its tensors take far more memory than the file has bytes: a decompression bomb"
            )


def checked_shape(shape: Any, what: str = "shape is") -> tuple[int, ...]:
    """Takes a shape from a file.

    Args:
      shape: should be a tuple or list of whole numbers, none negative.
      what: what to call it.

    Returns:
      It as a tuple.

    Raises:
      ValueError: if it is something else.
    """
    if not isinstance(shape, tuple | list) or len(shape) > MAX_DIMS:
        raise ValueError(f"a tensor's {what} {short(shape)}, not up to {MAX_DIMS} whole numbers")
    if not all(is_count(side) for side in shape):
        raise ValueError(f"a tensor's {what} {short(shape)}, which are no possible sizes")
    return tuple(shape)


def is_count(value: Any) -> bool:
    """Says whether a value from a file is a whole number that a size or offset can be."""
    return type(value) is int and 0 <= value < 1 << 48


def byte_count(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Returns how many bytes an array takes, exactly."""
    return math.prod(shape) * dtype.itemsize


def _is_simple(value: Any) -> bool:
    return value is None or isinstance(value, str | bool | float | int)


def short(value: Any) -> str:
    """Shows a value from a file in a message: without surprises, however large or deep it is."""
    if isinstance(value, str | bytes):
        return repr(value[:80]) + ("..." if len(value) > 80 else "")
    if value is None or isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, int):
        bits = value.bit_length()
        return str(value) if bits <= 64 else f"a whole number of {bits} bits"
    if isinstance(value, tuple | list) and len(value) <= 8 and all(map(_is_simple, value)):
        return "[" + ", ".join(short(item) for item in value) + "]"
    return f"a {type(value).__name__}"


def unsafe_name(name: Any) -> bool:
    """Returns True for a name of a tensor or member that could lead elsewhere on any system."""
    return bad_name(name) or ":" in name
