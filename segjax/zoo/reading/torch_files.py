"""The three file formats of torch: zip (1.6 and later), consecutive pickles, and tar.

Torch is not required. `torch.load(weights_only=True)` reads the first two to the same numbers (a
test compares them). It refuses the third, and numpy's numbers in mmdet's notes. The layouts follow
`_load`, `_legacy_load` and the nested `legacy_load` in `torch/serialization.py`.
"""

import functools
import struct
from typing import Any

from segjax.zoo.reading.archives import Member, tar_members, zip_members
from segjax.zoo.reading.machine import Machine
from segjax.zoo.reading.state import Checkpoint, find_state
from segjax.zoo.reading.torch_tensors import Storage, Storages, Tensor, part_of, symbols
from segjax.zoo.reading.untrusted import Budget, UnsafeFileError, is_count, short

MAGIC = 0x1950A86A20F9469CFC6C
"""Value of the first of the consecutive pickles."""

_PROTOCOL = 1001


def read_zip(data: Any, file: Any) -> Checkpoint:
    """Reads a file of torch 1.6 or later.

    Args:
      data: bytes of the file.
      file: the same file, open for reading.

    Returns:
      The checkpoint.

    Raises:
      UnsafeFileError: if the archive or its pickle asks for more than tensors.
      ValueError: if the file is damaged or is not an archive of torch.
    """
    members = zip_members(data, file)
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in members):
        raise UnsafeFileError(
            "it is a TorchScript archive, which holds code: save the model's state_dict() in torch"
        )
    if len(pickles) != 1:
        raise ValueError(f"it is a zip archive without torch's data.pkl; it has {len(members)}")
    folder = pickles[0].removesuffix("data.pkl")
    _check_order(members.get(f"{folder}byteorder"), data)
    budget = Budget.of_file(len(data))
    storages = Storages(budget)
    pickle = bytes(members[pickles[0]].read(data))
    machine = Machine(pickle, symbols(storages), budget, storages.load)
    value = _whole(machine, len(pickle))
    for key, block in storages.blocks.items():
        member = members.get(f"{folder}data/{key}")
        if member is None or member.size != block.size:
            found = "none" if member is None else f"{member.size} bytes"
            raise ValueError(f"storage {short(key)} should have {block.size} bytes, has {found}")
        block.data = member.read(data)
    return find_state(value, "torch zip")


def _check_order(member: Member | None, data: Any) -> None:
    order = b"little" if member is None else bytes(member.read(data))
    if order != b"little":
        raise ValueError(f"its numbers have the byte order {short(order)}, not little endian")


def _whole(machine: Machine, end: int) -> Any:
    value = machine.run()
    if machine.position != end:
        raise ValueError(f"{end - machine.position} bytes follow the end of its pickle")
    return value


def read_legacy(data: Any) -> Checkpoint:
    """Reads a file of torch 0.1.10 to 1.5: five pickles, followed by the bytes of the storages.

    Args:
      data: bytes of the file.

    Returns:
      The checkpoint.

    Raises:
      UnsafeFileError: if the pickles ask for more than tensors.
      ValueError: if the file is damaged.
    """
    budget = Budget.of_file(len(data))
    storages = Storages(budget)
    machine = Machine(data, symbols(storages), budget, storages.load)
    magic, protocol, system = machine.run(), machine.run(), machine.run()
    if magic != MAGIC or protocol != _PROTOCOL:
        raise ValueError(f"its version is {short(protocol)}, not torch's {_PROTOCOL}")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("its numbers are not little endian")
    value = machine.run()
    keys = machine.run()
    known = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not known or sorted(keys) != sorted(storages.blocks):
        raise ValueError("the list of its storages is not that of its tensors")
    at = machine.position
    for key in keys:
        block = storages.blocks[key]
        block.data = _counted(data, at, block.size)
        at += 8 + block.size
    if at != len(data):
        raise ValueError(f"{len(data) - at} bytes follow the last of its storages")
    return find_state(value, "torch legacy")


def _counted(data: Any, at: int, size: int) -> memoryview:
    """Returns a storage's bytes, which follow its number of elements (of unknown size)."""
    if at + 8 + size > len(data):
        raise ValueError(f"its storages take {at + 8 + size} bytes, the file has {len(data)}")
    (count,) = struct.unpack("<q", data[at : at + 8])
    if not 0 <= count <= size or (size and (not count or size % count)):
        raise ValueError(f"a storage of {size} bytes is said to hold {count} numbers")
    return memoryview(data)[at + 8 : at + 8 + size]


