"""Semantic labels: the class of every pixel of an image, from one of three sources.

COCO-stuff maps and panoptic annotations are read from files of their own; labels of the things
alone can be drawn from the instances' masks. Every source gives uint8 classes 0..C-1 at the
image's stored size, with `IGNORE` where nothing is known.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt8

from segjax.data import rle as rle_lib
from segjax.data.coco import (
    Annotation,
    Category,
    CocoError,
    ImageRecord,
    is_id,
    load_json,
    merge_categories,
)
from segjax.data.config import Semantic
from segjax.data.images import IGNORE, ImageError, decode_map
from segjax.data.layout import SEMANTIC_WAYS
from segjax.data.store import ImageStore, StoreError
from segjax.data.stuff_names import STUFF_NAMES

# Of the labels that are built: datasets with labels are built anew when it changes.
LABELS_VERSION = "1"
# What "instances" calls the pixels that belong to no object.
OTHER = "other"


class MapError(CocoError):
    """A label map that cannot be used."""


class MissingMapError(MapError):
    """An image without label map."""


@dataclasses.dataclass(frozen=True)
class Maps:
    """Where the label maps of a split are read from.

    Attributes:
      store: of the PNGs.
      annotations: the panoptic json; None for maps that need none.
    """

    store: ImageStore
    annotations: Path | None = None


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
      names: of the classes, by label.
      sources: by split.
    """

    names: tuple[str, ...]
    sources: Mapping[str, LabelSource]


def open_labels(
    semantic: Semantic, categories: Sequence[Category], maps: Mapping[str, Maps | None]
) -> Labels:
    """Opens a source of labels.

    Args:
      semantic: which, not "none".
      categories: of the instances, by class index.
      maps: of every split; None for "instances".

    Returns:
      Class names and a source for each split.

    Raises:
      CocoError: if a panoptic json cannot be used, or there are more classes than labels.
    """
    if semantic == "instances":
        names = (*(category.name for category in categories), OTHER)
        things = InstanceLabels({c.id: label for label, c in enumerate(categories)})
        labels = Labels(names, dict.fromkeys(maps, things))
    else:
        found = {split: files for split, files in maps.items() if files is not None}
        make = _open_stuff if semantic == "stuffthingmaps" else _open_panoptic
        labels = make(found)
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
        name = str(PurePosixPath(image.file_name).with_suffix(".png"))
        labels = _read_map(self._store, name, image, 1)
        wrong = labels[(labels >= len(STUFF_NAMES)) & (labels != IGNORE)]
        if wrong.size:
            raise MapError(
                f"image {image.id}: {self._store.where(name)} holds the value {wrong[0]}: wanted "
                f"0..{len(STUFF_NAMES) - 1}, COCO's category id less one, or {IGNORE} for unlabeled"
            )
        return labels


class PanopticEntry(NamedTuple):
    """What a panoptic json says about an image, not yet compared with anything.

    Attributes:
      file_name: of the PNG.
      ids: of the segments, in ascending order.
      category_ids: of the same segments.
    """

    file_name: Any
    ids: Int64[np.ndarray, " n"]
    category_ids: Int64[np.ndarray, " n"]


class PanopticLabels:
    """COCO's panoptic annotation (1801.00868): a PNG of segment ids and a json of their classes.

    Crowd segments count as their class; pixels of no segment are `IGNORE`.

    Args:
      maps: the json and the PNGs.
      entries: of the json, by image id.
      labels: by category id.
    """

    def __init__(
        self, maps: Maps, entries: Mapping[int, PanopticEntry], labels: Mapping[int, int]
    ) -> None:
        self._maps, self._entries, self._labels = maps, entries, labels

    def read(self, image: ImageRecord) -> UInt8[np.ndarray, "h w"]:
        """Returns the labels of an image.

        Raises:
          MapError: if the map or its entry is missing, the map is damaged or of another size, or
            map, segments and categories do not fit together.
        """
        entry = self._entries.get(image.id)
        if entry is None:
            raise MissingMapError(
                f"image {image.id} ({image.file_name}) has no entry in {self._maps.annotations}: "
                f"{SEMANTIC_WAYS}"
            )
        unknown = [i for i in entry.category_ids.tolist() if i not in self._labels]
        if unknown:
            raise MapError(
                f"image {image.id}: a segment in {self._maps.annotations} is of the category "
                f"{unknown[0]}, which is not in its list of categories"
            )
        colours = _read_map(self._maps.store, entry.file_name, image, 3).astype(np.int64)
        ids = colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]
        # Void goes first, as the smallest id.
        known = np.concatenate([np.zeros(1, np.int64), entry.ids])
        classes = [IGNORE, *(self._labels[i] for i in entry.category_ids.tolist())]
        place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        lost = ids[known[place] != ids]
        if lost.size:
            raise MapError(
                f"image {image.id}: {self._maps.store.where(entry.file_name)} holds the id "
                f"{lost[0]}, which is no segment of it in {self._maps.annotations}"
            )
        return np.array(classes, np.uint8)[place]


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
        for annotation in image.annotations:
            if annotation.counts:
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


