"""Configuration of a run: a frozen dataclass from a Python file, with overrides by flags.

A config file has a docstring (the lab note) and a function `get_config()` that returns a
`TrainConfig`. Config files are Python and thus trusted code. The config that a run saves next to
its checkpoints is plain JSON (`config_json.py`).
"""

import contextlib
import dataclasses
import difflib
import io
import itertools
import re
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo

from segjax.data.config import DataConfig
from segjax.optim import SGD, LayerDecay, Optimizer, Rule, Schedule, Steps, Warmup
from segjax.protocols import Model, as_model
from segjax.recipes import find_config
from segjax.types import Dtype

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Optimizer, learning-rate schedule, and rules for individual parameters.

    Attributes:
      optimizer: `SGD` or `AdamW`.
      learning_rate: peak learning rate, after warm-up and before any decay.
      schedule: `Steps`, `Cosine` (to zero at the last step) or `Constant`.
      warmup: linear increase at the start, multiplied with the schedule.
      weight_decay: weight decay of kernels, and default of the following two.
      norm_decay: weight decay of scales and biases of normalisation layers; None to use
        `weight_decay`.
      bias_decay: weight decay of all other biases; None to use `weight_decay`.
      rules: `ParamRule`s, of which the first that matches a parameter's path applies and overrides
        the weight decays above; and at most one `LayerDecay`, whose factors are multiplied with
        the learning rates of the other rules.
      clip_norm: maximum global gradient norm, to which larger gradients are scaled down; None to
        disable.
    """

    optimizer: Optimizer = SGD()
    learning_rate: float = 0.02
    schedule: Schedule = Steps()
    warmup: Warmup = Warmup()
    weight_decay: float = 1e-4
    norm_decay: float | None = None
    bias_decay: float | None = None
    rules: tuple[Rule, ...] = ()
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        """Rejects more than one `LayerDecay`."""
        if sum(isinstance(rule, LayerDecay) for rule in self.rules) > 1:
            raise ValueError(f"rules has several LayerDecays, {self.rules}: leave one of them")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Configuration of a complete run.

    Attributes:
      model: Linen module that is a `Model`; its fields are the config of the model. A number of
        classes of 0 is set from the data.
      data: dataset, resizing and batching.
      optim: optimizer and schedule.
      steps: total number of optimizer steps.
      accumulate: number of equal parts into which each device splits its images of a step, to
        process them one after the other with less memory; see `segjax.train.step.make_step`.
      seed: seed of parameters, sampling and data order.
      workdir: folder of checkpoints, metrics and pictures.
      log_every: steps between lines of metrics.
      eval_every: steps between evaluations; 0: only after the last step.
      checkpoint_every: steps between checkpoints; 0: only with an evaluation.
      keep_best: the metric whose best checkpoint is kept, such as "box/AP"; "auto":
        "segm/AP", or "box/AP" for models without masks; None: none is kept for being best.
      keep_last: how many of the newest checkpoints are kept. With two, a damaged one costs a
        few steps instead of the run.
      max_detections: numbers of detections an image that COCO's AP and AR count
        (pycocotools' maxDets).
      score_threshold: lowest score of the detections drawn in pictures.
      num_pictures: validation pictures drawn at the end.
      compute_dtype: dtype in which the parts of the model compute. None leaves the model as
        it is. Parameters are always float32.
      parallel: "jit" (one device), "shard_map" (a mesh of devices), "pmap", or "auto":
        shard_map where there are several devices, else jit.
      num_devices: how many devices to use; 0: all of them.
      init_from: weights to start from: a name of the zoo (`segjax models`), of a detector or a
        backbone; a folder that `segjax.save` or `segjax convert` wrote; or the folder of a run,
        of which the best checkpoint is taken. Weights of another shape (heads for other classes)
        are left at random and named.
      tensorboard: writes event files too (extra `tensorboard`).
      max_nonfinite: number of steps in a row, with a loss or gradient that is not finite, that
        ends the run; 0 for none. Such steps change nothing and are counted.
    """

    model: Model
    data: DataConfig
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    steps: int = 90_000
    accumulate: int = 1
    seed: int = 0
    workdir: str = ""
    log_every: int = 20
    eval_every: int = 0
    checkpoint_every: int = 0
    keep_best: str | None = "auto"
    keep_last: int = 2
    max_detections: tuple[int, ...] = (1, 10, 100)
    score_threshold: float = 0.5
    num_pictures: int = 8
    compute_dtype: Dtype | None = None
    parallel: Literal["auto", "jit", "shard_map", "pmap"] = "auto"
    num_devices: int = 0
    init_from: str | None = None
    tensorboard: bool = False
    max_nonfinite: int = 5

    def __post_init__(self) -> None:
        """Checks that `model` is a model, and that numbers are in range."""
        as_model(self.model)
        for name in ("steps", "accumulate", "log_every", "keep_last"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in (
            "eval_every",
            "checkpoint_every",
            "num_pictures",
            "num_devices",
            "max_nonfinite",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Executes a config file's `get_config()` and applies flags to the result.

    Args:
      path: Python file, or name of a recipe; see `segjax.recipes.find_config`.
      overrides: flags such as `["--optim.learning-rate", "0.01", "--data.root=x"]`, checked
        against the types of the fields. Flags can set any number, string or choice of the config,
        its parts and the model, but cannot remove a part or replace it by another class. `-` and
        `_` are equivalent.

    Returns:
      The config with overrides applied.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file has no `get_config`, or it does not return a `TrainConfig`; or if a
        flag is unknown or its value has the wrong type, in which case the message names the flag.
    """
    path = find_config(str(path))
    names = runpy.run_path(str(path))
    if not callable(names.get("get_config")):
        raise ValueError(f"{path} defines no get_config(); a config file returns a TrainConfig")
    config = names["get_config"]()
    if not isinstance(config, TrainConfig):
        raise ValueError(f"get_config() of {path} returned {type(config)}, not a TrainConfig")
    return override(config, overrides, prog=f"segjax train --config {path}")


def override(config: Config, flags: Sequence[str], prog: str | None = None) -> Config:
    """Returns `config` with the fields replaced that `flags` set.

    Args:
      config: frozen dataclass, such as a `TrainConfig` or a part of one.
      flags: `["--name=value", ...]`, with dots for nested fields.
      prog: name of the command in help and error messages.

    Raises:
      ValueError: if a flag is unknown or its value has the wrong type; the message names it.
      SystemExit: after printing the help for `--help`.
    """
    if not flags:
        return config
    markers = (
        tyro.conf.AvoidSubcommands,  # flags change a part, but do not replace its class
        tyro.conf.SuppressFixed,  # hides fields that flags cannot set, such as functions
        tyro.conf.FlagConversionOff,  # booleans as --data.flip=False, like all other fields
    )
    errors = io.StringIO()
    try:
        with _PARTS, contextlib.redirect_stderr(errors):
            return tyro.cli(
                type(config),
                default=config,
                args=list(flags),
                prog=prog,
                config=markers,
                use_underscores=False,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(_plain(errors.getvalue(), config)) from None


def _plain(text: str, config: Any) -> str:
    """Converts a tyro error to a sentence: removes the box, and suggests similar flags."""
    lines = [line.strip("│╭╮╰╯─-| ") for line in text.splitlines()]
    _, *after = [*itertools.dropwhile(lambda line: not line, lines), ""]  # drops the title
    body = itertools.dropwhile(lambda line: not line, after)
    first = " ".join(itertools.takewhile(bool, body)) or text.strip()
    known, near = _flags(config), list[str]()
    if "Unrecognized" in first:
        for flag in re.findall(r"--[\w.-]+", first):
            near += difflib.get_close_matches(flag, known, 2, cutoff=0.75)
    hint = f"; did you mean {' or '.join(dict.fromkeys(near))}?" if near else ""
    return f"{first}{hint} (--help lists all flags)"


def _flags(config: Any, prefix: str = "--") -> list[str]:
    """Lists the flags of a dataclass's fields, including those of nested dataclasses."""
    found: list[str] = []
    for field in dataclasses.fields(config):
        name, value = f"{prefix}{field.name.replace('_', '-')}", getattr(config, field.name, None)
        found += _flags(value, f"{name}.") if dataclasses.is_dataclass(value) else [name]
    return found


_PARTS = ConstructorRegistry()


@_PARTS.struct_rule
def _by_its_own_class(part: StructTypeInfo) -> StructConstructorSpec | None:
    """Uses the class of the default value for fields that are declared with a protocol."""
    declared: Any = part.type
    if not getattr(declared, "_is_protocol", False) or not dataclasses.is_dataclass(part.default):
        return None
    own = dataclasses.replace(part, type=type(part.default))
    spec = ConstructorRegistry.get_struct_spec(own)
    return spec if isinstance(spec, StructConstructorSpec) else None
