"""The training loop: `train` reads top to bottom, from the data to the pictures."""

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import PRNGKeyArray

from segjax.config import TrainConfig
from segjax.config_json import save_config
from segjax.data import pipeline
from segjax.eval.runner import EvalResults, Evaluator
from segjax.train.checkpoint import (
    CONFIG_FILE,
    Checkpoints,
    best_metric,
    library_versions,
    load_run,
    merge_variables,
    save_classes,
)
from segjax.train.metrics import FiniteCheck, Progress, Window, Writer, say
from segjax.train.optim import learning_rate, make_optimizer
from segjax.train.parallel import CompiledStep, Devices, choose_devices, compile_step
from segjax.train.pictures import write_pictures
from segjax.train.prefetch import Prefetch
from segjax.train.state import TrainState, init_state, init_variables
from segjax.train.step import make_step
from segjax.types import Batch, Dtype

# Each purpose draws from its own stream of the run's seed.
INIT_STREAM, STEP_STREAM = 0, 1


@dataclasses.dataclass(frozen=True)
class TrainResults:
    """What a run leaves behind.

    Attributes:
      model: the module, its number of classes filled in.
      variables: {"params", "batch_stats"} after the last step, on the first device.
      metrics: of the last evaluation, such as "segm/AP"; empty if there was none.
      class_names: in the model's order.
      workdir: folder with config, checkpoints, metrics and pictures.
      compilations: how often the step was compiled: once for each bucket of image shapes.
    """

    model: nn.Module
    variables: dict[str, Any]
    metrics: dict[str, float]
    class_names: tuple[str, ...]
    workdir: Path
    compilations: int


