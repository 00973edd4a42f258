"""Semantic labels: the class of every pixel of an image, from one of four sources.

COCO-stuff maps, panoptic annotations and plain label PNGs are read from files of their own; labels
of the things alone can be drawn from the instances' masks. Every source gives uint8 classes 0..C-1
at the image's stored size, with `IGNORE` where nothing is known.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from segjax.data import rle as rle_lib
from segjax.data.coco import Annotation, Category, CocoError, ImageRecord
from segjax.data.config import Semantic
from segjax.data.images import IGNORE
from segjax.data.layout import CLASSES_FILE
from segjax.data.maps import MapError, Maps, read_map
from segjax.data.panoptic import PanopticLabels, merge_panoptic, read_panoptic
from segjax.data.segments import PanopticCategory
from segjax.data.store import ImageStore
from segjax.data.stuff_names import NUM_STUFF_MAP_THINGS, STUFF_NAMES

# Of the labels that are built: datasets with labels are built anew when it changes.
LABELS_VERSION = "3"
# What "instances" calls the pixels that belong to no object.
OTHER = "other"


@runtime_checkable
class LabelSource(Protocol):
    """Gives the semantic labels of images."""

    def read(self, image: ImageRecord) -> UInt8[np.ndarray, "h w"]:
        """Returns the labels of an image at its stored size; raises `MapError`."""
        ...


@dataclasses.dataclass(frozen=True)
class Labels:
    """The semantic labels of a dataset.

    Attributes:
      names: of the classes, by label; empty where only reading all labels tells how many.
      sources: by split.
      is_thing: of the classes, by label; empty where the source does not know.
      categories: of panoptic segments; empty for other sources.
    """

    names: tuple[str, ...]
    sources: Mapping[str, LabelSource]
    is_thing: tuple[bool, ...] = ()
    categories: tuple[PanopticCategory, ...] = ()

    def all_names(self) -> tuple[str, ...]:
        """Returns the names, once all labels have been read."""
        found = [s.largest for s in self.sources.values() if isinstance(s, FolderLabels)]
        return self.names or tuple(str(label) for label in range(1 + max(found, default=-1)))


def open_labels(
    semantic: Semantic,
    categories: Sequence[Category],
    maps: Mapping[str, Maps | None],
    ignore: int = IGNORE,
) -> Labels:
    """Opens a source of labels.

    Args:
      semantic: which, not "none".
      categories: of the instances, by class index.
      maps: of every split; None for "instances".
      ignore: the value of "folder"'s PNGs that counts for nothing, beside `IGNORE`.

    Returns:
      Class names and a source for each split.

    Raises:
      CocoError: if a panoptic json or a file of class names cannot be used, or there are more
        classes than labels.
    """
    found = {split: files for split, files in maps.items() if files is not None}
    if semantic == "instances":
        labels = _open_instances(categories, tuple(maps))
    elif semantic == "folder":
        labels = _open_folder(found, ignore)
    else:
        labels = (_open_stuff if semantic == "stuffthingmaps" else _open_panoptic)(found)
    if len(labels.names) > IGNORE:
        raise CocoError(
            f'semantic="{semantic}" gives {len(labels.names)} classes, but labels are 8 bits and '
            f"{IGNORE} marks what counts for nothing: wanted at most {IGNORE}"
        )
    return labels


class StuffThingMaps:
    """COCO-stuff's PNGs (1612.03716): the numbers are COCO's category ids less one.

    Args:
      store: with a PNG of each image's name.
    """

    def __init__(self, store: ImageStore) -> None:
        self._store = store

    def read(self, image: ImageRecord) -> UInt8[np.ndarray, "h w"]:
        """Returns the labels of an image.

        Raises:
          MapError: if the map is missing, damaged, of another size or holds an unknown number.
        """
        name = png_name(image)
        labels = read_map(self._store, name, image, 1)
        wrong = labels[(labels >= len(STUFF_NAMES)) & (labels != IGNORE)]
        if wrong.size:
            raise MapError(
                f"image {image.id}: {self._store.where(name)} holds the value {wrong[0]}: wanted "
                f"0..{len(STUFF_NAMES) - 1}, COCO's category id less one, or {IGNORE} for unlabeled"
            )
        return labels


class FolderLabels:
    """Plain PNGs named as the images, whose numbers are the labels.

    Attributes:
      largest: label that has been read; -1 before any.

    Args:
      store: with a PNG of each image's name.
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
                f"0..{self._classes - 1}, the lines of {CLASSES_FILE}, or {values} for what counts "
                "for nothing (semantic_ignore is another number for that)"
            )
        self.largest = max(self.largest, largest)
        return labels


