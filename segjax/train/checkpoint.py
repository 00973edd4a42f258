"""Checkpoints of a run: the best and the newest ones, with the position in the data.

Layout of a run's folder:

    config.json        the resolved config and the versions it ran on
    classes.json       names of classes and COCO's ids of them, in the model's order
    metrics.jsonl      one record a line
    checkpoints/STEP/  the fields of `TrainState` by name, the data's state (orbax), a manifest
"""

# pyright: strict, reportUnknownMemberType=false, reportMissingTypeStubs=false

import contextlib
import dataclasses
import logging
import math
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from segjax._files import check_room
from segjax.distributed import is_first
from segjax.models.variables import flatten_variables
from segjax.train.manifest import differences, sync_folder, write_manifest
from segjax.train.state import TrainState

_log = logging.getLogger("segjax")
_DELETED = "deleted"
# A checkpoint's folder is named by the step.
FIELDS = {field.name for field in dataclasses.fields(TrainState)} - {"step"}


class Checkpoints:
    """Saves and restores the checkpoints of one run.

    Saving returns as soon as the arrays are on the host; the files are written meanwhile.
    A checkpoint gets its name once it is complete, with a manifest of its files. One that differs
    from its manifest is never restored.

    Args:
      folder: folder of the run.
      keep_best: metric (larger is better) whose best checkpoint is kept, or None.
      keep_last: number of newest checkpoints to keep.
      read_only: do not create, change or clean up anything, as the run may still be active.

    Raises:
      FileNotFoundError: if `read_only` is set and the folder has no checkpoints.
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
        self._scores: dict[int, float] = {}
        self._wrong: dict[int, list[str]] = {}
        options = ocp.CheckpointManagerOptions(
            save_interval_steps=0 if read_only else 1,
            preservation_policy=_Kept(keep_last, self._score if keep_best else None),
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
            temporary_path_class=_WithManifest,
            # A kill between the deletions of two files would leave half a checkpoint. Old ones are
            # therefore renamed first, in one step.
            todelete_subdir=None if read_only else _DELETED,
            # Nothing of a checkpoint is read before its manifest was compared.
            lightweight_initialize=True,
        )
        with _errors_only("absl"):  # Orbax warns about read_only, which is intended here
            self._manager = ocp.CheckpointManager(self._path, options=options)
        self._read_only = read_only
        self._empty()

    def _empty(self) -> None:
        """Deletes what is to be deleted."""
        if not self._read_only and is_first():
            shutil.rmtree(self._path / _DELETED, ignore_errors=True)

    @property
    def steps(self) -> tuple[int, ...]:
        """All checkpoints, in order; `wrong` tells which can be restored."""
        if not self._path.is_dir():
            return ()
        found = [path for path in self._path.iterdir() if path.name.isdecimal() and path.is_dir()]
        return tuple(sorted(int(path.name) for path in found))

    @property
    def latest_step(self) -> int | None:
        """The newest checkpoint."""
        return max(self.steps, default=None)

    @property
    def best_step(self) -> int | None:
        """The one with the best metric; where none has one, None."""
        scores = {step: self._score(step) for step in self.steps} if self._keep_best else {}
        best = max(scores, key=lambda step: (scores[step], step), default=None)
        return None if best is None or scores[best] == -math.inf else best

    def wrong(self, step: int) -> list[str]:
        """Compares a checkpoint with its manifest; reads all of its bytes, once.

        Returns:
          What is wrong, a line for each file; empty if the checkpoint can be restored.
        """
        self.wait()
        if step not in self._wrong:
            self._wrong[step] = differences(self._path / str(step))
        return self._wrong[step]

    def newest_good(self) -> int | None:
        """Finds the newest checkpoint that is as it was written, and warns of newer ones.

        Returns:
          Its step; None if there are no checkpoints.

        Raises:
          ValueError: if there are checkpoints and all of them are broken.
        """
        self.wait()
        for step in reversed(self.steps):
            if not self.wrong(step):
                return step
            _log.warning(
                "the checkpoint of step %d in %s is broken and not used: %s",
                *(step, self._path, _few(self.wrong(step))),
            )
        if self.steps:
            raise ValueError(
                f"every checkpoint in {self._path} is broken; the newest: "
                f"{_few(self.wrong(self.steps[-1]))}: restore the folder from a copy, or give"
                " another --workdir"
            )
        return None

    def set_aside_broken(self) -> None:
        """Moves broken checkpoints to `broken/` in the run's folder, out of the way of new ones."""
        for step in [step for step in self.steps if self._wrong.get(step)]:
            target = self._path.parent / "broken" / str(step)
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(exist_ok=True)
            (self._path / str(step)).rename(target)
            del self._wrong[step]
            _log.warning("moved the broken checkpoint of step %d to %s", step, target)
        self._manager.reload()

    def save(
        self,
        state: TrainState,
        data_state: Any,
        metrics: Mapping[str, float] | None = None,
        *,
        again: bool = False,
    ) -> None:
        """Saves a state under its step. An existing checkpoint of that step is kept.

        Args:
          state: to save.
          data_state: state of the data after the last batch; what JSON can hold.
          metrics: metrics of an evaluation at this step; those that are not finite are left out.
          again: write a checkpoint of this step anew, such as with the scores that it lacks.

        Raises:
          OSError: if there is no room for it; older checkpoints stay as they are.
        """
        step = int(state.step)
        self.wait()  # the one before may have taken the room
        self._empty()
        if step in self.steps and not again:
            return
        items = _items(state)
        check_room(self._path, _room(items), f"the checkpoint of step {step}")
        finite = {k: float(v) for k, v in (metrics or {}).items() if math.isfinite(v)}
        self._scores[step] = finite.get(self._keep_best or "", -math.inf)
        self._wrong.pop(step, None)
        if step in self.steps:
            self._manager.delete(step)
        content = {"state": data_state, "metrics": finite, "arrays": _described(items)}
        args = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        self._manager.save(step, args=ocp.args.Composite(**args, data=ocp.args.JsonSave(content)))

    def save_variables(self, variables: Mapping[str, Any]) -> None:
        """Saves parameters and other collections only, as step 0, for other runs to start from."""
        items = _variable_items(jax.tree.map(_as_array, dict(variables)))
        args = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        content = {"arrays": _described(items)}
        self._manager.save(0, args=ocp.args.Composite(**args, data=ocp.args.JsonSave(content)))

    def restore(self, state: TrainState, step: int | None = None) -> tuple[TrainState, Any]:
        """Restores a complete training state.

        Args:
          state: one of the same shapes, on the devices where the restored one shall be.
          step: which; None: the newest that is not broken.

        Returns:
          The training state, and the state of the data iterator.

        Raises:
          FileNotFoundError: if there is no such checkpoint.
          ValueError: if it is broken, holds weights alone, or holds other arrays than the state;
            it names them with the shapes and dtypes that are stored and wanted.
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
        self._check_arrays(step, wanted)
        items = {name: ocp.args.StandardRestore(_abstract(tree)) for name, tree in wanted.items()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        fields = {name: restored[name] for name in wanted}
        number = jax.device_put(np.int32(step), _abstract(state.step).sharding)
        return dataclasses.replace(state, step=number, **fields), self._data(step)["state"]

    def restore_variables(
        self, variables: Mapping[str, Any], step: int | None = None
    ) -> dict[str, Any]:
        """Restores the variables for evaluation: averaged parameters if the run kept any.

        Args:
          variables: arrays or their shapes, of the model that was trained.
          step: which; None: the newest that is not broken.

        Raises:
          FileNotFoundError: if there is no such checkpoint.
          ValueError: if it is broken, or the arrays are others, as for `restore`.
        """
        step = self.find(step)
        params = "ema" if "ema" in self._saved_items(step) else "params"
        wanted = _variable_items(variables)
        wanted[params] = wanted.pop("params")
        self._check_arrays(step, wanted)
        items = {name: ocp.args.StandardRestore(_abstract(tree)) for name, tree in wanted.items()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        # Empty collections are not in the checkpoint and are taken from `variables`.
        collections = {name: tree for name, tree in variables.items() if name != "params"}
        return {"params": restored[params], **(restored.get("collections") or collections)}

    def has_scores(self, step: int) -> bool:
        """Returns True if the checkpoint was saved with the metrics of an evaluation."""
        return bool(self._data(step).get("metrics"))

    def _check_arrays(self, step: int, wanted: Mapping[str, Any]) -> None:
        """Compares the stored arrays with those that are wanted; orbax would cast dtypes."""
        stored, given = self._data(step)["arrays"], _described(wanted)
        stored = {name: kind for name, kind in stored.items() if name.split("/")[0] in wanted}
        lines = [
            f"{name}: stored {stored.get(name, 'nothing')}, wanted {given.get(name, 'nothing')}"
            for name in sorted(stored.keys() | given.keys())
            if stored.get(name) != given.get(name)
        ]
        if lines:
            raise ValueError(
                f"{self._path / str(step)} holds arrays of other names, shapes or dtypes than the"
                f" model: {_few(lines)}"
            )

    def _data(self, step: int) -> Any:
        """Reads what a checkpoint holds in JSON."""
        args = ocp.args.Composite(data=ocp.args.JsonRestore())
        return self._manager.restore(step, args=args)["data"]

    def _score(self, step: int) -> float:
        """The metric that decides which checkpoint is best; -inf without it."""
        if step not in self._scores:
            try:
                metrics = self._data(step)["metrics"]
                self._scores[step] = float(metrics.get(self._keep_best, -math.inf))
            except Exception:  # broken, which `wrong` describes
                self._scores[step] = -math.inf
        return self._scores[step]

    def _saved_items(self, step: int) -> set[str]:
        """The names of the state's fields that a checkpoint holds."""
        found = {path.name for path in (self._path / str(step)).iterdir() if path.is_dir()}
        if "params" not in found:
            raise ValueError(
                f"{self._path / str(step)} holds {', '.join(sorted(found)) or 'nothing'}, but no"
                " params: another version of segjax wrote it, and this one cannot read it; train"
                " again, or export its weights with that version"
            )
        return found & FIELDS

    def find(self, step: int | None = None) -> int:
        """The given step, or the newest that is not broken if None.

        Raises:
          FileNotFoundError: if there is no such checkpoint.
          ValueError: if it is broken; it names the files.
        """
        self.wait()  # it may be one that is still being written
        wanted = self.newest_good() if step is None else step
        if wanted is None or wanted not in self.steps:
            which = "no checkpoint" if step is None else f"no checkpoint of step {step}"
            raise FileNotFoundError(f"{which} in {self._path}; steps there: {list(self.steps)}")
        if self.wrong(wanted):
            raise ValueError(
                f"the checkpoint of step {wanted} in {self._path} is broken:"
                f" {_few(self.wrong(wanted))}; steps there: {list(self.steps)}"
            )
        return wanted

    def wait(self) -> None:
        """Blocks until everything saved so far is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for pending writes and stops Orbax's threads."""
        self._manager.close()
        self._empty()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _WithManifest(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """Folder of a checkpoint that is being written; it gets its name after its manifest."""

    async def finalize(self) -> None:
        """Completes the files under a name that does not count yet, lists them, then renames."""
        final = self._final_path
        if not final.name.isdecimal():  # a part of a checkpoint
            await super().finalize()
            return
        staged = final.parent / f"{final.name}{ocp.path.atomicity.TMP_DIR_SUFFIX}-complete"
        shutil.rmtree(staged, ignore_errors=True)
        self._final_path = staged
        try:
            await super().finalize()
        finally:
            self._final_path = final
        write_manifest(Path(staged))
        Path(staged).rename(final)
        sync_folder(Path(final).parent)


@dataclasses.dataclass(frozen=True)
class _Kept(checkpoint_managers.PreservationPolicy):
    """Keeps the newest checkpoints, and the one with the best score.

    Attributes:
      last: how many of the newest.
      score: score of a step, -inf without one; None to keep the newest alone.
    """

    last: int
    score: Callable[[int], float] | None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        steps = [int(checkpoint.step) for checkpoint in checkpoints]
        kept = set(steps[-self.last :])
        if self.score is not None:
            scores = {step: self.score(step) for step in steps}
            best = max(scores, key=lambda step: (scores[step], step), default=None)
            if best is not None and scores[best] > -math.inf:
                kept.add(best)
        return [step in kept for step in steps]


def _described(items: Mapping[str, Any]) -> dict[str, str]:
    """Shape and dtype of every array, by its path: "float32 [3, 3]"."""
    arrays = flatten_variables(dict(items))
    return {name: f"{leaf.dtype} {list(leaf.shape)}" for name, leaf in arrays.items()}


def _few(lines: Sequence[str]) -> str:
    more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
    return "; ".join(lines[:5]) + more


@contextlib.contextmanager
def _errors_only(name: str) -> Generator[None]:
    """Silences a logger's warnings."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _items(state: TrainState) -> dict[str, Any]:
    """Returns the state fields that contain arrays, as Orbax cannot save empty trees."""
    fields = {name: getattr(state, name) for name in FIELDS}
    return {name: tree for name, tree in fields.items() if jax.tree.leaves(tree)}


def _room(items: Mapping[str, Any]) -> int:
    """Returns an upper bound in bytes on a checkpoint: its arrays uncompressed, plus a margin."""
    return int(1.1 * sum(leaf.nbytes for leaf in jax.tree.leaves(dict(items)))) + 2**20


def _as_array(leaf: Any) -> jax.Array:
    return jnp.asarray(leaf)


def _variable_items(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Arranges a model's variables as the fields of a `TrainState`."""
    collections = {name: tree for name, tree in variables.items() if name != "params"}
    fields = {"params": variables["params"], "collections": collections}
    return {name: tree for name, tree in fields.items() if jax.tree.leaves(tree)}


def _abstract(tree: Any) -> Any:
    """Returns shapes, dtypes and shardings; leaves without a sharding go to the first device."""
    device: Any = jax.local_devices()[0]  # pyright: ignore[reportUnknownVariableType]
    first: Any = jax.sharding.SingleDeviceSharding(device)

    def shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
        sharding: Any = getattr(leaf, "sharding", None) or first
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(shape_of, tree)
