"""Checkpoints in every format that is read, written without the original libraries."""

import json
import pickle
import struct
from collections import OrderedDict

import ml_dtypes
import numpy as np

from tests.support import forge

PICKLES = tuple(f"pickle {protocol}" for protocol in range(6))
FORMS = (*PICKLES, "torch zip", "torch legacy", "torch tar", "safetensors")

SAFETENSORS = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
    "C64": "<c8",
}


def arrays():
    """Returns arrays of many dtypes and memory orders, by name."""
    rng = np.random.default_rng(0)
    kinds = "b1 i1 i2 i4 i8 u1 u2 u4 u8 f4 f8 c8 c16 >f4 >i2".split()  # noqa: SIM905
    found = {kind: (rng.standard_normal((3, 4)) * 50).astype(kind) for kind in kinds}
    found["columns first"] = np.asfortranarray(found["f4"])
    found["turned"] = rng.standard_normal((2, 3, 4)).astype("f4").transpose(2, 0, 1)
    found["every second"] = found["f8"][:, ::2]
    found["empty"] = np.zeros((0, 3), np.float32)
    found["single"] = np.array(2.5, np.float32)
    return found


def make(form):
    """Makes a small file of a given format; torch formats hold w = (1.5, -2)."""
    if form.startswith("pickle"):
        state = OrderedDict((name, arrays()[name]) for name in ("f4", "i8"))
        value = {"model": state, "__author__": "someone", "epoch": 3}
        return pickle.dumps(value, int(form[-1]))
    numbers = struct.pack("<2f", 1.5, -2.0)
    if form == "safetensors":
        header = {"__metadata__": {"format": "pt"}, "w": forge.entry()}
        return forge.safetensors(json.dumps(header).encode(), numbers)
    state = forge.mapping(state_dict=forge.mapping(w=forge.tensor()))
    if form == "torch zip":
        return forge.torch_zip(state, {"x/data/0": numbers})
    return (
        forge.torch_tar() if form == "torch tar" else forge.torch_legacy(state, storages=(numbers,))
    )
