"""COCO panoptic annotations (1801.00868): PNGs of segment ids, and a json with their classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from segjax.data.coco import (
    Category,
    CocoError,
    ImageRecord,
    is_id,
    load_json,
    merge_categories,
)
from segjax.data.images import IGNORE
from segjax.data.labels.base import (
    LabelArchive,
    LabelFiles,
    LabelNumbers,
    Labels,
    MapError,
    MissingMapError,
    find_first,
    read_map,
    ways,
)
from segjax.data.segments import PanopticCategory, Segment, ids_of
from segjax.data.store import FolderStore, ZipStore, extract

_NAMES = ("panoptic_{}", "panoptic_{}2017")


class PanopticEntry(NamedTuple):
    """Entry of one image in a panoptic json, not yet checked against the PNG or the categories.

    Attributes:
      file_name: name of the PNG; unchecked, so of any type.
      ids: ids of the segments, in the order of the json.
      category_ids: category ids of the segments.
      is_crowd: True for segments that are crowds.
    """

    file_name: Any
    ids: Int64[np.ndarray, " n"]
    category_ids: Int64[np.ndarray, " n"]
    is_crowd: Bool[np.ndarray, " n"]


class PanopticLabels:
    """The label source "panoptic": the things and stuff of a panoptic json."""

    title = "from COCO's panoptic annotation"
    hint = (
        "reads annotations/panoptic_train2017.json and the PNGs in panoptic_train2017/ or "
        "annotations/panoptic_train2017/, below root or semantic_root"
    )
    has_files = True
    needs_objects = True
    knows_things = True
    has_segments = True

    def find(self, base: Path, split: str, *, apart: bool) -> LabelFiles:
        """Finds the json and the folder of a split; raises `CocoError` if one is missing."""
        below = [f"{place}{name}" for place in ("annotations/", "") for name in _NAMES]
        json = find_first(base, [f"{name}.json" for name in below], split, Path.is_file)
        folder = find_first(base, (*below[2:], *below[:2]), split, Path.is_dir)
        return LabelFiles(FolderStore(folder), json)

    def archive(self, base_url: str) -> LabelArchive:
        """Returns COCO's archive, which contains a nested archive of PNGs for each split."""
        return LabelArchive(
            f"{base_url}/annotations/panoptic_annotations_trainval2017.zip", _unpack
        )

    def open(
        self,
        categories: Sequence[Category],
        files: Mapping[str, LabelFiles],
        splits: Sequence[str],
        numbers: LabelNumbers,
    ) -> Labels:
        """Reads the json of each split; only `files` is used."""
        read = {}
        for split, found in files.items():
            assert found.annotations is not None
            read[split] = read_panoptic(found.annotations)
        joined = join_categories([listed for listed, _ in read.values()])
        return Labels(
            names=tuple(category.name for category in joined),
            readers={
                split: PanopticReader(files[split], entries, joined)
                for split, (_, entries) in read.items()
            },
            is_thing=tuple(category.is_thing for category in joined),
            categories=joined,
        )


class PanopticReader:
    """Reads the labels and segments of a split.

    Crowd segments get the label of their class. Pixels outside all segments are `IGNORE`.

    Args:
      files: json and PNGs of the split.
      entries: entries of the json, by image id.
      categories: categories; their positions in this sequence are the labels.
    """

    def __init__(
        self,
        files: LabelFiles,
        entries: Mapping[int, PanopticEntry],
        categories: Sequence[PanopticCategory],
    ) -> None:
        self._files, self._entries = files, entries
        self._labels = {category.id: label for label, category in enumerate(categories)}

    def read(self, image: ImageRecord) -> UInt8[np.ndarray, "h w"]:
        """Returns the labels of an image.

        Raises:
          MapError: if the map or its entry is missing, the map is damaged or differs in size, or
            map, segments and categories are inconsistent.
        """
        entry = self._entries.get(image.id)
        if entry is None:
            raise MissingMapError(
                f"image {image.id} ({image.file_name}) has no entry in {self._files.annotations}: "
                f"{ways()}"
            )
        unknown = [i for i in entry.category_ids.tolist() if i not in self._labels]
        if unknown:
            raise MapError(
                f"image {image.id}: a segment in {self._files.annotations} is of the category "
                f"{unknown[0]}, which is not in its list of categories"
            )
        ids = ids_of(read_map(self._files.store, entry.file_name, image, 3)).astype(np.int64)
        order = np.argsort(entry.ids)
        # `searchsorted` needs sorted ids. Void comes first, because its id 0 is the smallest.
        known = np.concatenate([np.zeros(1, np.int64), entry.ids[order]])
        classes = [IGNORE, *(self._labels[i] for i in entry.category_ids[order].tolist())]
        # Ids above all known ones would index past the end.
        place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        lost = ids[known[place] != ids]
        if lost.size:
            raise MapError(
                f"image {image.id}: {self._files.store.where(entry.file_name)} holds the id "
                f"{lost[0]}, which is no segment of it in {self._files.annotations}"
            )
        return np.array(classes, np.uint8)[place]

    def segments(self, image: ImageRecord) -> tuple[bytes, tuple[Segment, ...]]:
        """Returns the PNG and the segments of an image that `read` has accepted.

        Segments keep the order of the json: evaluation uses the last of several crowds of a class.
        """
        entry = self._entries[image.id]
        columns = (entry.ids.tolist(), entry.category_ids.tolist(), entry.is_crowd.tolist())
        segments = tuple(Segment(*row) for row in zip(*columns, strict=True))
        return self._files.store.read(entry.file_name), segments


