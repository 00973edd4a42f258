"""Prepared datasets, and loading them from their folders."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from segjax.data import rle
from segjax.data.coco import Category, ImageRecord
from segjax.data.segments import PanopticCategory

# "objects" counts non-crowd objects whose box has an area; "masked" counts those with a mask.
INDEX_COLUMNS = ("image_id", "height", "width", "objects", "crowds", "masked")
# Marks the folder of a complete dataset, so that an interrupted build is never read.
META = "segjax.json"
# Lists the images of train that became val, by `DataConfig.val_fraction`.
SET_ASIDE = "val_images.json"


@dataclasses.dataclass(frozen=True)
class PreparedSplit:
    """One split on disk.

    Attributes:
      name: name of the split, such as "train" or "val".
      folder: folder of the TFDS dataset.
      index: int64, one row per image in the order of the records; columns `INDEX_COLUMNS`.
      annotated: True if objects were annotated; False if images only have semantic labels.
      problems: defects found while reading, one line per kind.
      skipped: number of images skipped because they could not be read.
    """

    name: str
    folder: str
    index: Int64[np.ndarray, "images 6"]
    annotated: bool
    problems: tuple[str, ...]
    skipped: int


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A dataset on disk.

    Attributes:
      categories: categories of the objects, ordered by id.
      splits: splits by name.
      fingerprint: hash of categories, annotations, labels, and the images' names and contents;
        independent of the location and modification time of the files.
      semantic_names: class names of the semantic labels, by label; empty without labels.
      semantic_things: True for each of these classes that is a thing; empty if unknown.
      panoptic_categories: categories of panoptic segments, ordered by id; empty without panoptic
        annotations.
      problems: defects of all splits taken together, one line per kind.
    """

    categories: tuple[Category, ...]
    splits: dict[str, PreparedSplit]
    fingerprint: str
    semantic_names: tuple[str, ...] = ()
    semantic_things: tuple[bool, ...] = ()
    panoptic_categories: tuple[PanopticCategory, ...] = ()
    problems: tuple[str, ...] = ()


def index_row(image: ImageRecord) -> tuple[int, ...]:
    """Returns an image's row of the index, with columns `INDEX_COLUMNS`."""
    objects = [a for a in image.annotations if not a.is_crowd and min(a.bbox[2:]) > 0]
    # Nothing can be learned from an empty mask: it counts as no mask.
    without = ("", rle.empty_counts(image.height, image.width))
    masked = sum(a.counts not in without for a in objects)
    crowds = sum(a.is_crowd for a in image.annotations)
    return image.id, image.height, image.width, len(objects), crowds, masked


def save_index(folder: Path, name: str, rows: Sequence[tuple[int, ...]]) -> None:
    """Writes the index of a split, one row per image."""
    index = np.array(rows, np.int64).reshape(-1, len(INDEX_COLUMNS))
    np.save(folder / f"index_{name}.npy", index)


def forget_older(cache: Path, home: Path, place: str) -> None:
    """Deletes datasets that were prepared from an earlier state of the same files.

    Args:
      cache: folder of all prepared datasets.
      home: folder of the newest dataset, which is kept.
      place: name of the source files, as in the datasets' `META`.
    """
    for meta in cache.glob(f"*/{META}"):
        if meta.parent == home:
            continue
        try:
            same = json.loads(meta.read_text()).get("place") == place
        except (OSError, ValueError):
            continue
        if same:
            # Safe even if another process is still reading: on local disks, open files stay
            # readable after their deletion.
            shutil.rmtree(meta.parent, ignore_errors=True)


def load_prepared(home: Path) -> Prepared:
    """Loads a dataset from the folder in which `segjax.data.build.prepare` built it."""
    meta = json.loads((home / META).read_text())
    folder = home / meta["folder"]
    splits = {
        name: PreparedSplit(
            name=name,
            folder=str(folder),
            index=np.load(folder / f"index_{name}.npy", allow_pickle=False),
            annotated=annotated,
            problems=tuple(meta["problems"][name]),
            skipped=meta["skipped"][name],
        )
        for name, annotated in meta["annotated"].items()
    }
    labels: dict[str, Any] = meta["labels"]
    return Prepared(
        categories=tuple(Category(*entry) for entry in meta["categories"]),
        splits=splits,
        fingerprint=meta["fingerprint"],
        semantic_names=tuple(labels["names"]),
        semantic_things=tuple(labels["is_thing"]),
        panoptic_categories=tuple(PanopticCategory(*c) for c in labels["categories"]),
        problems=tuple(meta["together"]),
    )
