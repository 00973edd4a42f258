"""Files that several processes share: locked while they are made, and never seen half written."""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

# Errors of file systems that know no locks, as some network file systems.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Lets one process, or thread, work while the others wait.

    A file system without `flock` gets a lock file in its place, with a warning (`filelock`): it may
    be left behind by a process that is killed.

    Args:
      path: lock file, which may stay; its folder must exist.

    Raises:
      OSError: if the file system knows no locks at all, or the folder cannot be written to.
    """
    from filelock import FileLock

    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise OSError(
            error.errno,
            f"the file system of {Path(path).parent} has no file locks ({error.strerror}): choose "
            "a cache folder on another one, such as a local disk",
        ) from error
    try:
        yield
    finally:
        lock.release()


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
