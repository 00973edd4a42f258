"""CVAT's format "CVAT for images 1.1": one annotations.xml with all images and shapes."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from segjax.data import rle
from segjax.data.coco import CocoError
from segjax.data.config import DataConfig
from segjax.data.formats.gather import Access, Gathered, Part, gathered_splits
from segjax.data.formats.search import ImageFinder, holds, split_folders, split_of
from segjax.data.hashing import hash_splits
from segjax.data.polygons import box_around, box_of, ellipse
from segjax.data.protocols import Split, Workspace
from segjax.data.safe_xml import numbers_of, parse_xml, size_of
from segjax.data.store import FolderStore


@dataclasses.dataclass(frozen=True)
class Cvat:
    """The format "cvat".

    Polygons, ellipses and masks become masks, and shapes with the same label and group one object.
    Boxes have no mask; points, polylines, cuboids, skeletons and tags are left out. The splits are
    the subsets that the xml names, or the folders `train/`, `val/` and `test/` with one xml each;
    without either, everything is train.

    Attributes:
      root: folder of annotations.xml, or the file itself.
      images: folder of the images; "" for the folder of the xml and `images/` in it.
      access: rules for reading images.
    """

    root: str
    images: str
    access: Access

    @classmethod
    def of(cls, config: DataConfig) -> "Cvat":
        """Creates the source from a config; raises `ValueError` if `root` is not set."""
        if not config.root:
            raise ValueError('name="cvat" needs root: the folder with annotations.xml')
        return cls(config.root, config.image_root, Access.of(config))

    @classmethod
    def recognises(cls, root: Path) -> str | None:
        """Describes the files that identify a folder as this format; None if it is not."""
        found = [path for folder in split_folders(root).values() for path in _files(folder)]
        return f"{found[0].name}: CVAT for images" if found else None

    def fingerprint(self) -> str:
        """Hashes the xml by content, images by path, size, time and samples."""
        return hash_splits(self.splits(None))

    def splits(self, workspace: Workspace | None) -> Mapping[str, Split]:
        """Opens the splits; raises `CocoError` if there is no file of CVAT, or several."""
        root = Path(self.root).expanduser().absolute()
        parts: dict[str, Part] = {}
        for split, folder in split_folders(root).items():
            files = _files(folder)
            if len(files) > 1:
                names = ", ".join(path.name for path in files)
                raise CocoError(f"{folder} holds several files of CVAT, {names}: give one of them")
            if files:
                images = Path(self.images).expanduser() if self.images else files[0].parent
                for name, subsets in _subsets(files[0], split).items():
                    parts[name] = Part(self.access.folder(images), tuple(files), subsets)
        if not parts:
            raise CocoError(f'no file of "CVAT for images" in {root}: wanted annotations.xml')
        note = self.recognises(root) or "CVAT for images"
        return gathered_splits(parts, _read, self.access, note, declared=True)


def _files(folder: Path) -> list[Path]:
    paths = [folder] if folder.suffix.lower() == ".xml" else sorted(folder.glob("*.xml"))
    words = ("<image ", "<track ")
    return [path for path in paths if any(holds(path, "<annotations", word) for word in words)]


def _open(path: Path) -> Element:
    root = parse_xml(path)
    if root.tag != "annotations" or root.find("track") is not None:
        raise CocoError(
            f'{path} is of "CVAT for video", which has tracks instead of images: export the task'
            ' as "CVAT for images 1.1"'
        )
    return root


def _subsets(path: Path, split: str) -> dict[str, tuple[str, ...] | None]:
    """Returns the subsets of each split; everything is `split` if a subset names no split."""
    status = path.stat()
    found: dict[str, tuple[str, ...]] = {}
    for subset in _named_subsets(path, status.st_mtime_ns, status.st_size):
        meant = split_of(subset) or (split if subset.lower() in ("", "default") else None)
        if meant is None:
            return {split: None}
        found[meant] = (*found.get(meant, ()), subset)
    return dict(found) or {split: None}


@functools.lru_cache(maxsize=8)
def _named_subsets(path: Path, time: int, size: int) -> tuple[str, ...]:
    """Lists the subsets of a file; its time and size distinguish its versions."""
    return tuple(sorted({image.get("subset") or "" for image in _open(path).iter("image")}))


def _read(part: Part, found: Gathered) -> None:
    path, finder = part.files[0], ImageFinder(part.images)
    root = _open(path)
    labels = root.iterfind("meta//labels/label")
    found.declare([label.findtext("name", "").strip() for label in labels if not _is_part(label)])
    seen: set[str] = set()
    for image in root.iter("image"):
        place = _find(image, part.images, finder)
        seen.add(place)
        if part.names is None or (image.get("subset") or "") in part.names:
            number = found.add_image(place, size_of(image.get("height"), image.get("width")))
            _read_shapes(image, found, number, f'{path.name}, image "{image.get("name")}"')
    for name in finder.names:
        if name not in seen:
            found.problems.add("image_not_annotated", name)


def _is_part(label: Element) -> bool:
    """Returns True for the labels of a skeleton's points, which name their skeleton."""
    return label.find("parent") is not None


