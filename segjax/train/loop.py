"""The training loop. `train` reads from top to bottom, from opening the data to saving images."""

# pyright: strict, reportUnknownMemberType=false, reportMissingTypeStubs=false

import contextlib
import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
from jaxtyping import PRNGKeyArray

from segjax.config import TrainConfig
from segjax.data import pipeline
from segjax.distributed import barrier, is_first, of_first, process_index
from segjax.eval.runner import EvalResults, EvaluationStopped, Evaluator
from segjax.models.variables import init_variables, start_from, variable_names
from segjax.protocols import Model
from segjax.results.classes import Classes
from segjax.train.checkpoint import Checkpoints
from segjax.train.checks import check_frozen, check_same_run, check_splits
from segjax.train.interrupts import Interrupts, Stopping, TrainingInterrupted, leave_marker
from segjax.train.metrics import FiniteCheck, Progress, RunLog, Window, Writer, say
from segjax.train.optim import backbone_layers, learning_rate, make_optimizer
from segjax.train.parallel import Vote, choose_devices, compile_step
from segjax.train.pictures import write_pictures
from segjax.train.prefetch import Prefetch
from segjax.train.replay import dump_name, write_dump
from segjax.train.resolve import (
    best_metric,
    resolve,
    semantic_wanted,
)
from segjax.train.state import TrainState, init_state
from segjax.train.step import INIT_STREAM, make_step, run_key
from segjax.train.together import (
    DroppedObjects,
    check_processes,
    claimed_once,
    open_once,
    take_over,
)
from segjax.train.weights import start_weights
from segjax.types import Batch

Closes = TypeVar("Closes", Writer, Progress, Prefetch)


@dataclasses.dataclass(frozen=True)
class TrainResults:
    """Results of a run.

    Attributes:
      model: Linen module, with its number of classes set.
      variables: {"params"} and the model's other collections after the last step, on the
        first device; averaged parameters if the run kept any.
      metrics: metrics of the last evaluation, such as "segm/AP"; empty if there was none.
      classes: class names, in the model's order.
      workdir: folder with config, checkpoints, metrics and images.
      compilations: number of compilations of the step, one per bucket of image shapes.
    """

    model: Model
    variables: dict[str, Any]
    metrics: dict[str, float]
    classes: Classes
    workdir: Path
    compilations: int


