"""Saves objects for other programs: mask PNGs, crops, CSV, YOLO, labelme and COCO."""

import base64
import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, UInt8

from segjax.results.detections import ImageDetections
from segjax.results.mask import Mask


@runtime_checkable
class ObjectWriter(Protocol):
    """Interface of the classes in `WRITERS`, which save the objects of several images."""

    def __init__(self, folder: Path) -> None:
        """Creates a writer that writes to a folder."""
        ...

    def add(
        self, name: str, stem: str, image: UInt8[np.ndarray, "h w 3"], found: ImageDetections
    ) -> None:
        """Writes the objects of one image.

        Args:
          name: name of the image.
          stem: unique stem for names of files.
          image: RGB pixels.
          found: objects in the image.
        """
        ...

    def close(self) -> tuple[Path, ...]:
        """Writes files that cover all images; returns the written files and folders."""
        ...


class MaskWriter:
    """Writes `masks/NAME.png`, 16-bit object ids from 1 (0 for none), and names in `NAME.json`."""

    def __init__(self, folder: Path) -> None:
        self._folder = _made(folder / "masks")

    def add(
        self, name: str, stem: str, image: UInt8[np.ndarray, "h w 3"], found: ImageDetections
    ) -> None:
        """Writes the masks of one image; where they overlap, the better object wins."""
        from PIL import Image

        ids = np.zeros(found.image_size, np.uint16)
        for index in reversed(range(len(found))):
            ids[found.mask(index)] = index + 1
        Image.fromarray(ids).save(self._folder / f"{stem}.png")
        legend = {
            one.index + 1: {"name": one.name, "class": one.class_name, "score": one.score}
            for one in found
        }
        (self._folder / f"{stem}.json").write_text(json.dumps(legend), encoding="utf-8")

    def close(self) -> tuple[Path, ...]:
        """Returns the folder."""
        return (self._folder,)


class CropWriter:
    """Writes `crops/CLASS/NAME_NUMBER.png`: one object each, transparent outside its mask."""

    def __init__(self, folder: Path) -> None:
        self._folder = _made(folder / "crops")

    def add(
        self, name: str, stem: str, image: UInt8[np.ndarray, "h w 3"], found: ImageDetections
    ) -> None:
        """Writes the crops of one image; objects without pixels are skipped."""
        from PIL import Image

        for one in found:
            if one.mask_rle is None:
                x0, y0 = np.floor(one.box[:2]).astype(int)
                x1, y1 = np.ceil(one.box[2:]).astype(int)
                alpha = np.full((y1 - y0, x1 - x0), 255, np.uint8)
            else:
                x0, y0, x1, y1 = one.mask.box
                alpha = one.mask.pixels[y0:y1, x0:x1].astype(np.uint8) * 255
            if alpha.size:
                crop = np.dstack([image[y0:y1, x0:x1], alpha])
                folder = _made(self._folder / _as_file_name(one.class_name))
                Image.fromarray(crop).save(folder / f"{stem}_{one.index + 1}.png")

    def close(self) -> tuple[Path, ...]:
        """Returns the folder."""
        return (self._folder,)


class CsvWriter:
    """Writes `detections.csv`, with one row for each object of all images."""

    COLUMNS = ("image", "object", "class", "score", "x0", "y0", "x1", "y1", "mask_pixels")

    def __init__(self, folder: Path) -> None:
        self._path = _made(folder) / "detections.csv"
        self._rows: list[Sequence[Any]] = [self.COLUMNS]

    def add(
        self, name: str, stem: str, image: UInt8[np.ndarray, "h w 3"], found: ImageDetections
    ) -> None:
        """Adds the rows of one image."""
        for one in found:
            area = "" if one.mask_rle is None else one.mask.area
            score = "" if one.score is None else round(one.score, 6)
            box = (round(float(side), 3) for side in one.box)
            self._rows.append((name, one.name, one.class_name, score, *box, area))

    def close(self) -> tuple[Path, ...]:
        """Writes the table."""
        with self._path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(self._rows)
        return (self._path,)


class YoloWriter:
    """Writes `labels/NAME.txt` and `classes.txt`: YOLO polygons, bridged to holes and parts."""

    def __init__(self, folder: Path) -> None:
        self._folder = _made(folder / "labels")
        self._names: tuple[str, ...] = ()

    def add(
        self, name: str, stem: str, image: UInt8[np.ndarray, "h w 3"], found: ImageDetections
    ) -> None:
        """Writes the polygons of one image; boxes if there are no masks."""
        height, width = found.image_size
        self._names = found.class_names or self._names
        lines: list[str] = []
        for one in found:
            if one.mask_rle is None:
                x0, y0, x1, y1 = (float(side) for side in one.box)
                values = [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]
            else:
                values = bridged(one.mask).ravel().tolist()
            if values:
                shares = (v / (height if i % 2 else width) for i, v in enumerate(values))
                lines.append(
                    " ".join([str(one.class_index), *(f"{share:.8g}" for share in shares)])
                )
        (self._folder / f"{stem}.txt").write_text("".join(f"{line}\n" for line in lines))

    def close(self) -> tuple[Path, ...]:
        """Writes the class names."""
        path = self._folder / "classes.txt"
        path.write_text("".join(f"{name}\n" for name in self._names), encoding="utf-8")
        return (self._folder,)


