"""An image with its objects and labels, which transforms change together.

Masks remain RLE over the image they were annotated on until the batch is filled. Transforms only
change the rectangles that say which part of a mask is visible, so that each mask is sampled once.
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
    """Objects of an image, which may come from several annotated images.

    Attributes:
      boxes: bounding boxes `(x0, y0, x1, y1)` in pixels of the example's image.
      classes: class indices.
      is_crowd: True for regions of many objects.
      areas: areas in pixels, as annotated.
      masks: masks over the images they were annotated on; None for objects without a mask.
      mask_boxes: the same boxes `(x0, y0, x1, y1)` in pixels of the masks.
      mask_views: rectangle of each mask, in its pixels, that the example's whole image covers.
      mirrored: True if the image shows the mask mirrored left to right.
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
        """Returns the objects with the given indices."""
        fields = {name: value[index] for name, value in self._arrays().items()}
        return Objects(masks=tuple(self.masks[i] for i in index), **fields)

    def joined(self, other: "Objects") -> "Objects":
        """Returns these objects followed by others from an image of the same size."""
        theirs = other._arrays()
        fields = {name: np.concatenate([v, theirs[name]]) for name, v in self._arrays().items()}
        return Objects(masks=(*self.masks, *other.masks), **fields)

    def _arrays(self) -> dict[str, Any]:
        names = (field.name for field in dataclasses.fields(self) if field.name != "masks")
        return {name: getattr(self, name) for name in names}


@dataclasses.dataclass(frozen=True)
class Example:
    """An image between its record and its row of a batch.

    Attributes:
      image: RGB image.
      image_id: id in the annotation file; -1 for images without one.
      original_size: (height, width) of the stored image.
      objects: objects in pixels of `image`.
      semantic: label of every pixel of `image`, 255 for ignored ones; None without semantic labels.
    """

    image: UInt8[np.ndarray, "h w 3"]
    image_id: int
    original_size: tuple[int, int]
    objects: Objects
    semantic: UInt8[np.ndarray, "h w"] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        return self.image.shape[0], self.image.shape[1]

    @classmethod
    def of_image(cls, image: UInt8[np.ndarray, "h w 3"]) -> "Example":
        """Creates an example from an image without annotations, for prediction."""
        return cls(image, -1, (image.shape[0], image.shape[1]), no_objects())


def no_objects() -> Objects:
    """Returns an empty set of objects."""
    boxes, flags = np.zeros((0, 4)), np.zeros(0, bool)
    return Objects(boxes, np.zeros(0, np.int64), flags, np.zeros(0), (), boxes, boxes, flags)


def read_example(record: dict[str, Any], *, instances: bool, semantic: bool) -> Example:
    """Decodes a record of a prepared dataset.

    Args:
      record: element of `open_records`.
      instances: read the objects.
      semantic: read the semantic labels.

    Returns:
      The image at its stored size, with its objects and labels.
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
    """Decodes the image of a record, in the orientation of its annotations."""
    # The size was already checked against the config's limit when the record was written.
    image = decode_image(record["image"], max_pixels=sys.maxsize)
    return np.ascontiguousarray(turn_upright(image, int(record["image/orientation"])))


def read_objects(record: dict[str, Any]) -> Objects:
    """Extracts the objects from a record.

    Args:
      record: element of `open_records`.

    Returns:
      The objects, with boxes as corners clipped to the image.
    """
    fields = record["objects"]
    count = len(fields["label"])
    height, width = int(record["image/height"]), int(record["image/width"])
    whole = np.broadcast_to(np.array([0.0, 0.0, width, height]), (count, 4))
    xywh = np.asarray(fields["bbox"], np.float64).reshape(count, 4)
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    boxes = np.clip(corners, 0, whole[:, [2, 3, 2, 3]])
    # Nothing can be learned from an empty mask: treat the object as one without a mask.
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