def read_panoptic(path: Path) -> tuple[list[PanopticCategory], dict[int, PanopticEntry]]:
    """Reads a `panoptic_*.json`.

    Args:
      path: path of the file.

    Returns:
      The categories ordered by id, and the entries by image id.

    Raises:
      CocoError: if the file is invalid; the message names the first bad entry.
    """
    content = load_json(path, "panoptic")
    categories: dict[int, PanopticCategory] = {}
    for category in content["categories"]:
        number: Any = category.get("id") if isinstance(category, dict) else None
        if not is_id(number) or not isinstance(category.get("name"), str) or number in categories:
            raise CocoError(
                f"{path}: wanted categories with a name and an id of their own, found "
                f"{category!r:.80}"
            )
        if category.get("isthing") not in (0, 1):
            raise CocoError(
                f"{path}: category {number} has isthing {category.get('isthing')!r:.40}: wanted 1 "
                "for things, 0 for stuff"
            )
        categories[number] = PanopticCategory(number, category["name"], bool(category["isthing"]))
    entries: dict[int, PanopticEntry] = {}
    for annotation in content["annotations"]:
        number = annotation.get("image_id") if isinstance(annotation, dict) else None
        if not is_id(number) or number in entries:
            raise CocoError(
                f"{path}: wanted one annotation an image, with its image_id, found "
                f"{annotation!r:.80}"
            )
        entries[number] = _entry(annotation, f"{path}: image {number}")
    return [categories[number] for number in sorted(categories)], entries


def join_categories(lists: Sequence[Sequence[PanopticCategory]]) -> tuple[PanopticCategory, ...]:
    """Merges the categories of all splits, like `segjax.data.coco.merge_categories`.

    Args:
      lists: categories of each split.

    Returns:
      All categories, ordered by id.

    Raises:
      CocoError: if an id has two names, or is a thing in one split and stuff in another.
    """
    merge_categories([[Category(c.id, c.name) for c in found] for found in lists])
    united: dict[int, PanopticCategory] = {}
    for category in (category for found in lists for category in found):
        if united.setdefault(category.id, category) != category:
            raise CocoError(
                f'category {category.id} ("{category.name}") is a thing in one split and stuff in '
                "another: give the splits the same categories"
            )
    return tuple(united[number] for number in sorted(united))


def _entry(annotation: dict[str, Any], where: str) -> PanopticEntry:
    segments: Any = annotation.get("segments_info")
    if not isinstance(segments, list):
        raise CocoError(f"{where} has no list segments_info: is it COCO's panoptic format?")
    found: dict[int, tuple[int, bool]] = {}
    for segment in segments:
        number: Any = segment.get("id") if isinstance(segment, dict) else None
        if not is_id(number) or not 0 < number < 1 << 24 or number in found:
            raise CocoError(
                f"{where}: wanted segments with an id of their own in 1..{(1 << 24) - 1}, found "
                f"{segment!r:.80}"
            )
        if not is_id(segment.get("category_id")):
            raise CocoError(f"{where}: segment {number} has no category_id")
        if segment.get("iscrowd", 0) not in (0, 1):
            raise CocoError(
                f"{where}: segment {number} has iscrowd {segment['iscrowd']!r:.40}: wanted 0 or 1"
            )
        found[number] = segment["category_id"], bool(segment.get("iscrowd", 0))
    return PanopticEntry(
        annotation.get("file_name"),
        np.array(list(found), np.int64),
        np.array([category for category, _ in found.values()], np.int64),
        np.array([crowd for _, crowd in found.values()], bool),
    )


def _unpack(archive: Path, folder: Path, split: str) -> LabelFiles:
    """Extracts the json and the nested archive of PNGs of a split; the PNGs stay zipped."""
    name = f"panoptic_{split}2017"
    for ending in ("json", "zip"):
        extract(archive, f"annotations/{name}.{ending}", folder / f"{name}.{ending}")
    return LabelFiles(ZipStore(folder / f"{name}.zip", name), folder / f"{name}.json")
