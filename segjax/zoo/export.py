"""Export of weights to the file formats of other libraries."""

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


# Suffix of a converter's table after the name of the library. There is no table in `RULES` for a
# model that the library lacks, such as "torchvision_panoptic"; `table_of` refuses it.
_KINDS: dict[tuple[str, type], str] = {
    ("torchvision", PanopticFPN): "panoptic",
    ("detectron2", PanopticFPN): "panoptic",
    ("mmdet", PanopticFPN): "panoptic",
    ("detectron2", CascadeRCNN): "cascade",
    ("detectron2", CascadeMaskRCNN): "cascade",
}


def table_of(model: Model | Backbone, library: str) -> str:
    """Returns the key into `convert.RULES` of a model's table in a library.

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
    """Writes a model's weights in a library's native format.

    - Detectron2: a `.pkl` of numpy arrays, for `cfg.MODEL.WEIGHTS`.
    - torchvision: a state dict, for `load_state_dict(torch.load(path))`.
    - mmdet: a checkpoint with the class names, for `load_from`.

    For the last two, `.pth` needs torch (`pip install 'segjax[torch]'`); `.safetensors` does not.
    Weights that were converted from the library's own file are written back bit for bit.

    Args:
      found: the model and its weights. The model should follow the library's conventions: the file
        does not record anchors or pixel means that differ from them.
      library: "torchvision", "detectron2" or "mmdet".
      path: path of the file; its suffix selects the format.

    Returns:
      The path.

    Raises:
      ValueError: if the library does not read the suffix or has no place for the weights.
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
    # Detectron2 does not rename the arrays of a file with an author. The names of a backbone alone
    # lack the prefix that they have in a detector, so they need its matching heuristics.
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
