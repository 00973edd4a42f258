"""Instance PNGs: one PNG per image with object numbers as pixel values."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Int32

from segjax.data import rle
from segjax.data.coco import CocoError, parse_json
from segjax.data.config import DataConfig
from segjax.data.formats.coco_folder import image_names
from segjax.data.formats.gather import Access, Gathered, Part, gathered_splits, hash_parts
from segjax.data.formats.search import read_lines, without_ending
from segjax.data.id_maps import decode_ids, masks_of
from segjax.data.images import ImageError
from segjax.data.layout import ALIASES
from segjax.data.protocols import Split, Workspace
from segjax.data.store import FolderStore, StoreError

_IMAGES = ("images", "imgs", "JPEGImages")
_MASKS = ("masks", "instances", "instance_masks")
# Suffixes that a mask's name can have in addition to the image's.
_SUFFIXES = ("", "_mask", "_masks", "_instance", "_instances", "_instanceIds")


@dataclasses.dataclass(frozen=True)
class IdMasks:
    """The format "masks": `images/` and `masks/`, inside or around folders such as `train/`.

    Pixels with the same value other than 0 are one object. `NAME.json` next to the PNG, as
    `segjax predict --save masks` writes it, gives the classes: `{"1": {"class": "cat"}, ...}`. With
    a `classes.txt` instead, the class is line `value // 1000`, counted from 1. Without either, all
    objects have the class "object". Without folders of splits, everything is train.

    Attributes:
      root: the folder.
      access: rules for reading images.
    """

    root: str
    access: Access

    @classmethod
    def of(cls, config: DataConfig) -> "IdMasks":
        """Creates the source from a config; raises `ValueError` if `root` is not set."""
        if not config.root:
            raise ValueError('name="masks" needs root: the folder with images/ and masks/')
        return cls(config.root, Access.of(config))

    @classmethod
    def recognises(cls, root: Path) -> str | None:
        """Describes the files that identify a folder as this format; None if it is not."""
        for _, masks in _folders(root).values():
            if next(masks.rglob("*.png"), None) is not None:
                return f"{masks.name}/*.png: instance PNGs, one value for each object"
        return None

    def fingerprint(self) -> str:
        """Hashes images and masks by path, size, time and samples."""
        return hash_parts(self.splits(None), self._parts())

    def splits(self, workspace: Workspace | None) -> Mapping[str, Split]:
        """Opens the splits; raises `CocoError` if there are no images with masks."""
        note = self.recognises(Path(self.root).expanduser()) or "instance PNGs"
        return gathered_splits(self._parts(), _read, self.access, note)

    def _parts(self) -> dict[str, Part]:
        root = Path(self.root).expanduser().absolute()
        folders = _folders(root)
        if not folders:
            raise CocoError(f"no folders images/ and masks/ in {root}")
        files = tuple(path for path in (root / "classes.txt",) if path.is_file())
        return {
            split: Part(self.access.folder(images), files, folder=masks)
            for split, (images, masks) in folders.items()
        }


def _folders(root: Path) -> dict[str, tuple[Path, Path]]:
    """Finds the folders of images and masks by split."""
    found: dict[str, tuple[Path, Path]] = {}
    for split, names in ALIASES.items():
        for form in [form for name in names for form in (f"{{}}/{name}", f"{name}/{{}}")]:
            pair = _pair(root, form)
            if pair is not None:
                found.setdefault(split, pair)
    whole = _pair(root, "{}")
    return found if "train" in found or whole is None else {"train": whole}


def _pair(root: Path, form: str) -> tuple[Path, Path] | None:
    both = [[root / form.format(name) for name in names] for names in (_IMAGES, _MASKS)]
    images, masks = (next((path for path in paths if path.is_dir()), None) for paths in both)
    return None if images is None or masks is None else (images, masks)


def _read(part: Part, found: Gathered) -> None:
    assert part.folder is not None
    store = FolderStore(part.folder, follow_links=part.images.follow_links)
    classes = read_lines(part.files[0]) if part.files else []
    pngs = [name for name in image_names(store.root) if name.lower().endswith(".png")]
    masks = {without_ending(name): name for name in pngs}
    values: set[int] = set()
    for name in image_names(part.images.root):
        stems = (f"{without_ending(name)}{suffix}" for suffix in _SUFFIXES)
        mask = next((masks.pop(stem) for stem in stems if stem in masks), None)
        if mask is None:
            found.problems.add("image_not_annotated", name)
        else:
            values |= _read_mask(name, store, mask, classes, found)
    for mask in masks.values():
        found.problems.add("label_without_image", store.where(mask))
    if values == {255}:
        found.problems.add(
            "black_and_white_masks",
            f"all PNGs in {part.folder} hold 0 and 255 alone, which does not separate objects:"
            " wanted a number for each object; --data.semantic=folder reads classes of pixels",
        )


def _read_mask(
    name: str, store: FolderStore, mask: str, classes: Sequence[str], found: Gathered
) -> set[int]:
    """Adds an image and its objects; returns the values in its PNG."""
    where = store.where(mask)
    try:
        ids = decode_ids(store.read(mask))
        legend = _legend(PurePosixPath(mask).with_suffix(".json").as_posix(), store)
    except (ImageError, StoreError, CocoError) as error:
        found.problems.add("bad_mask", f"{where} {error}")
        return set()
    image = found.add_image(name, (ids.shape[0], ids.shape[1]))
    objects = dict(masks_of(ids))
    for value, pixels in objects.items():
        at = f"{where}, value {value}"
        try:
            label = _class_of(value, legend, classes)
        except ValueError as error:
            found.problems.add("object_without_class", f"{at}: {error}")
            continue
        found.add_object(image, label, masks=[pixels], where=at)
        if _in_parts(ids, value, pixels):
            found.problems.add("object_in_parts", at)
    return set(objects)


def _legend(name: str, store: FolderStore) -> Mapping[str, Any] | None:
    if store.problem(name) is not None:
        return None
    content = parse_json(store.root / name)
    if not isinstance(content, dict):
        raise CocoError(f'has a {name} that is not an object such as {{"1": {{"class": "cat"}}}}')
    return content


def _class_of(value: int, legend: Mapping[str, Any] | None, classes: Sequence[str]) -> str:
    """Returns the class of an object; raises `ValueError` if it has none."""
    if legend is not None:
        entry: Any = legend.get(str(value))
        label = entry.get("class") if isinstance(entry, dict) else entry
        if not isinstance(label, str):
            raise ValueError("the json next to the PNG does not name its class")
        return label
    if not classes:
        return "object"
    number = value // 1000
    if not 1 <= number <= len(classes):
        raise ValueError(
            f"classes.txt has {len(classes)} lines, and value // 1000 is {number}: wanted the"
            " number of a line, counted from 1"
        )
    return classes[number - 1]


def _in_parts(ids: Int32[np.ndarray, "h w"], value: int, mask: rle.Rle) -> bool:
    """Returns True for an object of several parts that do not touch."""
    import cv2

    x0, y0, x1, y1 = rle.to_bbox(mask)
    pixels = (ids[y0:y1, x0:x1] == value).astype(np.uint8)
    return cv2.connectedComponents(pixels, connectivity=8)[0] > 2
