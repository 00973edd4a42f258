"""Semantic labels: the class of every pixel, from one of several sources, a file a source.

Every source gives uint8 classes 0..C-1 at the image's stored size, with `IGNORE` where nothing is
known. A new one is a file with a class that follows `LabelSource`, and a row of `LABELS`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from segjax.data.coco import Category, CocoError
from segjax.data.images import IGNORE
from segjax.data.labels.base import LabelFiles, LabelNumbers, Labels, LabelSource
from segjax.data.labels.folder import FolderLabels
from segjax.data.labels.instances import InstanceLabels
from segjax.data.labels.panoptic import PanopticLabels
from segjax.data.labels.stuffthingmaps import StuffThingMaps

# What `DataConfig.semantic` can be, in addition to "none".
LABELS: dict[str, LabelSource] = {
    "stuffthingmaps": StuffThingMaps(),
    "panoptic": PanopticLabels(),
    "folder": FolderLabels(),
    "instances": InstanceLabels(),
}
# Version of the labels that are built: datasets with labels are built again when it changes.
LABELS_VERSION = "3"


def find_labels(semantic: str, base: str, split: str, *, apart: bool) -> LabelFiles | None:
    """Looks for the files of a split's labels in a folder.

    Args:
      semantic: a row of `LABELS`, or "none".
      base: folder of the dataset, or of the labels alone.
      split: "train" or "val".
      apart: whether `base` holds nothing but labels.

    Returns:
      The files; None for labels that have none.

    Raises:
      CocoError: if they are missing; it names what was looked for.
    """
    if semantic == "none":
        return None
    return LABELS[semantic].find(Path(base).expanduser().absolute(), split, apart=apart)


def open_labels(
    semantic: str,
    categories: Sequence[Category],
    files: Mapping[str, LabelFiles | None],
    numbers: LabelNumbers = LabelNumbers(),
) -> Labels:
    """Opens labels.

    Args:
      semantic: a row of `LABELS`.
      categories: categories of the objects, by class index.
      files: files of every split; None for labels that have none.
      numbers: meaning of the numbers in plain label PNGs.

    Returns:
      Class names and a reader for each split.

    Raises:
      CocoError: if a file that says what the labels are cannot be used, a split has no labels, or
        there are more classes than labels.
    """
    source = LABELS[semantic]
    found = {split: value for split, value in files.items() if value is not None}
    if source.has_files and len(found) < len(files):
        missing = ", ".join(sorted(files.keys() - found.keys()))
        raise CocoError(
            f"no semantic labels of {missing}: this format of data has none of its own; "
            f'semantic="{semantic}" {source.hint}: set semantic_root'
        )
    labels = source.open(categories, found, tuple(files), numbers)
    if len(labels.names) > IGNORE:
        raise CocoError(
            f'semantic="{semantic}" gives {len(labels.names)} classes, but labels are 8 bits and '
            f"{IGNORE} marks what counts for nothing: wanted at most {IGNORE}"
        )
    return labels
