"""Description of the machine, and the results files that every benchmark writes."""

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def describe(packages: tuple[str, ...] = ("jax", "jaxlib", "flax")) -> dict[str, Any]:
    """Returns processor, cores, memory, versions of Python and `packages`, and the commit."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": names[0].split(":")[1].strip() if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages * page / 2**30),
        "python": platform.python_version(),
        "commit": commit(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def commit() -> str:
    """Returns the checkout's commit, with "-dirty" if tracked files other than results changed."""
    checkout = RESULTS.parent.parent

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(
            command, cwd=checkout, capture_output=True, text=True, check=True
        ).stdout.strip()

    changed = git(
        "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results"
    )
    return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "")


def ratio(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Returns median seconds and statistics of the ratio ours / theirs over paired runs."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {
        "ours_s": statistics.median(ours),
        "theirs_s": statistics.median(theirs),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "runs": len(ratios),
    }


def write(name: str, results: dict[str, Any]) -> Path:
    """Writes results to benchmarks/results/NAME.json and prints them."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    text = json.dumps(results, indent=2)
    path.write_text(text + "\n")
    print(text)
    return path