def read_panoptic(path: Path) -> tuple[list[Category], dict[int, PanopticEntry]]:
    """Reads a `panoptic_*.json`.

    Args:
      path: the file.

    Returns:
      Its categories in the order of their ids, and its entries by image id.

    Raises:
      CocoError: if it is no such file; the text names the first entry that is wrong.
    """
    content = load_json(path, "panoptic")
    names: dict[int, str] = {}
    for category in content["categories"]:
        number: Any = category.get("id") if isinstance(category, dict) else None
        if not is_id(number) or not isinstance(category.get("name"), str) or number in names:
            raise CocoError(
                f"{path}: wanted categories with a name and an id of their own, found "
                f"{category!r:.80}"
            )
        names[number] = category["name"]
    entries: dict[int, PanopticEntry] = {}
    for annotation in content["annotations"]:
        number = annotation.get("image_id") if isinstance(annotation, dict) else None
        if not is_id(number) or number in entries:
            raise CocoError(
                f"{path}: wanted one annotation an image, with its image_id, found "
                f"{annotation!r:.80}"
            )
        entries[number] = _entry(annotation, f"{path}: image {number}")
    return [Category(i, names[i]) for i in sorted(names)], entries


def _entry(annotation: dict[str, Any], where: str) -> PanopticEntry:
    segments: Any = annotation.get("segments_info")
    if not isinstance(segments, list):
        raise CocoError(f"{where} has no list segments_info: is it COCO's panoptic format?")
    pairs: dict[int, int] = {}
    for segment in segments:
        number: Any = segment.get("id") if isinstance(segment, dict) else None
        if not is_id(number) or not 0 < number < 1 << 24 or number in pairs:
            raise CocoError(
                f"{where}: wanted segments with an id of their own in 1..{(1 << 24) - 1}, found "
                f"{segment!r:.80}"
            )
        if not is_id(segment.get("category_id")):
            raise CocoError(f"{where}: segment {number} has no category_id")
        pairs[number] = segment["category_id"]
    ids = sorted(pairs)
    return PanopticEntry(
        annotation.get("file_name"),
        np.array(ids, np.int64),
        np.array([pairs[i] for i in ids], np.int64),
    )


def _open_stuff(maps: Mapping[str, Maps]) -> Labels:
    return Labels(STUFF_NAMES, {split: StuffThingMaps(m.store) for split, m in maps.items()})


def _open_panoptic(maps: Mapping[str, Maps]) -> Labels:
    read = {}
    for split, files in maps.items():
        assert files.annotations is not None
        read[split] = read_panoptic(files.annotations)
    categories = merge_categories([found for found, _ in read.values()])
    labels = {category.id: label for label, category in enumerate(categories)}
    sources = {
        split: PanopticLabels(maps[split], entries, labels) for split, (_, entries) in read.items()
    }
    return Labels(tuple(category.name for category in categories), sources)


def _read_map(
    store: ImageStore, name: Any, image: ImageRecord, channels: int
) -> UInt8[np.ndarray, "h w *channels"]:
    """Reads a PNG of an image's size, under a name that nobody has checked yet."""
    problem = store.problem(name)
    if problem == "missing_file":
        raise MissingMapError(
            f"image {image.id} ({image.file_name}) has no label map at {store.where(name)}: "
            f"{SEMANTIC_WAYS}"
        )
    if problem:
        raise MapError(f"image {image.id}: its label map has the name {name!r:.80}: {problem}")
    try:
        return decode_map(store.read(name), image.height, image.width, channels)
    except (ImageError, StoreError) as error:
        raise MapError(f"image {image.id}: its label map {store.where(name)} {error}") from error


def _blank(labels: UInt8[np.ndarray, "h w"], annotation: Annotation) -> None:
    """Sets the pixels that a box touches to `IGNORE`."""
    x, y, width, height = annotation.bbox
    x0, y0 = max(int(np.floor(x)), 0), max(int(np.floor(y)), 0)
    x1, y1 = max(int(np.ceil(x + width)), 0), max(int(np.ceil(y + height)), 0)
    labels[y0:y1, x0:x1] = IGNORE
