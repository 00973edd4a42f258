"""Fails a test that takes too long to be run with every change.

SEGJAX_TEST_BUDGET is how many seconds a test without a marker may take, 20 unless it is set. What
counts is the lesser of the clock and of the processors' time, with that of the processes that it
waited for: on a machine that is busy with other work the clock runs on, and a program that several
threads compile takes their sum. A test that merely waits is not caught. Fixtures do not count, as
tests share them.
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
    """Measures."""
    before = _times()
    try:
        return (yield)
    finally:
        item.stash[TAKEN] = min(b - a for a, b in zip(before, _times(), strict=True))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Turns what passed, but too late, into a failure."""
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