def train(  # noqa: PLR0915 (long, but flat: it reads from top to bottom)
    config: TrainConfig, *, trust: Sequence[str] = ()
) -> TrainResults:
    """Trains, evaluates and saves checkpoints according to `config`; resumes an interrupted run.

    If the folder already has checkpoints, training continues from the newest one and produces the
    same numbers as an uninterrupted run.

    Args:
      config: settings of the run; `workdir` must be set.
      trust: additional packages whose classes the config in the folder `init_from` may name; they
        are imported. The run's own config and model do not need this.

    Returns:
      The trained model and its scores.

    Raises:
      ValueError: if config and data, devices or the run in the folder do not fit together, or
        weights would stay random for being frozen.
      FloatingPointError: after `max_nonfinite` steps in a row whose loss or gradient is not
        finite; it names step, terms, images, and a file for `segjax replay`.
      TrainingInterrupted: after Ctrl-C or SIGTERM, when the step is saved.
      OSError: if a checkpoint has no room; the one before stays.
    """
    # ---------------------------------------------------------------- Work directory, devices
    if not config.workdir:
        raise ValueError("workdir is not set: give a folder for checkpoints and metrics")
    workdir = Path(config.workdir).expanduser()
    devices = choose_devices(config.parallel, config.num_devices)
    devices.check_batch_size(config.data.batch_size, config.accumulate)

    # Everything opened here is closed in reverse order, even if a step fails.
    with contextlib.ExitStack() as closing:
        closing.enter_context(claimed_once(workdir))
        log = closing.enter_context(RunLog())
        device = devices.devices[0].device_kind
        say(f"{workdir}: {devices.mode} on {len(devices.devices)} x {device}")

        # ------------------------------------------------------------ Data
        dataset = open_once(config.data)
        check_splits(dataset, config.data, ("train", "val"))
        config = resolve(config, dataset.class_names, dataset.semantic_names)
        training_data = semantic_wanted(config)
        classes = Classes.of(config.model, dataset).checked()
        check_processes(config, dataset)

        # ------------------------------------------------------------ Checkpoint to continue from
        checkpoints = closing.enter_context(
            Checkpoints(workdir, best_metric(config), config.keep_last)
        )
        newest = of_first(checkpoints.newest_good() if is_first() else None)
        resumes = newest is not None
        if newest is not None:
            check_same_run(workdir, config, classes, newest)

        # ------------------------------------------------------------ Model, optimizer, step
        model = config.model
        key = jax.random.key(config.seed)
        init_key = jax.random.fold_in(key, INIT_STREAM)
        variables = initial_variables(config, init_key, resumes, trust)
        frozen = model.frozen_paths()
        optimizer = make_optimizer(config.optim, config.steps, frozen, *backbone_layers(model))
        schedule = learning_rate(config.optim, config.steps)
        state = devices.replicate(init_state(variables, optimizer))
        del variables  # their buffers may be shared with the state, which the first step donates
        number = len(classes.names or classes.semantic_names)
        say(f"{_count(state.params):,} parameters, {number} classes")

        shapes: list[tuple[int, ...]] = []
        one_device = make_step(model, optimizer, schedule, frozen, config.accumulate)
        take_step = compile_step(one_device, devices, lambda batch: _announce(batch, shapes))

        place = DataPlace()
        if resumes:
            state, saved = checkpoints.restore(state, newest)
            place = DataPlace(**saved)
            say(f"going on from step {int(state.step)} of {config.steps}")

        # ------------------------------------------------------------ Training
        interrupts = closing.enter_context(Interrupts(say))
        stopping = Stopping(interrupts, Vote(devices) if devices.processes > 1 else None)
        evaluator = Evaluator(
            model,
            dataset,
            config.data,
            max_dets=config.max_detections,
            progress=is_first() and sys.stderr.isatty(),
            should_stop=stopping.due,
            devices=devices.local,
            share=(process_index(), devices.processes),
        )
        evaluate = functools.partial(_evaluate, evaluator)
        first, results, dropped = int(state.step), None, DroppedObjects(place.dropped)
        step_key = devices.replicate(run_key(config.seed))
        iterator = pipeline.train_iterator(
            dataset,
            training_data,
            seed=config.seed + config.data.seed,
            process_index=process_index(),
            process_count=devices.processes,
            start_state=place.iterator,
        )
        closing.callback(iterator.close)  # also if nothing gets to draw from it
        # Only now: a run that is refused leaves the folder as it was, and until the checkpoints
        # and the place in the data are taken over, all in the folder is the earlier run's.
        take_over(workdir, config, classes, checkpoints, log)
        writer = _closed_by(
            closing, Writer(workdir if is_first() else None, config.tensorboard, first)
        )
        progress = _closed_by(closing, Progress(config.steps, first))
        batches = _closed_by(closing, Prefetch(iterator, devices.put_batch))
        finite, window = FiniteCheck(config.max_nonfinite, place.nonfinite), Window()
        stop = functools.partial(_stop, workdir, stopping, config.steps)

        if newest is not None:
            results = _missing_scores(config, checkpoints, state, place, evaluate, writer)
            stop(first)

        for step in range(first + 1, config.steps + 1):
            batch, host, data_state = next(batches)
            started, compiled = time.perf_counter(), len(shapes)
            state, metrics = take_step(state, batch, step_key)
            if len(shapes) > compiled:  # compilation must not lower the reported speed
                window.exclude(time.perf_counter() - started)
            if fault := finite.add(step, metrics, host["image_ids"]):
                path = workdir / dump_name(step, process_index())
                write_dump(path, step, state, batch, metrics, host["image_ids"])
                raise FloatingPointError(f"{fault}. {_advice(config.max_nonfinite, path)}")
            window.add(metrics, config.data.batch_size)
            dropped.add(host)
            progress.advance()

            if step in (1, config.steps) or step % config.log_every == 0:
                means = window.read() | dropped.total() | {"nonfinite_steps": finite.total}
                writer.write(step, means)
                progress.report(step, means)

            evaluates = step == config.steps or _is_due(step, config.eval_every)
            if evaluates or _is_due(step, config.checkpoint_every):
                finite.flush()  # its count is saved
                started = time.perf_counter()
                place = DataPlace(data_state, dropped.total(), finite.total)
                scores = evaluate if evaluates else None
                results = _score_and_save(checkpoints, state, place, scores, writer)
                window.exclude(time.perf_counter() - started)
            if stopping.due() and (step < config.steps or results is None):
                finite.flush()
                place = DataPlace(data_state, dropped.total(), finite.total)
                _score_and_save(checkpoints, state, place, None, writer)
                checkpoints.wait()
                stop(step)

    # ---------------------------------------------------------------- Scores and pictures
    if results is None:  # a run that had all its steps and scores
        results = _evaluate(evaluator, state)
    say(results.text())
    variables = dataclasses.replace(evaluator, devices=devices.local[:1]).placed(state.for_eval())
    if config.num_pictures and is_first():
        folder, threshold = workdir / "pictures", config.score_threshold
        write_pictures(evaluator, variables, folder, config.num_pictures, threshold)
        say(f"pictures in {folder}")
    barrier("training has ended")
    return TrainResults(model, variables, results.metrics(), classes, workdir, len(shapes))


@dataclasses.dataclass(frozen=True)
class DataPlace:
    """Position of a run in its data, as stored in a checkpoint.

    Attributes:
      iterator: the data iterator's state after the last batch.
      dropped: objects that were left out of training since step 0, by cause.
      nonfinite: number of steps since step 0 that were skipped for not being finite.
    """

    iterator: Any = None
    dropped: Mapping[str, int] = dataclasses.field(
        default_factory=lambda: {"truncated": 0, "dropped_degenerate": 0}
    )
    nonfinite: int = 0


