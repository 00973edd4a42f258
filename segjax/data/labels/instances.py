"""Semantic labels of things only, drawn from the instance masks."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from segjax.data import rle as rle_lib
from segjax.data.coco import Annotation, Category, ImageRecord
from segjax.data.images import IGNORE
from segjax.data.labels.base import LabelFiles, LabelNumbers, Labels

# Class of pixels outside all objects.
OTHER = "other"


class InstanceLabels:
    """The label source "instances": the classes of the objects, plus one for everything else."""

    title = "things only"
    hint = "needs nothing but the masks of the instances"
    has_files = False
    needs_objects = True
    knows_things = True
    has_segments = False

    def find(self, base: Path, split: str, *, apart: bool) -> None:
        """Returns None: these labels have no files."""

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
    """Draws the labels of an image from its masks, including those of crowds.

    Where objects overlap, the one with the smaller area wins; among equal areas, the later one in
    the file. Pixels outside all objects are a class of their own. The extent of an object without a
    mask is unknown, so its box becomes `IGNORE`, except where other masks cover it.

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
        # Largest first, because later masks overwrite. The sort is stable: ties keep their order.
        for mask, category_id in sorted(masks, key=lambda entry: -int(entry[0].sum())):
            labels[mask] = self._labels[category_id]
        return labels


def _blank(labels: UInt8[np.ndarray, "h w"], annotation: Annotation) -> None:
    """Sets all pixels that the box touches to `IGNORE`."""
    x, y, width, height = annotation.bbox
    x0, y0 = max(int(np.floor(x)), 0), max(int(np.floor(y)), 0)
    x1, y1 = max(int(np.ceil(x + width)), 0), max(int(np.ceil(y + height)), 0)
    labels[y0:y1, x0:x1] = IGNORE
