"""Pascal VOC: one xml of objects per image, and PNGs of objects and classes."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from segjax.data.coco import CocoError
from segjax.data.config import DataConfig
from segjax.data.formats.gather import Access, Gathered, Part, gathered_splits, hash_parts
from segjax.data.formats.search import (
    ImageFinder,
    first_file,
    read_lines,
    split_folders,
    walk_files,
    without_ending,
)
from segjax.data.formats.voc_masks import VocMasks
from segjax.data.layout import ALIASES
from segjax.data.polygons import box_of
from segjax.data.protocols import Split, Workspace
from segjax.data.safe_xml import numbers_of, parse_xml, size_of, text_of

_OBJECTS = "SegmentationObject"


@dataclasses.dataclass(frozen=True)
class Voc:
    """The format "voc".

    The PNGs in `SegmentationObject/` number the objects; 255 is void. The class of an object is
    that of most of its pixels in `SegmentationClass/`, named by `labelmap.txt`, `class_names.txt`
    or VOC's own list, or else that of the object in the same position in the xml. Without
    `SegmentationObject/`, objects are the polygons of the xml files, as Roboflow writes them, or
    boxes without a mask. The splits are the lists in `ImageSets/`, or the folders `train/`, `val/`
    and `test/`; without either, everything is train.

    Attributes:
      root: folder with `Annotations/` or `SegmentationObject/`; the folder above it
        (`VOCdevkit/`); or a folder with images and xml files side by side.
      images: folder of the images; "" for `root`.
      access: rules for reading images.
    """

    root: str
    images: str
    access: Access

    @classmethod
    def of(cls, config: DataConfig) -> "Voc":
        """Creates the source from a config; raises `ValueError` if `root` is not set."""
        if not config.root:
            raise ValueError('name="voc" needs root: the folder with Annotations/')
        return cls(config.root, config.image_root, Access.of(config))

    @classmethod
    def recognises(cls, root: Path) -> str | None:
        """Describes the files that identify a folder as this format; None if it is not."""
        try:
            homes = [_home(folder) for folder in split_folders(root).values()]
        except CocoError:
            return "several VOC folders: Pascal VOC"
        if any((home / _OBJECTS).is_dir() for home in homes):
            return f"{_OBJECTS}/*.png: Pascal VOC"
        xmls = (first_file(home, ".xml", "<annotation", "<object>") for home in homes)
        found = next((path for path in xmls if path is not None), None)
        return None if found is None else f"{found.name} with objects: Pascal VOC"

    def fingerprint(self) -> str:
        """Hashes lists and xml files by content, images and PNGs by path, size, time, samples."""
        return hash_parts(self.splits(None), self._parts())

    def splits(self, workspace: Workspace | None) -> Mapping[str, Split]:
        """Opens the splits; raises `CocoError` if there is no annotation."""
        note = self.recognises(Path(self.root).expanduser()) or "Pascal VOC"
        return gathered_splits(self._parts(), _read, self.access, note)

    def _parts(self) -> dict[str, Part]:
        root = Path(self.root).expanduser().absolute()
        parts: dict[str, Part] = {}
        for split, folder in split_folders(root).items():
            home = _home(folder)
            images = self.access.folder(Path(self.images).expanduser() if self.images else home)
            masks = home / _OBJECTS if (home / _OBJECTS).is_dir() else None
            base = home / "Annotations" if (home / "Annotations").is_dir() else home
            for name, listed in _lists(home, split).items():
                stems = None if listed is None else _stems(listed)
                files = (*([] if listed is None else [listed]), *_xmls(base, stems))
                if files or masks is not None:
                    parts[name] = Part(images, files, stems, masks, base)
        if not parts:
            raise CocoError(f"no {_OBJECTS}/ and no xml files in {root}")
        return parts


def _home(root: Path) -> Path:
    """Finds the folder of a dataset: `root`, or the only `VOC*` in it."""
    if any((root / name).is_dir() for name in (_OBJECTS, "Annotations", "JPEGImages")):
        return root
    inner = sorted(path for form in ("VOC*", "VOCdevkit/VOC*") for path in root.glob(form))
    found = [path for path in inner if (path / "JPEGImages").is_dir()]
    if len(found) > 1:
        raise CocoError(f"{root} holds {', '.join(p.name for p in found)}: give one of them")
    return found[0] if found else root


def _lists(home: Path, split: str) -> dict[str, Path | None]:
    """Finds the lists of the splits; without any, everything is `split`."""
    kinds = ("Segmentation", "Main") if (home / _OBJECTS).is_dir() else ("Main", "Segmentation")
    for folder in (home / "ImageSets" / kind for kind in kinds):
        paths = {
            name: path
            for name, words in ALIASES.items()
            for path in (folder / f"{word}.txt" for word in reversed(words))
            if path.is_file()
        }
        if "train" in paths:
            return dict(paths)
        if (folder / "default.txt").is_file():
            return {split: folder / "default.txt"}
    return {split: None}


def _stems(path: Path) -> tuple[str, ...]:
    """Reads a list of images; each may be followed by 1, 0 or -1."""
    names = (re.sub(r"\s+-?[01]$", "", line).strip('"') for line in read_lines(path))
    return tuple(map(without_ending, names))


def _xmls(base: Path, stems: Sequence[str] | None) -> list[Path]:
    if stems is None:
        return list(walk_files(base, ".xml"))
    return [path for stem in stems if (path := base / f"{stem}.xml").is_file()]


def _read(part: Part, found: Gathered) -> None:
    assert part.base is not None
    finder, seen = ImageFinder(part.images), set[str]()
    masks = None if part.folder is None else VocMasks.open(part.folder, part.images.follow_links)
    xmls = {
        path.relative_to(part.base).with_suffix("").as_posix(): path
        for path in part.files
        if path.suffix.lower() == ".xml"
    }
    stems = part.names or (tuple(xmls) if masks is None else masks.stems())
    for stem in stems:
        try:
            root = _open(xmls[stem]) if stem in xmls else None
        except CocoError as error:
            found.problems.add("bad_annotation_file", str(error))
            continue
        name = finder.of_stem(stem) or finder.find(text_of(root, "filename") or stem)
        seen.add(name)
        if masks is not None:
            masks.read(stem, name, [text_of(one, "name") for one in _objects(root)], found)
        elif root is None:
            found.problems.add("image_not_annotated", stem)
        else:
            size = size_of(text_of(root, "size/height"), text_of(root, "size/width"))
            _read_objects(root, found.add_image(name, size), found, str(xmls[stem]))
        for one in _objects(root):
            if text_of(one, "difficult") == "1":
                found.problems.add("difficult_object", f"{xmls[stem]}: {text_of(one, 'name')}")
    for name in finder.names if part.names is None else ():
        if name not in seen and not name.startswith("Segmentation"):
            found.problems.add("image_not_annotated", name)


def _open(path: Path) -> Element:
    root = parse_xml(path)
    if root.tag != "annotation":
        raise CocoError(f"{path} begins with <{root.tag}>, wanted <annotation>")
    return root


def _objects(root: Element | None) -> list[Element]:
    found = [] if root is None else root.findall("object")
    return [one for one in found if text_of(one, "deleted") != "1"]


def _read_objects(root: Element, image: int, found: Gathered, path: str) -> None:
    """Adds the objects of an xml: their polygons or else their boxes."""
    for number, one in enumerate(_objects(root), 1):
        where, label = f"{path}, object {number}", text_of(one, "name")
        try:
            if not label:
                raise ValueError("it has no name")
            polygons = [_polygon(outline) for outline in one.findall("polygon")]
            box = None if polygons else _box(one)
        except ValueError as error:
            found.problems.add("bad_shape", f"{where}: {error}")
            continue
        found.add_object(image, label, polygons=polygons, box=box, where=where)


def _polygon(outline: Element) -> list[float]:
    """Reads `<x1>`, `<y1>`, `<x2>`, ... or `<pt>` with `<x>` and `<y>`, in pixels."""
    points = [(text_of(pt, "x"), text_of(pt, "y")) for pt in outline.findall("pt")]
    count = sum(child.tag.startswith("x") for child in outline)
    points += [(text_of(outline, f"x{k}"), text_of(outline, f"y{k}")) for k in range(1, count + 1)]
    if not points:
        raise ValueError("its polygon has no points")
    return numbers_of([number for point in points for number in point])


def _box(one: Element) -> tuple[float, float, float, float]:
    """Reads a box, given by its first and last pixel, counted from 1."""
    names = ("xmin", "ymin", "xmax", "ymax")
    x0, y0, x1, y1 = numbers_of([text_of(one, f"bndbox/{name}") for name in names])
    return box_of([x0 - 1, y0 - 1, x1, y1])
