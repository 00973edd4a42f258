"""Compiles programs for GPUs and TPUs, without the devices, and compares counts with stored ones.

    pytest -n 2 -m "aot and not nightly"       # needs: pip install -e '.[aot,tpu]'

With SEGJAX_STORE_PROGRAMS=1 the counts are stored again, after an intended change.

Counts are kept per version of jaxlib. A version without stored counts is compared with the newest
one that has them, but only in what does not depend on the compiler: the float32 products and the
number of loops of unknown length.
"""

import fcntl
import importlib.metadata
import json
import os
import tempfile
from pathlib import Path

import pytest

from segjax.aot.compile import compile_for
from tests.support.small_runs import FAMILIES, small_run

pytestmark = pytest.mark.aot

STORED = Path(__file__).parent / "programs"
JAXLIB = importlib.metadata.version("jaxlib")
# Relative tolerances of counts that may vary.
TOLERANCES = {"kernels": 0.03, "temporaries": 0.10}
# Counts that the models determine, whatever the version of the compiler.
OURS = ("float32_products", "loops_of_unknown_length")
# CI runs the first of these with the oldest and the newest JAX: `-k train-h100]`.
CASES = [
    *((family, "train", "h100") for family in FAMILIES),
    *((family, "predict", "h100") for family in ("mask_rcnn", "htc", "panoptic_fpn")),
    ("panoptic_fpn", "maps", "h100"),
    ("mask_rcnn", "train", "h100:8"),
    ("cascade_mmdet", "train", "l4"),
    ("mask_rcnn", "train", "v5e"),
]


def counts(report):
    """Returns the counts to compare, by module where there are several."""
    unknown = {}
    for loop in report.loops:
        if loop.trips is None:
            unknown[loop.owner] = unknown.get(loop.owner, 0) + 1
    known = {}
    for loop in report.loops:
        if loop.trips is not None:
            name = f"{loop.owner} x {loop.trips}"
            known[name] = known.get(name, 0) + 1
    products = {}
    for item in report.float32_products:
        products[item.owner] = products.get(item.owner, 0) + item.count
    return {
        "kernels": report.kernels,
        "temporaries": report.memory.temporaries,
        "float32_products": products,
        "loops_of_unknown_length": unknown,
        "loops_of_known_length": known,
        "collectives": {f"{i.kind} {i.owner}": [i.count, i.bytes] for i in report.collectives},
        "largest_buffers": {f"{i.kind} {i.owner}": i.count for i in report.buffers},
    }


def differences(found, stored):
    """Returns lines that describe the differences, by module; an empty list if there are none."""
    lines = []
    for name, wanted in stored.items():
        got = found[name]
        if name in TOLERANCES:
            if abs(got - wanted) > TOLERANCES[name] * wanted:
                lines.append(f"{name}: {wanted} stored, {got} found, {got / wanted - 1:+.1%}")
        elif name != "largest_buffers" and got != wanted:
            lines += [
                f"{name} of {owner}: {wanted.get(owner, 0)} stored, {got.get(owner, 0)} found"
                for owner in sorted({*wanted, *got})
                if wanted.get(owner) != got.get(owner)
            ]
    if any(line.startswith("temporaries") for line in lines):
        new = set(found["largest_buffers"]) - set(stored["largest_buffers"])
        lines += [f"among the largest buffers now: {name}" for name in sorted(new)]
    return lines


def store(path, key, found):
    """Adds a program's counts to the file of its jaxlib, under a lock shared by all workers."""
    with (Path(tempfile.gettempdir()) / "segjax_programs.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(dict(sorted((kept | {key: found}).items())), indent=1) + "\n")


def _version(path):
    return tuple(int(number) for number in path.stem.split("."))


@pytest.mark.parametrize(("family", "what", "target"), CASES)
def test_a_program_is_what_is_stored(family, what, target):
    (report,) = compile_for(small_run(family), target, what=[what], per_device_batch=2).programs
    assert not report.notes, report.notes  # for example products without a Triton kernel
    found, key = counts(report), f"{family}/{what}/{target}"
    own = STORED / f"{JAXLIB}.json"
    if os.environ.get("SEGJAX_STORE_PROGRAMS"):
        store(own, key, found)
        return
    path = own if own.exists() else max(STORED.glob("*.json"), key=_version)
    stored = json.loads(path.read_text())[key]
    if path != own:
        stored = {name: stored[name] for name in OURS}
    different = differences(found, stored)
    assert not different, "\n".join([f"{key}, jaxlib {JAXLIB}, {path.name}:", *different])
