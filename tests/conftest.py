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


# These take minutes and share nothing: begun last, they would leave the other workers idle.
LONG = ("test_goldens.py", "test_colabs.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Sends tests that share compiled programs to one worker, which compiles them once."""
    items.sort(key=lambda item: item.path.name not in LONG)
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_sharing(item)))


def _sharing(item):
    """A module; where its fixtures have parameters, or it is long, one for each of these."""
    params = dict(item.callspec.params) if hasattr(item, "callspec") else {}
    if item.path.name not in LONG:
        for mark in item.iter_markers("parametrize"):
            names = mark.args[0]
            for name in names.split(",") if isinstance(names, str) else names:
                params.pop(name.strip(), None)
    values = [str(getattr(params[name], "name", params[name])) for name in sorted(params)]
    return "-".join([item.path.stem, *values]).replace("@", "").replace("]", "")


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_programs():
    """Frees the programs of a module: without it a worker grows beyond ten gigabytes."""
    yield
    jax.clear_caches()
