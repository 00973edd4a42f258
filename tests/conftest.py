"""Shared test settings: strict shapes, a compilation cache, grouping and order of tests."""

import os
import resource
import sys
from pathlib import Path

CACHE = Path(__file__).parent.parent / ".jax_cache"

# Both are set before JAX starts its backend. Eight CPU devices serve the parallel tests and cost
# the others nothing: a computation without a sharding runs on the first device.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax  # noqa: E402  (the flags above must be set first)
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# Hooks that fail a test that takes too long.
from tests.support.budget import TIERS, pytest_runtest_call, pytest_runtest_makereport  # noqa: E402

__all__ = ["pytest_runtest_call", "pytest_runtest_makereport"]

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", os.environ.get("SEGJAX_TEST_CACHE", str(CACHE)))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

# Number of examples that property tests draw. A test with expensive examples divides it; see
# tests/support/examples.py. There is no deadline, because the first example compiles.
settings.register_profile("default", max_examples=20, deadline=None)
settings.register_profile("nightly", max_examples=200, deadline=None)
settings.load_profile(os.environ.get("SEGJAX_TEST_PROFILE", "default"))

# ---- Which tests share a worker, and in which order -----------------------------------------

# These modules run on one worker, which compiles the models of tests/support/run.py only once.
SHARING_MODELS = (
    "models/test_contracts.py",
    "models/test_cascade.py",
    "models/test_htc.py",
    "models/test_panoptic.py",
    "models/test_two_stage.py",
)
# These start worker processes and run one at a time, because one of them looks for leaked blocks in
# shared memory, which the whole machine has in common.
WORKER_PROCESSES = ("data/test_mix.py", "data/test_pipeline.py", "data/test_semantic_batches.py")
# Fixtures of these modules compile a different program for every parameter.
BY_PARAMETER = ("test_goldens.py", "ops/test_nms.py", "aot/test_accelerators.py")
# The longest modules, by duration. If they started last, the other worker would be idle. All other
# modules follow in the order of their folders.
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
    """Returns the name of an item's group. Tests of one group run on one worker, in order."""
    module = _module(item)
    if module in SHARING_MODELS:
        return "models"
    if module in WORKER_PROCESSES:
        return "worker processes"
    _, _, parameter = item.name.partition("[")
    return module + "-" + parameter.rstrip("]") if module in BY_PARAMETER else module


@pytest.hookimpl(tryfirst=True)  # runs before xdist reads the marks
def pytest_collection_modifyitems(items):
    """Puts long tests first and groups those that share compiled programs."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.xdist_group(_group(item).replace("@", "-")))
    place = {module: i for i, module in enumerate(LONG)}
    items.sort(key=lambda item: place.get(_module(item), len(LONG)))


# ---- Compiled programs ----------------------------------------------------------------------

MOST_MEMORY = 4e9  # bytes per worker


def _memory():
    """Returns the bytes held by this process, or its peak where the system does not report them."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    return pages * resource.getpagesize()


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_programs():
    """Frees compiled programs that take too much memory; a full run would accumulate 10 GB."""
    yield
    if _memory() > MOST_MEMORY:
        jax.clear_caches()


@pytest.hookimpl(tryfirst=True)  # runs before fixtures, which compile too
def pytest_runtest_setup(item):
    """Compiles the small programs of unmarked tests with few optimisations.

    They run only a few times, so compilation dominates. Tests of the other tiers run longer and use
    the same programs as users. So do tests marked `optimised`: their tolerances were measured on
    optimised programs, and summation in another order has larger rounding errors.
    """
    quick = not any(item.get_closest_marker(name) for name in (*TIERS, "optimised"))
    jax.config.update("jax_disable_most_optimizations", quick)
