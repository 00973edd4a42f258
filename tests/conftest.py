"""Shared settings of the test run: strict shapes, one compilation cache, what runs next to what."""

import os
import resource
import sys
from pathlib import Path

CACHE = Path(__file__).parent.parent / ".jax_cache"

# Both before jax starts its backend. Eight CPU devices serve the parallel tests and cost
# the others nothing: a computation that names no sharding runs on the first.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax  # noqa: E402  (the flags above must be set first)
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# Hooks: a test that takes too long fails.
from tests.support.budget import TIERS, pytest_runtest_call, pytest_runtest_makereport  # noqa: E402

__all__ = ["pytest_runtest_call", "pytest_runtest_makereport"]

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", os.environ.get("SEGJAX_TEST_CACHE", str(CACHE)))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

# How many examples property tests draw; a test whose every example takes long divides it, see
# tests/support/examples.py. No deadline: the first example compiles.
settings.register_profile("default", max_examples=20, deadline=None)
settings.register_profile("nightly", max_examples=200, deadline=None)
settings.load_profile(os.environ.get("SEGJAX_TEST_PROFILE", "default"))

# ---- Which tests share a worker, and in which order -----------------------------------------

# The models of tests/support/run.py are compiled once by the worker that has these modules.
SHARING_MODELS = (
    "models/test_contracts.py",
    "models/test_cascade.py",
    "models/test_htc.py",
    "models/test_panoptic.py",
    "models/test_two_stage.py",
)
# Those that start worker processes: one of them looks for shared memory that was left, which the
# machine has in common.
WORKER_PROCESSES = ("data/test_mix.py", "data/test_pipeline.py", "data/test_semantic_batches.py")
# Their fixtures compile something else for every parameter.
BY_PARAMETER = ("test_goldens.py", "ops/test_nms.py", "aot/test_accelerators.py")
# The longest: begun last, they would leave the other worker idle. In the order of their length;
# all other modules follow in that of their folders.
LONG = (
    "test_goldens.py",
    *SHARING_MODELS,
    "zoo/test_export.py",
    "zoo/test_hub.py",
    "test_configs.py",
    "figure_ground/test_weighted_aggregation.py",
    "figure_ground/test_bottom_up.py",
    "ops/test_roi_align.py",
)


def _module(item):
    return item.path.relative_to(Path(__file__).parent).as_posix()


def _group(item):
    """Tests of one group run on one worker, in their order."""
    module = _module(item)
    if module in SHARING_MODELS:
        return "models"
    if module in WORKER_PROCESSES:
        return "worker processes"
    _, _, parameter = item.name.partition("[")
    return module + "-" + parameter.rstrip("]") if module in BY_PARAMETER else module


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items):
    """Long tests first, and those that share compiled programs together."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.xdist_group(_group(item).replace("@", "-")))
    place = {module: i for i, module in enumerate(LONG)}
    items.sort(key=lambda item: place.get(_module(item), len(LONG)))


# ---- Compiled programs ----------------------------------------------------------------------

MOST_MEMORY = 4e9  # bytes of a worker


def _memory():
    """Bytes that this process holds; where the system does not tell, the most it ever held."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    return pages * resource.getpagesize()


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_programs():
    """Frees the programs when they take too much room: a whole run would fill ten gigabytes."""
    yield
    if _memory() > MOST_MEMORY:
        jax.clear_caches()


@pytest.hookimpl(tryfirst=True)  # before fixtures, which compile too
def pytest_runtest_setup(item):
    """Small programs run a few times: compiling them is what takes long, so it optimises little.

    Tests of the other tiers run for long, and see the programs that users get. So do those marked
    optimised: sums in another order have larger rounding errors than their tolerances, which were
    measured on such programs.
    """
    quick = not any(item.get_closest_marker(name) for name in (*TIERS, "optimised"))
    jax.config.update("jax_disable_most_optimizations", quick)
