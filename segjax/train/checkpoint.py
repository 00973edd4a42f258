"""Checkpoints of a run: the best and the newest, with the place in the data.

A run's folder:

    config.json        the resolved config and the versions it ran on
    classes.json       names of classes and COCO's ids of them, in the model's order
    metrics.jsonl      one record a line
    checkpoints/STEP/  the fields of `TrainState` by name, and the data's state (orbax)
"""

# pyright: strict, reportUnknownMemberType=false, reportMissingTypeStubs=false

import contextlib
import dataclasses
import logging
import math
from collections.abc import Generator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from segjax._files import check_room
from segjax.config import TrainConfig
from segjax.config_json import read_config, save_config
from segjax.models.variables import differing_shapes, variable_shapes
from segjax.predict.predictor import Predictor
from segjax.protocols import Model
from segjax.results.classes import Classes
from segjax.train.classes import read_classes, save_classes
from segjax.train.resolve import best_metric, with_classes
from segjax.train.state import TrainState

CONFIG_FILE = "config.json"
# A checkpoint's folder is named by the step.
FIELDS = {field.name for field in dataclasses.fields(TrainState)} - {"step"}


class Checkpoints:
    """The checkpoints of one run.

    Saving returns as soon as the arrays are on the host; the files are written meanwhile.
    A checkpoint counts only once it is complete.

    Args:
      folder: folder of the run.
      keep_best: name of the metric (larger is better) whose best checkpoint is kept, or None.
      keep_last: how many of the newest are kept.
      read_only: nothing in the folder is made, changed or cleaned up: the run may still be active.

    Raises:
      FileNotFoundError: if there is nothing to read.
    """

    def __init__(
        self,
        folder: Path | str,
        keep_best: str | None = None,
        keep_last: int = 1,
        read_only: bool = False,
    ):
        self._path = (Path(folder) / "checkpoints").absolute()
        self._keep_best = keep_best
        if read_only and not self._path.is_dir():
            raise FileNotFoundError(f"no checkpoint in {self._path}: there is no such folder")
        options = ocp.CheckpointManagerOptions(
            save_interval_steps=0 if read_only else 1,
            best_fn=self._score if keep_best else None,
            preservation_policy=self._preservation(keep_last),
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
        )
        with _errors_only("absl"):  # orbax warns of read_only, which is meant
            self._manager = ocp.CheckpointManager(self._path, options=options)

    def _preservation(self, keep_last: int) -> checkpoint_managers.AnyPreservationPolicy:
        policies: list[checkpoint_managers.PreservationPolicy] = [
            checkpoint_managers.LatestN(keep_last)
        ]
        if self._keep_best:
            policies.append(
                checkpoint_managers.BestN(
                    get_metric_fn=self._score, n=1, keep_checkpoints_without_metrics=False
                )
            )
        return checkpoint_managers.AnyPreservationPolicy(policies)

    def _score(self, metrics: Mapping[str, Any]) -> float:
        return float(metrics.get(self._keep_best or "", -math.inf))

    @property
    def latest_step(self) -> int | None:
        """The newest complete checkpoint."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """The one with the best metric; where none has one, the newest."""
        return self._manager.best_step() if self._keep_best else None

    @property
    def steps(self) -> tuple[int, ...]:
        """All complete checkpoints, in order."""
        return tuple(sorted(self._manager.all_steps()))

    def save(
        self, state: TrainState, data_state: Any, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Saves the state under its step; an existing checkpoint of that step stays.

        Args:
          state: to save.
          data_state: state of the data after the last batch; what JSON can hold.
          metrics: metrics of an evaluation at this step; those that are not finite are left out.
        """
        step = int(state.step)
        self.wait()  # the one before may have taken the room
        check_room(self._path, _room(_items(state)), f"the checkpoint of step {step}")
        finite = {k: float(v) for k, v in (metrics or {}).items() if math.isfinite(v)}
        items = {name: ocp.args.StandardSave(tree) for name, tree in _items(state).items()}
        self._manager.save(
            step,
            args=ocp.args.Composite(**items, data=ocp.args.JsonSave({"state": data_state})),
            metrics=finite if self._keep_best else None,
        )

    def save_variables(self, variables: Mapping[str, Any]) -> None:
        """Saves parameters and other collections alone, as step 0: a start for other runs."""
        items = _variable_items(jax.tree.map(_as_array, dict(variables)))
        args = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        self._manager.save(0, args=ocp.args.Composite(**args))

    def restore(self, state: TrainState, step: int | None = None) -> tuple[TrainState, Any]:
        """Restores a whole state.

        Args:
          state: one of the same shapes, on the devices where the restored one shall be.
          step: which; None: the newest.

        Returns:
          The state and the data's state.

        Raises:
          FileNotFoundError: if there is no such checkpoint.
          ValueError: if the shapes or the kinds of what is kept are others, or the checkpoint
            holds weights alone.
        """
        step = self.find(step)
        saved = self._saved_items(step)
        if "opt_state" not in saved:
            raise ValueError(
                f"{self._path} holds weights alone, no training to go on with: give another"
                f" --workdir, and --init-from={self._path.parent} to start from these weights"
            )
        wanted = _items(state)
        if saved != wanted.keys():
            raise ValueError(
                f"{self._path / str(step)} holds {', '.join(sorted(saved))}; this run keeps"
                f" {', '.join(sorted(wanted))}: go on with the config it was started with"
            )
        items = {name: ocp.args.StandardRestore(_abstract(tree)) for name, tree in wanted.items()}
        args = ocp.args.Composite(**items, data=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=args)
        fields = {name: restored[name] for name in wanted}
        number = jax.device_put(np.int32(step), _abstract(state.step).sharding)
        return dataclasses.replace(state, step=number, **fields), restored["data"]["state"]

    def restore_variables(
        self, variables: Mapping[str, Any], step: int | None = None
    ) -> dict[str, Any]:
        """Restores the variables to evaluate with: averaged parameters if the run kept any.

        Args:
          variables: arrays or their shapes, of the model that was trained.
          step: which; None: the newest.

        Raises:
          FileNotFoundError: if there is no such checkpoint.
          ValueError: if the shapes are others.
        """
        step = self.find(step)
        params = "ema" if "ema" in self._saved_items(step) else "params"
        wanted = _variable_items(variables)
        wanted[params] = wanted.pop("params")
        items = {name: ocp.args.StandardRestore(_abstract(tree)) for name, tree in wanted.items()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        collections = {name: tree for name, tree in variables.items() if name != "params"}
        return {"params": restored[params], **(restored.get("collections") or collections)}

    def _saved_items(self, step: int) -> set[str]:
        """The names of the state's fields that a checkpoint holds."""
        self.wait()  # it may be one that is still being written
        found = {path.name for path in (self._path / str(step)).iterdir() if path.is_dir()}
        if "params" not in found:
            raise ValueError(
                f"{self._path / str(step)} holds {', '.join(sorted(found)) or 'nothing'}, but no"
                " params: another version of segjax wrote it, and this one cannot read it; train"
                " again, or export its weights with that version"
            )
        return found & FIELDS

    def find(self, step: int | None = None) -> int:
        """The given step, or the newest if None.

        Raises:
          FileNotFoundError: if there is no such checkpoint.
        """
        wanted = self.latest_step if step is None else step
        if wanted is None or wanted not in self.steps:
            which = "no checkpoint" if step is None else f"no checkpoint of step {step}"
            raise FileNotFoundError(f"{which} in {self._path}; steps there: {list(self.steps)}")
        return wanted

    def wait(self) -> None:
        """Returns when everything saved so far is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and ends orbax's threads."""
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


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
        not trusted, or the weights are not the model's.
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
        step = checkpoints.find(checkpoints.best_step if step is None else step)
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


@contextlib.contextmanager
def _errors_only(name: str) -> Generator[None]:
    """Mutes a logger's warnings."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _items(state: TrainState) -> dict[str, Any]:
    """The fields of a state that hold arrays: orbax saves no empty trees."""
    fields = {name: getattr(state, name) for name in FIELDS}
    return {name: tree for name, tree in fields.items() if jax.tree.leaves(tree)}


def _room(items: Mapping[str, Any]) -> int:
    """Bytes that a checkpoint may need: its arrays, which orbax compresses, and some more."""
    return int(1.1 * sum(leaf.nbytes for leaf in jax.tree.leaves(dict(items)))) + 2**20


def _as_array(leaf: Any) -> jax.Array:
    return jnp.asarray(leaf)


def _variable_items(variables: Mapping[str, Any]) -> dict[str, Any]:
    """A model's variables as the fields of a state."""
    collections = {name: tree for name, tree in variables.items() if name != "params"}
    fields = {"params": variables["params"], "collections": collections}
    return {name: tree for name, tree in fields.items() if jax.tree.leaves(tree)}


def _abstract(tree: Any) -> Any:
    """Shapes, dtypes and places of arrays; what has no place goes to the first device."""
    device: Any = jax.local_devices()[0]  # pyright: ignore[reportUnknownVariableType]
    first: Any = jax.sharding.SingleDeviceSharding(device)

    def shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
        sharding: Any = getattr(leaf, "sharding", None) or first
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(shape_of, tree)