def _find(image: Element, store: FolderStore, finder: ImageFinder) -> str:
    """Finds an image; exports of projects put it into the folder of its subset."""
    subset, name = image.get("subset") or "", image.get("name") or ""
    for form in ("images/{}/{}", "{}/{}") if subset else ():
        if (store.root / form.format(subset, name)).is_file():
            return form.format(subset, name)
    return finder.find(name, "images")


def _read_shapes(image: Element, found: Gathered, number: int, where: str) -> None:
    """Adds the objects of an image; shapes with the same label and group are one object."""
    groups: dict[tuple[str, str], list[Element]] = {}
    for place, shape in enumerate(image):
        label = shape.get("label")
        if label is None or shape.tag == "tag":
            found.problems.add("unsupported_shape", f"{where}: {shape.tag}")
            continue
        group = shape.get("group_id") or "0"
        key = f"shape {place}" if group == "0" else f"group {group}"
        groups.setdefault((label, key), []).append(shape)
    for (label, _), shapes in groups.items():
        _add_object(shapes, label, found, number, where)


def _add_object(shapes: list[Element], label: str, found: Gathered, image: int, where: str) -> None:
    polygons: list[list[float]] = []
    masks: list[rle.Rle] = []
    corners: list[float] = []
    size = found.size_of(image) or (1, 1)  # nothing is added to an image without a size
    for shape in shapes:
        try:
            if shape.tag == "polygon":
                polygons.append(_points(shape))
            elif shape.tag == "ellipse":
                x, y, rx, ry, turn = _fields(shape, "cx", "cy", "rx", "ry", "rotation")
                polygons.append(ellipse((x, y), (rx, ry), turn))
            elif shape.tag == "mask":
                masks.append(_mask(shape, size))
            elif shape.tag == "box":
                corners += _corners(shape)
            else:
                found.problems.add("unsupported_shape", f"{where}: {shape.tag}")
        except ValueError as error:
            found.problems.add("bad_shape", f"{where}, {shape.tag}: {error}")
    if polygons or masks or corners:
        box = box_of(corners) if corners else None
        found.add_object(image, label, polygons=polygons, masks=masks, box=box, where=where)


def _fields(shape: Element, *names: str) -> list[float]:
    """Reads numeric attributes; "rotation" is 0 if it is missing."""
    return numbers_of([shape.get(name) or ("0" if name == "rotation" else "") for name in names])


def _points(shape: Element) -> list[float]:
    """Reads points of the form "x,y;x,y;..."."""
    pairs = [pair.split(",") for pair in (shape.get("points") or "").split(";")]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"points are {shape.get('points')!r:.60}, wanted x,y;x,y;...")
    return numbers_of([number for pair in pairs for number in pair])


def _corners(shape: Element) -> tuple[float, float, float, float]:
    """Reads a box, which may be rotated; returns two corners of the box around it."""
    x0, y0, x1, y1, turn = _fields(shape, "xtl", "ytl", "xbr", "ybr", "rotation")
    x, y, w, h = box_around((x0, y0), (x1 - x0, y1 - y0), turn)
    return x, y, x + w, y + h


def _mask(shape: Element, size: tuple[int, int]) -> rle.Rle:
    """Reads run lengths, zeros first, that go row by row through the mask's own rectangle."""
    left, top, width, height = map(int, _fields(shape, "left", "top", "width", "height"))
    counts = np.array(numbers_of((shape.get("rle") or "").split(","))).astype(np.int64)
    if width < 1 or height < 1 or height * width > rle.MAX_MASK_PIXELS:
        raise ValueError(f"a mask of {height} x {width} pixels")
    if counts.min() < 0 or counts.sum() != height * width:
        raise ValueError(f"runs of {counts.sum()} pixels in a mask of {height} x {width}")
    values = np.arange(len(counts)) % 2 == 1
    pixels = np.repeat(values, counts).reshape(height, width)
    return rle.encode_part(pixels, (left, top), *size)
