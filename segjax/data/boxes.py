"""Compares boxes with their masks, to detect files that do not follow COCO's convention."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from segjax.data.problems import Problems

# A box whose IoU with its mask's bounding box is below this is wrong ("far").
_FAR = 0.5
# A file with more than two far boxes, and more than this fraction of all, uses another convention.
_SYSTEMATIC = 0.1


class BoxCheck:
    """Counts boxes that do not fit their mask, and coordinates that are fractions.

    A few such boxes are annotation mistakes, and the mask's bounding box replaces them. Many of
    them indicate another convention. The file is then rejected, because the boxes of objects
    without a mask would be wrong too.
    """

    def __init__(self) -> None:
        self._compared = self._objects = 0
        self._far: list[tuple[str, str]] = []
        self._fractions: list[str] = []

    def add(
        self,
        entry: dict[str, Any],
        outline: tuple[int, int, int, int] | None,
        size: tuple[int, int],
        where: str,
    ) -> None:
        """Checks one object.

        Args:
          entry: annotation, as in the file.
          outline: bounding box `(x0, y0, x1, y1)` of its mask; None without a mask.
          size: (height, width) of the image.
          where: name of the object in messages.
        """
        bbox: Any = entry.get("bbox")
        if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(is_number, bbox)):
            return
        self._objects += 1
        polygons: Any = entry.get("segmentation")
        points = polygons[0] if isinstance(polygons, list) and polygons else ()
        for numbers in (bbox, points):
            if min(size) > 2 and _are_fractions(numbers):
                self._fractions.append(f"{where}: {numbers!r:.60} in an image of {size}")
                return
        if outline is not None:
            self._compared += 1
            if is_far(bbox, outline):
                self._far.append((where, _convention(bbox, outline, size[0])))

    def report(self, problems: Problems) -> None:
        """Adds the findings to the problems of the file."""
        if _is_systematic(self._fractions, self._objects):
            for where in self._fractions:
                problems.add("fraction_coordinates", f"{where}: wanted pixels")
        many = _is_systematic(self._far, self._compared)
        for where, guess in self._far:
            text = f"{where}: {guess}" if guess else where
            problems.add("bbox_not_of_mask" if many else "bbox_replaced", text)


def _is_systematic(found: Sequence[Any], total: int) -> bool:
    return len(found) > max(2, _SYSTEMATIC * total)


def is_far(bbox: Sequence[float | int], outline: tuple[int, int, int, int]) -> bool:
    """Returns True if the IoU of a box with its mask's bounding box is below one half.

    Args:
      bbox: `(x, y, width, height)` in pixels.
      outline: bounding box `(x0, y0, x1, y1)` of the mask.
    """
    x, y, w, h = bbox
    ours = (x, y, x + w, y + h)
    if not w or not h:  # COCO has such boxes, and training drops them
        return False
    # Masks cover whole pixels, so that a correct box can be off by one on each side. For a tiny
    # object, this alone lowers the IoU.
    if np.abs(np.subtract(ours, outline)).max() <= 2:
        return False
    return _iou(ours, outline) < _FAR


def is_box(polygon: Sequence[Any], bbox: Any) -> bool:
    """Returns True if a polygon is just the box again, as four numbers (xywh or xyxy)."""
    if len(polygon) != 4 or not isinstance(bbox, list) or len(bbox) != 4:
        return False
    if not all(map(is_number, [*polygon, *bbox])):
        return False
    x, y, w, h = bbox
    return any(np.allclose(polygon, form, atol=1) for form in (bbox, (x, y, x + w, y + h)))


def is_number(value: Any) -> bool:
    """Returns True if a value from a JSON file is a finite number of plausible magnitude."""
    return type(value) in (int, float) and bool(np.isfinite(value)) and abs(value) < 1e9


def _are_fractions(numbers: Any) -> bool:
    if not isinstance(numbers, list) or not numbers or not all(map(is_number, numbers)):
        return False
    return max(numbers) <= 1 and any(number % 1 for number in numbers)


def _convention(
    bbox: Sequence[float | int], outline: tuple[int, int, int, int], height: int
) -> str:
    """Describes the convention under which a box fits its mask; "" if none does."""
    a, b, c, d = bbox
    forms: dict[str, Sequence[float | int]] = {
        "looks like x0 y0 x1 y1, wanted x y width height": (a, b, c, d),
        "looks like y counted from the bottom": (a, height - b - d, a + c, height - b),
        "looks like y x height width": (b, a, b + d, a + c),
        "looks like centre x, centre y, width, height": (
            a - c / 2,
            b - d / 2,
            a + c / 2,
            b + d / 2,
        ),
    }
    best = max(forms, key=lambda name: _iou(forms[name], outline))
    return best if _iou(forms[best], outline) > 0.8 else ""


def _iou(one: Sequence[float | int], other: Sequence[float | int]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = [max(b[2] - b[0], 0.0) * max(b[3] - b[1], 0.0) for b in (one, other)]
    return shared / max(sum(areas) - shared, 1e-9)
