"""Locks the folder of a run for the process that trains there."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Generator
from pathlib import Path

from segjax._files import locked, written_whole

LOCK, OWNER = ".train.lock", ".train.owner.json"


@contextlib.contextmanager
def claimed(workdir: Path) -> Generator[None]:
    """Creates the folder of a run and keeps other processes from training there.

    Folders created here that are empty at the end are removed again, so that a rejected command
    leaves nothing behind.

    Args:
      workdir: folder of the run.

    Raises:
      ValueError: if another process trains there; the message gives its id, host and start time.
    """
    made = [folder for folder in (workdir, *workdir.parents) if not folder.exists()]
    workdir.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(locked(workdir / LOCK, wait=False))
            except TimeoutError as error:
                raise ValueError(
                    f"{workdir} is in use: {_owner(workdir)} trains there; wait for it, stop it,"
                    " or give another --workdir"
                ) from error
            held.callback(_remove, workdir)
            with written_whole(workdir / OWNER) as partial:
                partial.write_text(json.dumps(_myself()))
            yield
    finally:
        for folder in made:
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()


def _remove(workdir: Path) -> None:
    """Removes both files while the lock is still held, so as not to delete another process's."""
    for name in (OWNER, LOCK):
        (workdir / name).unlink(missing_ok=True)


def _myself() -> dict[str, str | int]:
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    return {"process": os.getpid(), "host": socket.gethostname(), "started": started}


def _owner(workdir: Path) -> str:
    try:
        owner = json.loads((workdir / OWNER).read_text())
        return f"process {owner['process']} on {owner['host']}, since {owner['started']},"
    except (OSError, ValueError, KeyError):  # the owner has not written its file yet
        return "another process"
