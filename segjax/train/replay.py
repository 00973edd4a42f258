"""Steps whose loss or gradient was not finite: written to a file, and taken again from it."""

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segjax._files import written_whole
from segjax.config import TrainConfig
from segjax.config_json import read_config
from segjax.models.variables import flatten_variables, unflatten_variables
from segjax.protocols import Model
from segjax.train.runs import CONFIG_FILE
from segjax.train.state import TrainState
from segjax.train.step import losses_and_gradients, run_key
from segjax.types import Batch

_FORMAT = 1


def dump_name(step: int, process: int = 0) -> str:
    """Name of the file of a step; other processes than the first have their own."""
    return f"nonfinite_step_{step}" + (f"_process_{process}" if process else "") + ".npz"


def write_dump(
    path: Path, step: int, state: TrainState, batch: Batch, metrics: Mapping[str, Any], ids: Any
) -> None:
    """Writes what a step was taken from.

    Args:
      path: file to write, in the run's folder.
      step: number of the step.
      state: state after the step, which changed nothing but the counter.
      batch: batch of the step.
      metrics: metrics of the step.
      ids: image ids of the batch.
    """
    # Each process holds its own rows of a batch that several of them share.
    fields = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    arrays = {f"batch/{name}": _local(x) for name, x in fields.items() if x is not None}
    variables = flatten_variables(jax.tree.map(_local, state.variables))
    described = {
        "format": _FORMAT,
        "step": step,
        "metrics": {name: float(value) for name, value in metrics.items()},
        "image_ids": np.asarray(ids).tolist(),
    }
    with written_whole(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays, **variables, about=np.array(json.dumps(described)))


@dataclasses.dataclass(frozen=True)
class Replayed:
    """Outcome of a step that was taken again.

    Attributes:
      step: number of the step.
      recorded: metrics of the step in the run.
      losses: loss terms and the gradient's norm, on one device.
      gradients: names of the parameters whose gradients are not finite.
      images: for each image id, the loss terms that are not finite if the image is taken alone,
        with "gradient" if only the gradient is not.
    """

    step: int
    recorded: dict[str, float]
    losses: dict[str, float]
    gradients: tuple[str, ...]
    images: dict[int, tuple[str, ...]]

    def text(self) -> str:
        """Lines of terms, images, and the first of the parameters."""
        lines = [f"step {self.step}, taken again as one batch on one device:"]
        lines += [
            f"  {name:24} {value:<12.6g} in the run {self.recorded.get(name, float('nan')):.6g}"
            for name, value in self.losses.items()
        ]
        for image, terms in self.images.items():
            lines.append(f"image {image} alone: {', '.join(terms) or 'finite'}")
        if self.gradients:
            shown = ", ".join(self.gradients[:8])
            more = f" and {len(self.gradients) - 8} more" if len(self.gradients) > 8 else ""
            lines.append(f"gradients that are not finite: {shown}{more}")
        else:
            lines.append("all gradients are finite")
        return "\n".join(lines)


def replay(
    path: Path | str,
    *,
    trust: Sequence[str] = (),
    model: Model | None = None,
    locate: bool = False,
) -> Replayed:
    """Takes a dumped step again: as a whole, and every image alone.

    Args:
      path: file that training wrote when it stopped; the run's config is next to it.
      trust: names of further packages whose classes the config may name.
      model: takes the place of the config's model, such as with a mended loss.
      locate: stop at the first operation that produces a number that is not finite; JAX then
        takes the step operation by operation.

    Returns:
      The terms and gradients, as they come out here.

    Raises:
      ValueError: if the file is not one that training writes.
      FloatingPointError: with `locate`, naming the operation.
    """
    path = Path(path).expanduser()
    about, batch, variables = _read_dump(path)
    config = read_config(path.parent / CONFIG_FILE, trust, model)
    assert isinstance(config, TrainConfig)
    model = config.model
    take = losses_and_gradients(model, model.frozen_paths())
    key = jax.random.fold_in(run_key(config.seed), about["step"] - 1)
    checking = jax.debug_nans(True) if locate else contextlib.nullcontext()
    with checking:
        whole, grads = take(variables, batch, key, 0)
        single = {
            image: take(
                variables, jax.tree.map(lambda x, row=row: x[row : row + 1], batch), key, row
            )
            for row, image in enumerate(about["image_ids"])
        }
    return Replayed(
        step=about["step"],
        recorded=about["metrics"],
        losses={name: float(value) for name, value in whole.items()},
        gradients=tuple(_not_finite(grads)),
        images={image: _faults(*found) for image, found in single.items()},
    )


def _read_dump(path: Path) -> tuple[dict[str, Any], Batch, dict[str, Any]]:
    try:
        with np.load(path, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
        about = json.loads(str(arrays.pop("about")))
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{path} is not a step that training wrote: {error}") from error
    if about["format"] != _FORMAT:
        raise ValueError(f"{path} is of format {about['format']}, this version reads {_FORMAT}")
    fields = {n.removeprefix("batch/"): arrays.pop(n) for n in [*arrays] if n.startswith("batch/")}
    return about, Batch(**jax.tree.map(jnp.asarray, fields)), unflatten_variables(arrays)


def _row(batch: Batch, row: int) -> Batch:
    return jax.tree.map(lambda x: x[row : row + 1], batch)


def _faults(losses: Mapping[str, Any], grads: Any) -> tuple[str, ...]:
    """Names the loss terms of an image that are not finite, or its gradient."""
    terms = [name for name, value in losses.items() if not np.isfinite(value)]
    named = [name for name in terms if name not in ("loss", "grad_norm")]
    return tuple(named or (["gradient"] if terms or _not_finite(grads) else []))


def _not_finite(grads: Any) -> list[str]:
    return [
        name
        for name, value in flatten_variables({"params": grads}).items()
        if not np.isfinite(value).all()
    ]


def _local(array: Any) -> np.ndarray:
    """Returns this process's part of an array, or all of it if every device has a copy."""
    if not isinstance(array, jax.Array):
        return np.asarray(array)
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array.addressable_data(0) if array.is_fully_replicated else array)
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])
