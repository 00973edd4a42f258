"""Loads weights by name or folder: from the zoo, a saved folder, or a run."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segjax.protocols import Model
from segjax.train.classes import CLASSES_FILE
from segjax.train.runs import CONFIG_FILE, load_run
from segjax.zoo import hub
from segjax.zoo.fit import check_same_inputs
from segjax.zoo.memory import Facts, remember


def pretrained(
    name_or_path: str | os.PathLike[str],
    *,
    trust: Sequence[str] = (),
    model: Model | None = None,
) -> hub.Pretrained:
    """Loads a model with its weights, class names and preprocessing.

    Args:
      name_or_path: name in the zoo (`segjax.list_models()`), whose file is downloaded once and
        kept; folder written by `segjax.save` or `segjax convert`; or folder of a run, whose best
        checkpoint is used. Folders take precedence over names.
      trust: additional packages, such as ("my_package",), whose classes and functions the config
        in a folder may name. These packages are imported.
      model: model to use instead of the one in a folder's config, which is then not rebuilt.

    Raises:
      ValueError: for an unknown name, with similar names in the message; for weights that do not
        fit; or for a config that names something from an untrusted package.
      FileNotFoundError: if the folder contains no model.
      ConnectionError: if the download fails; the message says which file to put where.
    """
    path = Path(name_or_path)
    if (path / CONFIG_FILE).is_file() and (path / CLASSES_FILE).is_file():
        return pretrained_run(path, trust=trust, model=model)
    return hub.pretrained(name_or_path, trust=trust, model=model)


def pretrained_run(
    folder: str | os.PathLike[str],
    step: int | None = None,
    *,
    trust: Sequence[str] = (),
    model: Model | None = None,
) -> hub.Pretrained:
    """Loads the trained weights of a run, as `pretrained` does.

    Args:
      folder: folder of the run.
      step: step of the checkpoint; None for the best.
      trust: as for `pretrained`.
      model: as for `pretrained`.
    """
    run = load_run(Path(folder), step, trust=trust, model=model)
    origin = {
        "run": str(folder),
        "step": run.step,
        "max_detections": list(run.config.max_detections),
    }
    return hub.Pretrained(run.model, run.variables, run.classes, run.config.data, origin=origin)


def load(
    name_or_path: str | os.PathLike[str],
    *,
    num_classes: int | None = None,
    semantic_classes: int | None = None,
    seed: int = 0,
    trust: Sequence[str] = (),
    model: Model | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Loads a model and its weights.

    Args:
      name_or_path: as for `pretrained`.
      num_classes: number of instance classes, to train on other classes; None keeps that of the
        weights. Layers whose shapes depend on it are randomly initialised and listed in the log
        "segjax".
      semantic_classes: number of semantic classes, likewise.
      seed: seed of the randomly initialised layers.
      trust: as for `pretrained`.
      model: as for `pretrained`.

    Returns:
      The Linen module and its variables, for `model.apply(variables, images, image_sizes)`.

    Raises:
      ValueError, FileNotFoundError, ConnectionError: as `pretrained`.
    """
    found = pretrained(name_or_path, trust=trust, model=model).adapted(
        num_classes, semantic_classes, seed=seed
    )
    remember(found.model, Facts(found.classes, found.data, found.preprocess, found.origin))
    return found.model, found.variables


def start_weights(
    name_or_path: str, model: Model, trust: Sequence[str] = ()
) -> tuple[dict[str, Any], str]:
    """Loads the weights that a run starts from, and describes their source.

    Args:
      name_or_path: as for `pretrained`.
      model: model to train.
      trust: as for `pretrained`.

    Raises:
      ValueError: as for `pretrained`, or if the weights expect other inputs than the model
        provides.
    """
    found = pretrained(name_or_path, trust=trust)
    check_same_inputs(found, model)
    step = f", step {found.origin['step']}" if "step" in found.origin else ""
    return found.variables, f"{name_or_path}{step}"
