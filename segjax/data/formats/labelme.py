"""Labelme format: one json with a list of shapes per image."""

import base64
import binascii
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from segjax.data import rle
from segjax.data.boxes import is_number
from segjax.data.coco import CocoError, parse_json
from segjax.data.config import DataConfig
from segjax.data.formats.gather import Access, Gathered, Part, gathered_splits
from segjax.data.formats.search import ImageFinder, first_file, split_folders, walk_files
from segjax.data.hashing import hash_splits
from segjax.data.id_maps import decode_ids
from segjax.data.polygons import box_of, ellipse
from segjax.data.protocols import Split, Workspace

# Labels that labelme's own exporters leave out.
_NOTHING = ("__ignore__", "_background_")


@dataclasses.dataclass(frozen=True)
class Labelme:
    """The format "labelme".

    Polygons, circles and masks become masks, and shapes with the same label and group one object.
    Rectangles become boxes without a mask; points and lines are left out. The folders `train/`,
    `val/` and `test/` are the splits; without them everything is train.

    Attributes:
      root: folder of the json files and the images, or a single json.
      images: folder of the images; "" for `root`.
      access: rules for reading images.
    """

    root: str
    images: str
    access: Access

    @classmethod
    def of(cls, config: DataConfig) -> "Labelme":
        """Creates the source from a config; raises `ValueError` if `root` is not set."""
        if not config.root:
            raise ValueError('name="labelme" needs root: the folder with the json files')
        return cls(config.root, config.image_root, Access.of(config))

    @classmethod
    def recognises(cls, root: Path) -> str | None:
        """Describes the files that identify a folder as this format; None if it is not."""
        found = first_file(root, ".json", '"shapes"', '"imagePath"')
        return None if found is None else f"{found.name} with shapes: labelme"

    def fingerprint(self) -> str:
        """Hashes the json files by content, images by path, size, time and samples."""
        return hash_splits(self.splits(None))

    def splits(self, workspace: Workspace | None) -> Mapping[str, Split]:
        """Opens the splits; raises `CocoError` if there is no json."""
        root = Path(self.root).expanduser().absolute()
        parts: dict[str, Part] = {}
        for split, folder in split_folders(root).items():
            files = (root,) if root.is_file() else tuple(walk_files(folder, ".json"))
            base = folder.parent if folder.is_file() else folder
            images = Path(self.images).expanduser() if self.images else base
            if files:
                parts[split] = Part(self.access.folder(images), files)
        if not parts:
            raise CocoError(f"no json in {root}: labelme writes one for each image")
        return gathered_splits(parts, _read, self.access, self.recognises(root) or "labelme")


def _read(part: Part, found: Gathered) -> None:
    finder = ImageFinder(part.images)
    seen: set[str] = set()
    for path in part.files:
        try:
            content = parse_json(path)
        except CocoError as error:
            found.problems.add("bad_annotation_file", str(error))
            continue
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            found.problems.add("other_file", f'{path} has no list "shapes"')
            continue
        name = _image_of(path, content, part, finder)
        seen.add(name)
        _read_shapes(path, content["shapes"], found, found.add_image(name, _size(content)))
    for name in finder.names:
        if name not in seen:
            found.problems.add("image_not_annotated", name)


