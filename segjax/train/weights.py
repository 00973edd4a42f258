"""Weights by name or folder: of the zoo, of a folder that was saved, of a run."""

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
    """A model with its weights, names of classes and way of resizing.

    Args:
      name_or_path: a name of the zoo (`segjax.list_models()`), whose file is fetched once and
        kept; a folder that `segjax.save` or `segjax convert` wrote; or the folder of a run, of
        which the best checkpoint is taken. A folder wins over a name.
      trust: names of further packages, such as ("my_package",), whose classes and functions the
        config in a folder may name. These packages are imported.
      model: takes the place of the model in a folder's config, which is not rebuilt then.

    Raises:
      ValueError: for an unknown name, saying which come near; for weights that do not fit; or
        for a config that names something of a package that is not trusted.
      FileNotFoundError: if the folder holds no model.
      ConnectionError: if the file cannot be fetched; it says which file to put where.
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
    """Loads the weights that a run has trained, as `pretrained` does.

    Args:
      folder: folder of the run.
      step: step of the checkpoint; None takes the best.
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
    """A model and its weights.

    Args:
      name_or_path: as for `pretrained`.
      num_classes: number of instance classes, to train on others. None keeps the weights'. The
        layers whose shapes depend on it are drawn at random and named in the log "segjax".
      semantic_classes: number of pixel classes, likewise.
      seed: seed of the layers that are drawn at random.
      trust: as for `pretrained`.
      model: as for `pretrained`.

    Returns:
      The linen module, and its variables: `model.apply(variables, images, image_sizes)`.

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
    """The weights that a run starts from, and where they are from.

    Args:
      name_or_path: as for `pretrained`.
      model: that will be trained.
      trust: as for `pretrained`.

    Raises:
      ValueError: also if the weights expect other inputs than the model gives them.
    """
    found = pretrained(name_or_path, trust=trust)
    check_same_inputs(found, model)
    step = f", step {found.origin['step']}" if "step" in found.origin else ""
    return found.variables, f"{name_or_path}{step}"
