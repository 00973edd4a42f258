"""Trains a config as `segjax train` does; records the results and the time taken.

    python -m benchmarks.runs shapes --config shapes_mask_rcnn
    python -m benchmarks.runs dsb_ci --config finetune_coco_format --data.root=FOLDER

The name is that of the file under benchmarks/results/. Times include everything: preparing and
reading data, compiling, training, evaluating and drawing pictures.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import machine


def main() -> None:
    """Trains once and writes the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("name")
    parser.add_argument("--workdir", help="default: a new folder")
    parser.add_argument("--data-name", help="what the results call --data.root", default=None)
    known, flags = parser.parse_known_args()
    workdir = known.workdir or tempfile.mkdtemp(prefix=f"{known.name}-")
    results = {
        "command": shown(["segjax", "train", *flags]),
        "data": known.data_name or known.name,
        **trained(workdir, flags),
        "machine": machine.describe(),
    }
    machine.write(known.name, results)


def trained(workdir: str | Path, flags: list[str]) -> dict[str, Any]:
    """Runs `segjax train` in a separate process; returns time, memory and `scores`.

    Peak memory is the maximum over all child processes so far.
    """
    command = [sys.executable, "-m", "segjax", "train", "--workdir", str(workdir), *flags]
    started, before = time.perf_counter(), _cpu_seconds()
    subprocess.run(command, check=True)
    return {
        "wall_minutes": round((time.perf_counter() - started) / 60, 2),
        "cpu_minutes": round((_cpu_seconds() - before) / 60, 2),
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 2),
        **scores(Path(workdir) / "metrics.jsonl"),
    }


def _cpu_seconds() -> float:
    """Returns the CPU seconds of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def shown(command: list[str]) -> str:
    """Returns the command without this machine's folders, which do not affect the results."""
    words = [word for word in command if not word.startswith("--data.cache-dir")]
    return " ".join("--data.root=FOLDER" if w.startswith("--data.root") else w for w in words)


def scores(path: Path) -> dict[str, float | dict[str, float]]:
    """Returns the step count, first and last logged loss, and scores of the last evaluation."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    kinds = ("box/", "segm/", "semantic/", "panoptic/")
    evaluated = [line for line in lines if any(key.startswith(kinds) for key in line)]
    return {
        "steps": losses[-1][0],
        "first_loss": losses[0][1],
        "last_loss": losses[-1][1],
        "scores": {k: v for k, v in evaluated[-1].items() if k.startswith(kinds)},
    }


if __name__ == "__main__":
    main()
