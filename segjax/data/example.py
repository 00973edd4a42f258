"""One image on its way to a batch: pixels, objects and labels, which transforms move together.

Masks stay run lengths over the image they were annotated on until the batch is filled. Transforms
move only the rectangles that say which part of a mask is seen, so that a mask is sampled once.
"""

import dataclasses
import sys
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8

from segjax.data import rle as rle_lib
from segjax.data.images import decode_image, decode_labels, turn_upright


@dataclasses.dataclass(frozen=True)
class Objects:
    """The objects of an image, which may come from several annotated images.

    Attributes:
      boxes: `(x0, y0, x1, y1)` in pixels of the example's image.
      classes: class indices.
      is_crowd: True for regions of many objects.
      areas: pixels, as annotated.
      masks: each over the image that it was annotated on; None where there is no mask.
      mask_boxes: the boxes once more, `(x0, y0, x1, y1)` in pixels of the masks.
      mask_views: the rectangle of each mask, in its pixels, that the example's whole image shows.
      mirrored: True where the image shows the mask mirrored left to right.
    """

    boxes: Float[np.ndarray, "n 4"]
    classes: Int64[np.ndarray, " n"]
    is_crowd: Bool[np.ndarray, " n"]
    areas: Float[np.ndarray, " n"]
    masks: tuple[rle_lib.Rle | None, ...]
    mask_boxes: Float[np.ndarray, "n 4"]
    mask_views: Float[np.ndarray, "n 4"]
    mirrored: Bool[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.masks)

    def take(self, index: Int64[np.ndarray, " k"]) -> "Objects":
        """Returns the objects of the given indices."""
        fields = {name: value[index] for name, value in self._arrays().items()}
        return Objects(masks=tuple(self.masks[i] for i in index), **fields)

    def joined(self, other: "Objects") -> "Objects":
        """Returns these objects and others of an image of the same size, these first."""
        theirs = other._arrays()
        fields = {name: np.concatenate([v, theirs[name]]) for name, v in self._arrays().items()}
        return Objects(masks=(*self.masks, *other.masks), **fields)

    def _arrays(self) -> dict[str, Any]:
        names = (field.name for field in dataclasses.fields(self) if field.name != "masks")
        return {name: getattr(self, name) for name in names}


@dataclasses.dataclass(frozen=True)
class Example:
    """One image between its record and its row of a batch.

    Attributes:
      image: RGB.
      image_id: as in the annotation file.
      original_size: (height, width) of the file.
      objects: objects in pixels of `image`.
      semantic: label of every pixel of `image`, 255 where nothing is known; None where no labels
        are wanted.
    """

    image: UInt8[np.ndarray, "h w 3"]
    image_id: int
    original_size: tuple[int, int]
    objects: Objects
    semantic: UInt8[np.ndarray, "h w"] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image in pixels."""
        return self.image.shape[0], self.image.shape[1]

    @classmethod
    def of_image(cls, image: UInt8[np.ndarray, "h w 3"]) -> "Example":
        """Makes an example of an image about which nothing is known, as prediction needs it."""
        return cls(image, -1, (image.shape[0], image.shape[1]), no_objects())


def no_objects() -> Objects:
    """Returns the objects of an image without any."""
    boxes, flags = np.zeros((0, 4)), np.zeros(0, bool)
    return Objects(boxes, np.zeros(0, np.int64), flags, np.zeros(0), (), boxes, boxes, flags)


def read_example(record: dict[str, Any], *, instances: bool, semantic: bool) -> Example:
    """Decodes a record of a prepared dataset.

    Args:
      record: one element of `open_records`.
      instances: take its objects.
      semantic: take its labels.

    Returns:
      The image as stored, with what is known about it.
    """
    image = decode_stored(record)
    return Example(
        image=image,
        image_id=int(record["image/id"]),
        original_size=(image.shape[0], image.shape[1]),
        objects=read_objects(record) if instances else no_objects(),
        semantic=decode_labels(record["semantic"]) if semantic else None,
    )


def decode_stored(record: dict[str, Any]) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes the image of a record, turned as the labels want it."""
    # Sizes were checked when the record was made, against a limit that the config set.
    image = decode_image(record["image"], max_pixels=sys.maxsize)
    return np.ascontiguousarray(turn_upright(image, int(record["image/orientation"])))


def read_objects(record: dict[str, Any]) -> Objects:
    """Takes the objects out of a record.

    Args:
      record: one element of `open_records`.

    Returns:
      Its objects, boxes as corners clipped to the image.
    """
    fields = record["objects"]
    count = len(fields["label"])
    height, width = int(record["image/height"]), int(record["image/width"])
    whole = np.broadcast_to(np.array([0.0, 0.0, width, height]), (count, 4))
    xywh = np.asarray(fields["bbox"], np.float64).reshape(count, 4)
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    boxes = np.clip(corners, 0, whole[:, [2, 3, 2, 3]])
    # A mask without a pixel teaches nothing: the object counts as one without a mask.
    without = ("", rle_lib.empty_counts(height, width))
    masks: list[rle_lib.Rle | None] = []
    for text in fields["segmentation"]:
        counts = text.decode("ascii")
        masks.append(None if counts in without else {"size": [height, width], "counts": counts})
    return Objects(
        boxes=boxes,
        classes=np.asarray(fields["label"], np.int64),
        is_crowd=np.asarray(fields["is_crowd"], bool),
        areas=np.asarray(fields["area"], np.float64),
        masks=tuple(masks),
        mask_boxes=boxes,
        mask_views=whole,
        mirrored=np.zeros(count, bool),
    )
