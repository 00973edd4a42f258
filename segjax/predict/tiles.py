"""Prediction on large pictures by overlapping tiles, whose objects are joined again.

Resizing an aerial photograph of 8,000 pixels to 1,333 erases small objects. Tiles keep them: each
is predicted at the size that the model was trained with. As in SAHI (2202.06934), the whole picture
is predicted as well, for objects larger than a tile. Instead of comparing whole boxes, two
detections are compared only in the region that both views show, so that the halves of an object on
a border are recognised as one.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Integer, UInt8

from segjax.data import rle
from segjax.data.images import IGNORE
from segjax.results.detections import ImageDetections
from segjax.results.maps import SemanticMap

# (x0, y0, x1, y1) in pixels of the picture, half-open.
View = tuple[int, int, int, int]
_BORDER = 2.0  # pixels; an object nearer to the border of its view is taken to be cut


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Settings of prediction by tiles.

    Attributes:
      size: height and width of a tile in pixels. Pictures whose sides are both at most this are
        predicted whole.
      overlap: least part of a tile that its neighbour shows too, 0 <= overlap < 1. Objects
        smaller than it are whole in some tile.
      whole: also predict the resized whole picture, for objects larger than a tile.
      iou_threshold: least IoU, in the region that two views share, of detections that are one
        object.
    """

    size: int = 1024
    overlap: float = 0.25
    whole: bool = True
    iou_threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.size < 32:
            raise ValueError(f"tiles of {self.size} pixels: wanted at least 32")
        if not 0 <= self.overlap < 1:
            raise ValueError(f"overlap of tiles is {self.overlap}: wanted 0 <= overlap < 1")
        if not 0 < self.iou_threshold <= 1:
            raise ValueError(f"iou_threshold of tiles is {self.iou_threshold}: wanted 0..1")

    def cover(self, height: int, width: int) -> list[View]:
        """Returns tiles of one size that cover a picture, row by row."""
        rows, columns = self._starts(height), self._starts(width)
        high, wide = min(self.size, height), min(self.size, width)
        return [(x, y, x + wide, y + high) for y in rows for x in columns]

    def _starts(self, length: int) -> list[int]:
        """Returns evenly spread starts of tiles along one side."""
        if length <= self.size:
            return [0]
        step = max(1.0, self.size * (1 - self.overlap))
        count = 1 + math.ceil((length - self.size) / step)
        return [round(start) for start in np.linspace(0, length - self.size, count).tolist()]


def find_in_tiles(
    find: Callable[[UInt8[np.ndarray, "_ _ 3"]], ImageDetections],
    image: UInt8[np.ndarray, "h w 3"],
    tiles: Tiles,
) -> ImageDetections:
    """Finds the objects of a picture tile by tile.

    Args:
      find: finds the objects of a picture, in its pixels.
      image: the large picture.
      tiles: settings.

    Returns:
      Objects in pixels of `image`, best first.
    """
    height, width = image.shape[:2]
    views = tiles.cover(height, width)
    if tiles.whole and len(views) > 1:
        views.append((0, 0, width, height))
    found = [(view, find(_cut(image, view))) for view in views]
    return join_views(found, (height, width), tiles.iou_threshold)


def label_in_tiles(
    label: Callable[[UInt8[np.ndarray, "_ _ 3"]], SemanticMap],
    image: UInt8[np.ndarray, "h w 3"],
    tiles: Tiles,
) -> SemanticMap:
    """Labels every pixel of a picture by the tile in which it is furthest from the border.

    Args:
      label: labels the pixels of a picture.
      image: the large picture.
      tiles: settings; `whole` is not used.

    Returns:
      The map of the whole picture.
    """
    height, width = image.shape[:2]
    labels = np.full((height, width), IGNORE, np.uint8)
    depth = np.zeros((height, width), np.int32)
    names: tuple[str, ...] = ()
    for view in tiles.cover(height, width):
        x0, y0, x1, y1 = view
        made = label(_cut(image, view))
        names = made.names
        here = _depths(y1 - y0, x1 - x0)
        deeper = here > depth[y0:y1, x0:x1]
        labels[y0:y1, x0:x1][deeper] = made.labels[deeper]
        depth[y0:y1, x0:x1][deeper] = here[deeper]
    return SemanticMap(labels, names)


def join_views(
    found: Sequence[tuple[View, ImageDetections]],
    image_size: tuple[int, int],
    iou_threshold: float = 0.5,
) -> ImageDetections:
    """Joins the detections of overlapping views of one picture.

    Detections of one class in different views are one object if their IoU, in the region that both
    views show, exceeds the threshold. Of several whole ones the best score is kept. Parts of an
    object that every view cuts are united. Detections of the same view are never compared: the
    model has done so.

    Args:
      found: views, and the detections in pixels of each.
      image_size: (height, width) of the picture.
      iou_threshold: least IoU of detections that are one object.

    Returns:
      Objects in pixels of the picture, best first.
    """
    parts = [part for view, one in found for part in _parts(view, one, image_size)]
    # Whole objects first: what a border cut never replaces them, however high its score is.
    parts.sort(key=lambda part: (part.is_cut, -part.score))
    groups: list[list[_Part]] = []
    for part in parts:
        same = [group for group in groups if _belongs(part, group, iou_threshold)]
        if not same:
            groups.append([part])
        elif not same[0][0].is_cut:
            same[0].append(part)
        else:  # it connects parts that no view shows together
            groups = [group for group in groups if not any(group is one for one in same)]
            groups.append([one for group in same for one in group] + [part])
    joined = sorted(map(_joined, groups), key=lambda part: -part.score)
    names = next((one.class_names for _, one in found), ())
    masked = any(one.mask_rles is not None for _, one in found)
    return ImageDetections(
        boxes=np.array([part.box for part in joined], np.float32).reshape(-1, 4),
        scores=np.array([part.score for part in joined], np.float32),
        classes=np.array([part.label for part in joined], np.int32),
        image_size=image_size,
        class_names=names,
        mask_rles=tuple(part.mask for part in joined if part.mask is not None) if masked else None,
    )