def read_tar(data: Any) -> Checkpoint:
    """Reads a file of the first versions of torch: storages, tensors and objects in a tar file.

    Args:
      data: bytes of the file.

    Returns:
      The checkpoint.

    Raises:
      UnsafeFileError: if the archive or its pickles ask for more than tensors.
      ValueError: if the file is damaged.
    """
    members = tar_members(data, 4)
    missing = {"storages", "tensors", "pickle"} - set(members)
    if missing:
        raise ValueError(f"it is a tar archive, but not of torch: it has no {sorted(missing)}")
    budget = Budget.of_file(len(data))
    storages = Storages(budget)
    parts = {name: bytes(member.read(data)) for name, member in members.items()}
    held = _tar_storages(parts["storages"], storages, budget)
    tensors = _tar_tensors(parts["tensors"], storages, held, budget)
    load = functools.partial(_tar_object, tensors)
    machine = Machine(parts["pickle"], symbols(storages), budget, load)
    return find_state(_whole(machine, len(parts["pickle"])), "torch tar")


def _tar_storages(data: bytes, storages: Storages, budget: Budget) -> dict[str, Storage]:
    """Reads the number of storages, (key, device, type) and bytes of each, then a list of views."""
    machine = Machine(data, symbols(storages), budget)
    held: dict[str, Storage] = {}
    for _ in range(_count(machine)):
        key, _, kind = _fields(machine.run(), 3, "a storage")
        (count,) = struct.unpack("<q", machine.take(8))
        storage = storages.load(("storage", kind, _key(key), "cpu", count))
        storage.block.data = memoryview(machine.take(storage.block.size))
        held[_key(key)] = storage
    views = machine.run()
    if not isinstance(views, list):
        raise ValueError(f"the parts of its storages are {short(views)}")
    for view in views:
        key, root, offset, count = _fields(view, 4, "a part of a storage")
        held[_key(key)] = part_of(_known(held, root), (key, offset, count))
    return held


def _tar_tensors(
    data: bytes, storages: Storages, held: dict[str, Storage], budget: Budget
) -> dict[str, Tensor]:
    """Reads the number of tensors, and (key, storage, type), shape, strides and offset of each."""
    machine = Machine(data, symbols(storages), budget)
    tensors: dict[str, Tensor] = {}
    for _ in range(_count(machine)):
        key, root, _ = _fields(machine.run(), 3, "a tensor")
        (dims,) = struct.unpack("<i4x", machine.take(8))
        if not 0 <= dims <= 64:
            raise ValueError(f"a tensor has {dims} dimensions")
        numbers = struct.unpack(f"<{2 * dims + 1}q", machine.take(16 * dims + 8))
        if not is_count(numbers[-1]):
            raise ValueError(f"a tensor starts at number {numbers[-1]}")
        storage = _known(held, root)
        tensors[_key(key)] = Tensor(
            storages, storage, numbers[-1], numbers[:dims], numbers[dims:-1]
        )
    return tensors


def _tar_object(tensors: dict[str, Tensor], key: Any) -> Tensor:
    if _key(key) not in tensors:
        raise UnsafeFileError(f"its pickle refers to an object outside of it: {short(key)}")
    return tensors[_key(key)]


def _count(machine: Machine) -> int:
    count = machine.run()
    if not is_count(count):
        raise ValueError(f"a number of objects is {short(count)}")
    return count


def _fields(value: Any, count: int, what: str) -> tuple[Any, ...]:
    if not isinstance(value, tuple) or len(value) != count:
        raise ValueError(f"{what} is described by {short(value)}")
    return value


def _known(held: dict[str, Storage], key: Any) -> Storage:
    if _key(key) not in held:
        raise ValueError(f"it refers to storage {short(key)}, which is not there")
    return held[_key(key)]


def _key(key: Any) -> str:
    """Returns an object's key, which files store as a number or as text, as text."""
    if not isinstance(key, str) and not is_count(key):
        raise UnsafeFileError(f"its pickle refers to an object outside of it: {short(key)}")
    return str(key)
