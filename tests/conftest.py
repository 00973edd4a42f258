"""Shared settings of the test run: strict shapes, and one compilation cache for all workers."""

import os
from pathlib import Path

CACHE = Path(__file__).parent.parent / ".jax_cache"

# Both before jax starts its backend. Eight CPU devices serve the parallel tests and cost
# the others nothing: a computation that names no sharding runs on the first.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax  # noqa: E402  (the flags above must be set first)
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", os.environ.get("SEGJAX_TEST_CACHE", str(CACHE)))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


# Minutes each, and nothing to share: begun last, they would leave the other worker idle.
LONG = ("test_goldens.py", "test_colabs.py")
# Their fixtures compile something else for every parameter.
BY_PARAMETER = (
    *LONG,
    "test_contracts.py",
    "test_cascade.py",
    "test_nms.py",
    "test_accelerators.py",
)


def pytest_collection_modifyitems(items):
    """Long tests first."""
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Sends tests that share compiled programs to one worker, which compiles them once."""
    from xdist.scheduler import LoadScopeScheduling

    class BySharedPrograms(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            path, _, name = nodeid.partition("::")
            by_parameter = path.rsplit("/", 1)[-1] in BY_PARAMETER
            return f"{path}[{name.partition('[')[2]}" if by_parameter else path

    return BySharedPrograms(config, log)


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_programs():
    """Frees the programs of a module: without it a worker grows beyond ten gigabytes."""
    yield
    jax.clear_caches()