def _size(content: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = content.get("imageHeight"), content.get("imageWidth")
    if not isinstance(height, int) or not isinstance(width, int) or min(height, width) < 1:
        return None
    return height, width


def _image_of(path: Path, content: Mapping[str, Any], part: Part, finder: ImageFinder) -> str:
    """Finds the image that a json names, or else the one with the json's own name."""
    folder, root = path.resolve().parent, part.images.root
    near = folder.relative_to(root).as_posix() if folder.is_relative_to(root) else ""
    given: Any = content.get("imagePath")
    given = given if isinstance(given, str) and given else path.stem
    name = finder.find(given, near)
    if finder.has(name):
        return name
    return finder.of_stem(PurePosixPath(near, path.stem).as_posix()) or given


def _read_shapes(path: Path, shapes: list[Any], found: Gathered, image: int) -> None:
    """Adds the objects of an image; shapes with the same label and group are one object."""
    groups: dict[tuple[str, str], list[tuple[str, dict[str, Any]]]] = {}
    for number, shape in enumerate(shapes, 1):
        where = f"{path}, shape {number}"
        label: Any = shape.get("label") if isinstance(shape, dict) else None
        if not isinstance(label, str) or not label:
            found.problems.add("bad_shape", f"{where} has no label: {shape!r:.80}")
        elif label in _NOTHING:
            found.problems.add("ignored_label", f"{where}: {label}")
        else:
            group = shape.get("group_id")
            key = f"shape {number}" if group is None else f"group {group!r}"
            groups.setdefault((label, key), []).append((where, shape))
    for (label, _), members in groups.items():
        _add_object(label, members, found, image)


def _add_object(
    label: str, members: list[tuple[str, dict[str, Any]]], found: Gathered, image: int
) -> None:
    polygons: list[list[float]] = []
    masks: list[rle.Rle] = []
    corners: list[float] = []
    size = found.size_of(image) or (1, 1)  # nothing is added to an image without a size
    for where, shape in members:
        kind = shape.get("shape_type") or "polygon"
        try:
            points = _points(shape.get("points"))
            if kind in ("rectangle", "oriented_rectangle"):
                corners += points
            elif kind == "mask":
                masks.append(_mask(shape, points, size))
            elif kind in _OUTLINES:
                polygons.append(_OUTLINES[kind](points))
            else:
                found.problems.add("unsupported_shape", f"{where}: {kind!r:.40}")
        except ValueError as error:
            found.problems.add("bad_shape", f"{where} ({kind!r:.40}): {error}")
    if polygons or masks or corners:
        box, where = box_of(corners) if corners else None, members[0][0]
        found.add_object(image, label, polygons=polygons, masks=masks, box=box, where=where)


def _points(value: Any) -> list[float]:
    """Flattens points; raises `ValueError` for anything but pairs of numbers."""
    pairs = value if isinstance(value, list) else []
    if not pairs or any(not isinstance(pair, list) or len(pair) != 2 for pair in pairs):
        raise ValueError(f"points are {value!r:.60}, wanted a list of [x, y]")
    numbers = [number for pair in pairs for number in pair]
    if not all(map(is_number, numbers)):
        raise ValueError(f"points hold something that is not a finite number: {value!r:.60}")
    return [float(number) for number in numbers]


def _polygon(points: list[float]) -> list[float]:
    return points


def _circle(points: list[float]) -> list[float]:
    if len(points) != 4:
        raise ValueError(f"{len(points) // 2} points, wanted the centre and a point on the circle")
    radius = float(np.hypot(points[2] - points[0], points[3] - points[1]))
    return ellipse((points[0], points[1]), (radius, radius))


_OUTLINES: dict[str, Callable[[list[float]], list[float]]] = {
    "polygon": _polygon,
    "circle": _circle,
}


def _mask(shape: Mapping[str, Any], points: list[float], size: tuple[int, int]) -> rle.Rle:
    """Reads a mask: a PNG over the rectangle between two pixels, which are part of it."""
    if len(points) != 4:
        raise ValueError(f"{len(points) // 2} points, wanted the mask's first and last pixel")
    try:
        data = base64.b64decode(str(shape.get("mask") or ""), validate=True)
    except binascii.Error as error:
        raise ValueError(f"the mask is not base64: {error}") from None
    pixels = decode_ids(data) > 0
    x0, y0, x1, y1 = map(round, points)
    if pixels.shape != (y1 - y0 + 1, x1 - x0 + 1):
        raise ValueError(f"a mask of {pixels.shape} pixels over {y1 - y0 + 1} x {x1 - x0 + 1}")
    return rle.encode_part(pixels, (x0, y0), *size)
