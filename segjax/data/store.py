"""Reads image files from folders and archives by names from untrusted files."""

import os
import re
import shutil
import stat
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

MAX_FILE_BYTES = 512 << 20
_MAX_NAME = 1024


class StoreError(OSError):
    """Raised for image files that cannot be read."""


class NameProblem(NamedTuple):
    """Reason that a file name cannot be used.

    Attributes:
      kind: name of the defect: "bad_file_name", "missing_file" or "link_out_of_folder".
      reason: predicate to follow "the name ..." in messages, with a suggestion if there is a
        similar file.
    """

    kind: str
    reason: str


@runtime_checkable
class ImageStore(Protocol):
    """Reads image files by their names in an annotation file."""

    def problem(self, name: Any) -> NameProblem | None:
        """Returns the reason that `name` cannot be read, or None if it can."""
        ...

    def read(self, name: str) -> bytes:
        """Returns the bytes of the file `name`, for which `problem` must return None."""
        ...

    def where(self, name: str) -> str:
        """Returns the location of the file `name`, for messages."""
        ...


def bad_name(name: Any) -> bool:
    """Returns True if a name could lead out of its folder; `name_fault` returns the reason."""
    return name_fault(name) is not None


def name_fault(name: Any) -> str | None:
    """Returns the reason that a file name is invalid or could lead out of its folder.

    Spaces of any kind and colons are allowed: macOS puts U+202F into the names of screenshots, and
    cameras put times into theirs.

    Args:
      name: `file_name` from an annotation file.

    Returns:
      The reason for values that are not strings, empty and overlong names, URLs, absolute paths,
      backslashes (Windows and UNC paths), control characters and any `..`; None for a valid name.
    """
    if not isinstance(name, str):
        return f"is not text but {type(name).__name__}"
    if not 0 < len(name) <= _MAX_NAME:
        return f"has {len(name)} characters, wanted 1 to {_MAX_NAME}"
    for letter in "" if name.isascii() and name.isprintable() else name:
        if unicodedata.category(letter) in _UNUSABLE or letter in _BIDIRECTIONAL:
            return f"holds the control character U+{ord(letter):04X}"
    for pattern, fault in _FAULTS:
        if re.search(pattern, name):
            return f"{fault}, wanted a path below the image folder"
    return None


_FAULTS = (
    (r"^[A-Za-z][A-Za-z0-9+.-]*://", "is a URL"),
    (r"\\", "has backslashes"),
    (r"^[/~]", "is absolute"),
    (r"(^|/)\.\.(/|$)", "leads out of its folder (..)"),
)
# Unicode categories of control characters, lone surrogates, and line and paragraph separators.
_UNUSABLE = {"Cc", "Cs", "Zl", "Zp"}
# Bidirectional controls make a name look like another one.
_BIDIRECTIONAL = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def _likely(name: Any, exists: Callable[[str], bool]) -> str:
    """Suggests an existing file that an unusable or missing name probably refers to, or ""."""
    if not isinstance(name, str):
        return ""
    parts = [part for part in re.split(r"[\\/]+", name.partition("?")[0]) if part not in ("", "..")]
    # Annotation tools prepend folders, the address of their server, or the id of an upload.
    tails = ["/".join(parts[start:]) for start in range(len(parts))]
    tails += [re.sub(r"^[0-9a-f]{8}-", "", parts[-1])] if parts else []
    for tail in tails:
        if tail != name and name_fault(tail) is None and exists(tail):
            return f'; "{tail}" is there: is that meant?'
    return ""


class FolderStore:
    """Images in a folder; links that point outside it are rejected unless allowed.

    Attributes:
      root: path of the folder, with links resolved.
      follow_links: read files through links that point outside the folder.
    """

    def __init__(self, root: str | os.PathLike[str], *, follow_links: bool = False) -> None:
        self.root = Path(os.path.realpath(root))
        self.follow_links = follow_links

    def problem(self, name: Any) -> NameProblem | None:
        """Returns the reason that `name` cannot be read, or None if it can."""
        if fault := name_fault(name):
            return NameProblem("bad_file_name", fault + _likely(name, self._is_here))
        path = os.path.realpath(self.root / name)
        if not self.follow_links and not path.startswith(f"{self.root}{os.sep}"):
            return NameProblem(
                "link_out_of_folder",
                f"is a link that leads out of {self.root}, to {path}: copy the files, or allow"
                " such links with --data.follow-links=True",
            )
        try:
            mode = os.stat(path).st_mode
        except OSError:
            return NameProblem(
                "missing_file", f"is not in {self.root}" + _likely(name, self._is_here)
            )
        return None if stat.S_ISREG(mode) else NameProblem("bad_file_name", "is not a file")

    def _is_here(self, name: str) -> bool:
        return (self.root / name).is_file()

    def read(self, name: str) -> bytes:
        """Returns the bytes of a file.

        Args:
          name: path relative to the root.

        Raises:
          StoreError: if the file cannot be read, or is larger than any image should be.
        """
        problem = self.problem(name)
        path = self.root / name
        if problem:
            raise StoreError(f"{path}: the name {problem.reason}")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise StoreError(f"{path} has more than {MAX_FILE_BYTES} bytes")
        return path.read_bytes()

    def where(self, name: str) -> str:
        """Returns the path of a file."""
        return str(self.root / name)


class ZipStore:
    """Images in a zip archive, read in place.

    Attributes:
      prefix: folder inside the archive.
    """

    def __init__(self, path: str | os.PathLike[str], prefix: str) -> None:
        self._archive = zipfile.ZipFile(path)
        self._names = {info.filename: info for info in self._archive.infolist()}
        self.prefix = prefix

    def problem(self, name: Any) -> NameProblem | None:
        """Returns the reason that `name` cannot be read, or None if it can."""
        if fault := name_fault(name):
            return NameProblem("bad_file_name", fault + _likely(name, self._is_here))
        if self._is_here(name):
            return None
        where = f"{self._archive.filename}:{self.prefix}"
        return NameProblem("missing_file", f"is not in {where}" + _likely(name, self._is_here))

    def _is_here(self, name: str) -> bool:
        return f"{self.prefix}/{name}" in self._names

    def read(self, name: str) -> bytes:
        """Returns the bytes of an archive member.

        Args:
          name: path relative to the prefix.

        Raises:
          StoreError: if the member is missing, damaged, or larger than any image should be.
        """
        problem = self.problem(name)
        if problem:
            raise StoreError(f"{self._archive.filename}: {name}: the name {problem.reason}")
        info = self._names[f"{self.prefix}/{name}"]
        if info.file_size > MAX_FILE_BYTES:
            raise StoreError(f"{name} has more than {MAX_FILE_BYTES} bytes")
        try:
            return self._archive.read(info)
        except zipfile.BadZipFile as error:
            raise StoreError(f"{self._archive.filename}: {name}: {error}") from None

    def where(self, name: str) -> str:
        """Returns the path of the archive, a colon, and the path inside it."""
        return f"{self._archive.filename}:{self.prefix}/{name}"


def extract(archive: str | os.PathLike[str], member: str, target: Path) -> None:
    """Extracts a file from a zip archive.

    Args:
      archive: path of the archive.
      member: name of the file in the archive.
      target: path of the copy; its folder is created.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        zipfile.ZipFile(archive) as opened,
        opened.open(member) as source,
        target.open("wb") as copy,
    ):
        shutil.copyfileobj(source, copy)
