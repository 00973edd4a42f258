"""Limits on the cost and on the names in files from untrusted sources."""

import dataclasses
import math
from typing import Any

import numpy as np

from segjax.data.store import bad_name

MAX_STEPS = 300_000  # a cascade of 1,500 tensors and its optimizer's state take about 150,000
MAX_TENSORS = 20_000
MAX_DIMS = 16


class UnsafeFileError(ValueError):
    """Raised for a file that asks for more than reading numbers; the message says how."""


@dataclasses.dataclass
class Budget:
    """Remaining budget for reading a file; a file that exceeds it was built to do harm.

    Attributes:
      bytes: bytes of tensors and decoded texts. Shared data are created only once, so twice the
        size of the file is enough for an honest file, plus a little for small broadcast tensors.
      steps: number of pickle instructions.
    """

    bytes: int
    steps: int = MAX_STEPS

    @staticmethod
    def of_file(size: int) -> "Budget":
        """Returns the budget of a file of `size` bytes."""
        return Budget(2 * size + (1 << 20))

    def spend(self, count: int) -> None:
        """Subtracts bytes from the budget.

        Raises:
          UnsafeFileError: if the budget is exceeded.
        """
        self.bytes -= count
        if self.bytes < 0:
            raise UnsafeFileError(
                "its tensors take far more memory than the file has bytes: a decompression bomb"
            )


def checked_shape(shape: Any, what: str = "shape is") -> tuple[int, ...]:
    """Checks a shape from a file and returns it as a tuple.

    Args:
      shape: value that should be a tuple or list of non-negative integers.
      what: subject and verb for the error message.

    Raises:
      ValueError: if the value is anything else.
    """
    if not isinstance(shape, tuple | list) or len(shape) > MAX_DIMS:
        raise ValueError(f"a tensor's {what} {short(shape)}, not up to {MAX_DIMS} whole numbers")
    if not all(is_count(side) for side in shape):
        raise ValueError(f"a tensor's {what} {short(shape)}, which are no possible sizes")
    return tuple(shape)


def is_count(value: Any) -> bool:
    """Returns True if a value from a file is an integer that can be a size or an offset."""
    return type(value) is int and 0 <= value < 1 << 48


def byte_count(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Returns the exact number of bytes of an array; Python's integers do not overflow."""
    return math.prod(shape) * dtype.itemsize


def _is_simple(value: Any) -> bool:
    return value is None or isinstance(value, str | bool | float | int)


def short(value: Any) -> str:
    """Formats a value from a file for a message, safely for large or deeply nested values."""
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
    """Returns True if a tensor's or member's name could be a path elsewhere on any system."""
    return bad_name(name) or ":" in name
