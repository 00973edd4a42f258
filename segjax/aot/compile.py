"""Compiles the programs of a config for devices that do not have to be present."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cloudpickle

from segjax.aot.report import ProgramReport
from segjax.aot.targets import Target, parse_target
from segjax.config import TrainConfig


class CompilationError(RuntimeError):
    """Raised when the compiler rejects a program or aborts."""


@dataclasses.dataclass(frozen=True)
class TooLarge:
    """A program that the compiler rejected because it exceeds the device's memory.

    Attributes:
      what: name of the program, such as "train", "predict" or "maps".
      target: name of the target.
      per_device: number of images on each device.
      canvas: (height, width) of the padded images.
      needed: bytes needed on each device, if the compiler reports them.
      available: bytes that a program can use on each device.
    """

    what: str
    target: str
    per_device: int
    canvas: tuple[int, int]
    needed: int | None
    available: int

    fits = False


@dataclasses.dataclass(frozen=True)
class CompileReport:
    """Result of `compile_for`.

    Attributes:
      programs: one entry for each of `what`.
      fitting_batches: number of images per device that fits, for each program that does not; 0 if
        not even one image fits.
    """

    programs: tuple[ProgramReport | TooLarge, ...]
    fitting_batches: dict[str, int]

    @property
    def fits(self) -> bool:
        """True if all programs fit into device memory."""
        return all(program.fits for program in self.programs)


def compile_for(
    config: TrainConfig,
    target: str,
    *,
    what: Sequence[str] | None = None,
    per_device_batch: int | None = None,
    image_size: tuple[int, int] | None = None,
    save: str | os.PathLike[str] | None = None,
    find_batch: bool = True,
) -> CompileReport:
    """Compiles a run's training step and prediction for devices that do not have to be present.

    No data are read and no weights are created. Each program is compiled in a separate process,
    which takes seconds for a small model and minutes for a large one on a TPU. In a run, XLA
    selects some GPU kernels by timing them; here it uses its defaults. If the config leaves the
    number of classes to the data, COCO's numbers are used: 80 things, 133 panoptic classes.

    Args:
      config: settings of the run.
      target: "h100", "h200", "a100" or "l4", also "h100:8"; "v5e:4x4", "v5p:2x2x1" or "v6e:2x2";
        "cpu". TPUs need the extra `tpu`, GPUs the extra `aot`, on Linux.
      what: programs to compile: "train", "predict", "maps" (semantic and panoptic maps from a
        prediction), "refine" (prediction with `MaskRefinement`) and "bottom_up" (segments of the
        same number of images). None selects those of the first three that the run compiles.
      per_device_batch: number of images on each device; None to use the config's batch sizes.
      image_size: (height, width) of the padded images, multiples of the model's size divisor;
        None to use the config's canvas for landscape images.
      save: folder to write the text of the programs to, as `TARGET.WHAT.txt`; None to disable.
      find_batch: search for a batch size that fits, for programs that do not.

    Raises:
      ValueError: for an unknown target or program, or a config that cannot be compiled ahead of
        time.
      ModuleNotFoundError: if the target's compiler is not installed.
      CompilationError: if the compiler aborts, or rejects a program for a reason other than
        memory.
    """
    from segjax.aot import programs
    from segjax.aot.worker import Request

    chosen = parse_target(target)
    wanted = programs.programs_of(config) if what is None else tuple(what)
    programs.check_programs(config, wanted)
    if image_size is not None:
        _check_image_size(config, image_size)
    if save is not None:
        Path(save).mkdir(parents=True, exist_ok=True)
    found, fitting = [], {}
    for name in wanted:
        path = None if save is None else str(Path(save) / f"{chosen.name}.{name}.txt")
        request = Request(config, chosen.name, name, per_device_batch, image_size, path)
        found.append(run_request(request, chosen))
        if not found[-1].fits and find_batch:
            fitting[name] = _fitting_batch(request, chosen, found[-1])
    return CompileReport(tuple(found), fitting)


def _check_image_size(config: TrainConfig, image_size: tuple[int, int]) -> None:
    divisor = config.model.padding.divisor
    if min(image_size) < 1 or any(side % divisor for side in image_size):
        raise ValueError(
            f"image_size is {image_size}: wanted two multiples of {divisor} pixels,"
            " to which the model's inputs are padded"
        )


def run_request(request: Any, target: Target) -> ProgramReport | TooLarge:
    """Compiles one program in a separate process.

    Raises:
      As `compile_for`.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "request", Path(folder) / "result"
        # Plain pickle cannot serialise classes that are defined in a config file.
        asked.write_bytes(cloudpickle.dumps(request))
        command = [sys.executable, "-m", "segjax.aot.worker", str(asked), str(answered)]
        done = subprocess.run(
            command, env=_environment(target), capture_output=True, text=True, check=False
        )
        if not answered.exists():  # the compiler aborted the process
            raise CompilationError(_cause_of_death(request, done))
        answer = json.loads(answered.read_text())
    if "report" in answer:
        return ProgramReport.from_json(answer["report"])
    if "too_large" in answer:
        return TooLarge(
            request.what,
            target.name,
            answer["per_device"],
            tuple(answer["canvas"]),
            answer["too_large"],
            target.chip.memory,
        )
    kinds: dict[str, type[Exception]] = {
        "ValueError": ValueError,
        "ModuleNotFoundError": ModuleNotFoundError,
    }
    message = answer["message"]
    if answer["error"] not in kinds:
        message = f"{request.what} for {target.name}: {message}"
    raise kinds.get(answer["error"], CompilationError)(message)


def _environment(target: Target) -> dict[str, str]:
    """Returns the environment of a worker, which uses no device and queries no cloud metadata."""
    flags = os.environ.get("XLA_FLAGS", "")
    if target.chip.platform == "cpu":
        flags += f" --xla_force_host_platform_device_count={target.num_devices}"
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # libtpu's lock protects devices, which are not used
        "XLA_FLAGS": flags.strip(),
        # The worker has to find the same packages, including those of custom models.
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }


def _cause_of_death(request: Any, done: subprocess.CompletedProcess[str]) -> str:
    """Describes in one sentence why a worker ended without a result."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    check = next((line for line in lines if "Check failed" in line), None)
    # Drops the start of the prefix F1201 01:43:22.037557 3822 triton_tiling_propagation.cc:627]
    reason = re.sub(r"^F\d{4} [\d:.]+ +\d+ ", "", check) if check else "\n".join(lines[-3:])
    return (
        f"the compiler aborted on {request.what} for {request.target}"
        f" (exit status {done.returncode}): {reason.strip()}"
    )


def _fitting_batch(request: Any, target: Target, program: ProgramReport | TooLarge) -> int:
    """Searches for a smaller number of images per device that fits, compiling each guess."""
    guess = _guess(program)
    while guess >= 1:
        smaller = dataclasses.replace(request, per_device=guess, save=None)
        program = run_request(smaller, target)
        if program.fits:
            return guess
        guess = _guess(program)
    return 0


def _guess(program: ProgramReport | TooLarge) -> int:
    """Extrapolates to a smaller number of images, as temporaries grow linearly with it."""
    images = program.per_device
    if isinstance(program, TooLarge):
        needed = program.needed or 2 * program.available
        return min(images - 1, images * program.available // needed)
    fixed = program.memory.total - program.memory.temporaries
    room = max(program.available - fixed, 0)
    return min(images - 1, images * room // max(program.memory.temporaries, 1))
