"""Where image files lie: in a folder or in an archive, addressed by names from untrusted files."""

import os
import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

MAX_FILE_BYTES = 512 << 20
_MAX_NAME = 1024


class StoreError(OSError):
    """An image file that cannot be read."""


@runtime_checkable
class ImageStore(Protocol):
    """Reads image files by the names that an annotation file gives."""

    def problem(self, name: Any) -> str | None:
        """Returns what forbids reading `name` ("bad_file_name", "missing_file"), or None."""
        ...

    def read(self, name: str) -> bytes:
        """Returns the bytes of the file `name`, which must have no problem."""
        ...

    def where(self, name: str) -> str:
        """Returns what to call the file `name` in a message."""
        ...


def bad_name(name: Any) -> bool:
    """Says whether a file name could lead out of its folder, or is none at all.

    Args:
      name: what an annotation file gives as `file_name`.

    Returns:
      True for other types, empty and overlong names, absolute ones, any with `..`, a backslash
      (Windows and UNC paths), a colon or a control character.
    """
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME:
        return True
    if not name.isprintable() or "\\" in name or ":" in name or name.startswith(("/", "~")):
        return True
    return ".." in PurePosixPath(name).parts


class FolderStore:
    """Images below a folder; links that lead out of it are refused.

    Attributes:
      root: the folder, with its own links resolved.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(os.path.realpath(root))

    def problem(self, name: Any) -> str | None:
        """Returns "bad_file_name", "missing_file" or None."""
        if bad_name(name):
            return "bad_file_name"
        path = os.path.realpath(self.root / name)
        if not path.startswith(f"{self.root}{os.sep}"):
            return "bad_file_name"
        try:
            mode = os.stat(path).st_mode
        except OSError:
            return "missing_file"
        return None if stat.S_ISREG(mode) else "bad_file_name"

    def read(self, name: str) -> bytes:
        """Returns the bytes of a file.

        Args:
          name: path below the root.

        Raises:
          StoreError: if it has a problem or is larger than any image should be.
        """
        problem = self.problem(name)
        path = self.root / name
        if problem:
            raise StoreError(f"{path}: {problem}")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise StoreError(f"{path} has more than {MAX_FILE_BYTES} bytes")
        return path.read_bytes()

    def where(self, name: str) -> str:
        """Returns the path of a file."""
        return str(self.root / name)


class ZipStore:
    """Images in a zip archive, read in place.

    Attributes:
      prefix: the folder inside the archive.
    """

    def __init__(self, path: str | os.PathLike[str], prefix: str) -> None:
        self._archive = zipfile.ZipFile(path)
        self._names = {info.filename: info for info in self._archive.infolist()}
        self.prefix = prefix

    def problem(self, name: Any) -> str | None:
        """Returns "bad_file_name", "missing_file" or None."""
        if bad_name(name):
            return "bad_file_name"
        return None if f"{self.prefix}/{name}" in self._names else "missing_file"

    def read(self, name: str) -> bytes:
        """Returns the bytes of a member.

        Args:
          name: path below the prefix.

        Raises:
          StoreError: if it is missing, damaged, or larger than any image should be.
        """
        problem = self.problem(name)
        if problem:
            raise StoreError(f"{self._archive.filename}: {name}: {problem}")
        info = self._names[f"{self.prefix}/{name}"]
        if info.file_size > MAX_FILE_BYTES:
            raise StoreError(f"{name} has more than {MAX_FILE_BYTES} bytes")
        try:
            return self._archive.read(info)
        except zipfile.BadZipFile as error:
            raise StoreError(f"{self._archive.filename}: {name}: {error}") from None

    def where(self, name: str) -> str:
        """Returns the path of the archive and, after a colon, that inside it."""
        return f"{self._archive.filename}:{self.prefix}/{name}"


def extract(archive: str | os.PathLike[str], member: str, target: Path) -> None:
    """Copies a file out of a zip archive.

    Args:
      archive: path of the archive.
      member: name of the file inside.
      target: path of the copy; its folder is made.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        zipfile.ZipFile(archive) as opened,
        opened.open(member) as source,
        target.open("wb") as copy,
    ):
        shutil.copyfileobj(source, copy)