@dataclasses.dataclass(frozen=True)
class _Part:
    """A detection in pixels of the picture, and the view that it was found in."""

    view: View
    box: tuple[float, ...]
    score: float
    label: int
    mask: rle.Rle | None
    is_cut: bool


def _parts(view: View, found: ImageDetections, image_size: tuple[int, int]) -> Iterator[_Part]:
    height, width = image_size
    x, y = view[:2]
    for i, box in enumerate(found.boxes.tolist()):
        mask = None
        if found.mask_rles is not None:
            mask = rle.placed(found.mask_rles[i], (x, y), height, width)
        placed = (box[0] + x, box[1] + y, box[2] + x, box[3] + y)
        score = 1.0 if found.scores is None else float(found.scores[i])
        yield _Part(
            view, placed, score, int(found.classes[i]), mask, _is_cut(placed, view, image_size)
        )


def _is_cut(box: Sequence[float | int], view: View, image_size: tuple[int, int]) -> bool:
    """Returns True if a box reaches a border of its view that is not one of the picture."""
    height, width = image_size
    near = (
        view[0] > 0 and box[0] < view[0] + _BORDER,
        view[1] > 0 and box[1] < view[1] + _BORDER,
        view[2] < width and box[2] > view[2] - _BORDER,
        view[3] < height and box[3] > view[3] - _BORDER,
    )
    return any(near)


def _belongs(part: _Part, group: list[_Part], iou_threshold: float) -> bool:
    """Returns True if a detection shows the object of a group."""
    if part.label != group[0].label or any(one.view == part.view for one in group):
        return False
    return any(_touch(part, one) and _shared_iou(part, one) > iou_threshold for one in group)


def _touch(a: _Part, b: _Part) -> bool:
    """Returns True if two boxes overlap; a cheap test for the many pairs that do not."""
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a.box, b.box
    return ax0 < bx1 and bx0 < ax1 and ay0 < by1 and by0 < ay1


def _shared_iou(a: _Part, b: _Part) -> float:
    """IoU of two detections in the region that both of their views show."""
    shared = _intersection(a.view, b.view)
    if shared is None:
        return 0.0
    inside = _intersection(a.box, shared), _intersection(b.box, shared)
    if inside[0] is None or inside[1] is None:
        return 0.0
    common = _intersection(inside[0], inside[1])
    if common is None:
        return 0.0
    if a.mask is None or b.mask is None:
        both = _area(common)
        return both / (_area(inside[0]) + _area(inside[1]) - both)
    low = [min(pair) for pair in zip(inside[0][:2], inside[1][:2], strict=True)]
    high = [max(pair) for pair in zip(inside[0][2:], inside[1][2:], strict=True)]
    return _mask_iou(a.mask, b.mask, (*map(math.floor, low), *map(math.ceil, high)))


def _mask_iou(a: rle.Rle, b: rle.Rle, box: Sequence[int]) -> float:
    """IoU of masks inside a box, by at most 256 x 256 samples."""
    grid = (min(box[3] - box[1], 256), min(box[2] - box[0], 256))
    first, second = (rle.decode_crop(mask, box, grid).astype(bool) for mask in (a, b))
    either = int((first | second).sum())
    return int((first & second).sum()) / either if either else 0.0


def _intersection(a: Sequence[float | int], b: Sequence[float | int]) -> tuple[float, ...] | None:
    """Returns the common part of two boxes; None if it is empty."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    return (*map(float, low), *map(float, high)) if (low < high).all() else None


def _area(box: Sequence[float | int]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _joined(group: list[_Part]) -> _Part:
    """Returns the object of a group: its best whole detection, or the union of its parts.

    The score is the best of the group: the view that shows most of an object is not always the one
    that is surest of it.
    """
    best = dataclasses.replace(group[0], score=max(part.score for part in group))
    if not best.is_cut:
        return best
    boxes = np.array([part.box for part in group])
    low, high = boxes[:, :2].min(axis=0).tolist(), boxes[:, 2:].max(axis=0).tolist()
    masks = [part.mask for part in group if part.mask is not None]
    return dataclasses.replace(best, box=(*low, *high), mask=rle.union(masks) if masks else None)


def _cut(image: UInt8[np.ndarray, "h w 3"], view: View) -> UInt8[np.ndarray, "_ _ 3"]:
    x0, y0, x1, y1 = view
    return image[y0:y1, x0:x1]


def _depths(height: int, width: int) -> Integer[np.ndarray, "h w"]:
    """Distance of each pixel to the border of its tile, from 1."""
    rows, columns = np.arange(1, height + 1), np.arange(1, width + 1)
    rows, columns = np.minimum(rows, rows[::-1]), np.minimum(columns, columns[::-1])
    return np.minimum(rows[:, None], columns[None, :])
