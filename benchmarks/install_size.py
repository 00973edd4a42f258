"""Measures what an installation weighs, by installing into new environments.

    python -m benchmarks.install_size

Installs this checkout with no extra and with each extra, and adds up the files of every
distribution. Needs network access and about 10 GB of temporary space.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import machine

EXTRAS = ("", "cuda12", "cuda13", "tpu", "aot", "datasets")
# Reads the environment that it runs in; prints bytes by distribution and what each one requires.
_MEASURE = """
import importlib.metadata as metadata, json, re
def plain(name): return re.sub("[-_.]+", "-", name).lower()
found = {}
for one in metadata.distributions():
    files = [one.locate_file(file) for file in one.files or ()]
    size = sum(file.stat().st_size for file in files if file.is_file())
    needs = [
        plain(re.match("[A-Za-z0-9._-]+", text).group())
        for text in one.requires or () if "extra ==" not in text
    ]
    found[plain(one.name)] = {"bytes": size, "needs": needs, "version": one.version}
print(json.dumps(found))
"""


def main() -> None:
    """Measures every extra and writes `benchmarks/results/install_size.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extras", nargs="*", default=EXTRAS)
    known = parser.parse_args()
    sizes = {extra: measure(extra) for extra in known.extras}
    machine.write("install_size", {"machine": machine.describe(), "sizes": sizes})


def measure(extra: str) -> dict[str, Any]:
    """Installs segjax with an extra into a new environment.

    Args:
      extra: name of the extra; "" for none.

    Returns:
      "bytes" of all distributions, of those that only feeding training needs ("data"), and of the
      largest ones by name.
    """
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        source = "." + (f"[{extra}]" if extra else "")
        install = [python, "-m", "pip", "install", "-q", "--no-cache-dir", source]
        subprocess.run(install, check=True)
        made = subprocess.run([python, "-c", _MEASURE], check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(made.stdout)
    for name in ("pip", "setuptools"):
        found.pop(name, None)
    kept = _reachable(found, without=("tensorflow-datasets", "grain"))
    sizes = {name: one["bytes"] for name, one in found.items()}
    largest = sorted(sizes, key=lambda name: -sizes[name])[:12]
    return {
        "bytes": sum(sizes.values()),
        "data": sum(size for name, size in sizes.items() if name not in kept),
        "largest": {name: sizes[name] for name in largest},
        "versions": {name: found[name]["version"] for name in largest},
    }


def _reachable(found: dict[str, Any], without: tuple[str, ...]) -> set[str]:
    """Distributions that segjax requires, directly or not, other than through some."""
    kept: set[str] = set()
    todo = ["segjax"]
    while todo:
        name = todo.pop()
        if name in found and name not in kept and name not in without:
            kept.add(name)
            todo += found[name]["needs"]
    return kept


if __name__ == "__main__":
    main()
