"""Flags that importing segjax sets for XLA releases with known bugs."""

import os
import subprocess
import sys

import pytest

from segjax import _xla_flags

OLD = {"jaxlib": "0.10.2", "jax-cuda12-plugin": "0.10.2"}


@pytest.mark.parametrize(
    ("versions", "flags", "platforms", "expected"),
    [
        (OLD, "", "", True),
        ({"jaxlib": "0.11.0", "jax-cuda13-plugin": "0.11.0"}, "--xla_a=1", "cuda", True),
        ({"jaxlib": "0.10.2"}, "", "", False),
        ({"jaxlib": "0.12.0", "jax-cuda12-plugin": "0.12.0"}, "", "", False),
        (OLD, "--xla_gpu_ftz=true", "", False),
        (OLD, "", "cpu", False),
    ],
)
def test_slow_scatter_is_avoided_where_it_is(versions, flags, platforms, expected, monkeypatch):
    monkeypatch.setattr(_xla_flags, "_version", versions.get)
    monkeypatch.setattr(_xla_flags, "_runs_on_gpu", lambda: False)
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    said = _xla_flags.avoid_known_faults()
    added = "--xla_backend_extra_options=-nvptx-allow-ftz-atomics"
    assert os.environ["XLA_FLAGS"] == (f"{flags} {added}".strip() if expected else flags)
    assert (said is not None) == expected
    assert said is None or added in said


def test_a_backend_that_runs_already_is_warned_of(monkeypatch):
    monkeypatch.setattr(_xla_flags, "_version", OLD.get)
    monkeypatch.setattr(_xla_flags, "_runs_on_gpu", lambda: True)
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("JAX_PLATFORMS", "")
    with pytest.warns(UserWarning, match="import segjax before anything uses JAX"):
        assert _xla_flags.avoid_known_faults() is None
    assert os.environ["XLA_FLAGS"] == ""


def test_a_started_cpu_backend_is_no_gpu():
    import jax

    jax.devices()
    assert not _xla_flags._runs_on_gpu()


def test_importing_the_library_sets_the_flag():
    program = (
        "import importlib.metadata as m, os\n"
        f"versions = {OLD!r}\n"
        "def version(name):\n"
        "    if name not in versions: raise m.PackageNotFoundError(name)\n"
        "    return versions[name]\n"
        "m.version = version\n"
        "import segjax\n"
        "print(os.environ['XLA_FLAGS'])\n"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert "nvptx-allow-ftz-atomics" in done.stdout
