"""Square crops with and without a given class, cut from a dataset in COCO format."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from segjax.data import coco, rle
from segjax.data.images import decode_image
from segjax.figure_ground.creatures import Creatures

# Random positions tried per image when looking for a crop without the class.
TRIES = 40


@dataclasses.dataclass(frozen=True)
class Crops:
    """Crop settings.

    Attributes:
      category: name of the class.
      side: side length of the crops after resizing, in pixels.
      context: side length of a crop before resizing, as a multiple of the longer side of the
        object's box.
      least_side: minimum length of the object's longer side, in pixels.
      least_aspect: minimum height-to-width ratio of the object's box.
      per_image: upper limit on crops of each kind per image.
      count: upper limit on crops of each kind.
      seed: seed of the random choice.
    """

    category: str
    side: int = 96
    context: float = 1.3
    least_side: float = 64
    least_aspect: float = 0.0
    per_image: int = 3
    count: int = 100
    seed: int = 0


class _Square(NamedTuple):
    """A square window of an image, in pixels."""

    y: int
    x: int
    side: int


def cut(root: Path, split: str, crops: Crops) -> Creatures:
    """Cuts crops of both kinds. A mask covers all objects of the class in its crop.

    Args:
      root: folder of a dataset in COCO format.
      split: name of the split, as in `instances_SPLIT.json`.
      crops: crop settings.

    Raises:
      ValueError: if no crop of one of the kinds is found.
    """
    data = coco.load_coco(
        root / "annotations" / f"instances_{split}.json", root / split, on_problem="skip"
    )
    (number,) = [c.id for c in data.categories if c.name == crops.category]
    rng = np.random.default_rng(crops.seed)
    images, masks, others, sides = [], [], [], [crops.side]
    for index in rng.permutation(len(data.images)):
        record = data.images[index]
        own = [a for a in record.annotations if a.category_id == number]
        picture = decode_image((root / split / record.file_name).read_bytes())
        mask = np.zeros(picture.shape[:2], bool)
        for a in own:
            mask |= rle.decode({"size": list(mask.shape), "counts": a.counts}).astype(bool)
        squares = list(_around(own, mask.shape, crops))
        for i in rng.permutation(len(squares))[: crops.per_image]:
            images.append(_resized(picture, squares[i], crops.side))
            masks.append(_resized(mask.astype(np.float32), squares[i], crops.side) >= 0.5)
            sides.append(squares[i].side)
        others += [
            _resized(picture, square, crops.side) for square in _without(mask, sides, crops, rng)
        ]
        if min(len(images), len(others)) >= crops.count:
            break
    if not images or not others:
        raise ValueError(
            f"{root} has {len(images)} crops with {crops.category} and {len(others)} without: lower"
            " `least_side` or `context`, or give other data"
        )
    return Creatures(*(np.stack(kind[: crops.count]) for kind in (images, masks, others)))


def _around(
    annotations: list[coco.Annotation], shape: tuple[int, ...], crops: Crops
) -> Iterator[_Square]:
    """Yields a square around each object that is large enough, shifted to fit into the image."""
    for a in annotations:
        x, y, width, height = a.bbox
        longest = max(width, height)
        side = round(crops.context * longest)
        if a.is_crowd or longest < crops.least_side or height < crops.least_aspect * width:
            continue
        if side <= min(shape):
            top, left = y + height / 2 - side / 2, x + width / 2 - side / 2
            place = [int(np.clip(v, 0, n - side)) for v, n in zip((top, left), shape, strict=True)]
            yield _Square(place[0], place[1], side)


def _without(
    mask: np.ndarray, sides: list[int], crops: Crops, rng: np.random.Generator
) -> list[_Square]:
    """Returns random squares, with sizes drawn from `sides`, that contain nothing of the class."""
    found: list[_Square] = []
    for _ in range(TRIES):
        side = int(rng.choice(sides))
        if side <= min(mask.shape) and len(found) < crops.per_image:
            y, x = (int(rng.integers(n - side + 1)) for n in mask.shape)
            if not mask[y : y + side, x : x + side].any():
                found.append(_Square(y, x, side))
    return found


def _resized(picture: np.ndarray, square: _Square, side: int) -> np.ndarray:
    window = picture[square.y : square.y + square.side, square.x : square.x + square.side]
    way = cv2.INTER_AREA if square.side > side else cv2.INTER_LINEAR
    return cv2.resize(window, (side, side), interpolation=way)
