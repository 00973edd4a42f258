"""Compiles one program in a separate process, so that a compiler abort does not end the caller.

`compile.run_request` starts it as `python -m segjax.aot.worker REQUEST RESULT`.
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
    """Request to compile one program.

    Attributes:
      config: settings of the run.
      target: name of the target, as for `parse_target`.
      what: key of `PROGRAMS`.
      per_device: number of images on each device; None to use the config's.
      canvas: (height, width) of the padded images in pixels; None to use the config's.
      save: file to write the text of the program to; None to disable.
    """

    config: TrainConfig
    target: str
    what: str
    per_device: int | None = None
    canvas: tuple[int, int] | None = None
    save: str | None = None


def main() -> None:
    """Reads a request from the file REQUEST, and writes a report or error to RESULT."""
    request = cloudpickle.loads(Path(sys.argv[1]).read_bytes())
    Path(sys.argv[2]).write_text(json.dumps(answer(request)))


def answer(request: Request) -> dict[str, Any]:
    """Returns {"report": ...}, {"too_large": ...} if memory is insufficient, or {"error": ...}."""
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
    """Lowers and compiles a program; returns the report as JSON-serialisable values."""
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
    """Compiles as a run would, as far as possible without the device.

    On a GPU, the autotuner times Triton and cuBLAS kernels for each product, and skips those that
    do not compile. Without a device, XLA takes Triton's first choice and fails if it finds no
    tiles for it. In this case, cuBLAS is used for all products.

    Returns:
      The compiled program, and notes on differences from a run.
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
    """Returns the compute dtypes of the model's modules: one name, or several joined by "+"."""
    found: set[str] = set()

    def look(part: Any) -> None:
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if field.name == "dtype":
                found.add(str(value))
            for inner in value if isinstance(value, tuple) else (value,):
                if hasattr(inner, "scope") and field.name != "parent":  # a Linen submodule
                    look(inner)

    look(module)
    return "+".join(sorted(found))


def _shapes(request: Request) -> dict[str, Any]:
    """Returns the fields of `Shapes`, from the request or else its config."""
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
    """Parses the needed memory from a compiler error: "Used 17.54G of 15.75G hbm"."""
    found = re.search(r"Used ([\d.]+)([KMGT])i?B? of", text)
    if found is None:
        return None
    return int(float(found[1]) * 2 ** (10 * (1 + "KMGT".index(found[2]))))


if __name__ == "__main__":
    main()
