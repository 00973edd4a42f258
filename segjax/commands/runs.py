"""Commands on the folders of runs: `segjax check-run`."""

import argparse
from pathlib import Path
from typing import Any


def add_check_run(commands: Any) -> None:
    """Adds the command `check-run`."""
    check = commands.add_parser(
        "check-run", help="compare a run's checkpoints with the digests of their files"
    )
    check.add_argument("folder", metavar="RUN", help="a run's folder")
    check.set_defaults(command=_check_run)


def _check_run(known: argparse.Namespace, _: list[str]) -> int:
    from segjax.train.manifest import differences

    folder = Path(known.folder).expanduser() / "checkpoints"
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    steps = sorted((path for path in found if path.name.isdecimal()), key=lambda p: int(p.name))
    if not steps:
        raise FileNotFoundError(f"no checkpoint in {folder}")
    broken = False
    for path in steps:
        wrong = differences(path)
        broken = broken or bool(wrong)
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        state = f"broken: {'; '.join(wrong)}" if wrong else f"complete, {size / 2**20:.1f} MiB"
        print(f"step {path.name}: {state}")
    for path in found:
        if path.is_dir() and path not in steps:
            print(f"{path.name}: not complete or being deleted, and not used")
    return 1 if broken else 0
