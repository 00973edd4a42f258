"""Symbols in pickles of numpy arrays: the few names that `ndarray.__reduce__` writes.

The modules are `numpy.core` in numpy 1 and `numpy._core` in numpy 2; Python 2 calls its builtins
`__builtin__`. Nothing here calls the function that a name refers to.
"""

from collections import OrderedDict
from typing import Any

import numpy as np

from segjax.zoo.reading.machine import Buildable, Symbol, pairs
from segjax.zoo.reading.state import widen
from segjax.zoo.reading.untrusted import (
    Budget,
    UnsafeFileError,
    byte_count,
    checked_shape,
    short,
)

_NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
_CODES = {code: np.dtype(code) for code in _NUMBERS}
_LATIN = ("latin1", "latin-1")


class Dtype(Buildable):
    """A numeric dtype; its byte order comes with the state.

    Attributes:
      dtype: numpy's dtype.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype

    def build(self, budget: Budget, state: Any) -> None:
        """Sets the byte order.

        Args:
          budget: unused.
          state: (version, byte order, subarray, names, fields, size, alignment, flags).

        Raises:
          UnsafeFileError: if the dtype has fields or subarrays.
          ValueError: if the state is malformed.
        """
        del budget
        if not isinstance(state, tuple) or len(state) < 7 or state[1] not in ("<", ">", "|", "="):
            raise ValueError(f"the state of a dtype is {short(state)}")
        if any(item is not None for item in state[2:5]):
            raise UnsafeFileError("an array has a structured dtype; tensors are plain numbers")
        if state[1] in "<>":
            self.dtype = self.dtype.newbyteorder(state[1])


class StoredArray(Buildable):
    """An array whose content comes with the state.

    It is widened only once, because a small file can give one array ten thousand names.
    """

    def __init__(self, value: np.ndarray | None = None) -> None:
        self._value = None if value is None else widen(value)

    def array(self) -> np.ndarray:
        """Returns the numbers, widened (`state.widen`) and read-only.

        Raises:
          ValueError: if the file has no content for the array.
        """
        if self._value is None:
            raise ValueError("an array has no content")
        return self._value

    def build(self, budget: Budget, state: Any) -> None:
        """Sets the content from (version, shape, dtype, True for column-major order, bytes)."""
        if self._value is not None:
            raise ValueError("an array's content is set twice")
        if not isinstance(state, tuple) or len(state) != 5 or state[0] != 1:
            raise ValueError(f"the state of an array is {short(state)}")
        _, shape, dtype, columns_first, content = state
        order = "F" if columns_first is True else "C"
        self._value = widen(_make(budget, content, dtype, shape, order))


def _make(budget: Budget, content: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    if not isinstance(dtype, Dtype):
        raise ValueError(f"an array's dtype is {short(dtype)}")
    if isinstance(content, str):  # bytes of Python 2, decoded as Latin-1
        content = content.encode("latin-1")
    if not isinstance(content, bytes):
        raise UnsafeFileError(f"an array's content is {short(content)}, not bytes of numbers")
    shape = checked_shape(shape)
    wanted = byte_count(shape, dtype.dtype)
    if wanted != len(content):
        raise ValueError(
            f"an array of shape {short(shape)} and type {dtype.dtype} takes {wanted} bytes, "
            f"{len(content)} are given"
        )
    budget.spend(wanted)
    return np.ndarray(shape, dtype.dtype, content, order="F" if order == "F" else "C")


def _dtype(budget: Budget, code: Any, *flags: Any) -> Dtype:
    """Stand-in for `numpy.dtype(code, align, copy)`."""
    del budget
    if len(flags) > 2 or not isinstance(code, str) or code not in _CODES:
        what = " (Python objects)" if isinstance(code, str) and code[:1] == "O" else ""
        raise UnsafeFileError(f"an array has the dtype {short(code)}{what}; tensors are numbers")
    return Dtype(_CODES[code])


def _reconstruct(budget: Budget, kind: Any, shape: Any, code: Any) -> StoredArray:
    """Stand-in for `numpy.core.multiarray._reconstruct(numpy.ndarray, (0,), b"b")`."""
    del budget
    if not isinstance(kind, Symbol) or kind.name != "numpy.ndarray":
        raise UnsafeFileError(f"an array of the type {short(kind)} is asked for")
    if shape != (0,) or code not in (b"b", "b"):
        raise ValueError(f"an array starts from {short(shape)} and {short(code)}")
    return StoredArray()


def _scalar(budget: Budget, dtype: Any, content: Any) -> Any:
    """Stand-in for `numpy.core.multiarray.scalar(dtype, bytes)`."""
    return _make(budget, content, dtype, (), "C").item()


def _frombuffer(
    budget: Budget, content: Any, dtype: Any, shape: Any, order: Any, *axes: Any
) -> StoredArray:
    """Stand-in for `numpy._core.numeric._frombuffer`, which protocol 5 uses."""
    # Only order "K" comes with a permutation of axes.
    if len(axes) != (order == "K") or order not in ("C", "F", "K"):
        raise ValueError(f"an array's order is {short(order)}")
    value = _make(budget, content, dtype, shape, order)
    return StoredArray(value.transpose(checked_shape(axes[0])) if axes else value)


def _encode(budget: Budget, text: Any, encoding: Any) -> bytes:
    """Stand-in for `_codecs.encode`, with which Python 3 stores bytes in protocols 0 to 2."""
    if not isinstance(text, str) or encoding not in _LATIN:
        raise ValueError(f"_codecs.encode is called with {short(text)} and {short(encoding)}")
    budget.spend(len(text))
    return text.encode("latin-1")


def _empty_bytes(budget: Budget) -> bytes:
    """Stand-in for `bytes()`, with which protocols 0 to 2 store empty bytes."""
    del budget
    return b""


def _ordered_dict(budget: Budget, items: Any = ()) -> OrderedDict[Any, Any]:
    """Stand-in for `collections.OrderedDict`; Python 2 passes the items as an argument."""
    if not isinstance(items, tuple | list):
        raise ValueError(f"an OrderedDict is made of {short(items)}")
    budget.steps -= len(items)  # The file may pass the same items many times.
    if any(not isinstance(item, tuple | list) or len(item) != 2 for item in items):
        raise ValueError("an OrderedDict is made of something else than pairs")
    return OrderedDict(pairs([part for item in items for part in item]))


def _counter(budget: Budget, counts: Any = None) -> dict[Any, Any]:
    """Stand-in for `collections.Counter`, which learning-rate schedules contain."""
    if counts is not None and not isinstance(counts, dict):
        raise ValueError(f"a Counter is made of {short(counts)}")
    budget.steps -= len(counts or ())
    return dict(counts or {})


def table(*symbols: Symbol) -> dict[str, Symbol]:
    """Returns a table of symbols by name."""
    return {symbol.name: symbol for symbol in symbols}


SYMBOLS = table(
    Symbol("numpy.ndarray"),
    Symbol("numpy.dtype", _dtype),
    Symbol("_codecs.encode", _encode),
    Symbol("builtins.bytes", _empty_bytes),
    Symbol("__builtin__.bytes", _empty_bytes),
    Symbol("collections.OrderedDict", _ordered_dict),
    Symbol("collections.Counter", _counter),
    *(
        symbol
        for core in ("numpy.core", "numpy._core")
        for symbol in (
            Symbol(f"{core}.multiarray._reconstruct", _reconstruct),
            Symbol(f"{core}.multiarray.scalar", _scalar),
            Symbol(f"{core}.numeric._frombuffer", _frombuffer),
        )
    ),
)
