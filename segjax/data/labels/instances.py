"""Labels of the things alone, drawn from the masks of the instances."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from segjax.data import rle as rle_lib
from segjax.data.coco import Annotation, Category, ImageRecord
from segjax.data.images import IGNORE
from segjax.data.labels.base import LabelFiles, LabelNumbers, Labels

# The class of pixels that belong to no object.
OTHER = "other"


class InstanceLabels:
    """The row "instances" of the table: the classes of the objects, and one for all else."""

    title = "things only"
    hint = "needs nothing but the masks of the instances"
    has_files = False
    needs_objects = True
    knows_things = True
    has_segments = False

    def find(self, base: Path, split: str, *, apart: bool) -> None:
        """Returns None: there are no files."""

    def archive(self, base_url: str) -> None:
        """Returns None: there is nothing to download."""

    def open(
        self,
        categories: Sequence[Category],
        files: Mapping[str, LabelFiles],
        splits: Sequence[str],
        numbers: LabelNumbers,
    ) -> Labels:
        """Opens the labels; only `categories` and `splits` are used."""
        reader = InstanceReader({c.id: label for label, c in enumerate(categories)})
        names = (*(category.name for category in categories), OTHER)
        is_thing = (*(True for _ in categories), False)
        return Labels(names, dict.fromkeys(splits, reader), is_thing)


class InstanceReader:
    """Draws the labels of an image from its masks; crowds are drawn too.

    Where objects overlap the one of the smaller area wins, and of equal ones the later in the
    file. Pixels of no object are one more class. What an object without mask covers is not known:
    its box is `IGNORE`, except for the masks of others.

    Args:
      labels: labels by category id.
    """

    def __init__(self, labels: Mapping[int, int]) -> None:
        self._labels = labels

    def read(self, image: ImageRecord) -> UInt8[np.ndarray, "h w"]:
        """Returns the labels of an image."""
        labels = np.full((image.height, image.width), len(self._labels), np.uint8)
        masks = []
        without = ("", rle_lib.empty_counts(image.height, image.width))
        for annotation in image.annotations:
            if annotation.counts not in without:
                rle: rle_lib.Rle = {
                    "size": [image.height, image.width],
                    "counts": annotation.counts,
                }
                masks.append((rle_lib.decode(rle).astype(bool), annotation.category_id))
            else:
                _blank(labels, annotation)
        for mask, category_id in sorted(masks, key=lambda entry: -int(entry[0].sum())):
            labels[mask] = self._labels[category_id]
        return labels


def _blank(labels: UInt8[np.ndarray, "h w"], annotation: Annotation) -> None:
    """Sets the pixels that a box touches to `IGNORE`."""
    x, y, width, height = annotation.bbox
    x0, y0 = max(int(np.floor(x)), 0), max(int(np.floor(y)), 0)
    x1, y1 = max(int(np.ceil(x + width)), 0), max(int(np.ceil(y + height)), 0)
    labels[y0:y1, x0:x1] = IGNORE
