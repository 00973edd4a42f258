"""Locks and atomic writes, for files that several processes share."""

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
    """Holds a lock between processes and threads.

    On file systems without `flock`, a file with the process id is used instead. If that process
    has died, the next process on the same machine takes the file over.

    Args:
      path: lock file, which may remain afterwards; its folder must exist.
      wait: wait for the lock; False to raise an error instead.

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
    """Returns the free bytes on the file system of a path, which may not exist yet."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def check_room(path: str | os.PathLike[str], needed: int, what: str) -> None:
    """Raises an `OSError` (ENOSPC) if the file system of a path has too little free space.

    Args:
      path: file or folder that will be written.
      needed: number of bytes needed.
      what: subject of the error message, such as "the checkpoint of step 3".
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
    """Writes a file atomically: it gets its name only once it is complete.

    Args:
      path: path of the file; an existing file is replaced.

    Yields:
      A path in the same folder to write to. If writing fails, it is deleted and `path` is left
      unchanged.
    """
    # Same folder, and so the same file system, as a rename is only atomic within one.
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def write_together(folder: Path, contents: Mapping[str, bytes]) -> Path:
    """Writes several files; all of them are complete on disk before the first gets its name.

    Args:
      folder: output folder; created with its parents if missing.
      contents: contents of each file, by file name.

    Returns:
      The folder.

    Raises:
      OSError: if there is not enough space; existing files are left unchanged.
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
