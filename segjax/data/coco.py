"""Reads and validates COCO annotation files.

Defects that would corrupt training raise an error that names them. Harmless ones, which COCO itself
has, are counted. `segjax.data.check` lists both.
"""

import dataclasses
import itertools
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segjax.data import rle as rle_lib
from segjax.data.boxes import BoxCheck, is_far, is_number
from segjax.data.images import MAX_IMAGE_PIXELS, ImageError, read_size
from segjax.data.masks import read_mask
from segjax.data.problems import Problems
from segjax.data.store import FolderStore, ImageStore, StoreError

MAX_JSON_BYTES = 4 << 30


class CocoError(ValueError):
    """Raised for annotation files and image folders that cannot be used as they are."""


@dataclasses.dataclass(frozen=True)
class Category:
    """A class as in the annotation file; its class index is its rank when sorted by id."""

    id: int
    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Annotation:
    """One object.

    Attributes:
      id: id in the file.
      category_id: category id in the file.
      bbox: bounding box `(x, y, width, height)` in pixels, as in the file.
      area: area in pixels, as in the file.
      is_crowd: True for a region of many objects.
      counts: canonical compressed RLE of the mask over the whole image; "" without a segmentation.
        `rle.empty_counts` if the segmentation covers no pixel. Evaluation counts such an object,
        though nothing can match it, as does pycocotools.
    """

    id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float
    is_crowd: bool
    counts: str


