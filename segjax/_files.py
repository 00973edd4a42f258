"""Files that several processes share: locked while they are made, and never seen half written."""

import errno
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

# Errors of file systems without locks, such as some network file systems.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextmanager
def locked(path: str | os.PathLike[str], *, wait: bool = True) -> Iterator[None]:
    """Lets one process, or thread, work while the others wait.

    A file system without `flock` gets a file with the process's number in its place. The next
    process of this machine takes it over if that process is gone.

    Args:
      path: lock file, which may stay; its folder must exist.
      wait: False to raise an error instead of waiting.

    Raises:
      TimeoutError: if another process has the lock and `wait` is False.
      OSError: if the folder cannot be written to.
    """
    from filelock import FileLock, SoftFileLock, Timeout

    timeout = -1 if wait else 0
    lock = FileLock(path, thread_local=False)
    try:
        try:
            lock.acquire(timeout=timeout)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            logging.getLogger("segjax").warning(
                "the file system of %s has no file locks (%s): %s.pid takes their place",
                *(Path(path).parent, error.strerror, Path(path).name),
            )
            lock = SoftFileLock(f"{path}.pid", thread_local=False)
            lock.acquire(timeout=timeout)
    except Timeout as error:
        raise TimeoutError(f"another process has locked {path}") from error
    try:
        yield
    finally:
        lock.release()


def free_bytes(path: str | os.PathLike[str]) -> int:
    """Returns the room on the file system of a file or folder, which may not exist yet."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def check_room(path: str | os.PathLike[str], needed: int, what: str) -> None:
    """Raises an `OSError` (ENOSPC) if the file system of a path has fewer bytes than needed.

    Args:
      path: file or folder that is going to be written.
      needed: bytes.
      what: subject of the message, such as "the checkpoint of step 3".
    """
    free = free_bytes(path)
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{what} needs {needed / 2**20:.0f} MiB, the file system of {path} has"
            f" {free / 2**20:.0f} MiB left: make room, or choose a folder elsewhere",
        )


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a file its name only when it is complete, so that it is there whole or not at all.

    Args:
      path: name of the file; a file that was there is replaced.

    Yields:
      A path next to it to write to. If writing fails, it is deleted and `path` stays as it was.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def write_together(folder: Path, contents: Mapping[str, bytes]) -> Path:
    """Writes files to a folder; all are complete on disk before the first takes its name.

    Args:
      folder: created with its parents if it does not exist.
      contents: bytes of each file, by file name.

    Returns:
      The folder.

    Raises:
      OSError: if there is no room; files that were there before are untouched then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as names:
        for name, content in contents.items():
            partial = names.enter_context(written_whole(folder / name))
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
    return folder
