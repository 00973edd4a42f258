"""The annotation of a prepared split at the images' stored size, for evaluation.

Everything is read from the records, so that the files it was built from need not be there any more.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import Int32, UInt8

from segjax.data.images import decode_labels, decode_map
from segjax.data.panoptic import ids_of
from segjax.data.prepared import PreparedSplit
from segjax.data.segments import Segment
from segjax.data.tfds_builder import open_records

Value = TypeVar("Value")
PanopticTruth = tuple[Int32[np.ndarray, "h w"], tuple[Segment, ...]]


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
            self._records = open_records(self._split)
        return self._read(self._records[row])

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


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