class LabelmeWriter:
    """Writes `labelme/NAME.json`: polygons, or PNG masks for objects with holes or parts."""

    def __init__(self, folder: Path) -> None:
        self._folder = _made(folder / "labelme")

    def add(
        self, name: str, stem: str, image: UInt8[np.ndarray, "h w 3"], found: ImageDetections
    ) -> None:
        """Writes the shapes of one image."""
        height, width = found.image_size
        content = {
            "version": "5.5.0",
            "flags": {},
            "shapes": [_shape(one) for one in found if one.mask_rle is None or one.mask.area],
            "imagePath": name,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        (self._folder / f"{stem}.json").write_text(json.dumps(content), encoding="utf-8")

    def close(self) -> tuple[Path, ...]:
        """Returns the folder."""
        return (self._folder,)


class CocoWriter:
    """Writes `coco.json`, a COCO dataset to correct in annotation tools and to train on."""

    def __init__(self, folder: Path) -> None:
        self._path = _made(folder) / "coco.json"
        self._names: tuple[str, ...] = ()
        self._images: list[dict[str, Any]] = []
        self._objects: list[dict[str, Any]] = []

    def add(
        self, name: str, stem: str, image: UInt8[np.ndarray, "h w 3"], found: ImageDetections
    ) -> None:
        """Adds one image."""
        height, width = found.image_size
        number = len(self._images) + 1
        self._images.append({"id": number, "file_name": name, "height": height, "width": width})
        self._names = found.class_names or self._names
        ids = range(1, 1 + max((int(k) for k in found.classes), default=0) + 1)
        for one, entry in zip(found, found.to_coco(number, ids), strict=True):
            area = (
                one.mask.area if one.mask_rle is not None else entry["bbox"][2] * entry["bbox"][3]
            )
            # COCO readers expect a segmentation; that of `entry`, if any, overrides the empty one.
            made = {"id": len(self._objects) + 1, "iscrowd": 0, "area": area, "segmentation": []}
            self._objects.append(made | entry)

    def close(self) -> tuple[Path, ...]:
        """Writes the file, with placeholders for unknown class names."""
        used = max((entry["category_id"] for entry in self._objects), default=0)
        names = [*self._names, *(f"class {k}" for k in range(len(self._names), used))]
        content = {
            "images": self._images,
            "annotations": self._objects,
            "categories": [{"id": k + 1, "name": name} for k, name in enumerate(names)],
        }
        self._path.write_text(json.dumps(content), encoding="utf-8")
        return (self._path,)


# Formats of `segjax predict --save`.
WRITERS: dict[str, type[ObjectWriter]] = {
    "masks": MaskWriter,
    "crops": CropWriter,
    "csv": CsvWriter,
    "yolo": YoloWriter,
    "labelme": LabelmeWriter,
    "coco": CocoWriter,
}


def open_writers(names: Sequence[str], folder: Path) -> list[ObjectWriter]:
    """Creates the named writers; raises a `ValueError` for unknown names."""
    if unknown := [name for name in names if name not in WRITERS]:
        raise ValueError(f"cannot save {', '.join(unknown)}: wanted some of {', '.join(WRITERS)}")
    return [WRITERS[name](folder) for name in names]


def bridged(mask: Mask) -> Float64[np.ndarray, "points 2"]:
    """Joins all outlines of a mask, including holes, into one polygon, by bridges of zero width.

    Outlines keep their directions, so that both the nonzero and the even-odd rule reproduce the
    mask.

    Args:
      mask: any mask.

    Returns:
      Corners (x, y) of the closed polygon; no rows for an empty mask.
    """
    rings = [np.array(ring).reshape(-1, 2) for ring in mask.polygon()]
    if not rings:
        return np.zeros((0, 2))
    path = rings[0]
    for ring in rings[1:]:
        # Bridges the closest pair of corners, there and back along the same line.
        far = np.abs(path[:, None] - ring[None]).sum(-1)
        here, there = np.unravel_index(far.argmin(), far.shape)
        around = np.concatenate([ring[there:], ring[: there + 1]])
        path = np.concatenate([path[: here + 1], around, path[here:]])
    return path


def _shape(one: Any) -> dict[str, Any]:
    """Converts an object to a labelme shape."""
    shape: dict[str, Any] = {
        "label": one.class_name,
        "group_id": None,
        "description": "" if one.score is None else f"score {one.score:.4f}",
        "flags": {},
    }
    if one.mask_rle is None:
        x0, y0, x1, y1 = (float(side) for side in one.box)
        return shape | {"shape_type": "rectangle", "points": [[x0, y0], [x1, y1]]}
    rings = one.mask.polygon()
    if len(rings) == 1:
        points = np.array(rings[0]).reshape(-1, 2).tolist()
        return shape | {"shape_type": "polygon", "points": points}
    x0, y0, x1, y1 = one.mask.box
    crop = one.mask.pixels[y0:y1, x0:x1].astype(np.uint8) * 255
    # Labelme's corners of masks are inclusive.
    corners = [[float(x0), float(y0)], [float(x1 - 1), float(y1 - 1)]]
    return shape | {"shape_type": "mask", "points": corners, "mask": _png(crop)}


def _png(pixels: UInt8[np.ndarray, "h w"]) -> str:
    import cv2

    return base64.b64encode(cv2.imencode(".png", pixels)[1].tobytes()).decode("ascii")


def _as_file_name(text: str) -> str:
    return re.sub(r"[^\w. -]", "_", text).strip(". ") or "class"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
