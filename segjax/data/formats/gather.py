"""Conversion of other formats to COCO's form, whose checks then apply to them as well.

A format finds the files of each split (`Part`) and reads them into a `Gathered`. `gathered_splits`
does the rest: the classes get one numbering over all splits, and `read_content` checks every name,
size, mask and box.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from segjax.data import rle
from segjax.data.coco import Category, CocoDataset, read_content
from segjax.data.config import DataConfig
from segjax.data.hashing import hash_splits
from segjax.data.images import MAX_IMAGE_PIXELS, ImageError, read_size
from segjax.data.polygons import area_of, box_of
from segjax.data.problems import Problems
from segjax.data.protocols import Split
from segjax.data.store import FolderStore, ImageStore, StoreError


@dataclasses.dataclass(frozen=True)
class Access:
    """Rules for reading images.

    Attributes:
      follow_links: read images through links that point outside their folder.
      max_pixels: largest accepted image, height x width.
      upright: apply the EXIF orientation of images.
    """

    follow_links: bool = False
    max_pixels: int = MAX_IMAGE_PIXELS
    upright: bool = False

    @classmethod
    def of(cls, config: DataConfig) -> "Access":
        """Takes the rules from a config."""
        return cls(config.follow_links, config.max_image_pixels, config.exif == "upright")

    def folder(self, path: Path) -> FolderStore:
        """Opens a folder of images."""
        return FolderStore(path, follow_links=self.follow_links)


@dataclasses.dataclass(frozen=True)
class Part:
    """Files of one split.

    Attributes:
      images: folder that image names are relative to.
      files: annotation files.
      names: images or annotations that belong to the split; None for all.
      folder: folder of label images or files; None where the format has none.
      base: folder that `names` are relative to; None for that of the images.
    """

    images: FolderStore
    files: tuple[Path, ...] = ()
    names: tuple[str, ...] | None = None
    folder: Path | None = None
    base: Path | None = None

    @property
    def place(self) -> str:
        """Path of the annotations, for messages."""
        return str(self.files[0] if len(self.files) == 1 else self.folder or self.images.root)


@runtime_checkable
class SplitFiles(Protocol):
    """Members of a `Part` that every format's parts have.

    Attributes:
      images: store of the images.
      files: annotation files.
      place: path of the annotations, for messages.
    """

    @property
    def images(self) -> ImageStore:
        """Store of the images."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """Annotation files."""
        ...

    @property
    def place(self) -> str:
        """Path of the annotations, for messages."""
        ...


P = TypeVar("P", bound=SplitFiles)


class Gathered:
    """Images and objects of one split, collected by the reader of a format.

    Attributes:
      problems: defects that the reader found.
    """

    def __init__(self, store: ImageStore, access: Access) -> None:
        self.problems = Problems()
        self._store, self._access = store, access
        self._images: list[dict[str, Any]] = []
        self._objects: list[dict[str, Any]] = []
        self._sizes: dict[int, tuple[int, int] | None] = {}
        self._classes: dict[str, None] = {}

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order in which they were declared or first used."""
        return tuple(self._classes)

    @property
    def counts(self) -> tuple[int, int]:
        """Number of images and of objects so far."""
        return len(self._images), len(self._objects)

    def declare(self, names: Sequence[str]) -> None:
        """Adds classes that may have no objects."""
        self._classes.update(dict.fromkeys(names))

    def add_image(self, name: str, size: tuple[int, int] | None = None) -> int:
        """Adds an image.

        Args:
          name: path relative to the store's folder; it is checked later.
          size: (height, width) according to the annotations; None to read it from the file.

        Returns:
          Its id.
        """
        number = len(self._images) + 1
        size = self._size_of_file(name) if size is None else size
        entry: dict[str, Any] = {"id": number, "file_name": name}
        if size is not None:
            entry |= {"height": size[0], "width": size[1]}
        self._images.append(entry)
        self._sizes[number] = size
        return number

    def size_of(self, image: int) -> tuple[int, int] | None:
        """Returns (height, width) of an image; None if its file cannot be read."""
        return self._sizes[image]

    def add_object(
        self,
        image: int,
        label: str,
        *,
        polygons: Sequence[Sequence[float]] = (),
        masks: Sequence[rle.Rle] = (),
        box: tuple[float, float, float, float] | None = None,
        crowd: bool = False,
        where: str = "",
    ) -> None:
        """Adds an object. Its mask is the union of the polygons and masks.

        Args:
          image: id of the image.
          label: class: its name, unless the format has `categories`.
          polygons: each `[x0, y0, x1, y1, ...]` in pixels.
          masks: masks over the whole image.
          box: `(x, y, width, height)` in pixels; used for objects without polygons and masks.
          crowd: True for a region of many objects.
          where: place of the object for messages.
        """
        self._classes.setdefault(label)
        size = self._sizes[image]
        if size is None:
            return  # `read_content` reports the image
        try:
            extent = _extent(polygons, masks, box, size)
        except rle.RleError as error:
            self.problems.add("bad_segmentation", f"{where}: {error}")
            return
        fields = {"image_id": image, "label": label, "iscrowd": int(crowd)}
        self._objects.append({"id": len(self._objects) + 1, **fields, **extent})

    def content(self, categories: Mapping[str, Category]) -> dict[str, Any]:
        """Returns images, objects and categories in COCO's form.

        Args:
          categories: by the labels of objects.
        """
        objects = [
            {**entry, "category_id": categories[entry["label"]].id} for entry in self._objects
        ]
        listed = [{"id": category.id, "name": category.name} for category in categories.values()]
        return {"images": self._images, "annotations": objects, "categories": listed}

    def _size_of_file(self, name: str) -> tuple[int, int] | None:
        if self._store.problem(name) is not None:
            return None
        try:
            return read_size(self._store.read(name), self._access.max_pixels, self._access.upright)
        except (ImageError, StoreError):
            return None