class InstanceLabels:
    """Labels of the things alone, drawn from the instances' masks; crowds are drawn too.

    Where objects overlap the one of the smaller area wins, and of equal ones the later in the
    file. Pixels of no object are one more class. What an object without mask covers is not known:
    its box is `IGNORE`, but for the masks of others.

    Args:
      labels: by category id.
    """

    def __init__(self, labels: Mapping[int, int]) -> None:
        self._labels = labels

    def read(self, image: ImageRecord) -> UInt8[np.ndarray, "h w"]:
        """Returns the labels of an image."""
        labels = np.full((image.height, image.width), len(self._labels), np.uint8)
        masks = []
        without = ("", rle_lib.empty_counts(image.height, image.width))
        for annotation in image.annotations:
            if annotation.counts not in without:
                rle: rle_lib.Rle = {
                    "size": [image.height, image.width],
                    "counts": annotation.counts,
                }
                masks.append((rle_lib.decode(rle).astype(bool), annotation.category_id))
            else:
                _blank(labels, annotation)
        for mask, category_id in sorted(masks, key=lambda entry: -int(entry[0].sum())):
            labels[mask] = self._labels[category_id]
        return labels


def png_name(image: ImageRecord) -> str:
    """Returns the name of an image's label map: that of the image, ending in .png."""
    return str(PurePosixPath(image.file_name).with_suffix(".png"))


def read_classes(path: Path) -> tuple[str, ...]:
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


def _open_instances(categories: Sequence[Category], splits: tuple[str, ...]) -> Labels:
    source = InstanceLabels({c.id: label for label, c in enumerate(categories)})
    names = (*(category.name for category in categories), OTHER)
    return Labels(names, dict.fromkeys(splits, source), (*(True for _ in categories), False))


def _open_stuff(maps: Mapping[str, Maps]) -> Labels:
    sources = {split: StuffThingMaps(files.store) for split, files in maps.items()}
    is_thing = tuple(label < NUM_STUFF_MAP_THINGS for label in range(len(STUFF_NAMES)))
    return Labels(STUFF_NAMES, sources, is_thing)


def _open_panoptic(maps: Mapping[str, Maps]) -> Labels:
    read = {}
    for split, files in maps.items():
        assert files.annotations is not None
        read[split] = read_panoptic(files.annotations)
    categories = merge_panoptic([found for found, _ in read.values()])
    sources = {
        split: PanopticLabels(maps[split], entries, categories)
        for split, (_, entries) in read.items()
    }
    return Labels(
        names=tuple(category.name for category in categories),
        sources=sources,
        is_thing=tuple(category.is_thing for category in categories),
        categories=categories,
    )


def _open_folder(maps: Mapping[str, Maps], ignore: int) -> Labels:
    paths = [files.classes for files in maps.values()]
    found = {None if path is None else read_classes(path) for path in paths}
    if len(found) > 1:
        raise CocoError(f"the splits have different classes: {paths}")
    (names,) = found
    count = None if names is None else len(names)
    sources = {split: FolderLabels(files.store, count, ignore) for split, files in maps.items()}
    return Labels(names or (), sources)


def _blank(labels: UInt8[np.ndarray, "h w"], annotation: Annotation) -> None:
    """Sets the pixels that a box touches to `IGNORE`."""
    x, y, width, height = annotation.bbox
    x0, y0 = max(int(np.floor(x)), 0), max(int(np.floor(y)), 0)
    x1, y1 = max(int(np.ceil(x + width)), 0), max(int(np.ceil(y + height)), 0)
    labels[y0:y1, x0:x1] = IGNORE
