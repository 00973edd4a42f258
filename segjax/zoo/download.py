"""Files of the web, fetched once, checked each time, and kept under a name of their own.

A file that somebody put there by hand is as good as one that was fetched. Processes that want
the same file at once wait for each other.
"""

import dataclasses
import hashlib
import logging
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from segjax._files import locked
from segjax.zoo.transfer import DownloadError, Transfer

__all__ = ["CACHE", "DownloadError", "cached_path", "fetch", "problem_of"]

CACHE = "~/.cache/segjax/weights"

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """Facts known about a file beforehand."""

    sha256: str
    md5: str
    size: int | None

    def __post_init__(self) -> None:
        for name, digits, length in (("sha256", self.sha256, 64), ("md5", self.md5, 32)):
            if digits and not re.fullmatch(f"[0-9a-f]{{6,{length}}}", digits):
                raise ValueError(f"{name} is {digits!r}, not 6 to {length} hexadecimal digits")

    def problem(self, path: Path) -> str | None:
        """Says what is wrong with a file, with what was found and what was wanted."""
        size = path.stat().st_size
        if self.size not in (None, size):
            return f"it has {size} bytes, {self.size} were wanted"
        for name, digits in (("sha256", self.sha256), ("md5", self.md5)):
            if digits:
                with path.open("rb") as file:
                    found = hashlib.file_digest(
                        file, lambda name=name: hashlib.new(name, usedforsecurity=name != "md5")
                    ).hexdigest()
                if not found.startswith(digits):
                    more = "" if len(digits) == len(found) else "..."
                    return f"its {name} is {found}, wanted was {digits}{more}"
        return None

    def __str__(self) -> str:
        facts = [f"{self.size} bytes"] if self.size is not None else []
        facts += [f"{n} {d}" for n, d in (("sha256", self.sha256), ("md5", self.md5)) if d]
        return f" ({', '.join(facts)})" if facts else ""


def problem_of(
    path: str | os.PathLike[str], *, sha256: str = "", md5: str = "", size: int | None = None
) -> str | None:
    """Says how a file differs from what is wanted (see `fetch`); None if it does not."""
    return _Wanted(sha256.lower(), md5.lower(), size).problem(Path(path))


def fetch(
    url: str,
    *,
    sha256: str = "",
    md5: str = "",
    size: int | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Path:
    """Gives the path of a file of the web, which is fetched if it is not there yet.

    Goes through the proxies of the environment (`https_proxy`, ...), continues where an earlier try
    was cut off, and waits for another process that fetches the same file.

    Args:
      url: http or https.
      sha256: hexadecimal; all of it or, as some file names have it, its first digits.
      md5: the same of the MD5, which tells damage but no malice.
      size: in bytes, where known.
      folder: where it is kept; `CACHE` by default.
      progress: show a bar, if there is a terminal.

    Returns:
      Its path, `cached_path(url, folder)`: complete, and as wanted.

    Raises:
      DownloadError: if it cannot be fetched, or what came is something else; it says where to put
        a file that was fetched in another way. A ConnectionError.
      ValueError: if the URL or what is wanted is none.
      OSError: if the folder cannot be written to.
    """
    wanted = _Wanted(sha256.lower(), md5.lower(), size)
    path = cached_path(url, folder)
    # Without lock, so that a complete cache may lie where nobody may write.
    if path.is_file() and wanted.problem(path) is None:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(f"{path.name}.lock")):
        problem = wanted.problem(path) if path.is_file() else ""
        if problem is None:  # another process was first
            return path
        if problem:
            _log.warning("%s is not what it should be and is fetched anew: %s", path, problem)
        part = path.with_name(f"{path.name}.part")
        transfer = Transfer(url, part, size, bool(sha256 or md5), progress)
        try:
            _fetch_checked(transfer, wanted)
        except DownloadError as error:
            also = f" The file that is there now is of no use: {problem}." if problem else ""
            raise DownloadError(
                f"{url} could not be fetched: {error}. It can be fetched elsewhere and put at "
                f"{path}{wanted}; it is checked and used from there.{also}"
            ) from error
        except OSError as error:  # writing to a full disk does not say whose file it was
            error.filename = error.filename or str(part)
            raise
        _publish(transfer, path)
    return path


def cached_path(url: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """Says where the file of a URL is kept.

    Args:
      url: http or https.
      folder: `CACHE` by default.

    Returns:
      A path in the folder: the URL's last part, so that people know it, with a few digits of the
      URL's hash, since many files of the web are called `model_final.pkl`.

    Raises:
      ValueError: if it is not a web URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError(
            f"{url!r} is not of the web (http, https): a file of this machine is not downloaded, "
            "give its path to the function that reads it"
        )
    if not parts.hostname or "@" in parts.netloc or not re.fullmatch(r"[!-~]+", url):
        raise ValueError(f"{url!r} is no plain URL: it should be https://host/path, without blanks")
    last = re.sub(r"[^A-Za-z0-9._+-]", "_", unquote(parts.path.rsplit("/", 1)[-1]))
    name = Path(last.lstrip("._-")[-100:] or "weights")
    digits = hashlib.blake2b(url.encode(), digest_size=4).hexdigest()
    return Path(folder or CACHE).expanduser() / f"{name.stem}.{digits}{name.suffix}"


def _fetch_checked(transfer: Transfer, wanted: _Wanted) -> None:
    """Fetches; parts of two answers that do not fit together are fetched once more."""
    while True:
        transfer.run()
        problem, resumed = wanted.problem(transfer.part), transfer.resumed
        if problem is None:
            return
        transfer.forget()
        if not resumed:
            raise DownloadError(f"what came is not what was wanted and was deleted: {problem}")


def _publish(transfer: Transfer, path: Path) -> None:
    """Gives a complete file its name, so that after a crash it is there whole or not at all."""
    with transfer.part.open("rb") as file:
        os.fsync(file.fileno())
    transfer.part.replace(path)
    transfer.forget()
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