def train(config: TrainConfig) -> TrainResults:
    """Trains, evaluates and checkpoints as `config` says; resumes a run that was stopped.

    A run whose folder holds checkpoints goes on from the newest one, with the same numbers
    as if it had never stopped.

    Args:
      config: of the run; `workdir` must be set.

    Returns:
      The trained model and its scores.

    Raises:
      ValueError: if config and data or devices do not fit together.
      FloatingPointError: if a loss or gradient is not finite; it names step, terms and images.
    """
    # ---------------------------------------------------------------- Work directory, devices
    if not config.workdir:
        raise ValueError("workdir is not set: give a folder for checkpoints and metrics")
    workdir = Path(config.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    devices = choose_devices(config.parallel, config.num_devices)
    devices.check_batch_size(config.data.batch_size)
    say(f"{workdir}: {devices.mode} on {len(devices.devices)} x {devices.devices[0].device_kind}")

    # ---------------------------------------------------------------- Data
    dataset = pipeline.open_dataset(config.data)
    config = resolve(config, dataset.class_names)
    save_config(workdir / CONFIG_FILE, config, library_versions())
    save_classes(workdir, dataset.class_names, dataset.category_ids)

    # ---------------------------------------------------------------- Model, optimizer, step
    model: Any = config.model
    key = jax.random.key(config.seed)
    variables = initial_variables(config, jax.random.fold_in(key, INIT_STREAM))
    frozen = model.frozen_paths()
    optimizer = make_optimizer(config.optim, config.steps, frozen)
    schedule = learning_rate(config.optim, config.steps)
    state = devices.replicate(init_state(variables, optimizer))
    del variables  # donated with the first step
    say(f"{_count(state.params):,} parameters, {len(dataset.class_names)} classes")

    shapes: list[tuple[int, ...]] = []
    step = make_step(model, optimizer, schedule, frozen)
    compiled = compile_step(step, devices, lambda batch: _announce(batch, shapes))

    # ---------------------------------------------------------------- Checkpoint to go on from
    with Checkpoints(workdir, best_metric(config), config.keep_last) as checkpoints:
        data_state = None
        if checkpoints.latest_step is not None:
            state, data_state = checkpoints.restore(state)
            say(f"going on from step {int(state.step)} of {config.steps}")

        # ------------------------------------------------------------ Training
        evaluator = Evaluator(
            model,
            dataset,
            config.data,
            max_dets=config.max_detections,
            progress=sys.stderr.isatty(),
        )
        run = _Loop(config, devices, compiled, checkpoints, evaluator)
        step_key = devices.replicate(jax.random.fold_in(key, STEP_STREAM))
        iterator = pipeline.train_iterator(
            dataset, config.data, seed=config.seed + config.data.seed, start_state=data_state
        )
        state, results = run(state, step_key, iterator)

    # ---------------------------------------------------------------- Scores and pictures
    if results is None:
        results = run.evaluate(state)
    say(results.text())
    variables = jax.device_put(state.variables, devices.devices[0])
    if config.num_pictures:
        folder, threshold = workdir / "pictures", config.score_threshold
        write_pictures(evaluator, variables, folder, config.num_pictures, threshold)
        say(f"pictures in {folder}")
    return TrainResults(
        model, variables, results.metrics(), tuple(dataset.class_names), workdir, len(shapes)
    )


class _Loop:
    """The steps of a run, with what happens between them."""

    def __init__(
        self,
        config: TrainConfig,
        devices: Devices,
        step: CompiledStep,
        checkpoints: Checkpoints,
        evaluator: Evaluator,
    ):
        self.config, self.devices, self.step = config, devices, step
        self.checkpoints, self.evaluator = checkpoints, evaluator
        self.dropped = {"truncated": 0, "dropped_degenerate": 0}

    def __call__(
        self, state: TrainState, key: PRNGKeyArray, iterator: Any
    ) -> tuple[TrainState, EvalResults | None]:
        """Takes the steps that are left; returns the last state and evaluation."""
        config, first = self.config, int(state.step)
        batches = Prefetch(iterator, self.devices.put_batch)
        writer = Writer(Path(config.workdir), config.tensorboard)
        progress = Progress(config.steps, first)
        finite, window, results = FiniteCheck(), Window(), None
        try:
            for step in range(first + 1, config.steps + 1):
                batch, host, data_state = next(batches)
                state, metrics = self.step(state, batch, key)
                if config.check_finite:
                    finite.add(step, metrics, host["image_ids"])
                window.add(metrics, len(host["image_ids"]))
                self._count_dropped(host)
                progress.advance()

                if step % config.log_every == 0 or step in (1, config.steps):
                    means = window.read() | self.dropped
                    writer.write(step, means)
                    progress.report(step, means)

                results = None
                if self._evaluates(step) or self._saves(step):
                    finite.flush()
                    started = time.perf_counter()
                    if self._evaluates(step):
                        results = self.evaluate(state)
                        writer.write(step, results.metrics())
                    self.checkpoints.save(state, data_state, results and results.metrics())
                    window.exclude(time.perf_counter() - started)
        finally:
            progress.close()
            writer.close()
            batches.close()
        return state, results

    def evaluate(self, state: TrainState) -> EvalResults:
        """Scores the state on the validation split."""
        # One device predicts; its copy of the parameters is already there.
        results = self.evaluator(jax.device_put(state.variables, self.devices.devices[0]))
        scores = ", ".join(
            f"{name} {value:.3f}"
            for name, value in results.metrics().items()
            if name.endswith(("/AP", "/AP50"))
        )
        say(f"step {int(state.step)}: {scores} ({results.seconds:.0f} s)")
        return results

    def _evaluates(self, step: int) -> bool:
        every = self.config.eval_every
        return step == self.config.steps or bool(every and step % every == 0)

    def _saves(self, step: int) -> bool:
        every = self.config.checkpoint_every
        return bool(every and step % every == 0)

    def _count_dropped(self, host: Any) -> None:
        for name in self.dropped:
            self.dropped[name] += int(host[name].sum())


def resolve(config: TrainConfig, class_names: Sequence[str]) -> TrainConfig:
    """Fills in what the config leaves to the data, and the compute dtype of every part.

    Raises:
      ValueError: if the model is for another number of classes than the data has.
    """
    model: Any = config.model
    number = len(class_names)
    if model.num_classes == 0:
        model = model.with_num_classes(number)
    if model.num_classes != number:
        raise ValueError(
            f"the model has {model.num_classes} classes, the data has {number}"
            f" ({', '.join(class_names[:5])}, ...): leave num_classes at 0 to follow the data"
        )
    if config.compute_dtype is not None:
        model = with_dtype(model, config.compute_dtype)
    return dataclasses.replace(config, model=model)


def with_dtype(part: Any, dtype: Dtype) -> Any:
    """Returns a module with the `dtype` of itself and of all modules inside replaced."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if field.name == "dtype":
            changes["dtype"] = dtype
        elif isinstance(value, nn.Module) and field.name != "parent":
            changes[field.name] = with_dtype(value, dtype)
    return part.clone(**changes)


def initial_variables(config: TrainConfig, key: PRNGKeyArray) -> dict[str, Any]:
    """Draws the model's variables, then takes over those of `init_from`."""
    fresh = init_variables(config.model, key)
    if config.init_from is None:
        return fresh
    source = load_run(config.init_from)
    merged, kept = merge_variables(fresh, source.variables)
    say(f"weights from {config.init_from}, step {source.step}; at random: {kept or 'none'}")
    return merged


def _announce(batch: Batch, shapes: list[tuple[int, ...]]) -> None:
    shapes.append(tuple(batch.images.shape))
    say(f"compiling the step for images {batch.images.shape} (compilation {len(shapes)})")


def _count(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