@dataclasses.dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image and its objects, in the order of the file."""

    id: int
    file_name: str
    height: int
    width: int
    annotations: tuple[Annotation, ...]


@dataclasses.dataclass(frozen=True)
class CocoDataset:
    """A validated annotation file.

    Attributes:
      categories: categories ordered by id, which is the order of class indices.
      images: images ordered by id.
      problems: defects of the file.
      parents: names of the supercategories.
    """

    categories: tuple[Category, ...]
    images: tuple[ImageRecord, ...]
    problems: Problems
    parents: frozenset[str] = frozenset()


def load_coco(
    annotations_json: str | os.PathLike[str],
    images: str | os.PathLike[str] | ImageStore,
    *,
    on_problem: str = "raise",
    max_pixels: int = MAX_IMAGE_PIXELS,
    upright: bool = False,
) -> CocoDataset:
    """Reads and validates an `instances_*.json`.

    Args:
      annotations_json: path of the file.
      images: folder, or another store, of the images.
      on_problem: "raise" raises an error on defects that are not in `HARMLESS`; "collect" skips the
        defective entries and counts them.
      max_pixels: largest accepted image, height x width.
      upright: True if the annotations refer to images with their EXIF orientation applied.

    Returns:
      The dataset, with masks as compressed RLE.

    Raises:
      CocoError: if the file cannot be read, or has defects; the message lists these with counts and
        the first places they occur.
    """
    store = images if isinstance(images, ImageStore) else FolderStore(images)
    content = load_json(Path(annotations_json))
    return read_content(
        content,
        str(annotations_json),
        store,
        on_problem=on_problem,
        max_pixels=max_pixels,
        upright=upright,
    )


def read_content(
    content: dict[str, Any],
    where: str,
    store: ImageStore,
    *,
    on_problem: str = "raise",
    max_pixels: int = MAX_IMAGE_PIXELS,
    upright: bool = False,
    problems: Problems | None = None,
) -> CocoDataset:
    """Validates the contents of an annotation file; other formats convert theirs to this form.

    Args:
      content: JSON object with the lists "images", "annotations" and "categories", as in COCO.
      where: name of the file or folder for messages.
      store: store of the images.
      on_problem: action on defects, see `load_coco`.
      max_pixels: largest accepted image, height x width.
      upright: True if the annotations refer to images with their EXIF orientation applied.
      problems: defects found when the contents were converted; they are added to.

    Raises:
      CocoError: if there are defects; the message lists them with counts and the first places they
        occur.
    """
    reader = _Reader(store, max_pixels, upright, Problems() if problems is None else problems)
    dataset = reader.read(content)
    if on_problem == "raise" and dataset.problems.fatal():
        names = list(dataset.problems.fatal())
        raise CocoError(
            f"{where} cannot be used as it is:\n"
            + "\n".join(dataset.problems.lines(names))
            + "\nCorrect it; `segjax check-data` lists everything."
        )
    return dataset


def load_json(path: Path, kind: str = "instances") -> dict[str, Any]:
    """Reads an annotation file in one of COCO's formats.

    Args:
      path: path of the file.
      kind: "instances" or "panoptic".

    Returns:
      The JSON object, with the lists "annotations" and "categories" and, for instances, "images".
      Panoptic files do not have to list images: those of other tools often lack the list, and it is
      not needed to read them.

    Raises:
      CocoError: if the file is missing, too large, invalid JSON, or lacks a list.
    """
    content = parse_json(path)
    if not isinstance(content, dict):
        raise CocoError(f"{path} holds a {type(content).__name__}, wanted a JSON object")
    sections = ("annotations", "categories")
    for section in sections if kind == "panoptic" else ("images", *sections):
        if not isinstance(content.get(section), list):
            raise CocoError(f'{path} has no list "{section}": is it COCO\'s {kind} format?')
    return content


def parse_json(path: Path) -> Any:
    """Parses a JSON file in any UTF encoding; raises `CocoError` if it is missing or invalid."""
    if not path.is_file():
        raise CocoError(f"no annotation file at {path}")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise CocoError(f"{path} has more than {MAX_JSON_BYTES} bytes")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CocoError(f"{path} is not valid JSON: {error}") from None


class _Reader:
    """Collects records and problems, skipping entries with problems that are not harmless.

    Each cause is reported once: the objects of a rejected image are skipped without a report.
    """

    def __init__(
        self, store: ImageStore, max_pixels: int, upright: bool, problems: Problems
    ) -> None:
        self.store = store
        self.max_pixels, self.upright = max_pixels, upright
        self.problems = problems
        self.sizes: dict[int, tuple[int, int]] = {}
        self.categories: dict[int, str] = {}
        self.refused: set[int] = set()  # ids of images
        self.boxes = BoxCheck()

    def read(self, content: dict[str, Any]) -> CocoDataset:
        self._read_categories(content["categories"])
        names = self._read_images(content["images"])
        objects = self._read_annotations(content["annotations"])
        self.boxes.report(self.problems)
        for image_id in names:
            if image_id not in objects:
                self.problems.add("image_without_objects", f"image {image_id}")
        self._check_names(objects)
        records = tuple(
            ImageRecord(i, names[i], *self.sizes[i], tuple(objects.get(i, ())))
            for i in sorted(names)
        )
        categories = tuple(Category(i, self.categories[i]) for i in sorted(self.categories))
        parents = frozenset(
            str(entry["supercategory"])
            for entry in content["categories"]
            if isinstance(entry, dict) and entry.get("supercategory")
        )
        return CocoDataset(categories, records, self.problems, parents)

    def _read_categories(self, entries: list[Any]) -> None:
        for entry in entries:
            number: Any = entry.get("id") if isinstance(entry, dict) else None
            if not is_id(number) or not isinstance(entry.get("name"), str):
                self.problems.add("bad_category", _fields(entry, "id", "name"))
            elif number in self.categories:
                self.problems.add("duplicate_category_id", f"category {number}")
            else:
                self.categories[number] = entry["name"]
        if not self.categories:
            self.problems.add("no_categories", "the list is empty")
        elif max(self.categories) - min(self.categories) + 1 != len(self.categories):
            self.problems.add("category_gap", f"{min(self.categories)}..{max(self.categories)}")

    def _check_names(self, objects: dict[int, list[Annotation]]) -> None:
        """Reports names shared by several categories: splits and results are matched by name."""
        used = {a.category_id for found in objects.values() for a in found}
        for name, ids in _ids_by_name(self.categories).items():
            if len(ids) > 1:
                several = len(used.intersection(ids)) > 1
                kind = "duplicate_category_name" if several else "unused_duplicate_category"
                self.problems.add(kind, f'"{name}" is the name of {", ".join(map(str, ids))}')

    def _read_images(self, entries: list[Any]) -> dict[int, str]:
        names: dict[int, str] = {}
        seen: set[str] = set()
        for entry in entries:
            number: Any = entry.get("id") if isinstance(entry, dict) else None
            if not is_id(number):
                self.problems.add("bad_image_entry", _fields(entry, "id", "file_name"))
                continue
            if number in self.sizes or number in self.refused:
                self.problems.add("duplicate_image_id", f"image {number}")
                continue
            fault = self._image_fault(number, entry, seen)
            if fault is not None:
                self.problems.add(*fault)
                self.refused.add(number)
                continue
            names[number] = entry["file_name"]
            seen.add(names[number])
        return names

    def _image_fault(
        self, number: int, entry: dict[str, Any], seen: set[str]
    ) -> tuple[str, str] | None:
        """Returns what is wrong with an image's name or size; records the size if nothing is."""
        name: Any = entry.get("file_name")
        where = f"image {number} ({name!r:.300})"
        problem = self.store.problem(name)
        if problem:
            return problem.kind, f"{where}: the name {problem.reason}"
        if name in seen:
            return "duplicate_file_name", where
        size: Any = (entry.get("height"), entry.get("width"))
        if not all(type(side) is int and side > 0 for side in size):
            try:
                size = read_size(self.store.read(name), self.max_pixels, self.upright)
            except (ImageError, StoreError) as error:
                return "bad_image", f"{where} {error}"
            given = f"height {entry.get('height')!r:.40}, width {entry.get('width')!r:.40}"
            self.problems.add("size_from_file", f"{where}: {given}, the file is {size}")
        if math.prod(size) > self.max_pixels:
            return "image_too_large", (
                f"{where} has {math.prod(size) / 1e6:.1f} megapixels ({size[0]} x {size[1]}), the"
                f" limit is {self.max_pixels / 1e6:g}: cut it into tiles, or raise the limit with"
                f" --data.max-image-pixels={math.prod(size)}"
            )
        self.sizes[number] = size
        return None

    def _read_annotations(self, entries: list[Any]) -> dict[int, list[Annotation]]:
        objects: dict[int, list[Annotation]] = {}
        seen: set[int] = set()
        for entry in entries:
            number: Any = entry.get("id") if isinstance(entry, dict) else None
            if not is_id(number):
                self.problems.add("bad_annotation_entry", _fields(entry, "id", "image_id"))
            elif number in seen:
                self.problems.add("duplicate_annotation_id", f"annotation {number}")
            else:
                seen.add(number)
                annotation = self._annotation(number, entry)
                if annotation is not None:
                    objects.setdefault(entry["image_id"], []).append(annotation)
        return objects

    def _annotation(self, number: int, entry: dict[str, Any]) -> Annotation | None:
        """Validates one object; returns None after counting a defect that rules it out."""
        where = f"annotation {number}"
        crowd = entry.get("iscrowd", 0)
        if is_id(entry.get("image_id")) and entry["image_id"] in self.refused:
            return None
        if not self._known(entry, where):
            return None
        if crowd not in (0, 1):
            return self._refuse("bad_iscrowd", f"{where}: {crowd!r:.40}, wanted 0 or 1")
        size = self.sizes[entry["image_id"]]
        try:
            counts, outline, pixels = self._mask_facts(entry, *size, where)
        except rle_lib.RleError as error:
            return self._refuse("bad_segmentation", f"{where}: {error}")
        bbox = self._bbox(entry.get("bbox"), outline, *size, where)
        area = None if bbox is None else self._area(entry.get("area"), pixels, bbox, where)
        if bbox is None or area is None:
            return None
        self.boxes.add(entry, outline, size, where)
        if crowd:
            self.problems.add("crowd_object", where)
        return Annotation(number, entry["category_id"], bbox, area, bool(crowd), counts)

    def _known(self, entry: dict[str, Any], where: str) -> bool:
        """Returns True if the image and the category exist; counts a problem otherwise."""
        for key, known in (("image_id", self.sizes), ("category_id", self.categories)):
            if not is_id(entry.get(key)) or entry[key] not in known:
                self.problems.add(f"unknown_{key}", f"{where}: {key} {entry.get(key)!r:.40}")
                return False
        return True

    def _mask_facts(
        self, entry: dict[str, Any], height: int, width: int, where: str
    ) -> tuple[str, tuple[int, int, int, int] | None, int | None]:
        """Returns the counts, bounding box and area of a mask; the last two are None if empty."""
        counts, notes = read_mask(entry, height, width)
        for note in notes:
            self.problems.add(note, where)
        if not counts:
            return "", None, None
        mask: rle_lib.Rle = {"size": [height, width], "counts": counts}
        pixels, outline = rle_lib.measure(mask)
        if not pixels:
            self.problems.add("empty_mask", where)
            return counts, None, None
        return counts, outline, pixels

    def _refuse(self, name: str, where: str) -> None:
        self.problems.add(name, where)

    def _bbox(
        self,
        value: Any,
        outline: tuple[int, int, int, int] | None,
        height: int,
        width: int,
        where: str,
    ) -> tuple[float, float, float, float] | None:
        """Checks `(x, y, width, height)`, and compares it with the bounding box of the mask."""
        if value in (None, []) and outline is not None:
            self.problems.add("missing_bbox", where)
            x0, y0, x1, y1 = (float(side) for side in outline)
            return x0, y0, x1 - x0, y1 - y0
        if not isinstance(value, list) or len(value) != 4 or not all(map(is_number, value)):
            return self._refuse("bad_bbox", f"{where}: {value!r:.60}")
        x, y, w, h = (float(side) for side in value)
        if w < 0 or h < 0:
            return self._refuse("negative_bbox", f"{where}: {value}")
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            if w > 0 and h > 0:
                return self._refuse("bbox_off_image", f"{where}: {value}")
        elif x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1:
            self.problems.add("box_outside", f"{where}: {value}")
        if w == 0 or h == 0:
            self.problems.add("zero_size_box", where)
        if outline and is_far((x, y, w, h), outline):  # `self.boxes` reports it
            x0, y0, x1, y1 = (float(side) for side in outline)
            return x0, y0, x1 - x0, y1 - y0
        if outline and np.abs(np.subtract(outline, (x, y, x + w, y + h))).max() > 2:
            self.problems.add("bbox_mismatch", where)
        return x, y, w, h

    def _area(
        self, value: Any, pixels: int | None, bbox: tuple[float, float, float, float], where: str
    ) -> float | None:
        if value is None:
            self.problems.add("missing_area", where)
            return float(bbox[2] * bbox[3] if pixels is None else pixels)
        if not is_number(value) or value < 0:
            return self._refuse("bad_area", f"{where}: {value!r:.40}")
        # The area of a polygon differs from that of its raster by up to half its perimeter.
        slack = max(0.01 * value, 2 * (bbox[2] + bbox[3]))
        if pixels is not None and abs(pixels - value) > slack:
            self.problems.add("area_mismatch", f"{where}: {value} for {pixels} pixels")
        return float(value)


