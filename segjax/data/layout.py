"""Finds annotations and images of each split in a folder."""

import dataclasses
import os
from pathlib import Path

from segjax.data.coco import CocoError

_ANNOTATIONS = (
    "annotations/instances_{}.json",
    "annotations/instances_{}2017.json",
    "{}/_annotations.coco.json",
)
_IMAGES = ("{}", "{}2017", "images/{}", "images/{}2017", "images")
_ALIASES = {"train": ("train",), "val": ("val", "valid")}


@dataclasses.dataclass(frozen=True)
class SplitFiles:
    """The annotation file and the image folder of a split."""

    annotations: Path
    images: Path


def find_splits(root: str | os.PathLike[str]) -> dict[str, SplitFiles]:
    """Looks for the splits "train" and "val" of a folder in COCO format.

    Args:
      root: the folder; `annotations/instances_train.json` with `train/`, COCO's own
        `instances_train2017.json` with `train2017/` or `images/`, and `_annotations.coco.json`
        beside the images are known.

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
    if not found:
        raise CocoError(
            f"no COCO annotations in {folder}: wanted annotations/instances_train.json and "
            "train/, annotations/instances_val.json and val/"
        )
    return found
