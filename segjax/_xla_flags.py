"""XLA flags that work around bugs of some releases; set when segjax is imported."""

import importlib.metadata
import os
import sys
import warnings

# These versions of jaxlib compile float32 scatter-add for NVIDIA GPUs to a loop that is hundreds
# of times too slow. RoIAlign's gradient is such a scatter-add (openxla/xla#46225,
# jax-ml/jax#38806).
SLOW_SCATTER = ("0.10.2", "0.11.0")
ATOMICS = "--xla_backend_extra_options=-nvptx-allow-ftz-atomics"


def avoid_known_faults() -> str | None:
    """Adds the flags to XLA_FLAGS that the installed jaxlib needs on a GPU.

    Flags set by the user are not changed. XLA reads its flags when JAX initialises its backend. If
    this has already happened on a GPU, a warning explains what to do instead.

    Returns:
      One line with the added flags and the reason; None if nothing was added.
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
    """Returns True if JAX has already initialised a GPU backend."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    # There is no public API for this. If the private one disappears, imports must still work.
    started = getattr(bridge, "backends_are_initialized", None)
    if started is None or not started():
        return False
    return sys.modules["jax"].default_backend() == "gpu"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
