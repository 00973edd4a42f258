"""Parts of a prepared dataset, and reading them from its folder."""

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

# "objects" are not crowds and have a box with an area; those "masked" have a mask too.
INDEX_COLUMNS = ("image_id", "height", "width", "objects", "crowds", "masked")
# Marks a folder whose dataset is complete.
META = "segjax.json"


@dataclasses.dataclass(frozen=True)
class PreparedSplit:
    """One split on disk.

    Attributes:
      name: "train" or "val".
      folder: the TFDS dataset.
      index: int64, one row an image in the order of the records; columns `INDEX_COLUMNS`.
      annotated: whether objects were annotated; False for images with semantic labels alone.
      problems: what reading found, a line a kind.
      skipped: images left out because they could not be read.
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
      categories: in the order of their ids.
      splits: by name.
      fingerprint: hash of categories, annotations, labels, and the images' names and contents; the
        same wherever the files lie and whenever they were written.
      semantic_names: classes of the semantic labels, by label; empty if there are none.
      semantic_things: whether each of these classes is a thing; empty where nobody knows.
      panoptic_categories: in the order of their ids; empty without panoptic annotation.
      problems: what all splits together showed, a line a kind.
    """

    categories: tuple[Category, ...]
    splits: dict[str, PreparedSplit]
    fingerprint: str
    semantic_names: tuple[str, ...] = ()
    semantic_things: tuple[bool, ...] = ()
    panoptic_categories: tuple[PanopticCategory, ...] = ()
    problems: tuple[str, ...] = ()


def index_row(image: ImageRecord) -> tuple[int, ...]:
    """Makes the row of the index of an image: its `INDEX_COLUMNS`."""
    objects = [a for a in image.annotations if not a.is_crowd and min(a.bbox[2:]) > 0]
    without = ("", rle.empty_counts(image.height, image.width))
    masked = sum(a.counts not in without for a in objects)
    crowds = sum(a.is_crowd for a in image.annotations)
    return image.id, image.height, image.width, len(objects), crowds, masked


def save_index(folder: Path, name: str, rows: Sequence[tuple[int, ...]]) -> None:
    """Writes the index of a split, a row an image."""
    index = np.array(rows, np.int64).reshape(-1, len(INDEX_COLUMNS))
    np.save(folder / f"index_{name}.npy", index)


def forget_older(cache: Path, home: Path, place: str) -> None:
    """Deletes datasets that were prepared from an earlier state of the same files.

    Args:
      cache: folder of all prepared datasets.
      home: folder of the newest, which stays.
      place: name of what they were prepared from, as in their `META`. Another process may still
        read one: open files stay readable after their deletion on local disks.
    """
    for meta in cache.glob(f"*/{META}"):
        if meta.parent == home:
            continue
        try:
            same = json.loads(meta.read_text()).get("place") == place
        except (OSError, ValueError):
            continue
        if same:
            shutil.rmtree(meta.parent, ignore_errors=True)


def load_prepared(home: Path) -> Prepared:
    """Reads what `segjax.data.build.prepare` left in a folder."""
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
