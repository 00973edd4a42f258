"""Symbols in torch's pickles: storages, and tensors as views of them.

A tensor consists of a storage, an offset, a shape and strides. The bytes of the storages are
outside the pickle, at a place that depends on the file format. Follows `torch/_utils.py` and the
allow-list of `torch/_weights_only_unpickler.py`; only dense tensors are supported.
"""

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np

from segjax.zoo.reading.arrays import SYMBOLS, table
from segjax.zoo.reading.machine import Symbol
from segjax.zoo.reading.state import widen
from segjax.zoo.reading.untrusted import (
    Budget,
    UnsafeFileError,
    byte_count,
    checked_shape,
    is_count,
    short,
)

_STORAGES = {
    "Double": np.dtype("<f8"),
    "Float": np.dtype("<f4"),
    "Half": np.dtype("<f2"),
    "BFloat16": np.dtype(ml_dtypes.bfloat16),
    "Long": np.dtype("<i8"),
    "Int": np.dtype("<i4"),
    "Short": np.dtype("<i2"),
    "Char": np.dtype("i1"),
    "Byte": np.dtype("u1"),
    "Bool": np.dtype("?"),
    "ComplexFloat": np.dtype("<c8"),
    "ComplexDouble": np.dtype("<c16"),
}
_DTYPES = {
    "float64": np.dtype("<f8"),
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "float8_e4m3fnuz": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "float8_e5m2fnuz": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "int64": np.dtype("<i8"),
    "int32": np.dtype("<i4"),
    "int16": np.dtype("<i2"),
    "int8": np.dtype("i1"),
    "uint64": np.dtype("<u8"),
    "uint32": np.dtype("<u4"),
    "uint16": np.dtype("<u2"),
    "uint8": np.dtype("u1"),
    "bool": np.dtype("?"),
    "complex64": np.dtype("<c8"),
    "complex128": np.dtype("<c16"),
}


@dataclasses.dataclass(eq=False)
class Block:
    """The bytes of a storage.

    Attributes:
      size: number of bytes according to the pickle.
      data: the bytes; None until their place in the file is known.
    """

    size: int
    data: memoryview | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Storage:
    """A one-dimensional array in a block.

    Attributes:
      block: block with the bytes.
      dtype: dtype of the elements.
      start: offset of the first element, in bytes.
      count: number of elements.
    """

    block: Block
    dtype: np.dtype[Any]
    start: int
    count: int