def gathered_splits(
    parts: Mapping[str, P],
    read: Callable[[P, Gathered], None],
    access: Access,
    note: str,
    *,
    declared: bool = False,
    categories: Mapping[str, Category] | None = None,
) -> dict[str, Split]:
    """Creates the splits of a format; their files are read when the first split is loaded.

    Args:
      parts: files by split.
      read: reads the files of one split.
      access: rules for reading images.
      note: short description of the format, such as "annotations.xml: CVAT for images".
      declared: True if the reader declares the classes in order; otherwise they are sorted by name.
      categories: by the labels of objects; None to number the labels from 1.

    Returns:
      The splits by name.
    """

    @functools.cache
    def opened() -> tuple[dict[str, Gathered], Mapping[str, Category]]:
        found: dict[str, Gathered] = {}
        for name, part in parts.items():
            found[name] = Gathered(part.images, access)
            read(part, found[name])
            if not found[name].counts[0]:
                found[name].problems.add("no_images", f"no annotated image in {part.place}")
        if categories is not None:
            return found, categories
        labels = dict.fromkeys(label for one in found.values() for label in one.classes)
        names = labels if declared else sorted(labels, key=_by_number_or_name)
        return found, {name: Category(number, name) for number, name in enumerate(names, 1)}

    def load(name: str, on_problem: str = "raise") -> CocoDataset:
        found, known = opened()
        return read_content(
            found[name].content(known),
            parts[name].place,
            parts[name].images,
            on_problem=on_problem,
            max_pixels=access.max_pixels,
            upright=access.upright,
            problems=found[name].problems.copy(),
        )

    return {
        name: Split(part.images, functools.partial(load, name), None, part.files, note)
        for name, part in parts.items()
    }


def _by_number_or_name(label: str) -> tuple[bool, int, str]:
    return (False, int(label), label) if label.isdecimal() else (True, 0, label)


def hash_parts(splits: Mapping[str, Split], parts: Mapping[str, Part]) -> str:
    """Hashes splits like `hash_splits`, and the files in their parts' folders like images."""
    folders = sorted({part.folder for part in parts.values() if part.folder is not None})
    more = {str(folder): Split(FolderStore(folder), _no_load) for folder in folders}
    return hash_splits({**splits, **more})


def _no_load(on_problem: str = "raise") -> CocoDataset:
    raise AssertionError("only the listing of this folder is used")


def _extent(
    polygons: Sequence[Sequence[float]],
    masks: Sequence[rle.Rle],
    box: tuple[float, float, float, float] | None,
    size: tuple[int, int],
) -> dict[str, Any]:
    """Segmentation, box and area of an object, as COCO has them."""
    numbers = [list(map(float, polygon)) for polygon in polygons if polygon]
    if masks:
        outlined = [rle.from_polygons(polygons, *size)] if polygons else []
        mask = rle.union([*masks, *outlined])
    else:
        mask = _outlined(numbers, size)
    if mask is not None:  # the box is the mask's, since these formats have no other
        area, (x0, y0, x1, y1) = rle.measure(mask)
        return {"segmentation": mask, "bbox": [x0, y0, x1 - x0, y1 - y0], "area": area}
    if numbers:
        box = box_of([number for polygon in numbers for number in polygon])
        area = sum(map(area_of, numbers))
        return {"segmentation": numbers, "bbox": list(box), "area": area}
    assert box is not None, "an object without polygons and masks needs a box"
    return {"segmentation": [], "bbox": list(box), "area": box[2] * box[3]}


def _outlined(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> rle.Rle | None:
    """Returns the mask of polygons; None if it is empty or they have defects, to be reported."""
    try:
        mask = rle.from_polygons(polygons, *size) if polygons else None
    except rle.RleError:
        return None
    return mask if mask is not None and rle.area(mask) else None
