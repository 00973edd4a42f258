"""Sets up JAX for a command: the device, and the cache of compiled programs."""

import dataclasses
import difflib
import os
from collections.abc import Sequence
from pathlib import Path

_PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "cuda": "cuda", "tpu": "tpu"}
# Flags whose paths must exist.
_PATHS = ("--data.train-json", "--data.val-json", "--data.test-json", "--data.image-root")
PROGRAMS = Path("~/.cache/segjax/programs")


def choose_device(name: str) -> None:
    """Selects the kind of device that JAX uses. Must be called before JAX is imported.

    Args:
      name: "cpu", "cuda" (or "gpu"), or "tpu"; or indices of CUDA devices, such as "0" or "0,1",
        optionally prefixed with "cuda:".

    Raises:
      ValueError: for anything else.
    """
    plain = name.lower().removeprefix("cuda:")
    if all(part.isdigit() for part in plain.split(",")):
        os.environ["CUDA_VISIBLE_DEVICES"] = plain
        plain = "cuda"
    if plain not in _PLATFORMS:
        raise ValueError(
            f"device is {name!r}: wanted cpu, cuda, tpu, or numbers of CUDA devices such as 0,1"
        )
    os.environ["JAX_PLATFORMS"] = _PLATFORMS[plain]


def check_places(
    flags: Sequence[str], *, checkpoint: str | None = None, root: bool = False
) -> None:
    """Checks the paths of a command before the seconds that JAX and TensorFlow take to start.

    Args:
      flags: fields of a config, "--data.root=PATH" or "--data.root", "PATH".
      checkpoint: folder of a run; None without one.
      root: True if `data.root` must exist, as for all formats but "shapes" and "huggingface".

    Raises:
      FileNotFoundError: if a path does not exist; it names the flag.
      ValueError: for a field that the data do not have.
    """
    if checkpoint is not None and not (Path(checkpoint).expanduser() / "config.json").is_file():
        raise FileNotFoundError(
            f"no config.json in {checkpoint}: --checkpoint is a run's folder, which holds it"
        )
    from segjax.data.config import DataConfig

    fields = [f"--data.{field.name}".replace("_", "-") for field in dataclasses.fields(DataConfig)]
    for place, flag in enumerate(flags):
        name, equals, value = flag.partition("=")
        name = name.replace("_", "-")
        if name.startswith("--data.") and not any(
            name == field or name.startswith((f"{field}.", f"{field}:")) for field in fields
        ):
            likely = difflib.get_close_matches(name, fields, 2, 0.6)
            hint = f"; did you mean {' or '.join(likely)}?" if likely else ""
            raise ValueError(f"{name} is not a field of the data{hint} (--help lists all flags)")
        if name in _PATHS or (root and name == "--data.root"):
            path = value if equals else "".join(flags[place + 1 : place + 2])
            if path and not Path(path).expanduser().exists():
                raise FileNotFoundError(f"{name}={path}: there is no such file or folder")


def keep_programs() -> None:
    """Enables JAX's persistent compilation cache in the user's cache folder.

    `JAX_COMPILATION_CACHE_DIR` selects another folder; `SEGJAX_PROGRAM_CACHE=off` disables this.
    """
    if os.environ.get("SEGJAX_PROGRAM_CACHE", "").lower() in ("off", "0", "no"):
        return
    import jax

    if not jax.config.values.get("jax_compilation_cache_dir"):
        jax.config.update("jax_compilation_cache_dir", str(PROGRAMS.expanduser()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def explained(error: BaseException) -> str | None:
    """Returns advice on an XLA error in one sentence; None for unknown errors."""
    text = str(error)
    if "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower():
        return (
            "the device is out of memory: lower --data.batch-size or the size of images, take the"
            " batch in parts with --accumulate=2, or compute with --compute-dtype=bfloat16"
            f" ({text.splitlines()[0][:200]})"
        )
    if "Gloo" in text or "NCCL" in text or "coordination service" in text.lower():
        return (
            "another process of this run has ended or cannot be reached, see its output; the same"
            " command in all processes goes on from the newest checkpoint"
            f" ({text.splitlines()[0][:200]})"
        )
    if "Unable to initialize backend" in text or "no devices found" in text.lower():
        return (
            f"JAX cannot use the device that was asked for ({text.splitlines()[0][:200]}): install"
            " segjax[cuda12], segjax[cuda13] or segjax[tpu], or choose --device=cpu"
        )
    return None
