"""Reads and writes learned fragments, as versioned npz files without pickle."""

import io
import os
import struct
import zipfile
import zlib

import jax.numpy as jnp
import numpy as np

from segjax._files import written_whole
from segjax.figure_ground.fragments import Fragments

_FORMAT = "segjax fragments"
_VERSION = 1
# Errors that numpy, zipfile and zlib raise for damaged files and for other formats.
_DAMAGE = (
    ValueError,
    EOFError,
    TypeError,
    AttributeError,
    KeyError,
    OSError,  # seeking to before the start of the bytes in memory
    RuntimeError,  # flags for encryption; NotImplementedError for an unknown compression
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
# Dtype and number of axes of every array.
_ARRAYS = {
    "patches": (np.float32, 3),
    "sizes": (np.int32, 1),
    "thresholds": (np.float32, 1),
    "information": (np.float32, 1),
    "labels": (np.float32, 3),
}


def save_fragments(path: str | os.PathLike[str], fragments: Fragments) -> None:
    """Writes fragments to a file; an existing file is only replaced once all is written.

    Args:
      path: full name of the file; no suffix is appended.
      fragments: fragments that `learn_fragments` returned.
    """
    arrays = {name: np.asarray(getattr(fragments, name)) for name in _ARRAYS}
    with written_whole(path) as partial, partial.open("wb") as file:
        np.savez_compressed(
            file,
            allow_pickle=False,
            format=np.array(_FORMAT),
            version=np.array(_VERSION),
            downsample=np.array(fragments.downsample),
            **arrays,
        )


def load_fragments(path: str | os.PathLike[str]) -> Fragments:
    """Reads fragments that `save_fragments` wrote.

    Args:
      path: full name of the file.

    Returns:
      The fragments, bit-identical to the saved ones.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file has another format or version, or is damaged.
    """
    with open(path, "rb") as stream:
        raw = io.BytesIO(stream.read())
    try:
        with np.load(raw, allow_pickle=False) as file:
            content = {name: file[name] for name in file.files}
    except _DAMAGE as error:
        raise ValueError(f"{path} is no file of fragments, or damaged: {error}") from error
    if str(content.get("format")) != _FORMAT:
        raise ValueError(f"{path} is no file of fragments: `save_fragments` writes them")
    if str(content.get("version")) != str(_VERSION):
        raise ValueError(
            f"{path} has version {content.get('version')}, this segjax reads {_VERSION}: install "
            "the segjax that wrote it, or learn the fragments anew"
        )
    _check(path, content)
    arrays = {name: jnp.asarray(content[name]) for name in _ARRAYS}
    return Fragments(**arrays, downsample=int(content["downsample"]))


def _check(path: str | os.PathLike[str], content: dict[str, np.ndarray]) -> None:
    """Checks that all arrays exist, with the right dtypes and with matching shapes."""
    absent = sorted({*_ARRAYS, "downsample"} - content.keys())
    if absent:
        raise ValueError(f"{path} lacks {', '.join(absent)}: write it anew")
    for name, (kind, axes) in _ARRAYS.items():
        values = content[name]
        if values.dtype != kind or values.ndim != axes:
            raise ValueError(
                f"{path}: {name} is {values.dtype} {values.shape}, wanted {kind.__name__} of "
                f"{axes} axes"
            )
    if not np.issubdtype(content["downsample"].dtype, np.integer) or content["downsample"].ndim:
        raise ValueError(f"{path}: downsample is {content['downsample']}, wanted one integer")
    count, side = content["patches"].shape[:2]
    wanted = {name: (count, side, side)[:axes] for name, (_, axes) in _ARRAYS.items()}
    shapes = {name: content[name].shape for name in _ARRAYS}
    if shapes != wanted:
        raise ValueError(f"{path}: the arrays' shapes are {shapes}, wanted {wanted}")
