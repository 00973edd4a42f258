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
    """A trained model, as its folder describes it.

    Attributes:
      config: settings of the run.
      model: the module, its number of classes filled in.
      variables: {"params", "batch_stats"}, on the first device.
      classes: their names and ids, in the model's order.
      step: step of the checkpoint.
    """

    config: TrainConfig
    model: Model
    variables: dict[str, Any]
    classes: Classes
    step: int

    def predictor(self) -> Predictor:
        """The model ready for pictures, resized as in the run."""
        return Predictor(self.model, self.variables, self.classes, self.config.data)


def load_run(
    folder: str | Path,
    step: int | None = None,
    *,
    trust: Sequence[str] = (),
    model: Model | None = None,
) -> Run:
    """Loads a trained model from its run's folder.

    Reads JSON and arrays only: no code from the folder is executed.

    Args:
      folder: as `segjax train --workdir` wrote it.
      step: step of the checkpoint; None: the best one, or the newest where none was evaluated.
      trust: names of further packages, such as ("my_package",), whose classes and functions the
        config may name, for models with custom parts. These packages are imported.
      model: takes the place of the config's model, which is not rebuilt then; its number of
        classes can be 0, to follow the run. Its dtypes stay as they are.

    Raises:
      FileNotFoundError: if the folder holds no config or no such checkpoint.
      ValueError: if the config is not of this version, names something of a package that is
        not trusted, the checkpoint is broken, or the weights are not the model's.
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
    """Writes weights that come from elsewhere as a run that `load_run` and `init_from` read.

    Such as those of `segjax.zoo.convert`, for evaluation, prediction, or as a start for
    training on other classes.

    Args:
      folder: new, or without checkpoints.
      config: its `model` is the one the variables are for, the classes of its semantic branch
        (if it has one) filled in; `data` tells how images are resized.
      variables: {"params", "batch_stats"}, arrays of numpy or jax.
      classes: names and ids of the model's classes. A model with 0 classes gets as many as there
        are names; one that knows no objects wants none.

    Raises:
      FileExistsError: if the folder has checkpoints already.
      ValueError: if model, variables and classes do not fit together; it names the first arrays.
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
    """Versions that a run's numbers depend on."""
    names = ("segjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {name: metadata.version(name) for name in names}


def _best_good(checkpoints: Checkpoints) -> int | None:
    """The best checkpoint; None, for the newest that is not broken, if there is no best one."""
    best = checkpoints.best_step
    if best is None or not (wrong := checkpoints.wrong(best)):
        return best
    _log.warning("the best checkpoint, of step %d, is broken: %s", best, "; ".join(wrong[:5]))
    return None
