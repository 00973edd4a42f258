"""Meanings of the names in torch's pickles: storages, and tensors inside them.

A tensor is a storage, an offset and strides; the numbers of the storages lie elsewhere in the
file, in every form of it at another place. Follows `torch/_utils.py` and the allow-list of
`torch/_weights_only_unpickler.py`, of which only dense tensors are taken.
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
      size: how many bytes the pickle says there are.
      data: the bytes, once their place in the file is known.
    """

    size: int
    data: memoryview | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Storage:
    """Numbers in a row: a part of a block.

    Attributes:
      block: whose bytes they are.
      dtype: their type.
      start: offset of the first number, in bytes.
      count: how many numbers.
    """

    block: Block
    dtype: np.dtype[Any]
    start: int
    count: int


class Storages:
    """The storages of one file, by the keys that it gives them."""

    def __init__(self, budget: Budget) -> None:
        self.blocks: dict[str, Block] = {}
        self._budget = budget
        self._made: dict[tuple[Any, ...], np.ndarray] = {}

    def load(self, saved: Any) -> Storage:
        """Stands for `persistent_load` of ("storage", type, key, device, count[, view]).

        Args:
          saved: what the pickle names the storage by.

        Returns:
          The storage, whose bytes may come later.

        Raises:
          UnsafeFileError: if it means something else.
          ValueError: if it contradicts what was said of the storage before.
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
        """Stands for `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`.

        Args:
          budget: what the file may cost.
          storage: where the tensor lies.
          offset: place of the tensor's first number.
          shape: its sides.
          strides: how many numbers lie between neighbours, for each side.
          *rest: whether it takes gradients, hooks, and metadata, of which none may be set.

        Returns:
          The tensor.
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
        """Stands for `_rebuild_tensor_v3`: as `rebuild`, of a storage of bytes and a dtype."""
        grad, hooks, kind, *metadata = rest
        dtype = _kind_of(kind, "tensor")
        if isinstance(storage, Storage):
            count = storage.count * storage.dtype.itemsize // dtype.itemsize
            storage = dataclasses.replace(storage, dtype=dtype, count=count)
        return self.rebuild(budget, storage, offset, shape, strides, grad, hooks, *metadata)

    def array(self, storage: Storage, offset: int, shape: Any, strides: Any) -> np.ndarray:
        """Makes the array of a tensor: a view of the storage's bytes.

        Args:
          storage: where its numbers lie.
          offset: place of the first number, in numbers.
          shape: its sides.
          strides: how many numbers lie between neighbours, for each side.

        Returns:
          The array, widened and read-only; tensors that are the same give one array.

        Raises:
          ValueError: if the tensor does not lie within its storage.
          UnsafeFileError: if all together are much larger than the file.
        """
        data, dtype, block = storage.block.data, storage.dtype, storage.block
        shape, strides = checked_shape(shape), checked_shape(strides, "strides are")
        if len(shape) != len(strides):
            raise ValueError(f"a tensor of shape {short(shape)} has strides {short(strides)}")
        if data is None or len(data) != block.size:
            raise ValueError("a tensor's storage is not in the file")
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if all(shape) and last >= storage.count:
            raise ValueError(
                f"a tensor of shape {short(shape)} reaches to number {last} of a storage of "
                f"{storage.count}"
            )
        key = (block, storage.start, offset, dtype, shape, strides)
        if key not in self._made:
            self._budget.spend(byte_count(shape, dtype))
            first = storage.start + offset * dtype.itemsize if all(shape) else 0
            steps = tuple(step * dtype.itemsize for step in strides)
            buffer = data if len(data) else bytes(1)
            self._made[key] = widen(np.ndarray(shape, dtype, buffer, first, steps))
        return self._made[key]


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of the file, whose numbers are looked up when they are asked for.

    Attributes:
      storages: storages of its file.
      storage: where its numbers lie.
      offset: place of the first number, in numbers.
      shape: as the file says.
      strides: as the file says.
    """

    storages: Storages
    storage: Storage
    offset: int
    shape: Any
    strides: Any

    def array(self) -> np.ndarray:
        """Returns the numbers, widened and read-only."""
        return self.storages.array(self.storage, self.offset, self.shape, self.strides)


def part_of(storage: Storage, view: Any) -> Storage:
    """Takes a part of a storage.

    Args:
      storage: the whole.
      view: (key, offset, count), in numbers.

    Returns:
      The part.

    Raises:
      ValueError: if it does not lie within.
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
    """Says what the names in a file of torch mean.

    Args:
      storages: where its tensors will look their numbers up.

    Returns:
      The table of symbols, numpy's among them.
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
