"""`compile_for`: a config's programs, compiled for devices that do not have to be here."""

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
    """The compiler refused a program, or aborted."""


@dataclasses.dataclass(frozen=True)
class TooLarge:
    """A program that the compiler refused because it exceeds the device's memory.

    Attributes:
      what: "train", "predict" or "maps".
      target: its name.
      per_device: images on each device.
      canvas: (height, width) of the images.
      needed: bytes on each device, if the compiler says.
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
      programs: one for each of `what`.
      fitting_batches: for each program that does not fit, the largest number of images per
        device that does; 0 if not even one image fits.
    """

    programs: tuple[ProgramReport | TooLarge, ...]
    fitting_batches: dict[str, int]

    @property
    def fits(self) -> bool:
        """True if all programs fit into the devices' memory."""
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

    Reads no data and makes no weights. Each program is compiled in a process of its own, which
    takes seconds for a small model and minutes for a large one on a TPU. XLA picks some GPU
    kernels by timing them; here it takes its defaults. If the config leaves the number of classes
    to the data, COCO's numbers are used: 80 things, 133 panoptic classes.

    Args:
      config: settings of the run.
      target: "h100", "h200", "a100" or "l4", also "h100:8"; "v5e:4x4", "v5p:2x2x1" or "v6e:2x2";
        "cpu". TPUs need the extra `tpu`, GPUs the extra `aot`, on Linux.
      what: of "train", "predict", "maps" (the semantic and panoptic maps made of a prediction),
        "refine" (a prediction with `MaskRefinement`) and "bottom_up" (the segments of as many
        images); None: those of the first three that the config's run compiles.
      per_device_batch: images on each device; None: as the config's batch sizes say.
      image_size: (height, width) of the padded images, multiples of the model's size divisor;
        None: the landscape canvas that the config leads to.
      save: a folder for the programs' texts, `TARGET.WHAT.txt`; None keeps none.
      find_batch: for a program that does not fit, search for the largest batch that does.

    Raises:
      ValueError: for an unknown target or program, or a config that cannot be compiled ahead of
        time.
      ModuleNotFoundError: if the target's compiler is not installed.
      CompilationError: if the compiler aborts, or refuses a program for a reason other than
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
    """Has a process of its own compile one program.

    Raises:
      As `compile_for`.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "request", Path(folder) / "result"
        asked.write_bytes(cloudpickle.dumps(request))
        command = [sys.executable, "-m", "segjax.aot.worker", str(asked), str(answered)]
        done = subprocess.run(
            command, env=_environment(target), capture_output=True, text=True, check=False
        )
        if not answered.exists():
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
    """Of a compiling process: it touches no device, and asks no cloud what it runs on."""
    flags = os.environ.get("XLA_FLAGS", "")
    if target.chip.platform == "cpu":
        flags += f" --xla_force_host_platform_device_count={target.num_devices}"
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # its lock is for devices, and none is used
        "XLA_FLAGS": flags.strip(),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }


def _cause_of_death(request: Any, done: subprocess.CompletedProcess[str]) -> str:
    """One sentence on a process that left no answer."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    check = next((line for line in lines if "Check failed" in line), None)
    # The log's prefix is of no use: F1201 01:43:22.037557 3822 triton_tiling_propagation.cc:627]
    reason = re.sub(r"^F\d{4} [\d:.]+ +\d+ ", "", check) if check else "\n".join(lines[-3:])
    return (
        f"the compiler aborted on {request.what} for {request.target}"
        f" (exit status {done.returncode}): {reason.strip()}"
    )


def _fitting_batch(request: Any, target: Target, program: ProgramReport | TooLarge) -> int:
    """The most images a device that fit, fewer than the program's; each guess is compiled."""
    guess = _guess(program)
    while guess >= 1:
        smaller = dataclasses.replace(request, per_device=guess, save=None)
        program = run_request(smaller, target)
        if program.fits:
            return guess
        guess = _guess(program)
    return 0


def _guess(program: ProgramReport | TooLarge) -> int:
    """Fewer images, by what one more or less takes: temporaries grow with their number."""
    images = program.per_device
    if isinstance(program, TooLarge):
        needed = program.needed or 2 * program.available
        return min(images - 1, images * program.available // needed)
    fixed = program.memory.total - program.memory.temporaries
    room = max(program.available - fixed, 0)
    return min(images - 1, images * room // max(program.memory.temporaries, 1))
