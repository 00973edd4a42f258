"""Ground truth of a prepared split at the stored size of the images, for evaluation.

Everything comes from the records: evaluation scores exactly the annotations that training accepts,
and the files that the records were built from do not have to exist any more.
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
    """Annotated objects of one image, in the order of the annotation file.

    Attributes:
      height: rows of the image.
      width: columns of the image.
      category_ids: category ids in the file.
      boxes: bounding boxes `(x, y, width, height)` in pixels, float64 as in the file, not clipped.
      areas: areas in pixels, float64 as in the file; they separate small from large objects.
      is_crowd: True for regions of many objects.
      masks: canonical compressed RLE counts over the whole image; "" without a segmentation.
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
    """Annotated objects of a split.

    Attributes:
      images: objects by image id, including images without objects.
      categories: category names by id.
    """

    images: Mapping[int, ImageObjects]
    categories: Mapping[int, str]


class Truth(Mapping[int, Value], Generic[Value]):
    """Lazy mapping from image ids to ground truth, in the order of the records.

    Values are read on access and are not cached.

    Args:
      split: split whose records are read.
      read: function from a record to its value.
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
            # Imported late because it requires TFDS, which prediction does not need.
            from segjax.data.build import open_records

            self._records = open_records(self._split)
        return self._read(self._records[row])

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def objects_of(record: dict[str, Any]) -> ImageObjects:
    """Extracts the objects of an image from a record."""
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
    """Extracts the objects from a validated annotation file, without preparing a dataset."""
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
    """Extracts the map of segment ids, 0 for void, and its segments from a record."""
    size = int(record["image/height"]), int(record["image/width"])
    fields = record["segments"]
    columns = [np.asarray(fields[name]).tolist() for name in ("id", "category_id", "is_crowd")]
    segments = tuple(Segment(*row) for row in zip(*columns, strict=True))
    return ids_of(decode_map(record["panoptic"], *size, 3)), segments


def semantic_of(
    record: dict[str, Any], table: UInt8[np.ndarray, "256"]
) -> UInt8[np.ndarray, "h w"]:
    """Extracts semantic labels from a record, mapped through a lookup table."""
    return table[decode_labels(record["semantic"])]
