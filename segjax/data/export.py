"""Writes any supported dataset as a folder in COCO format."""

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segjax.data.check import splits_to_check
from segjax.data.coco import CocoDataset, CocoError, ImageRecord
from segjax.data.config import DataConfig
from segjax.data.examine import examine
from segjax.data.images import ImageError
from segjax.data.problems import Problems
from segjax.data.protocols import Split
from segjax.data.store import FolderStore, StoreError
from segjax.data.together import match_categories


@dataclasses.dataclass(frozen=True)
class Written:
    """A split that was written.

    Attributes:
      annotations: path of the annotation file.
      classes: number of classes.
      images: number of images.
      objects: number of objects.
      boxes: number of objects without a mask.
      problems: defects found while reading; entries and images with errors were left out.
    """

    annotations: Path
    classes: int
    images: int
    objects: int
    boxes: int
    problems: Problems


@dataclasses.dataclass(frozen=True)
class Converted:
    """A dataset that was written.

    Attributes:
      format: description of the format that was read.
      splits: what was written, by split.
      problems: notes on all splits together.
    """

    format: str
    splits: Mapping[str, Written]
    problems: Problems

    def text(self) -> str:
        """Returns a line on the whole dataset, and lines on each split and its defects."""
        found = self.splits.values()
        images, objects, boxes = (
            sum(getattr(one, name) for one in found) for name in ("images", "objects", "boxes")
        )
        classes = max((one.classes for one in found), default=0)
        without = f", {boxes} of them without a mask" if boxes else ""
        lines = [
            f"{self.format}, {_count(classes, 'class')}, {_count(images, 'image')},"
            f" {_count(objects, 'object')}{without}",
            *self.problems.lines(),
        ]
        for one in found:
            counted = f"{_count(one.images, 'image')}, {_count(one.objects, 'object')}"
            lines.append(f"{one.annotations}: {counted}")
            lines += one.problems.lines()
        return "\n".join(lines)


def _count(number: int, what: str) -> str:
    plural = f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{number} {what if number == 1 else plural}"


def write_coco(config: DataConfig, out: str | os.PathLike[str], *, link: bool = False) -> Converted:
    """Converts a dataset to a folder in COCO format.

    The folder gets its name when it is complete. Images with defects are left out and counted, like
    annotations.

    Args:
      config: names the data by `root` and `name`; other formats are recognised.
      out: folder to write to; it must be empty or not exist.
      link: create symbolic links to the images instead of copies; reading them needs
        `follow_links`.

    Returns:
      Counts of what was read and written.

    Raises:
      FileExistsError: if the folder is not empty.
      CocoError: if the data cannot be read at all, or no image is left.
    """
    folder = Path(out).expanduser().absolute()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not empty: give a new folder")
    splits = splits_to_check(config)
    datasets = {name: split.load(on_problem="collect") for name, split in splits.items()}
    datasets, problems = match_categories(datasets)
    datasets = {name: _readable(data, splits[name], config) for name, data in datasets.items()}
    if not any(dataset.images for dataset in datasets.values()):
        lines = [line for dataset in datasets.values() for line in dataset.problems.lines()]
        raise CocoError(f"{config.root} has no image that can be used:\n" + "\n".join(lines))
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        for name, dataset in datasets.items():
            _write_split(partial, name, splits[name], dataset, link)
        partial.replace(folder)  # of an empty folder, too
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    notes = dict.fromkeys(split.note for split in splits.values() if split.note)
    written = {name: _counts(folder, name, dataset) for name, dataset in datasets.items()}
    return Converted(", ".join(notes) or f"{config.name} format", written, problems)


def _readable(dataset: CocoDataset, split: Split, config: DataConfig) -> CocoDataset:
    """Leaves out images that training could not read."""
    kept: list[ImageRecord] = []
    for image in dataset.images:
        try:
            examine(image, split.images, config, dataset.problems)
        except (ImageError, StoreError) as error:
            where = f"image {image.id} ({image.file_name})"
            dataset.problems.add("bad_image", f"{where} {error}")
        else:
            kept.append(image)
    return dataclasses.replace(dataset, images=tuple(kept))


def _counts(folder: Path, name: str, dataset: CocoDataset) -> Written:
    objects = [one for image in dataset.images for one in image.annotations]
    return Written(
        annotations=_json_of(folder, name),
        classes=len(dataset.categories),
        images=len(dataset.images),
        objects=len(objects),
        boxes=sum(not one.counts for one in objects),
        problems=dataset.problems,
    )


def _json_of(folder: Path, name: str) -> Path:
    return folder / "annotations" / f"instances_{name}.json"


def _write_split(folder: Path, name: str, split: Split, dataset: CocoDataset, link: bool) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    for image in dataset.images:
        _place(split, image, folder / name / image.file_name, link)
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
    path = _json_of(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


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
