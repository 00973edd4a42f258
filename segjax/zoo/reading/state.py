"""Search for the tensors among the other contents of a checkpoint."""

import dataclasses
import re
from typing import Any

import numpy as np

from segjax.zoo.reading.machine import Foreign
from segjax.zoo.reading.untrusted import MAX_TENSORS, UnsafeFileError, short, unsafe_name

STATE_KEYS = (
    *("state_dict_ema", "model_ema", "ema_state"),
    *("state_dict", "model", "model_state_dict", "blobs"),
)
"""Keys under which trainers store tensors; averaged ones (timm, add-ons of Detectron2) first.

MMEngine's `ema_state_dict` is missing on purpose: with averaging, its `state_dict` holds the
average (`EMAHook.before_save_checkpoint` swaps the two).
"""

_MOMENTUM = "_momentum"
_PREFIX = re.compile(r"(?:module\.)*")
_MAX_DEPTH = 8
_MAX_PLAIN = 100_000


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """Contents of a file.

    Attributes:
      tensors: tensors by the file's names; read-only, in native byte order. Floating point of less
        than 32 bits is widened to float32, everything else is as stored.
      meta: other contents of the file: texts, numbers and plain containers of these. For Caffe2's
        files, `momentum_blobs` is the number of dropped momenta.
      form: "safetensors", "torch zip", "torch legacy", "torch tar" or "pickle".
      left_out: names of skipped contents, such as the optimizer's state.
      place: key of the tensors, one of `STATE_KEYS`; "" for the top level.
    """

    tensors: dict[str, np.ndarray]
    meta: dict[str, Any]
    form: str
    left_out: tuple[str, ...] = ()
    place: str = ""


def find_state(value: Any, form: str) -> Checkpoint:
    """Separates the tensors from the other contents of a pickle.

    The tensors are under one of `STATE_KEYS` or at the top level. The prefix "module." of torch's
    DataParallel is removed if all names have it.

    Args:
      value: content of the pickle.
      form: format of the file; see `Checkpoint`.

    Returns:
      The tensors and the other contents.

    Raises:
      ValueError: if there are no tensors or if names are unsafe.
    """
    if isinstance(value, Foreign):
        raise ValueError(
            f"it holds an object of {value.name}, of which nothing is read: save its state_dict()"
            " in the program that made it"
        )
    if not isinstance(value, dict):
        raise ValueError(f"it holds {short(value)}, not a dictionary of tensors")
    place = next((key for key in STATE_KEYS if _holds_tensors(value.get(key))), None)
    state = value if place is None else value[place]
    if not _holds_tensors(state):
        keys = ", ".join(short(key) for key in list(value)[:8])
        raise ValueError(f"it holds no tensors, at the top or under {STATE_KEYS}; it has: {keys}")
    beside = {} if place is None else {key: value[key] for key in value if key != place}
    notes = beside.pop("meta", None)
    meta, left_out = _plain_entries(beside)
    if isinstance(notes, dict):  # mmdet's notes, in which some values may not be plain
        meta["meta"], odd = _plain_entries(notes)
        left_out += [f"meta.{name}" for name in odd]
    tensors = {key: item for key, item in state.items() if _is_tensor(item)}
    left_out += [str(key) for key in state if key not in tensors]
    momenta = {key for key in tensors if isinstance(key, str) and key.endswith(_MOMENTUM)}
    if momenta and place == "blobs":
        meta["momentum_blobs"] = len(momenta)
        tensors = {key: item for key, item in tensors.items() if key not in momenta}
    arrays = {name: item.array() for name, item in _named(tensors).items()}
    return Checkpoint(arrays, meta, form, tuple(left_out), place or "")


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "array")


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(_is_tensor(item) for item in value.values())


def _named(tensors: dict[Any, Any]) -> dict[str, Any]:
    check_names(list(tensors))
    # The shortest prefix, so that the same part is removed from all names.
    prefix = min((_PREFIX.match(name).end() for name in tensors), default=0)  # pyright: ignore[reportOptionalMemberAccess]
    return {name[prefix:]: item for name, item in tensors.items()}


def check_names(names: list[Any]) -> None:
    """Checks the names of a file's tensors.

    Raises:
      UnsafeFileError: if there are too many names, or one is a path to another file (`../x`, `/x`).
    """
    if len(names) > MAX_TENSORS:
        raise UnsafeFileError(f"it has {len(names)} tensors, more than {MAX_TENSORS}")
    for name in names:
        if unsafe_name(name):
            raise UnsafeFileError(f"it has a tensor named {short(name)}")


def widen(array: np.ndarray) -> np.ndarray:
    """Converts an array to native byte order, and narrow floating point to float32.

    Args:
      array: array of any numeric dtype and byte order.

    Returns:
      The array itself or a converted copy, read-only.
    """
    wide = array.dtype.type in (np.float32, np.float64) or np.issubdtype(array.dtype, np.integer)
    if not wide and array.dtype.type not in (np.bool_, np.complex64, np.complex128):
        array = array.astype(np.float32)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    array.flags.writeable = False  # Views of the file are read-only, too.
    return array


class _Odd(Exception):
    """Raised for a value that is not plain."""


def _plain_entries(values: dict[Any, Any]) -> tuple[dict[str, Any], list[str]]:
    """Returns the plain values, and the names of all others."""
    kept: dict[str, Any] = {}
    odd: list[str] = []
    left = [_MAX_PLAIN]  # a list, because `_plain` counts it down in place
    for key, value in values.items():
        name = str(key)
        try:
            if name.startswith("optim"):
                raise _Odd
            kept[name] = _plain(value, left, _MAX_DEPTH)
        except _Odd:
            odd.append(name)
    return kept, odd


def _plain(value: Any, left: list[int], depth: int) -> Any:
    """Copies numbers, texts and containers of these; shared parts count at each occurrence."""
    left[0] -= 1
    if left[0] < 0 or depth < 0:
        raise _Odd
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return type(value)(_plain(item, left, depth - 1) for item in value)
    if isinstance(value, dict):
        return {key: _plain(item, left, depth - 1) for key, item in value.items()}
    raise _Odd
