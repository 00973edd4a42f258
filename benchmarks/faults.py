"""Causes the faults that a training run must survive, and counts what was lost.

    python -m benchmarks.faults

Runs the tests that cause them, with the numbers of the nightly tests (about half an hour on two
cores), and writes `benchmarks/results/faults.json`. Each of these tests fails if anything is lost.
"""

import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as xml
from pathlib import Path
from typing import Any

from benchmarks import machine

ROOT = Path(__file__).parent.parent
# Fault, tests that cause it, and how often each of them does.
FAULTS = (
    ("SIGKILL while checkpoints are written", "test_kills.py::test_two_hundred_kills", 200),
    (
        "a flipped bit, a truncated, missing, swapped or longer file",
        "test_damage.py::test_a_thousand_damages_are_seen",
        1000,
    ),
    (
        "SIGTERM in compilation, evaluation and saving",
        "test_loop.py::test_a_signal_saves_at_any_moment",
        1,
    ),
    (
        "end, SIGTERM or SIGKILL and the same command again, four models, 0 and 2 workers",
        "test_exact_resume.py",
        1,
    ),
    (
        "a lost process of two",
        "test_distributed.py::test_a_lost_process_ends_the_other_which_names_it",
        1,
    ),
    (
        "SIGTERM to one process of two",
        "test_distributed.py::test_a_signal_to_one_stops_both_at_the_same_step",
        1,
    ),
    (
        "other numbers of processes and devices",
        "test_distributed.py::test_another_number_of_devices_goes_on",
        1,
    ),
    ("steps that are not finite", "test_loop.py -k finite", 1),
)


def main() -> None:
    """Causes all faults and writes the results."""
    rows = [cause(*fault) for fault in FAULTS]
    machine.write("faults", {"faults": rows, "machine": machine.describe()})
    if any(row["failed"] for row in rows):
        sys.exit("something was lost: see above")


def cause(title: str, tests: str, times: int) -> dict[str, Any]:
    """Runs the tests of one fault.

    Args:
      title: description of the fault.
      tests: arguments of pytest, below `tests/train/`.
      times: how often each test causes the fault.

    Returns:
      Title, number of faults, tests that failed, and seconds.
    """
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        path, *more = tests.split()
        command = [sys.executable, "-m", "pytest", "-q", "-m", "nightly or not nightly"]
        flags = [f"tests/train/{path}", *more, f"--junitxml={report}"]
        subprocess.run([*command, *flags], cwd=ROOT, check=False)
        (suite,) = xml.parse(report).getroot().iter("testsuite")
    passed = int(suite.attrib["tests"]) - int(suite.attrib["skipped"])
    failed = int(suite.attrib["failures"]) + int(suite.attrib["errors"])
    seconds = round(time.monotonic() - begin)
    return {"fault": title, "times": times * passed, "failed": failed, "seconds": seconds}


if __name__ == "__main__":
    main()
