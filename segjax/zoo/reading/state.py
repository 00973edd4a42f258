"""The tensors of a checkpoint, found among the rest of what training programs save."""

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
"""Where trainers put the tensors: averaged ones (timm, add-ons of Detectron2) before the last.

MMEngine's `ema_state_dict` is not among them: when it averages, its `state_dict` is the average
(`EMAHook.before_save_checkpoint` swaps the two).
"""

_MOMENTUM = "_momentum"
_PREFIX = re.compile(r"(?:module\.)*")
_MAX_DEPTH = 8
_MAX_PLAIN = 100_000


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """Contents of a file.

    Attributes:
      tensors: by the names that the file gives them; read-only, in the machine's byte order;
        floating point of less than 32 bits is widened to float32, all else is as stored.
      meta: whatever else the file holds: texts, numbers and plain containers of such. For
        Caffe2's files `momentum_blobs` counts the dropped momenta.
      form: "safetensors", "torch zip", "torch legacy", "torch tar" or "pickle".
      left_out: names of what is neither: the optimizer's state, say.
      place: key under which the tensors were, one of `STATE_KEYS`; "" for the top.
    """

    tensors: dict[str, np.ndarray]
    meta: dict[str, Any]
    form: str
    left_out: tuple[str, ...] = ()
    place: str = ""


def find_state(value: Any, form: str) -> Checkpoint:
    """Takes the tensors from what a pickle holds.

    They are looked for under `STATE_KEYS` and then at the top; the prefix "module." that
    torch's DataParallel writes is taken off where every name has it.

    Args:
      value: object that the pickle holds.
      form: kind of file.

    Returns:
      The tensors and the rest.

    Raises:
      ValueError: if there are none, or names that no tensor has.
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
    if isinstance(notes, dict):  # mmdet's, of which some may be no plain values
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
    prefix = min((_PREFIX.match(name).end() for name in tensors), default=0)  # pyright: ignore[reportOptionalMemberAccess]
    return {name[prefix:]: item for name, item in tensors.items()}


def check_names(names: list[Any]) -> None:
    """Refuses names that no tensor has.

    Args:
      names: names of a file's tensors.

    Raises:
      UnsafeFileError: for too many names, and such as lead to other files (`../x`, `/x`).
    """
    if len(names) > MAX_TENSORS:
        raise UnsafeFileError(f"it has {len(names)} tensors, more than {MAX_TENSORS}")
    for name in names:
        if unsafe_name(name):
            raise UnsafeFileError(f"it has a tensor named {short(name)}")


def widen(array: np.ndarray) -> np.ndarray:
    """Gives an array in a type that every program computes with.

    Args:
      array: array of any type of numbers and byte order.

    Returns:
      Itself, or float32 in place of narrower floating point, or in the machine's byte order;
      read-only.
    """
    wide = array.dtype.type in (np.float32, np.float64) or np.issubdtype(array.dtype, np.integer)
    if not wide and array.dtype.type not in (np.bool_, np.complex64, np.complex128):
        array = array.astype(np.float32)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    array.flags.writeable = False  # as views of the file are
    return array


class _Odd(Exception):
    """Something that is not plain."""


def _plain_entries(values: dict[Any, Any]) -> tuple[dict[str, Any], list[str]]:
    """Divides what accompanies the tensors into plain values and the rest's names."""
    kept: dict[str, Any] = {}
    odd: list[str] = []
    left = [_MAX_PLAIN]
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
    """Copies numbers, texts and containers of such; shared parts count each time."""
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
