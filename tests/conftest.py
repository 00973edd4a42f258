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


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_programs():
    """Frees the programs of a module: without it a worker grows beyond ten gigabytes."""
    yield
    jax.clear_caches()
