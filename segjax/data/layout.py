"""Finds annotations, images and label maps of each split in a folder."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from segjax.data.coco import CocoError
from segjax.data.config import Semantic

_ANNOTATIONS = (
    "annotations/instances_{}.json",
    "annotations/instances_{}2017.json",
    "{}/_annotations.coco.json",
)
_IMAGES = ("{}", "{}2017", "images/{}", "images/{}2017", "images")
# Where images are sought that no annotation file names: not in a folder that splits may share.
_PLAIN_IMAGES = _IMAGES[:4]
_STUFF_MAPS = ("stuffthingmaps/{}", "stuffthingmaps/{}2017")
_LABELS = ("labels/{}", "labels/{}2017")
_PANOPTIC_FILES = ("panoptic_{}", "panoptic_{}2017")
_ALIASES = {"train": ("train",), "val": ("val", "valid")}
# Names of the classes of plain label PNGs, beside the splits' folders.
CLASSES_FILE = "classes.txt"

SEMANTIC_WAYS = (
    'semantic="stuffthingmaps" reads COCO-stuff\'s PNGs in stuffthingmaps/train2017/ below root, '
    'or in train2017/ below semantic_root; semantic="panoptic" reads '
    "annotations/panoptic_train2017.json and the PNGs in panoptic_train2017/ or "
    'annotations/panoptic_train2017/, below root or semantic_root; semantic="folder" reads plain '
    "label PNGs, named as the images, in labels/train/ below root, or in train/ below "
    f'semantic_root, and the names of their classes in {CLASSES_FILE} beside; semantic="instances" '
    "needs nothing but the masks of the instances"
)


@dataclasses.dataclass(frozen=True)
class SplitFiles:
    """The annotation file of a split, if it has one, and its image folder."""

    annotations: Path | None
    images: Path


def find_splits(
    root: str | os.PathLike[str], *, need_annotations: bool = True
) -> dict[str, SplitFiles]:
    """Looks for the splits "train" and "val" of a folder in COCO format.

    Args:
      root: the folder; `annotations/instances_train.json` with `train/`, COCO's own
        `instances_train2017.json` with `train2017/` or `images/`, and `_annotations.coco.json`
        beside the images are known.
      need_annotations: False also takes folders of images that have no annotation file.

    Returns:
      The files of every split found, at least one.

    Raises:
      CocoError: if there is no annotation file, or one without an image folder.
    """
    folder = Path(root).expanduser().absolute()
    found: dict[str, SplitFiles] = {}
    for split, names in _ALIASES.items():
        files = [folder / form.format(name) for name in names for form in _ANNOTATIONS]
        folders = [folder / form.format(name) for name in names for form in _IMAGES]
        annotations = next((path for path in files if path.is_file()), None)
        images = next((path for path in folders if path.is_dir()), None)
        if annotations and not images:
            raise CocoError(f"{annotations} has no image folder: wanted {folder / split}")
        if annotations and images:
            found[split] = SplitFiles(annotations, images)
        if not annotations and not need_annotations:
            folders = [folder / form.format(name) for name in names for form in _PLAIN_IMAGES]
            images = next((path for path in folders if path.is_dir()), None)
            if images:
                found[split] = SplitFiles(None, images)
    if not found and not need_annotations:
        raise CocoError(f"no images in {folder}: wanted the folders train/ and val/")
    if not found:
        raise CocoError(
            f"no COCO annotations in {folder}: wanted annotations/instances_train.json and "
            "train/, annotations/instances_val.json and val/; only label PNGs alone need none, "
            'with semantic="folder" and instances=False'
        )
    return found


@dataclasses.dataclass(frozen=True)
class MapFiles:
    """The folder of a split's label maps, and what belongs to it.

    Attributes:
      folder: of the PNGs.
      annotations: the panoptic json that they need, if any.
      classes: the file of plain labels' class names, if there is one.
    """

    folder: Path
    annotations: Path | None = None
    classes: Path | None = None


def find_maps(semantic: Semantic, root: str, semantic_root: str, split: str) -> MapFiles | None:
    """Looks for the label maps of a split.

    Args:
      semantic: which kind.
      root: folder in COCO format, searched where `semantic_root` is empty.
      semantic_root: folder of the maps alone.
      split: "train" or "val".

    Returns:
      The files; None for "none" and "instances", which need none.

    Raises:
      CocoError: if they are missing; it names what was looked for.
    """
    if semantic in ("none", "instances"):
        return None
    base = Path(semantic_root or root).expanduser().absolute()
    folders, annotations = _LABELS if semantic == "folder" else _STUFF_MAPS, None
    if semantic_root:
        folders = (*folders, "{}", "{}2017")
    if semantic == "panoptic":
        below = [f"{place}{name}" for place in ("annotations/", "") for name in _PANOPTIC_FILES]
        annotations = _first(base, [f"{name}.json" for name in below], split, Path.is_file)
        folders = (*below[2:], *below[:2])
    folder = _first(base, folders, split, Path.is_dir)
    classes = folder.parent / CLASSES_FILE
    named = semantic == "folder" and classes.is_file()
    return MapFiles(folder, annotations, classes if named else None)


def _first(base: Path, forms: Sequence[str], split: str, accepts: Callable[[Path], bool]) -> Path:
    paths = [base / form.format(name) for name in _ALIASES[split] for form in forms]
    for path in paths:
        if accepts(path):
            return path
    tried = ", ".join(str(path) for path in paths[: len(forms)])
    raise CocoError(f"no semantic labels of {split}: found none of {tried}: {SEMANTIC_WAYS}")
