"""Commands on the folders of runs: `segjax check-run` and `segjax replay`."""

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


def add_replay(commands: Any) -> None:
    """Adds the command `replay`."""
    again = commands.add_parser(
        "replay", help="take a step again that was not finite, and find the image and the term"
    )
    again.add_argument("file", metavar="FILE", help="nonfinite_step_N.npz in a run's folder")
    again.add_argument(
        "--trust",
        metavar="PACKAGE",
        action="append",
        default=[],
        help="import this package, which has classes of the model; can be given several times",
    )
    again.add_argument(
        "--locate", action="store_true", help="stop at the first operation that is not finite"
    )
    again.set_defaults(command=_replay)


def _replay(known: argparse.Namespace, _: list[str]) -> int:
    from segjax.train.replay import replay

    print(replay(known.file, trust=known.trust, locate=known.locate).text())
    return 0


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
