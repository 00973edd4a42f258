"""Recognition of checkpoint formats by content, regardless of file names and suffixes."""

import mmap
import os
import stat
from pathlib import Path
from typing import Any

from segjax.zoo.reading import torch_files
from segjax.zoo.reading.arrays import SYMBOLS
from segjax.zoo.reading.machine import Machine, is_pickle
from segjax.zoo.reading.safetensors import is_safetensors, read_safetensors
from segjax.zoo.reading.state import Checkpoint, find_state
from segjax.zoo.reading.untrusted import Budget, UnsafeFileError, short

_FORMS = "a safetensors file, a .pth of torch or a pickle of arrays"
_OTHERS = {
    b"<": "a web page or XML: the download went elsewhere",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "an array of numpy alone",
    b"version https://git-lfs": "a pointer of Git LFS, not the file it points to",
    b'{"': "a JSON file",
}
_ADVICE = {
    UnsafeFileError: "It was refused and nothing of it was run. Get the weights from those who "
    "published them, or have them saved as plain tensors (safetensors)",
    ValueError: f"What can be read is {_FORMS}; if it should be one, fetch it again",
}


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads the tensors of a checkpoint without running anything that it contains.

    Args:
      path: a safetensors file, a file from any version of `torch.save`, or a pickle of arrays
        (Detectron2's and Caffe2's .pkl), with any name.

    Returns:
      The tensors by name, and the other contents of the file. Arrays are read-only and may be views
      of the file. To replace the file, rename another one over it; do not write into it.

    Raises:
      FileNotFoundError: if the file does not exist.
      UnsafeFileError: if the file asks for more than numbers, or was built to exhaust memory or
        time. The message says how.
      ValueError: if the file is damaged or of another format.
    """
    path = Path(path)
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path} is not a file: give the path of {_FORMS}")
    try:
        with path.open("rb") as file:
            # mmap refuses an empty file with a message that does not help.
            if not os.fstat(file.fileno()).st_size:
                raise ValueError("it is empty")
            return _read(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), file)
    except ValueError as error:  # also its subclasses, such as UnicodeError
        kind = UnsafeFileError if isinstance(error, UnsafeFileError) else ValueError
        raise kind(f"{path}: {error}. {_ADVICE[kind]}.") from None


def _read(data: Any, file: Any) -> Checkpoint:
    start = data[:32]
    if is_safetensors(data):
        return read_safetensors(data)
    if start[:2] == b"PK":
        return torch_files.read_zip(data, file)
    if data[257:262] == b"ustar":
        return torch_files.read_tar(data)
    other = next((what for key, what in _OTHERS.items() if start.lstrip().startswith(key)), None)
    if other is not None:
        raise ValueError(f"it is {other}")
    if start[:1] != b"\x80" and start[8:9] == b"{":
        return read_safetensors(data)  # for its error message
    return _read_pickle(data)


def _read_pickle(data: Any) -> Checkpoint:
    if not is_pickle(data):
        raise ValueError(f"it starts with {short(data[:16])}, as no form of checkpoint does")
    machine = Machine(data, SYMBOLS, Budget.of_file(len(data)))
    value = machine.run()
    if isinstance(value, int) and value == torch_files.MAGIC:
        return torch_files.read_legacy(data)
    if machine.position != len(data):
        raise ValueError(f"{len(data) - machine.position} bytes follow the end of its pickle")
    return find_state(value, "pickle")
