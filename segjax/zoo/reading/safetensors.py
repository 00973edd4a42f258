"""Files of the safetensors format: a JSON header followed by the bytes of the tensors.

The format's own package accepts duplicate keys, and headers of a million tensors, which take it ten
seconds. This module checks the format's rules and a few more. It does not use the package for the
tensors either: for numpy, the package (version 0.8) supports neither bfloat16 nor 8-bit floating
point, and it copies data once or twice where this module returns views of the file.
Source: huggingface/safetensors, README, "Format".
"""

import json
from typing import Any, NoReturn

import ml_dtypes
import numpy as np

from segjax.zoo.reading.state import Checkpoint, check_names, widen
from segjax.zoo.reading.untrusted import (
    UnsafeFileError,
    byte_count,
    checked_shape,
    is_count,
    short,
)

_MAX_HEADER = 3 << 20  # bytes: 20,000 tensors take about 2 MB; parsed lists 20 times as much
_METADATA = "__metadata__"
_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
    "C64": np.dtype("<c8"),
}


def is_safetensors(data: Any) -> bool:
    """Returns True if a file starts with a plausible header length and a JSON object.

    Args:
      data: bytes of the file.
    """
    return data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8


def read_safetensors(data: Any) -> Checkpoint:
    """Reads a safetensors file; arrays are views of its bytes where possible.

    Args:
      data: bytes of the file.

    Returns:
      The checkpoint; `meta` is the header's `__metadata__`.

    Raises:
      UnsafeFileError: if the header is too large or has unsafe tensor names.
      ValueError: if the header is malformed or contradicts the bytes.
    """
    header, start = _read_header(data)
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError(f"{_METADATA} of its header is not a dictionary of texts")
    check_names(list(header))
    entries = {name: _entry(name, fields) for name, fields in header.items()}
    _check_places(entries, len(data) - start)
    tensors = {
        name: widen(np.ndarray(shape, dtype, data, start + begin))
        if end > begin
        else widen(np.zeros(shape, dtype))
        for name, (dtype, shape, begin, end) in entries.items()
    }
    return Checkpoint(tensors, metadata, "safetensors")


def _read_header(data: Any) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(data[:8], "little")
    if length > len(data) - 8:
        raise ValueError(f"its header should have {length} bytes, {len(data) - 8} are left")
    if length > _MAX_HEADER:
        raise UnsafeFileError(f"its header has {length} bytes, more than {_MAX_HEADER}")
    try:
        header = json.loads(
            str(data[8 : 8 + length], "utf-8"),
            object_pairs_hook=_unique,  # json itself silently keeps the last of duplicate keys.
            parse_constant=_refuse_constant,
        )
    except RecursionError:
        raise UnsafeFileError("its header is nested deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"its header is no JSON: {error}") from None
    if not isinstance(header, dict):
        raise ValueError(f"its header is {short(header)}, not a dictionary")
    return header, 8 + length


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(items)
    if len(found) != len(items):
        seen: set[str] = set()
        twice = next(key for key, _ in items if key in seen or seen.add(key))
        raise ValueError(f"its header has {short(twice)} twice")
    return found


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"its header has the number {word}")


def _entry(name: str, fields: Any) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{short(name)} is not described by dtype, shape and data_offsets")
    offsets, kind = fields["data_offsets"], fields["dtype"]
    if not isinstance(kind, str) or kind not in _DTYPES:
        raise ValueError(f"{short(name)} has the dtype {short(kind)}, which is not one known here")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(is_count, offsets)):
        raise ValueError(f"{short(name)} lies at {short(offsets)}")
    dtype, shape = _DTYPES[kind], checked_shape(fields["shape"])
    begin, end = offsets
    if byte_count(shape, dtype) != end - begin:
        raise ValueError(
            f"{short(name)} of shape {short(shape)} and type {kind} takes "
            f"{byte_count(shape, dtype)} bytes, it lies at {short(offsets)}"
        )
    return dtype, shape, begin, end


def _check_places(entries: dict[str, tuple[Any, Any, int, int]], size: int) -> None:
    """Checks that every byte after the header belongs to exactly one tensor."""
    at = 0
    for name, (_, _, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin != at:
            what = "overlaps the one before it" if begin < at else "leaves bytes unused before it"
            raise ValueError(f"{short(name)}, at {begin} to {end}, {what}")
        at = end
    if at != size:
        raise ValueError(f"its tensors take {at} bytes, {size} follow the header")
