"""Downloads: each file is fetched once, checked on every use, and cached under a unique name.

A file that was put into the cache by hand is as good as a downloaded one. Processes that want the
same file at the same time wait for each other.
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
    """Expected hashes and size of a file."""

    sha256: str
    md5: str
    size: int | None

    def __post_init__(self) -> None:
        for name, digits, length in (("sha256", self.sha256, 64), ("md5", self.md5, 32)):
            if digits and not re.fullmatch(f"[0-9a-f]{{6,{length}}}", digits):
                raise ValueError(f"{name} is {digits!r}, not 6 to {length} hexadecimal digits")

    def problem(self, path: Path) -> str | None:
        """Describes a mismatch (found and wanted); None if the file is as expected."""
        size = path.stat().st_size
        if self.size not in (None, size):
            return f"it has {size} bytes, {self.size} were wanted"
        for name, digits in (("sha256", self.sha256), ("md5", self.md5)):
            if digits:
                # Python refuses MD5 in FIPS mode unless it is declared not to be for security.
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
    """Describes how a file differs from the expected one (see `fetch`); None if it does not."""
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
    """Returns the local path of a file on the web, and downloads it if it is not cached.

    Uses the proxies of the environment (`https_proxy`, ...), resumes an interrupted download, and
    waits for another process that fetches the same file.

    Args:
      url: http or https address.
      sha256: SHA-256 in hexadecimal, in full or only its first digits, as some file names have it.
      md5: MD5 in the same form; it detects damage but not malice.
      size: size in bytes; None if unknown.
      folder: cache folder; `CACHE` by default.
      progress: show a progress bar if there is a terminal.

    Returns:
      The path `cached_path(url, folder)` of the complete, checked file.

    Raises:
      DownloadError: if the file cannot be fetched or is not the expected one. The message says
        where to put a file that was fetched in another way. Subclass of ConnectionError.
      ValueError: if the URL or a hash is malformed.
      OSError: if the folder cannot be written to.
    """
    wanted = _Wanted(sha256.lower(), md5.lower(), size)
    path = cached_path(url, folder)
    # Checked without the lock, so that a complete cache can be in a read-only folder.
    if path.is_file() and wanted.problem(path) is None:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(f"{path.name}.lock")):
        problem = wanted.problem(path) if path.is_file() else ""
        if problem is None:  # Another process fetched it while this one waited.
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
        except OSError as error:  # The error of a full disk does not name the file.
            error.filename = error.filename or str(part)
            raise
        _publish(transfer, path)
    return path


def cached_path(url: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """Returns the path at which the file of a URL is cached.

    Args:
      url: http or https address.
      folder: cache folder; `CACHE` by default.

    Returns:
      A path in the folder: the last part of the URL, to be recognisable, with a few digits of the
      URL's hash, because many different files are called `model_final.pkl`.

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
    """Fetches and checks a file; a resumed file that fails the check is fetched once more."""
    while True:
        transfer.run()
        problem, resumed = wanted.problem(transfer.part), transfer.resumed
        if problem is None:
            return
        transfer.forget()
        if not resumed:
            raise DownloadError(f"what came is not what was wanted and was deleted: {problem}")


def _publish(transfer: Transfer, path: Path) -> None:
    """Renames a complete file atomically, so that a crash leaves the whole file or none."""
    with transfer.part.open("rb") as file:
        os.fsync(file.fileno())
    transfer.part.replace(path)
    transfer.forget()
    # The rename itself only survives a crash once the folder is synced, too.
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
