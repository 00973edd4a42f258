"""Fails tests that take too long to run with every change.

SEGJAX_TEST_BUDGET is the number of seconds that a test without a marker may take, by default 20.
The measure is the smaller of wall time and processor time, including child processes that the test
waited for. Wall time alone would count other work on a busy machine, and processor time alone would
add up the threads of a compilation. Tests that merely sleep are not caught. Fixtures do not count,
because tests share them.
"""

import os
import resource
import time

import pytest

TIERS = ("slow", "nightly", "golden", "aot")
BUDGET = float(os.environ.get("SEGJAX_TEST_BUDGET", "20"))  # read once: tests set variables
TAKEN = pytest.StashKey[float]()


def _times() -> tuple[float, float]:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter(), time.process_time() + children.ru_utime + children.ru_stime


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Measures the time of a test's call."""
    before = _times()
    try:
        return (yield)
    finally:
        item.stash[TAKEN] = min(b - a for a, b in zip(before, _times(), strict=True))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Turns a pass that took too long into a failure."""
    report = yield
    if call.when == "call" and report.passed and not any(map(item.get_closest_marker, TIERS)):
        taken = item.stash.get(TAKEN, 0.0)
        if taken > BUDGET:
            report.outcome = "failed"
            report.longrepr = (
                f"{item.nodeid} took {taken:.1f} s, more than the {BUDGET:g} s of a test without "
                "a marker: make it smaller, or mark it slow (SEGJAX_TEST_BUDGET, CONTRIBUTING.md)"
            )
    return report