def _evaluate(evaluator: Evaluator, state: TrainState) -> EvalResults:
    """Evaluates a state on the validation split and logs its main scores."""
    results = evaluator(evaluator.placed(state.for_eval()))
    scores = ", ".join(
        f"{name} {value:.3f}"
        for name, value in results.metrics().items()
        if name.endswith(("/AP", "/AP50", "/mIoU", "/PQ"))
    )
    say(f"step {int(state.step)}: {scores} ({results.seconds:.0f} s)")
    return results


def _score_and_save(
    checkpoints: Checkpoints,
    state: TrainState,
    place: DataPlace,
    evaluate: Callable[[TrainState], EvalResults] | None,
    writer: Writer,
    *,
    again: bool = False,
) -> EvalResults | None:
    """Scores a state if `evaluate` is given, and saves it, whatever becomes of the scores.

    Returns:
      The scores; None without `evaluate`, or if a signal ended the evaluation.
    """
    results = None
    try:
        if evaluate is not None:
            results = evaluate(state)
            writer.write(int(state.step), results.metrics())
    except EvaluationStopped:
        say("the evaluation was stopped; it is done when the run continues")
    finally:
        # A checkpoint takes its scores when it is saved, so it cannot be saved before.
        metrics = None if results is None else results.metrics()
        checkpoints.save(state, dataclasses.asdict(place), metrics, again=again and bool(metrics))
    return results


def _missing_scores(
    config: TrainConfig,
    checkpoints: Checkpoints,
    state: TrainState,
    place: DataPlace,
    evaluate: Callable[[TrainState], EvalResults],
    writer: Writer,
) -> EvalResults | None:
    """Scores the restored step if a signal ended the evaluation that belongs to it."""
    step = int(state.step)
    is_scored = step == config.steps or _is_due(step, config.eval_every)
    if not is_scored or checkpoints.has_scores(step):
        return None
    return _score_and_save(checkpoints, state, place, evaluate, writer, again=True)


def _stop(workdir: Path, stopping: Stopping, steps: int, step: int) -> None:
    """Ends training if that was agreed after a signal; the step must be saved."""
    if not stopping.agreed:
        return
    if is_first():
        leave_marker(workdir, step, stopping.number)
    raise TrainingInterrupted(
        f"stopped and saved at step {step} of {steps}; the same command goes on from there",
        stopping.number,
    )


def _is_due(step: int, every: int) -> bool:
    """Returns True every `every` steps; never if `every` is 0."""
    return every > 0 and step % every == 0


def _closed_by(closing: contextlib.ExitStack, thing: Closes) -> Closes:
    return closing.enter_context(contextlib.closing(thing))


def initial_variables(
    config: TrainConfig,
    key: PRNGKeyArray,
    resumes: bool = False,
    trust: Sequence[str] = (),
) -> dict[str, Any]:
    """Initialises the model's variables, and replaces those that `init_from` provides.

    Args:
      config: settings of the run, with the model resolved.
      key: random key.
      resumes: True if a checkpoint will replace all variables, so that random ones suffice.
      trust: as for `train`.

    Raises:
      ValueError: if variables that the model freezes would stay random.
    """
    model = config.model
    if config.init_from is None or resumes:
        variables = init_variables(model, key)
        drawn = [] if resumes else variable_names(variables)
    else:
        weights, where = start_weights(config.init_from, model, trust)
        variables, drawn = start_from(weights, model, key)
        say(f"weights from {where}")
        say(f"at random: {', '.join(_by_part(drawn, variable_names(variables))) or 'none'}")
    check_frozen(model.frozen_paths(), drawn)
    return variables


def _advice(steps: int, path: Path) -> str:
    """What to do after too many steps that were not finite."""
    return (
        f"It is the last of {steps} in a row (--max-nonfinite), which changed no parameter; the"
        f" newest checkpoint is from before. `segjax replay {path}` takes it again and says which"
        " image and which term it is. Look at these images' annotations; else lower"
        " --optim.learning-rate, lengthen --optim.warmup.steps or set --optim.clip-norm"
    )


def _by_part(drawn: Sequence[str], names: Sequence[str]) -> list[str]:
    """Names the parts of a model of which all variables are drawn, and single variables else."""
    parts: dict[str, list[str]] = {}
    for name in names:
        parts.setdefault(name.split("/")[1], []).append(name)
    chosen = set(drawn)
    found: list[str] = []
    for part, members in parts.items():
        left = [name for name in members if name in chosen]
        found += [part] if len(left) == len(members) else left
    return found


def _announce(batch: Batch, shapes: list[tuple[int, ...]]) -> None:
    shapes.append(tuple(batch.images.shape))
    say(f"compiling the step for images {batch.images.shape} (compilation {len(shapes)})")


def _count(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
