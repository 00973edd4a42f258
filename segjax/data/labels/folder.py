"""Plain label PNGs in a folder, named as the images, whose numbers are the classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from segjax.data.coco import Category, CocoError, ImageRecord
from segjax.data.images import IGNORE
from segjax.data.labels.base import (
    LabelFiles,
    Labels,
    MapError,
    find_first,
    png_name,
    read_map,
)
from segjax.data.store import FolderStore, ImageStore

# Holds the names of the classes, next to the splits' folders.
LABEL_NAMES_FILE = "classes.txt"


class FolderLabels:
    """The row "folder" of the table: classes of the user's own, with or without names."""

    title = "plain label PNGs"
    hint = (
        "reads plain label PNGs, named as the images, in labels/train/ below root, or in train/ "
        f"below semantic_root, and the names of their classes in {LABEL_NAMES_FILE} next to train/"
    )
    has_files = True
    needs_objects = False
    knows_things = False
    has_segments = False

    def find(self, base: Path, split: str, *, apart: bool) -> LabelFiles:
        """Looks for the folder of a split; raises `CocoError` if there is none."""
        forms = ("labels/{}", "labels/{}2017", *(("{}", "{}2017") if apart else ()))
        folder = find_first(base, forms, split, Path.is_dir)
        names = folder.parent / LABEL_NAMES_FILE
        return LabelFiles(FolderStore(folder), names=names if names.is_file() else None)

    def archive(self, base_url: str) -> None:
        """Returns None: such labels are the user's own."""

    def open(
        self,
        categories: Sequence[Category],
        files: Mapping[str, LabelFiles],
        splits: Sequence[str],
        ignore: int,
    ) -> Labels:
        """Opens the labels; only `files` and `ignore` are used."""
        paths = [found.names for found in files.values()]
        listed = {None if path is None else read_label_names(path) for path in paths}
        if len(listed) > 1:
            raise CocoError(f"the splits have different classes: {paths}")
        (names,) = listed
        count = None if names is None else len(names)
        readers = {
            split: FolderReader(found.store, count, ignore) for split, found in files.items()
        }
        return Labels(names, readers) if names else _CountedLabels((), readers)


class _CountedLabels(Labels):
    """Labels without names: those up to the largest in use are called "0", "1", ..."""

    def all_names(self) -> tuple[str, ...]:
        largest = [r.largest for r in self.readers.values() if isinstance(r, FolderReader)]
        return tuple(str(label) for label in range(1 + max(largest, default=-1)))


class FolderReader:
    """Reads the labels of a split.

    Attributes:
      largest: largest label read so far; -1 before any.

    Args:
      store: holds a PNG of each image's name.
      classes: how many there are; None takes any label.
      ignore: the number that counts for nothing, beside `IGNORE`.
    """

    def __init__(self, store: ImageStore, classes: int | None, ignore: int) -> None:
        self._store, self._classes, self._ignore = store, classes, ignore
        self.largest = -1

    def read(self, image: ImageRecord) -> UInt8[np.ndarray, "h w"]:
        """Returns the labels of an image.

        Raises:
          MapError: if the map is missing, damaged, of another size or holds an unknown number.
        """
        name = png_name(image)
        labels = read_map(self._store, name, image, 1)
        labels[labels == self._ignore] = IGNORE
        largest = int(labels[labels != IGNORE].max(initial=0))
        if self._classes is not None and largest >= self._classes:
            values = f"{self._ignore} or {IGNORE}" if self._ignore != IGNORE else f"{IGNORE}"
            raise MapError(
                f"image {image.id}: {self._store.where(name)} holds the value {largest}: wanted "
                f"0..{self._classes - 1}, the lines of {LABEL_NAMES_FILE}, or {values} for what "
                "counts for nothing (semantic_ignore is another number for that)"
            )
        self.largest = max(self.largest, largest)
        return labels


def read_label_names(path: Path) -> tuple[str, ...]:
    """Reads a file of class names, one a line, in the order of their labels.

    Args:
      path: the file, UTF-8; empty lines at its end do not count.

    Returns:
      The names.

    Raises:
      CocoError: if it is not such a file; the text names the first line that is wrong.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CocoError(f"{path} cannot be read: {error}") from error
    names = [line.strip() for line in lines]
    for number, name in enumerate(names, 1):
        if not name or name in names[: number - 1]:
            raise CocoError(
                f"{path}, line {number}, is {name!r:.40}: wanted the name of a class of its own"
            )
    if not names:
        raise CocoError(f"{path} is empty: wanted the names of the classes, one a line")
    return tuple(names)
