"""A process that compiles one program, so that a compiler that aborts ends nothing else.

`compile.run_request` starts it: `python -m segjax.aot.worker REQUEST RESULT`.
"""

import dataclasses
import importlib.metadata
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import cloudpickle
import jax

from segjax.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Request:
    """One program to compile.

    Attributes:
      config: settings of the run.
      target: a name for `parse_target`.
      what: a key of `PROGRAMS`.
      per_device: images on each device; None: as the config says.
      canvas: (height, width) in pixels; None: as the config says.
      save: where to write the program's text; None: nowhere.
    """

    config: TrainConfig
    target: str
    what: str
    per_device: int | None = None
    canvas: tuple[int, int] | None = None
    save: str | None = None


def main() -> None:
    """Compiles what the file REQUEST says, and writes the report, or the error, to RESULT."""
    request = cloudpickle.loads(Path(sys.argv[1]).read_bytes())
    Path(sys.argv[2]).write_text(json.dumps(answer(request)))


def answer(request: Request) -> dict[str, Any]:
    """The report under "report", a lack of memory under "too_large", or an error by its name."""
    try:
        return {"report": compile_program(request)}
    except jax.errors.JaxRuntimeError as error:
        text = str(error)
        if "RESOURCE_EXHAUSTED" in text or "Ran out of memory" in text:
            return {"too_large": needed_bytes(text), **_shapes(request)}
        return {"error": "CompilationError", "message": text}
    except (ValueError, ModuleNotFoundError, RuntimeError) as error:
        return {"error": type(error).__name__, "message": str(error)}


def compile_program(request: Request) -> dict[str, Any]:
    """Lowers and compiles; the report as plain values."""
    from segjax.aot import hlo, programs, report, targets

    target = targets.parse_target(request.target)
    config = programs.completed(request.config)
    mesh = programs.mesh_devices(config, targets.compile_only_devices(target))
    shapes = programs.Shapes(**_shapes(request))
    started = time.perf_counter()
    lowered = programs.PROGRAMS[request.what](config, mesh, shapes)
    compiled, notes = compile_lowered(lowered, target.chip.platform)
    seconds = time.perf_counter() - started
    text = compiled.as_text() or ""
    if request.save is not None:
        Path(request.save).write_text(text)
    return report.ProgramReport(
        what=request.what,
        target=target.name,
        jaxlib=importlib.metadata.version("jaxlib"),
        per_device=shapes.per_device,
        canvas=shapes.canvas,
        dtype=compute_dtype(config.model),
        seconds=round(seconds, 1),
        available=target.chip.memory,
        notes=notes,
        **report.contents(compiled, hlo.parse(text)),
    ).to_json()


def compile_lowered(lowered: Any, platform: str) -> tuple[Any, tuple[str, ...]]:
    """Compiles as a run would, as far as that can be done without the device.

    A GPU's autotuner times Triton's kernels and cuBLAS's for each product, and drops those that
    do not compile. Without a device XLA takes Triton's first choice, and if that one has no tiles
    it gives up; then cuBLAS's kernels are taken for all products.

    Returns:
      The program, and notes on what differs from a run.
    """
    if platform != "cuda":
        return lowered.compile(), ()
    options: dict[str, Any] = {"xla_gpu_autotune_level": 0}
    try:
        return lowered.compile(compiler_options=options), ()
    except jax.errors.JaxRuntimeError as error:
        if "Couldn't find output tile sizes" not in str(error):
            raise
    options["xla_gpu_enable_triton_gemm"] = False
    return lowered.compile(compiler_options=options), (CUBLAS,)


CUBLAS = "products by cuBLAS alone: without autotuning, XLA found no tiles for a Triton kernel"


def compute_dtype(module: Any) -> str:
    """Returns the dtypes that the model's parts compute in: one name, or several joined by "+"."""
    found: set[str] = set()

    def look(part: Any) -> None:
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if field.name == "dtype":
                found.add(str(value))
            for inner in value if isinstance(value, tuple) else (value,):
                if hasattr(inner, "scope") and field.name != "parent":  # a linen module
                    look(inner)

    look(module)
    return "+".join(sorted(found))


def _shapes(request: Request) -> dict[str, Any]:
    """The fields of `Shapes`, as the request or its config says."""
    from segjax.aot import programs, targets

    devices = targets.parse_target(request.target).num_devices
    per_device = request.per_device or programs.per_device_batch(
        request.config, request.what, devices
    )
    return {
        "per_device": per_device,
        "canvas": request.canvas or programs.usual_canvas(request.config.data),
    }


def needed_bytes(text: str) -> int | None:
    """The memory that a compiler's refusal names: "Used 17.54G of 15.75G hbm"."""
    found = re.search(r"Used ([\d.]+)([KMGT])i?B? of", text)
    if found is None:
        return None
    return int(float(found[1]) * 2 ** (10 * (1 + "KMGT".index(found[2]))))


if __name__ == "__main__":
    main()
