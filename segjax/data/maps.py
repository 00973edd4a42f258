"""Label maps: PNGs whose pixels are numbers, read under names that nobody has checked yet."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from segjax.data.coco import CocoError, ImageRecord
from segjax.data.images import ImageError, decode_map
from segjax.data.layout import SEMANTIC_WAYS
from segjax.data.store import ImageStore, StoreError


class MapError(CocoError):
    """A label map that cannot be used."""


class MissingMapError(MapError):
    """An image without label map."""


@dataclasses.dataclass(frozen=True)
class Maps:
    """Where the label maps of a split are read from.

    Attributes:
      store: of the PNGs.
      annotations: the panoptic json; None for maps that need none.
      classes: file of the class names of plain label PNGs, if there is one.
    """

    store: ImageStore
    annotations: Path | None = None
    classes: Path | None = None


def read_map(
    store: ImageStore, name: Any, image: ImageRecord, channels: int
) -> UInt8[np.ndarray, "h w *channels"]:
    """Reads a PNG of an image's size.

    Args:
      store: that holds it.
      name: its name there, as an untrusted file gives it.
      image: that it belongs to.
      channels: 1 or 3, as `segjax.data.images.decode_map` takes them.

    Returns:
      The numbers; without last axis for 1 channel.

    Raises:
      MapError: if it is missing, of a forbidden name, damaged, or of another size or kind.
    """
    problem = store.problem(name)
    if problem == "missing_file":
        raise MissingMapError(
            f"image {image.id} ({image.file_name}) has no label map at {store.where(name)}: "
            f"{SEMANTIC_WAYS}"
        )
    if problem:
        raise MapError(f"image {image.id}: its label map has the name {name!r:.80}: {problem}")
    try:
        return decode_map(store.read(name), image.height, image.width, channels)
    except (ImageError, StoreError) as error:
        raise MapError(f"image {image.id}: its label map {store.where(name)} {error}") from error
