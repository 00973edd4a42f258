"""Writes any supported dataset as a folder in COCO format."""

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segjax.data.check import splits_to_check
from segjax.data.coco import CocoDataset, ImageRecord
from segjax.data.config import DataConfig
from segjax.data.problems import Problems
from segjax.data.protocols import Split
from segjax.data.store import FolderStore
from segjax.data.together import check_format, match_categories


@dataclasses.dataclass(frozen=True)
class Written:
    """A split that was written.

    Attributes:
      annotations: path of the annotation file.
      images: number of images.
      objects: number of objects.
      problems: defects found while reading; entries with errors were skipped.
    """

    annotations: Path
    images: int
    objects: int
    problems: Problems


def write_coco(
    config: DataConfig, out: str | os.PathLike[str], *, link: bool = False
) -> tuple[dict[str, Written], Problems]:
    """Converts a dataset to a folder in COCO format.

    Args:
      config: names the data by `root` and `name`; other formats are recognised.
      out: folder to write to; it must be empty or not exist.
      link: create symbolic links to the images instead of copies; reading them needs
        `follow_links`.

    Returns:
      The written files by split, and notes on all splits together.

    Raises:
      FileExistsError: if the folder is not empty.
      CocoError: if the data cannot be read at all.
    """
    folder = Path(out).expanduser()
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: give a new folder")
    splits = splits_to_check(config)
    datasets = {name: split.load(on_problem="collect") for name, split in splits.items()}
    notes = check_format(splits, config.name)
    datasets, matched = match_categories(datasets)
    notes.update(matched)
    written = {
        name: _write_split(folder, name, splits[name], dataset, link)
        for name, dataset in datasets.items()
    }
    return written, notes


def _write_split(
    folder: Path, name: str, split: Split, dataset: CocoDataset, link: bool
) -> Written:
    images = folder / name
    images.mkdir(parents=True, exist_ok=True)
    for image in dataset.images:
        _place(split, image, images / image.file_name, link)
    content: Mapping[str, Any] = {
        "info": {"description": "written by segjax convert-data"},
        "images": [
            {"id": i.id, "file_name": i.file_name, "height": i.height, "width": i.width}
            for i in dataset.images
        ],
        "annotations": [
            _annotation(a, image) for image in dataset.images for a in image.annotations
        ],
        "categories": [{"id": c.id, "name": c.name} for c in dataset.categories],
    }
    path = folder / "annotations" / f"instances_{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return Written(path, len(dataset.images), len(content["annotations"]), dataset.problems)


def _place(split: Split, image: ImageRecord, target: Path, link: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(split.images, FolderStore):
        source = split.images.root / image.file_name
        if link:
            target.symlink_to(source.resolve())
        else:
            shutil.copy2(source, target)
    else:
        target.write_bytes(split.images.read(image.file_name))


def _annotation(annotation: Any, image: ImageRecord) -> dict[str, Any]:
    """Returns an annotation with its mask as RLE, which preserves holes and separate parts."""
    mask = {"size": [image.height, image.width], "counts": annotation.counts}
    return {
        "id": annotation.id,
        "image_id": image.id,
        "category_id": annotation.category_id,
        "bbox": list(annotation.bbox),
        "area": annotation.area,
        "iscrowd": int(annotation.is_crowd),
        "segmentation": mask if annotation.counts else [],
    }