def is_id(value: Any) -> bool:
    """Returns True if a value from a JSON file can be an id: a 64-bit integer, not a bool."""
    return type(value) is int and -(1 << 63) <= value < 1 << 63


def _fields(entry: Any, *names: str) -> str:
    """Describes an invalid entry by the fields that should identify it."""
    if not isinstance(entry, dict):
        return f"{entry!r:.80}, wanted an object"
    given = ", ".join(f"{name} {entry.get(name)!r:.200}" for name in names)
    wanted = "wanted a whole number as id" + (" and a text as name" if "name" in names else "")
    return f"{given}: {wanted}"


def _ids_by_name(categories: dict[int, str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for number, name in sorted(categories.items()):
        found.setdefault(name, []).append(number)
    return found


def merge_categories(lists: Sequence[Sequence[Category]]) -> tuple[Category, ...]:
    """Merges the categories of all splits, so that a class index has one meaning in all of them.

    Args:
      lists: categories of each split.

    Returns:
      All categories, ordered by id.

    Raises:
      CocoError: if an id has two names.
    """
    names: dict[int, str] = {}
    for category in itertools.chain(*lists):
        known = names.setdefault(category.id, category.name)
        if known != category.name:
            raise CocoError(
                f'category {category.id} is "{known}" in one split and "{category.name}" in '
                "another: give the splits the same categories"
            )
    return tuple(Category(number, names[number]) for number in sorted(names))
