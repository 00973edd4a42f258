"""Semantic labels, the class of every pixel, from several sources with one module each.

Every source provides uint8 classes 0..C-1 at the stored size of the image, with `IGNORE` where the
class is unknown. To add a source, write a class that follows `LabelSource` and add it to `LABELS`.
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

# Values of `DataConfig.semantic`, in addition to "none".
LABELS: dict[str, LabelSource] = {
    "stuffthingmaps": StuffThingMaps(),
    "panoptic": PanopticLabels(),
    "folder": FolderLabels(),
    "instances": InstanceLabels(),
}
# Version of the prepared labels. Datasets with labels are rebuilt when it changes.
LABELS_VERSION = "3"


def find_labels(semantic: str, base: str, split: str, *, apart: bool) -> LabelFiles | None:
    """Finds the label files of a split in a folder.

    Args:
      semantic: name of a row of `LABELS`, or "none".
      base: folder of the dataset, or of labels only.
      split: name of the split, such as "train".
      apart: True if `base` contains only labels.

    Returns:
      The files; None for labels without files.

    Raises:
      CocoError: if the files are missing; the message names the paths that were tried.
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
      semantic: name of a row of `LABELS`.
      categories: categories of the objects, by class index.
      files: label files by split; None for labels without files.
      numbers: meaning of the values in plain label PNGs.

    Returns:
      Class names, and a reader for each split.

    Raises:
      CocoError: if a file that describes the labels cannot be used, a split has no labels, or there
        are more classes than 8-bit labels can represent.
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
