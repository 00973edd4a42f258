"""Weights written as the peers read them, so that a model trained here serves there."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import jax
import numpy as np

from segjax._files import write_together
from segjax.models import CascadeMaskRCNN, CascadeRCNN, PanopticFPN
from segjax.protocols import Backbone, Model
from segjax.zoo.convert import RULES, export, with_unread
from segjax.zoo.hub import Pretrained

SUFFIXES = {
    "torchvision": (".pth", ".safetensors"),
    "detectron2": (".pkl",),
    "mmdet": (".pth", ".safetensors"),
}


# What a converter's table is called, after the library.
_KINDS: dict[tuple[str, type], str] = {
    ("torchvision", PanopticFPN): "panoptic",
    ("detectron2", PanopticFPN): "panoptic",
    ("mmdet", PanopticFPN): "panoptic",
    ("detectron2", CascadeRCNN): "cascade",
    ("detectron2", CascadeMaskRCNN): "cascade",
}


def table_of(model: Model | Backbone, library: str) -> str:
    """The converter's table for a model in a library: a key of `convert.RULES`.

    Raises:
      ValueError: if the library has no such model.
    """
    kind = _KINDS.get((library, type(model)), "") if isinstance(model, Model) else "backbone"
    key = f"{library}_{kind}" if kind else library
    if key not in RULES:
        raise ValueError(
            f"{library} has no counterpart of a {type(model).__name__} here: there are tables for"
            f" {', '.join(sorted(RULES))}"
        )
    return key


def export_file(found: Pretrained, library: str, path: str | os.PathLike[str]) -> Path:
    """Writes a model's weights as a library's own file.

    Detectron2: a `.pkl` of numpy arrays, for `cfg.MODEL.WEIGHTS`. torchvision: a state dict, for
    `load_state_dict(torch.load(path))`. mmdet: a checkpoint with the names of the classes, for
    `load_from`. The last two as `.pth` need torch (`pip install 'segjax[torch]'`), as
    `.safetensors` not. Weights of the library's own file go back as they came, bit by bit.

    Args:
      found: the model and its weights, in the library's own conventions: an anchor or a mean
        that differs is not in the file.
      library: "torchvision", "detectron2" or "mmdet".
      path: path of the file; its suffix says the format.

    Returns:
      The path.

    Raises:
      ValueError: for another suffix, or weights that the library has no place for.
      ModuleNotFoundError: for a `.pth` without torch.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES[library]:
        raise ValueError(
            f"{path} ends in {path.suffix!r}: {library} reads {' or '.join(SUFFIXES[library])}"
        )
    rules = RULES[table_of(found.model, library)]
    state = with_unread(export(jax.device_get(found.variables), rules), rules, found.unread)
    content = _WRITERS[path.suffix](state, found, library)
    write_together(path.parent, {path.name: content})
    return path


def _pkl(state: dict[str, np.ndarray], found: Pretrained, library: str) -> bytes:
    # With an author, Detectron2 takes the names as they are; those of a backbone alone lack the
    # prefix that a detector gives them, which its heuristics find.
    alone = not isinstance(found.model, Model)
    heuristics = {"matching_heuristics": True} if alone else {}
    content = {"model": state, "__author__": "segjax"} | heuristics
    return pickle.dumps(content, protocol=4)


def _safetensors(state: dict[str, np.ndarray], found: Pretrained, library: str) -> bytes:
    from safetensors.numpy import save

    return save(state, metadata={"format": "pt"})


def _pth(state: dict[str, np.ndarray], found: Pretrained, library: str) -> bytes:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a .pth file is written by torch: pip install 'segjax[torch]', or write .safetensors"
        ) from error
    tensors: dict[str, Any] = {name: torch.tensor(array) for name, array in state.items()}
    if library == "mmdet":
        meta = {"dataset_meta": {"classes": list(found.classes.names)}}
        tensors = {"state_dict": tensors, "meta": meta}
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    return buffer.getvalue()


_WRITERS = {".pkl": _pkl, ".safetensors": _safetensors, ".pth": _pth}
