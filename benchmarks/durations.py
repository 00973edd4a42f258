"""Records how long each test of a full run took.

    pytest -n 2 --junitxml=junit.xml && python -m benchmarks.durations junit.xml

Writes benchmarks/results/test_durations.json: seconds per file, and each test of a second or more.
"""

import argparse
import collections
import xml.etree.ElementTree as ET
from typing import Any

from benchmarks import machine

SHOWN = 1.0  # in seconds


def main() -> None:
    """Reads pytest's JUnit report and writes the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("junit", help="what pytest --junitxml wrote")
    known = parser.parse_args()
    machine.write("test_durations", {**durations(known.junit), "machine": machine.describe()})


def durations(path: str) -> dict[str, Any]:
    """Summarises a JUnit report: number of tests, total times, times by file and slow tests."""
    suite = next(ET.parse(path).iter("testsuite"))
    tests = {
        f"{case.get('classname', '').replace('.', '/')}.py::{_name(case)}": float(
            case.get("time", 0)
        )
        for case in suite.iter("testcase")
    }
    files: collections.Counter[str] = collections.Counter()
    for name, seconds in tests.items():
        files[name.split("::")[0]] += seconds
    return {
        "tests": len(tests),
        "failures": int(suite.get("failures", 0)) + int(suite.get("errors", 0)),
        "wall_minutes": round(float(suite.get("time", 0)) / 60, 1),
        "worker_minutes": round(sum(tests.values()) / 60, 1),
        "files": {name: round(seconds, 1) for name, seconds in files.most_common()},
        "longest": {
            name: round(seconds, 1)
            for name, seconds in sorted(tests.items(), key=lambda item: -item[1])
            if seconds >= SHOWN
        },
    }


def _name(case: ET.Element) -> str:
    """Returns a test's name without the suffix of its xdist group."""
    name = case.get("name", "")
    return name.rpartition("@")[0] if name.rfind("@") > name.rfind("]") else name


if __name__ == "__main__":
    main()
