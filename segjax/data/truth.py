"""The annotation of a prepared split at the images' stored size, for evaluation.

Everything is read from the records: what training accepts, evaluation scores, and the files that
the records were built from do not have to exist any more.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int32, Int64, UInt8

from segjax.data.coco import CocoDataset, ImageRecord
from segjax.data.images import decode_labels, decode_map
from segjax.data.prepared import PreparedSplit
from segjax.data.segments import Segment, ids_of

Value = TypeVar("Value")
PanopticTruth = tuple[Int32[np.ndarray, "h w"], tuple[Segment, ...]]


@dataclasses.dataclass(frozen=True)
class ImageObjects:
    """The objects of one image, as annotated, in the order of the annotation file.

    Attributes:
      height: rows of the image.
      width: columns of the image.
      category_ids: as in the file.
      boxes: `(x, y, width, height)` in pixels, with the float64 numbers of the file, not clipped.
      areas: pixels, with the float64 numbers of the file; they decide what is small or large.
      is_crowd: True for regions of many objects.
      masks: canonical compressed RLE counts over the whole image; "" without segmentation.
    """

    height: int
    width: int
    category_ids: Int64[np.ndarray, " n"]
    boxes: Float[np.ndarray, "n 4"]
    areas: Float[np.ndarray, " n"]
    is_crowd: Bool[np.ndarray, " n"]
    masks: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class InstanceTruth:
    """The objects of a split.

    Attributes:
      images: by image id; images without objects are among them.
      categories: names by category id.
    """

    images: Mapping[int, ImageObjects]
    categories: Mapping[int, str]


class Truth(Mapping[int, Value], Generic[Value]):
    """Something of every image of a split, by image id, in the order of the records.

    Values are read when they are asked for, and not kept.

    Args:
      split: whose records are read.
      read: makes a value of a record.
    """

    def __init__(self, split: PreparedSplit, read: Callable[[dict[str, Any]], Value]) -> None:
        self._split, self._read = split, read
        self._rows = {int(number): row for row, number in enumerate(split.index[:, 0])}
        self._records: Any = None

    def __getitem__(self, image_id: int) -> Value:
        row = self._rows.get(image_id)
        if row is None:
            raise KeyError(f'no image {image_id} in the split "{self._split.name}"')
        if self._records is None:
            from segjax.data.build import open_records  # which needs TFDS: predicting does not

            self._records = open_records(self._split)
        return self._read(self._records[row])

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def objects_of(record: dict[str, Any]) -> ImageObjects:
    """Takes the objects of an image out of a record."""
    fields = record["objects"]
    count = len(fields["category_id"])
    return ImageObjects(
        height=int(record["image/height"]),
        width=int(record["image/width"]),
        category_ids=np.asarray(fields["category_id"], np.int64),
        boxes=np.asarray(fields["bbox"], np.float64).reshape(count, 4),
        areas=np.asarray(fields["area"], np.float64),
        is_crowd=np.asarray(fields["is_crowd"], bool),
        masks=tuple(text.decode("ascii") for text in fields["segmentation"]),
    )


def truth_of(dataset: CocoDataset) -> InstanceTruth:
    """Takes the objects out of a validated annotation file, without preparing a dataset."""
    return InstanceTruth(
        images={image.id: _objects_of_image(image) for image in dataset.images},
        categories={category.id: category.name for category in dataset.categories},
    )


def _objects_of_image(image: ImageRecord) -> ImageObjects:
    objects = image.annotations
    return ImageObjects(
        height=image.height,
        width=image.width,
        category_ids=np.array([a.category_id for a in objects], np.int64),
        boxes=np.array([a.bbox for a in objects], np.float64).reshape(-1, 4),
        areas=np.array([a.area for a in objects], np.float64),
        is_crowd=np.array([a.is_crowd for a in objects], bool),
        masks=tuple(a.counts for a in objects),
    )


def panoptic_of(record: dict[str, Any]) -> PanopticTruth:
    """Takes a map of segment ids, 0 for void, and its segments out of a record."""
    size = int(record["image/height"]), int(record["image/width"])
    fields = record["segments"]
    columns = [np.asarray(fields[name]).tolist() for name in ("id", "category_id", "is_crowd")]
    segments = tuple(Segment(*row) for row in zip(*columns, strict=True))
    return ids_of(decode_map(record["panoptic"], *size, 3)), segments


def semantic_of(
    record: dict[str, Any], table: UInt8[np.ndarray, "256"]
) -> UInt8[np.ndarray, "h w"]:
    """Takes semantic labels out of a record, each looked up in a table."""
    return table[decode_labels(record["semantic"])]
