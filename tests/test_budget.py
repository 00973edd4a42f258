"""Tests over the time budget fail the run."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

TESTS = """
import time
import pytest

def busy(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass

def test_quick():
    busy(0.01)

def test_long():
    busy(0.6)

def test_waiting():
    time.sleep(0.6)

@pytest.fixture
def prepared():
    busy(0.6)

def test_of_a_long_fixture(prepared):
    pass

@pytest.mark.slow
def test_marked():
    busy(0.6)

def test_broken():
    busy(0.6)
    assert False, "for its own reason"
"""
CONFTEST = "from tests.support.budget import pytest_runtest_call, pytest_runtest_makereport\n"


@pytest.mark.parametrize(("budget", "failed"), [("0.3", 2), ("30", 1)])
def test_only_unmarked_tests_over_the_budget_fail(pytester, monkeypatch, budget, failed):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    monkeypatch.setenv("SEGJAX_TEST_BUDGET", budget)
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    pytester.makeini("[pytest]\nmarkers =\n    slow: takes long\n")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=failed, passed=6 - failed)
    assert result.ret == 1
    words = "*test_long took 0.* s, more than the 0.3 s of a test without a marker*"
    if failed == 2:
        result.stdout.fnmatch_lines([words])
    else:
        result.stdout.no_fnmatch_line(words)
    result.stdout.fnmatch_lines(["*for its own reason*"])