class Storages:
    """The storages of one file, by the file's keys."""

    def __init__(self, budget: Budget) -> None:
        self.blocks: dict[str, Block] = {}
        self._budget = budget
        self._made: dict[tuple[Any, ...], np.ndarray] = {}

    def load(self, saved: Any) -> Storage:
        """Stand-in for `persistent_load`.

        Args:
          saved: reference to a storage: ("storage", type, key, device, count[, view]).

        Returns:
          The storage; its bytes may be set later.

        Raises:
          UnsafeFileError: if the reference is not to a storage.
          ValueError: if it is malformed or contradicts an earlier reference to the storage.
        """
        if not isinstance(saved, tuple) or len(saved) not in (5, 6) or saved[0] != "storage":
            raise UnsafeFileError(f"its pickle refers to an object outside of it: {short(saved)}")
        _, kind, key, _, count, *view = saved
        dtype = _kind_of(kind, "storage")
        if not isinstance(key, str) or not is_count(count):
            raise ValueError(f"a storage is called {short(key)} and holds {short(count)} numbers")
        size = count * dtype.itemsize
        block = self.blocks.setdefault(key, Block(size))
        if block.size != size:
            raise ValueError(f"storage {short(key)} has {block.size} bytes and also {size}")
        if not view or view[0] is None:
            return Storage(block, dtype, 0, count)
        return part_of(Storage(block, dtype, 0, count), view[0])

    def rebuild(
        self, budget: Budget, storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any
    ) -> "Tensor":
        """Stand-in for `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`.

        Args:
          budget: unused.
          storage: storage with the tensor's elements.
          offset: offset of the tensor's first element, in elements.
          shape: shape of the tensor.
          strides: strides in elements, one per axis.
          *rest: gradient flag, hooks and metadata. Only metadata is checked: none may be set.

        Returns:
          The tensor.

        Raises:
          ValueError: if the tensor is malformed, conjugate or negative.
        """
        del budget
        if not isinstance(storage, Storage) or not is_count(offset):
            raise ValueError(f"a tensor starts at {short(offset)} of {short(storage)}")
        metadata = rest[2] if len(rest) == 3 else None
        if isinstance(metadata, dict) and (len(metadata) > 8 or any(metadata.values())):
            raise ValueError("a tensor is stored as conjugate or negative of its numbers")
        return Tensor(self, storage, offset, shape, strides)

    def rebuild_typed(
        self, budget: Budget, storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any
    ) -> "Tensor":
        """Stand-in for `_rebuild_tensor_v3`: like `rebuild`, for a storage of bytes and a dtype."""
        grad, hooks, kind, *metadata = rest
        dtype = _kind_of(kind, "tensor")
        if isinstance(storage, Storage):
            count = storage.count * storage.dtype.itemsize // dtype.itemsize
            storage = dataclasses.replace(storage, dtype=dtype, count=count)
        return self.rebuild(budget, storage, offset, shape, strides, grad, hooks, *metadata)

    def array(self, storage: Storage, offset: int, shape: Any, strides: Any) -> np.ndarray:
        """Returns the array of a tensor, a view of the storage's bytes where possible.

        Args:
          storage: storage with the tensor's elements.
          offset: offset of the first element, in elements.
          shape: shape of the tensor.
          strides: strides in elements, one per axis.

        Returns:
          The array, widened and read-only. Equal tensors share one array.

        Raises:
          ValueError: if the tensor is malformed or reaches beyond its storage.
          UnsafeFileError: if all tensors together are much larger than the file.
        """
        data, dtype, block = storage.block.data, storage.dtype, storage.block
        shape, strides = checked_shape(shape), checked_shape(strides, "strides are")
        if len(shape) != len(strides):
            raise ValueError(f"a tensor of shape {short(shape)} has strides {short(strides)}")
        if data is None or len(data) != block.size:
            raise ValueError("a tensor's storage is not in the file")
        # Strides are not negative, so this is the largest index in use.
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if all(shape) and last >= storage.count:
            raise ValueError(
                f"a tensor of shape {short(shape)} reaches to number {last} of a storage of "
                f"{storage.count}"
            )
        key = (block, storage.start, offset, dtype, shape, strides)
        # Names of one tensor share an array, so they do not exhaust an honest file's budget.
        if key not in self._made:
            self._budget.spend(byte_count(shape, dtype))
            first = storage.start + offset * dtype.itemsize if all(shape) else 0
            steps = tuple(step * dtype.itemsize for step in strides)
            buffer = data if len(data) else bytes(1)
            self._made[key] = widen(np.ndarray(shape, dtype, buffer, first, steps))
        return self._made[key]


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of the file; its elements are read on demand.

    Attributes:
      storages: all storages of the file.
      storage: storage with the tensor's elements.
      offset: offset of the first element, in elements.
      shape: unchecked shape from the file.
      strides: unchecked strides from the file.
    """

    storages: Storages
    storage: Storage
    offset: int
    shape: Any
    strides: Any

    def array(self) -> np.ndarray:
        """Returns the elements, widened and read-only."""
        return self.storages.array(self.storage, self.offset, self.shape, self.strides)


def part_of(storage: Storage, view: Any) -> Storage:
    """Returns a part of a storage.

    Args:
      storage: the whole storage.
      view: (key, offset, count), in elements.

    Raises:
      ValueError: if the view is malformed or reaches beyond the storage.
    """
    if not isinstance(view, tuple) or len(view) != 3 or not all(map(is_count, view[1:])):
        raise ValueError(f"a part of a storage is {short(view)}")
    _, offset, count = view
    if offset + count > storage.count:
        raise ValueError(f"numbers {offset} to {offset + count} of {storage.count} are asked for")
    start = storage.start + offset * storage.dtype.itemsize
    return Storage(storage.block, storage.dtype, start, count)


def _kind_of(kind: Any, what: str) -> np.dtype[Any]:
    if not isinstance(kind, Symbol) or not isinstance(kind.value, np.dtype):
        raise ValueError(f"the type of a {what} is {short(kind)}")
    return kind.value


def symbols(storages: Storages) -> dict[str, Symbol]:
    """Returns the table of symbols for a file of torch, including numpy's.

    Args:
      storages: storages of the file, for its tensors.
    """
    return SYMBOLS | table(
        Symbol("torch._utils._rebuild_tensor", storages.rebuild),
        Symbol("torch._utils._rebuild_tensor_v2", storages.rebuild),
        Symbol("torch._utils._rebuild_tensor_v3", storages.rebuild_typed),
        Symbol("torch._utils._rebuild_parameter", lambda _, tensor, *rest: tensor),
        Symbol("torch.Size", lambda _, sides: checked_shape(sides)),
        *(Symbol(f"torch.{name}Storage", value=dtype) for name, dtype in _STORAGES.items()),
        *(Symbol(f"torch.{name}Tensor") for name in _STORAGES),
        *(Symbol(f"torch.{name}", value=dtype) for name, dtype in _DTYPES.items()),
        Symbol("torch.storage.UntypedStorage", value=np.dtype("u1")),
    )
