"""A trained model in the folder of its run: written, and loaded again."""

# pyright: strict, reportUnknownMemberType=false, reportMissingTypeStubs=false

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from segjax.config import TrainConfig
from segjax.config_json import read_config, save_config
from segjax.models.variables import differing_shapes, variable_shapes
from segjax.predict.predictor import Predictor
from segjax.protocols import Model
from segjax.results.classes import Classes
from segjax.train.checkpoint import Checkpoints
from segjax.train.classes import read_classes, save_classes
from segjax.train.resolve import best_metric, with_classes

CONFIG_FILE = "config.json"
_log = logging.getLogger("segjax")


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model, as loaded from its run's folder.

    Attributes:
      config: settings of the run.
      model: Linen module, with its number of classes set.
      variables: {"params", "batch_stats"}, on the first device.
      classes: class names and ids, in the model's order.
      step: step of the checkpoint.
    """

    config: TrainConfig
    model: Model
    variables: dict[str, Any]
    classes: Classes
    step: int

    def predictor(self) -> Predictor:
        """Returns a predictor for images, which resizes them as in the run."""
        return Predictor(self.model, self.variables, self.classes, self.config.data)


def load_run(
    folder: str | Path,
    step: int | None = None,
    *,
    trust: Sequence[str] = (),
    model: Model | None = None,
) -> Run:
    """Loads a trained model from its run's folder.

    Only JSON and arrays are read; no code from the folder is executed.

    Args:
      folder: folder that `segjax train --workdir` wrote.
      step: step of the checkpoint; None for the best one, or the newest if none was evaluated.
      trust: additional packages, such as ("my_package",), whose classes and functions the config
        may name, for models with custom parts. These packages are imported.
      model: model to use instead of the one in the config, which is then not rebuilt. A number of
        classes of 0 is replaced by the run's. Its dtypes are kept.

    Raises:
      FileNotFoundError: if the folder has no config or no such checkpoint.
      ValueError: if the config is not from this version or names something from an untrusted
        package, or the weights do not fit the model.
    """
    folder = Path(folder)
    config = read_config(folder / CONFIG_FILE, trust, model)
    if not isinstance(config, TrainConfig):
        raise ValueError(f"{folder / CONFIG_FILE} holds a {type(config)}, not a TrainConfig")
    classes = read_classes(folder)
    if model is not None:
        config = dataclasses.replace(config, model=with_classes(config, classes))
    shapes = variable_shapes(config.model)
    with Checkpoints(folder, best_metric(config), read_only=True) as checkpoints:
        step = checkpoints.find(_best_good(checkpoints) if step is None else step)
        variables = checkpoints.restore_variables(shapes, step)
    return Run(config, config.model, variables, classes, step)


def save_run(
    folder: str | Path,
    config: TrainConfig,
    variables: Mapping[str, Any],
    classes: Classes,
) -> None:
    """Writes weights from another source as a run that `load_run` and `init_from` can read.

    For example, weights from `segjax.zoo.convert`, to evaluate, to predict, or to train on other
    classes from there.

    Args:
      folder: folder to write to, new or without checkpoints.
      config: `model` is the model of the variables, with the number of classes of its semantic
        branch set, if it has one; `data` defines how images are resized.
      variables: {"params", "batch_stats"}, NumPy or JAX arrays.
      classes: names and ids of the model's classes. A model with 0 classes gets one per name; a
        model that predicts no objects takes none.

    Raises:
      FileExistsError: if the folder already has checkpoints.
      ValueError: if model, variables and classes do not match; the message lists the first
        arrays that differ.
    """
    folder = Path(folder)
    model = with_classes(config, classes)
    shapes = variable_shapes(model)
    variables = {"batch_stats": dict[str, Any]()} | dict(variables)
    if wrong := differing_shapes(shapes, variables):
        raise ValueError(f"the variables are not this model's: {'; '.join(wrong[:5])}")
    folder.mkdir(parents=True, exist_ok=True)
    with Checkpoints(folder) as checkpoints:
        if checkpoints.steps:
            raise FileExistsError(f"{folder} has checkpoints {list(checkpoints.steps)} already")
        checkpoints.save_variables(variables)
    save_config(
        folder / CONFIG_FILE,
        dataclasses.replace(config, model=model),
        library_versions(),
    )
    save_classes(folder, classes)


def library_versions() -> dict[str, str]:
    """Returns the versions of the libraries that affect a run's numerical results."""
    names = ("segjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {name: metadata.version(name) for name in names}


def _best_good(checkpoints: Checkpoints) -> int | None:
    """The best checkpoint; None, for the newest that is not broken, if there is no best one."""
    best = checkpoints.best_step
    if best is None or not (wrong := checkpoints.wrong(best)):
        return best
    _log.warning("the best checkpoint, of step %d, is broken: %s", best, "; ".join(wrong[:5]))
    return None
