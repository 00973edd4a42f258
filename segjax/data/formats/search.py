"""Search for annotation files, splits and images in folders of unknown layout."""

import functools
import os
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath

from segjax.data.coco import CocoError
from segjax.data.formats.coco_folder import ENDINGS, image_names
from segjax.data.layout import ALIASES, candidates, first
from segjax.data.store import FolderStore

# Bytes at the beginning and at the end of a file that are searched for words.
_SNIFF = 1 << 20
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def walk_files(folder: Path, ending: str) -> Iterator[Path]:
    """Yields the files below a folder with an ending, such as ".json", except hidden ones."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(ending) and not name.startswith("."):
                yield Path(place, name)


def first_file(folder: Path, ending: str, *words: str, tries: int = 5) -> Path | None:
    """Searches the first few files with an ending for one that contains some words.

    Args:
      folder: folder to search, including sub-folders; or a single file.
      ending: such as ".json".
      words: texts that must all be in the first or the last megabyte of the file.
      tries: number of files to open.

    Returns:
      The path; None if there is none.
    """
    if folder.is_file():
        fits = folder.name.lower().endswith(ending) and holds(folder, *words)
        return folder if fits else None
    paths = islice(walk_files(folder, ending), tries)
    return next((path for path in paths if holds(path, *words)), None)


def holds(path: Path, *words: str) -> bool:
    """Returns True if the first or the last megabyte of a file contains all of the words."""
    try:
        with path.open("rb") as file:
            data = file.read(_SNIFF)
            file.seek(max(path.stat().st_size - _SNIFF, len(data)))
            data += file.read(_SNIFF)
    except OSError:
        return False
    text = data.decode("utf-16" if data[:2] in _UTF16 else "utf-8", errors="ignore")
    return all(word in text for word in words)


def read_text(path: Path) -> str:
    """Reads a text file in UTF-8 or UTF-16; raises `CocoError` if it cannot be read."""
    try:
        data = path.read_bytes()
        return data.decode("utf-16" if data[:2] in _UTF16 else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CocoError(f"{path} cannot be read as text: {error}") from None


def read_lines(path: Path) -> list[str]:
    """Reads the lines of a text file, stripped, without empty ones."""
    return [line for line in map(str.strip, read_text(path).splitlines()) if line]


def split_folders(root: Path) -> dict[str, Path]:
    """Finds the folders of splits, such as `valid/`; without `train/`, everything is train."""
    found = {split: first(candidates(root, ("{}",), split), Path.is_dir) for split in ALIASES}
    folders = {split: folder for split, folder in found.items() if folder is not None}
    return folders if "train" in folders else {"train": root}


def split_of(word: str) -> str | None:
    """Returns the split that a word such as "Train" or "validation" names; None for other words."""
    plain = word.strip().lower()
    return next((split for split, names in ALIASES.items() if plain in names), None)


class ImageFinder:
    """Finds images by the names in annotation files, which often have other paths before them."""

    def __init__(self, store: FolderStore) -> None:
        self._store = store

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Paths of all images in the store's folder."""
        return tuple(image_names(self._store.root))

    def has(self, name: str) -> bool:
        """Returns True if an image can be read."""
        return self._store.problem(name) is None

    def find(self, given: str, near: str = "") -> str:
        """Finds an image.

        Args:
          given: path or name in an annotation file; backslashes count as slashes.
          near: folder of the annotation file, relative to the store's folder.

        Returns:
          Path of the image relative to the store's folder. An image at the path from the annotation
          file comes first, then one at the longest part of the path, from its end, that exists,
          then the only image with that name in any folder. If there is none, `given`: reading the
          contents reports it as missing.
        """
        path = given.replace("\\", "/")
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        if not parts:
            return given
        places = [os.path.normpath(f"{near}/{path}")] if near not in ("", ".") else []
        places += ["/".join(parts[start:]) for start in range(len(parts))]
        places.append(f"{near}/{parts[-1]}".lstrip("/"))
        for place in places:
            if not place.startswith(("..", "/")) and (self._store.root / place).is_file():
                return PurePosixPath(place).as_posix()
        named = self._by_name.get(parts[-1], ())
        return named[0] if len(named) == 1 else given

    def of_stem(self, stem: str) -> str | None:
        """Finds the image of a path without ending, in the store's folder or in `images/`.

        Returns:
          Its path, or that of the only image with that name in any folder; else None.
        """
        for form in (stem, f"images/{stem}", f"JPEGImages/{stem}"):
            for ending in _BOTH_CASES:
                if (self._store.root / f"{form}{ending}").is_file():
                    return f"{form}{ending}"
        named = self._by_stem.get(PurePosixPath(stem).name, ())
        return named[0] if len(named) == 1 else None

    @functools.cached_property
    def _by_name(self) -> dict[str, list[str]]:
        return _grouped(self.names, [PurePosixPath(name).name for name in self.names])

    @functools.cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return _grouped(self.names, [PurePosixPath(name).stem for name in self.names])


_BOTH_CASES = tuple(form for ending in ENDINGS for form in (ending, ending.upper()))


def without_ending(name: str) -> str:
    """Removes the ending of an image's name, if it has one."""
    return re.sub(rf"({'|'.join(map(re.escape, ENDINGS))})$", "", name, flags=re.IGNORECASE)


def _grouped(names: Sequence[str], keys: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, key in zip(names, keys, strict=True):
        found.setdefault(key, []).append(name)
    return found
