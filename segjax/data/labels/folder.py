"""Plain label PNGs in a folder, named like the images; pixel values are class numbers."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from segjax.data.coco import Category, CocoError, ImageRecord
from segjax.data.images import IGNORE
from segjax.data.labels.base import (
    LabelFiles,
    LabelNumbers,
    Labels,
    MapError,
    find_first,
    png_name,
    read_map,
)
from segjax.data.problems import Problems
from segjax.data.store import FolderStore, ImageStore

# File with the class names, next to the folders of the splits.
LABEL_NAMES_FILE = "classes.txt"


class FolderLabels:
    """The label source "folder": custom classes, with or without names."""

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
        """Finds the folder of a split; raises `CocoError` if there is none."""
        forms = ("labels/{}", "labels/{}2017", *(("{}", "{}2017") if apart else ()))
        folder = find_first(base, forms, split, Path.is_dir)
        names = folder.parent / LABEL_NAMES_FILE
        return LabelFiles(FolderStore(folder), names=names if names.is_file() else None)

    def archive(self, base_url: str) -> None:
        """Returns None: custom labels cannot be downloaded."""

    def open(
        self,
        categories: Sequence[Category],
        files: Mapping[str, LabelFiles],
        splits: Sequence[str],
        numbers: LabelNumbers,
    ) -> Labels:
        """Opens the labels; only `files` and `numbers` are used."""
        paths = [found.names for found in files.values()]
        listed = {None if path is None else read_label_names(path) for path in paths}
        if len(listed) > 1:
            raise CocoError(f"the splits have different classes: {paths}")
        (names,) = listed
        if names and numbers.values and len(names) != len(numbers.values):
            raise CocoError(
                f"{LABEL_NAMES_FILE} names {len(names)} classes, semantic_values lists the numbers"
                f" of {len(numbers.values)}: wanted as many"
            )
        count = None if names is None else len(names)
        readers = {
            split: FolderReader(found.store, count, numbers) for split, found in files.items()
        }
        return FolderLabelsRead(names or (), readers, numbers=numbers)


@dataclasses.dataclass(frozen=True)
class FolderLabelsRead(Labels):
    """Plain labels; unnamed classes are called "0", "1", ... up to the largest label in use.

    Attributes:
      numbers: meaning of the values in the PNGs.
    """

    numbers: LabelNumbers = LabelNumbers()

    def all_names(self) -> tuple[str, ...]:
        """Returns the names, once all labels have been read."""
        if self.names:
            return self.names
        if self.numbers.values:
            return tuple(map(str, self.numbers.values))
        largest = np.flatnonzero(self._pixels()[:IGNORE]).max(initial=-1)
        return tuple(str(label) for label in range(1 + int(largest)))

    def problems(self) -> Problems:
        """Reports ignored values, and classes without pixels."""
        found, pixels = Problems(), self._pixels()
        total, ignored = int(pixels.sum()), int(pixels[IGNORE])
        used = np.flatnonzero(pixels[:IGNORE]).tolist()
        if not total:
            return found
        number = self.numbers.ignore
        share = f"{number} on {100 * ignored / total:.0f}% of the pixels counts for nothing"
        if ignored and len(used) < 2:
            found.add(
                "nothing_to_tell_apart",
                f"{share}, and all others are {used or 'missing'}: if {number} is a class, as in"
                f" black and white masks, give the numbers of all classes in order, such as"
                f" --data.semantic-values 0 {number}",
            )
        elif ignored:
            found.add("ignored_pixels", share)
        names = self.all_names()
        unused = [names[label] for label in range(len(names)) if label not in used]
        if len(unused) > len(used) and not self.names:
            values = " ".join(map(str, used))
            found.add(
                "sparse_labels",
                f"the numbers in use, {values}, would be {len(names)} classes, {len(unused)} of"
                f" them without a pixel: --data.semantic-values {values} makes them {len(used)}",
            )
        else:
            for name in unused:
                found.add("label_without_pixels", name)
        return found

    def _pixels(self) -> Int64[np.ndarray, "256"]:
        """Returns the number of pixels of every label over all splits."""
        readers = [r for r in self.readers.values() if isinstance(r, FolderReader)]
        return np.sum([reader.pixels for reader in readers], axis=0)


class FolderReader:
    """Reads the labels of a split.

    Attributes:
      pixels: number of pixels of each label read so far, including `IGNORE`.

    Args:
      store: store with one PNG per image, named after it.
      classes: number of classes; None accepts any label.
      numbers: meaning of the values in the PNGs.
    """

    def __init__(self, store: ImageStore, classes: int | None, numbers: LabelNumbers) -> None:
        self._store, self._classes, self._numbers = store, classes, numbers
        self._table = _table(numbers)
        self.pixels: Int64[np.ndarray, "256"] = np.zeros(256, np.int64)

    def read(self, image: ImageRecord) -> UInt8[np.ndarray, "h w"]:
        """Returns the labels of an image.

        Raises:
          MapError: if the map is missing, damaged, differs in size or holds an unknown value.
        """
        name = png_name(image)
        stored = read_map(self._store, name, image, 1)
        where, numbers = f"image {image.id}: {self._store.where(name)}", self._numbers
        counts = np.bincount(stored.ravel(), minlength=256)
        if numbers.values:
            known = {*numbers.values, numbers.ignore, IGNORE}
            strange = [value for value in np.flatnonzero(counts).tolist() if value not in known]
            if strange:
                raise MapError(
                    f"{where} holds the value {strange[0]}: wanted one of semantic_values,"
                    f" {numbers.values}, or {numbers.ignore} for what counts for nothing"
                )
        labels = self._table[stored]
        largest = int(labels[labels != IGNORE].max(initial=0))
        if self._classes is not None and largest >= self._classes:
            ignore = numbers.ignore
            values = f"{ignore} or {IGNORE}" if ignore != IGNORE else f"{IGNORE}"
            raise MapError(
                f"{where} holds the value {largest}: wanted "
                f"0..{self._classes - 1}, the lines of {LABEL_NAMES_FILE}, or {values} for what "
                "counts for nothing (semantic_ignore is another number for that)"
            )
        self.pixels += np.bincount(labels.ravel(), minlength=256)
        return labels


def _table(numbers: LabelNumbers) -> UInt8[np.ndarray, "256"]:
    """Returns the lookup table from PNG values to labels."""
    table = np.arange(256, dtype=np.uint8)
    if numbers.values:
        table[:] = IGNORE
        table[list(numbers.values)] = np.arange(len(numbers.values))
    if numbers.ignore not in numbers.values:
        table[numbers.ignore] = IGNORE
    return table


def read_label_names(path: Path) -> tuple[str, ...]:
    """Reads a file of class names, one per line, in the order of their labels.

    Args:
      path: path of the file, in UTF-8; empty lines at the end are ignored.

    Returns:
      The names.

    Raises:
      CocoError: if the file is invalid; the message names the first bad line.
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
