"""Converts segmentations of COCO files, polygons and all forms of RLE, to compressed RLE."""

from typing import Any

from segjax.data import rle
from segjax.data.boxes import is_box


def read_mask(entry: dict[str, Any], height: int, width: int) -> tuple[str, list[str]]:
    """Normalises the segmentation of an annotation.

    Args:
      entry: annotation, as in the file.
      height: rows of the image.
      width: columns of the image.

    Returns:
      Compressed counts over the whole image, "" without a mask; and the names of harmless defects.

    Raises:
      RleError: if the segmentation is neither a list of polygons nor RLE of the image's size.
    """
    value: Any = entry.get("segmentation")
    if isinstance(value, dict):
        return _counts(value, height, width), []
    if value in (None, [], {}, ""):
        return "", ["missing_segmentation"]
    polygons = [_flat(polygon) for polygon in _as_list(value)]
    if boxed := [p for p in polygons if is_box(p, entry.get("bbox"))]:
        raise rle.RleError(f"{boxed[0]} is the bbox once more, wanted the outline's points")
    long_enough = [p for p in polygons if len(p) >= 6]
    notes = ["short_polygon"] if len(long_enough) < len(polygons) else []
    if entry.get("iscrowd"):
        notes.append("crowd_polygon")
    if not long_enough:
        return "", [*notes, "missing_segmentation"]
    return rle.from_polygons(long_enough, height, width)["counts"], notes


def _counts(value: dict[str, Any], height: int, width: int) -> str:
    """Normalises RLE, compressed or not; keys other than COCO's "size" and "counts" are ignored."""
    if list(value.get("size") or ()) != [height, width]:
        raise rle.RleError(
            f"RLE of size {value.get('size')!r:.40} in an image of [{height}, {width}]"
        )
    if isinstance(value.get("counts"), str):
        text: rle.Rle = {"size": [height, width], "counts": value["counts"]}
        return rle.canonical(text)["counts"]
    return rle.from_counts(_as_list(value.get("counts")), height, width)["counts"]


def _flat(polygon: Any) -> list[Any]:
    """Returns the numbers of a polygon; rejects points given as pairs or objects."""
    if isinstance(polygon, (int, float)):
        raise rle.RleError("one flat list, wanted a list of polygons: [[x0, y0, ...]]")
    numbers = _as_list(polygon)
    if any(isinstance(item, (list, dict)) for item in numbers):
        first = next(item for item in numbers if isinstance(item, (list, dict)))
        kind = "[x, y] pairs" if isinstance(first, list) else "objects"
        raise rle.RleError(
            f"points as {kind}, such as {first!r:.60}: wanted one flat list a polygon,"
            " [x0, y0, x1, y1, ...]"
        )
    return numbers


def _as_list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise rle.RleError(f"a segmentation holds {value!r:.40} in place of a list")
    return value
