"""Compiles every recipe's programs for GPUs and TPUs without needing the devices.

    python -m benchmarks.programs                                   # all: many hours
    python -m benchmarks.programs --targets h100 --what train predict --dtypes bfloat16

Needs the extras `aot` and `tpu`, on Linux. Each program is a piece. Pieces that are already in the
results are skipped, so that a stopped run continues where it was; `--again` compiles them again.
Each version of jaxlib has its own file, benchmarks/results/programs_VERSION.json, so run this once
per version. Recipes that differ only in their schedule compile to the same program, which is
compiled once.
"""

import argparse
import dataclasses
import importlib.metadata
import itertools
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import machine
from segjax.aot.compile import CompilationError, TooLarge, run_request
from segjax.aot.programs import programs_of
from segjax.aot.report import ProgramReport
from segjax.aot.targets import parse_target
from segjax.aot.worker import Request
from segjax.config import TrainConfig, load_config
from segjax.nn.dtype import with_dtype
from segjax.optim import Steps

CONFIGS = Path(__file__).parent.parent / "configs"
TARGETS = ("h100", "v5e", "a100", "l4", "h100:8", "v6e", "v5p")
DTYPES = ("bfloat16", "float32")
# Programs independent of the model are compiled with a single recipe.
SHARED = {"refine": "mask_rcnn_r50_fpn_1x_coco", "bottom_up": "mask_rcnn_r50_fpn_1x_coco"}
WHAT = ("train", "predict", "maps", *SHARED)


def main() -> None:
    """Compiles the pieces that are not in the results yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--what", nargs="+", choices=WHAT, default=WHAT)
    parser.add_argument("--recipes", nargs="+", default=sorted(groups()), metavar="NAME")
    parser.add_argument("--name", default=None, help="of the results; default: programs_VERSION")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--again", action="store_true", help="also what is in the results already")
    known = parser.parse_args()
    name = known.name or f"programs_{importlib.metadata.version('jaxlib')}"
    results = _results(name)
    end = time.monotonic() + 60 * known.minutes
    for target, dtype, recipe, what in all_pieces(
        known.targets, known.dtypes, known.what, known.recipes
    ):
        key = "/".join((recipe, what, dtype, target))
        if key in results["pieces"] and not known.again:
            continue
        if time.monotonic() > end:
            break
        results["pieces"][key] = piece(recipe, what, dtype, target)
        print(key, results["pieces"][key], flush=True)
        _write(name, results)


def all_pieces(
    targets: Iterable[str], dtypes: Iterable[str], programs: Iterable[str], recipes: Iterable[str]
) -> Iterator[tuple[str, str, str, str]]:
    """Yields (target, dtype, recipe, program) of every program to compile."""
    recipes, programs = tuple(recipes), tuple(programs)
    for target, dtype, what, recipe in itertools.product(targets, dtypes, programs, recipes):
        several = parse_target(target).num_devices > 1  # prediction runs on one device only
        if _has(recipe, what) and not (several and what != "train"):
            yield target, dtype, recipe, what


def _has(recipe: str, what: str) -> bool:
    if what in SHARED:
        return recipe == SHARED[what]
    return what in programs_of(config_of(recipe))


def groups() -> dict[str, list[str]]:
    """Groups recipes that compile to the same programs, by the first recipe of each group."""
    found: dict[Any, list[str]] = {}
    for path in sorted(CONFIGS.glob("*.py")):
        config = config_of(path.stem)
        optim = dataclasses.replace(config.optim, learning_rate=1.0)
        if isinstance(optim.schedule, Steps):  # milestones do not change the program
            optim = dataclasses.replace(optim, schedule=Steps((1,)))
        shapes = _per_device(config, "train", 1), config.data.semantic, config.data.masks
        sizes = max(config.data.short_side), config.data.size, config.data.shapes
        key = repr((config.model, optim, shapes, sizes))
        found.setdefault(key, []).append(path.stem)
    return {names[0]: names for names in found.values()}


def config_of(recipe: str) -> TrainConfig:
    """Loads a recipe of configs/."""
    return load_config(CONFIGS / f"{recipe}.py")


def _per_device(config: TrainConfig, what: str, devices: int) -> int:
    """Returns images per device; published recipes train 16 images on eight devices."""
    images = config.data.batch_size if what == "train" else config.data.eval_batch_size
    return 2 if images >= 8 and config.data.shapes is None else max(images // devices, 1)


def piece(recipe: str, what: str, dtype: str, target: str) -> dict[str, Any]:
    """Compiles one program and returns the outcome."""
    config = config_of(recipe)
    config = dataclasses.replace(config, model=with_dtype(config.model, dtype))
    chosen = parse_target(target)
    # Refinement and grouping process images one at a time.
    images = 1 if what in SHARED else _per_device(config, what, chosen.num_devices)
    started = time.perf_counter()
    try:
        report = run_request(Request(config, chosen.name, what, images), chosen)
    except CompilationError as error:
        lines = str(error).splitlines()
        found = {"status": "failed", "error": " ".join(lines)[:500]}
    else:
        found = summary(report)
    seconds = round(time.perf_counter() - started, 1)
    return {"per_device": images, **found, "wall_seconds": seconds, "commit": machine.commit()}


def summary(report: ProgramReport | TooLarge) -> dict[str, Any]:
    """Returns the figures of a report that tables and comparisons need."""
    height, width = report.canvas
    if isinstance(report, TooLarge):
        return {"status": "too large", "canvas": [height, width], "needed": report.needed}
    products = {item.owner: item.count for item in report.float32_products}
    unknown: dict[str, int] = {}
    for loop in report.loops:
        unknown[loop.owner] = unknown.get(loop.owner, 0) + (loop.trips is None)
    return {
        "status": "compiles" if report.fits else "too large",
        "canvas": [height, width],
        "memory_gib": round(report.memory.total / 2**30, 3),
        "temporaries_gib": round(report.memory.temporaries / 2**30, 3),
        "flops": report.flops,
        "bytes_accessed": report.bytes_accessed,
        "kernels": report.kernels,
        "products": report.products,
        "float32_products": products,
        "loops": len(report.loops),
        "loops_of_unknown_length": {owner: n for owner, n in unknown.items() if n},
        "collectives": [[item.kind, item.count, item.bytes] for item in report.collectives],
        "notes": list(report.notes),
        "moves": sum(item.count for item in report.moves),
        "moved_gib": round(sum(item.count * item.bytes for item in report.moves) / 2**30, 3),
    }


def _results(name: str) -> dict[str, Any]:
    path = machine.RESULTS / f"{name}.json"
    if path.exists():
        return json.loads(path.read_text())
    return {"pieces": {}, "machine": machine.describe()}


def _write(name: str, results: dict[str, Any]) -> None:
    """Writes to a temporary file and renames it, so that a stopped run leaves complete results."""
    path = machine.RESULTS / f"{name}.json"
    part = path.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1) + "\n")
    part.rename(path)


if __name__ == "__main__":
    main()
