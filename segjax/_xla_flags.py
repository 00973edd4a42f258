"""Flags that keep faults of some XLA releases away; set when segjax is imported."""

import importlib.metadata
import os
import sys
import warnings

# jaxlib of these versions compiles float32 scatter-add for NVIDIA GPUs to a loop that is
# hundreds of times too slow, and RoIAlign's gradient is one (openxla/xla#46225,
# jax-ml/jax#38806).
SLOW_SCATTER = ("0.10.2", "0.11.0")
ATOMICS = "--xla_backend_extra_options=-nvptx-allow-ftz-atomics"


def avoid_known_faults() -> str | None:
    """Adds to XLA_FLAGS what the installed jaxlib needs on a GPU.

    A flag that the user has set is left alone. XLA reads its flags when JAX starts its backend;
    where that has already happened on a GPU, a warning says what to do instead.

    Returns:
      What was added and why, in one line; None if nothing.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_backend_extra_options" in flags or "xla_gpu_ftz" in flags:
        return None
    if os.environ.get("JAX_PLATFORMS", "").lower() not in ("", "cuda", "gpu"):
        return None
    if not any(_version(f"jax-cuda{major}-plugin") for major in (12, 13)):
        return None
    version = _version("jaxlib")
    if version not in SLOW_SCATTER:
        return None
    if _runs_on_gpu():
        warnings.warn(
            f"jaxlib {version} compiles RoIAlign's gradient for this GPU to a scatter-add that is"
            " hundreds of times too slow: import segjax before anything uses JAX, or set"
            f" XLA_FLAGS={ATOMICS}",
            stacklevel=3,
        )
        return None
    os.environ["XLA_FLAGS"] = f"{flags} {ATOMICS}".strip()
    return f"jaxlib {version}: set XLA_FLAGS={ATOMICS} (slow scatter-add)"


def _runs_on_gpu() -> bool:
    """Returns True if JAX has started a backend on a GPU."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    # JAX has no public name for it; one that goes away must not break the import.
    started = getattr(bridge, "backends_are_initialized", None)
    if started is None or not started():
        return False
    return sys.modules["jax"].default_backend() == "gpu"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
