"""YOLO segmentation format: a data.yaml, images, and one text file of polygons per image."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segjax.data.coco import CocoDataset, CocoError, read_content
from segjax.data.config import DataConfig
from segjax.data.formats.coco_folder import image_names
from segjax.data.hashing import hash_splits
from segjax.data.images import ImageError, read_size
from segjax.data.layout import ALIASES
from segjax.data.protocols import Split, Workspace
from segjax.data.store import FolderStore, StoreError


@dataclasses.dataclass(frozen=True)
class YoloFolder:
    """The format "yolo", as specified by Ultralytics.

    `data.yaml` names the classes and the image folders. Next to `images/`, `labels/` contains one
    text file per image with one object per line: "class x y x y ...", with coordinates as fractions
    of the image's sides. Lines of five numbers are boxes: "class x y width height", where x and y
    are the centre.

    Attributes:
      root: folder that contains `data.yaml`.
      follow_links: read images through links that point outside their folder.
      max_pixels: largest accepted image, height x width.
      upright: apply the EXIF orientation of images.
    """

    root: str
    follow_links: bool
    max_pixels: int
    upright: bool

    @classmethod
    def of(cls, config: DataConfig) -> "YoloFolder":
        """Creates the source from a config; raises `ValueError` if `root` is not set."""
        if not config.root:
            raise ValueError('name="yolo" needs root: the folder with data.yaml')
        return cls(
            config.root,
            config.follow_links,
            config.max_image_pixels,
            config.exif == "upright",
        )

    @classmethod
    def recognises(cls, root: Path) -> str | None:
        """Describes the files that identify a folder as this format; None if it is not."""
        found = _yaml_of(root)
        return None if found is None else f"{found.name} and labels/*.txt: YOLO"

    def fingerprint(self) -> str:
        """Hashes the yaml and the labels by content, images by path, size, time and samples."""
        return hash_splits(self._splits())

    def splits(self, workspace: Workspace) -> Mapping[str, Split]:
        """Opens the splits that the yaml names; raises `CocoError` if something is missing."""
        return self._splits()

    def _splits(self) -> dict[str, Split]:
        root = Path(self.root).expanduser().absolute()
        path = _yaml_of(root)
        if path is None:
            raise CocoError(
                f"no data.yaml in {root}: wanted the file that names classes and folders"
            )
        described = _read_yaml(path)
        classes = _classes(described.get("names"), path)
        base = _base(described, path)
        found: dict[str, Split] = {}
        for split, names in ALIASES.items():
            value = next((described[name] for name in names if described.get(name)), None)
            if value is None:
                continue
            images = _folder_of(value, base, path)
            labels = _labels_of(images)
            store = FolderStore(images, follow_links=self.follow_links)
            load = functools.partial(
                _load, store, labels, classes, max_pixels=self.max_pixels, upright=self.upright
            )
            files = (path, *sorted(labels.rglob("*.txt")))
            found[split] = Split(store, load, None, files, self.recognises(root) or "")
        if not found:
            raise CocoError(f"{path} names no folder of images: wanted train: and val:")
        return found


def _yaml_of(root: Path) -> Path | None:
    named = [root / name for name in ("data.yaml", "data.yml", "dataset.yaml")]
    return next((path for path in named if path.is_file()), None)


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CocoError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise CocoError(f"{path} holds a {type(content).__name__}, wanted names:, train: and val:")
    return content


def _classes(names: Any, path: Path) -> dict[int, str]:
    """Returns class names by number from `names`, a list or a mapping from numbers."""
    listed = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(listed, dict) or not listed or not all(type(k) is int for k in listed):
        raise CocoError(
            f"{path} has no names of classes: wanted names: as a list, or 0: NAME lines"
        )
    return {number: str(name) for number, name in listed.items()}


def _base(described: Mapping[str, Any], path: Path) -> Path:
    """Returns the base of relative folders: `path:` if that folder exists, else the yaml's."""
    base = described.get("path")
    given = Path(str(base)).expanduser() if base else path.parent
    here = given if given.is_absolute() else path.parent / given
    return here if here.is_dir() else path.parent


def _folder_of(value: Any, base: Path, path: Path) -> Path:
    """Finds an image folder; paths from other machines are looked up relative to the yaml."""
    if not isinstance(value, str):
        raise CocoError(f"{path} names {value!r:.100} for images: wanted one folder for each split")
    if value.endswith(".txt"):
        raise CocoError(f"{path} names the list {value}: wanted a folder of images")
    given = Path(value)
    parts = [part for part in given.parts if part not in ("..", "/", given.anchor)]
    # A path from another machine often ends like one here: try its suffixes, the longest first.
    ends = [Path(*parts[start:]) for start in range(len(parts))]
    places = [given if given.is_absolute() else base / given]
    places += [root / end for end in ends for root in (base, path.parent)]
    for place in places:
        if place.is_dir():
            return place
    raise CocoError(f"{path} names the folder {value}, which is not there")


def _labels_of(images: Path) -> Path:
    """Returns the label folder: the image folder with its last "images" replaced by "labels"."""
    parts = list(images.parts)
    if "images" not in parts:
        return images
    place = len(parts) - 1 - parts[::-1].index("images")
    return Path(*parts[:place], "labels", *parts[place + 1 :])


def _load(
    store: FolderStore,
    labels: Path,
    classes: Mapping[int, str],
    *,
    max_pixels: int,
    upright: bool,
    on_problem: str = "raise",
) -> CocoDataset:
    """Reads the images of a split and their labels."""
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for number, name in enumerate(image_names(store.root), 1):
        entry: dict[str, Any] = {"id": number, "file_name": name}
        images.append(entry)
        try:
            height, width = read_size(store.read(name), max_pixels, upright)
        except (ImageError, StoreError):
            continue  # `read_content` reports it
        entry |= {"height": height, "width": width}
        path = (labels / name).with_suffix(".txt")
        if path.is_file():
            for fields in _lines(path, classes):
                made = {"id": len(objects) + 1, "image_id": number, "iscrowd": 0}
                objects.append(made | _object(fields, height, width))
    if not images:
        raise CocoError(f"{store.root} holds no image")
    categories = [{"id": number, "name": name} for number, name in classes.items()]
    content = {"images": images, "annotations": objects, "categories": categories}
    return read_content(
        content, str(labels), store, on_problem=on_problem, max_pixels=max_pixels, upright=upright
    )


def _lines(path: Path, classes: Mapping[int, str]) -> list[list[float]]:
    """Reads a text file of objects: class number, then coordinates as fractions of the sides.

    Raises:
      CocoError: if the file is invalid; the message names the first bad line.
    """
    found: list[list[float]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            fields = [float(word) for word in words]
        except ValueError:
            raise CocoError(f"{path}, line {number}, is {line!r:.80}: wanted numbers") from None
        if fields[0] not in classes:
            raise CocoError(
                f"{path}, line {number}, has the class {words[0]}: data.yaml names"
                f" {min(classes)}..{max(classes)}"
            )
        if len(fields) != 5 and (len(fields) < 7 or len(fields) % 2 == 0):
            raise CocoError(
                f"{path}, line {number}, has {len(fields)} numbers: wanted a class and 3 or more"
                " points x y, or a class and x y width height"
            )
        if not all(-0.5 <= value <= 1.5 for value in fields[1:]):
            raise CocoError(
                f"{path}, line {number}, has values above 1: wanted fractions of the sides"
            )
        found.append(fields)
    return found


def _object(fields: list[float], height: int, width: int) -> dict[str, Any]:
    """Converts an object to a COCO annotation, in pixels."""
    category, values = int(fields[0]), fields[1:]
    if len(values) == 4:
        x, y, w, h = values
        bbox = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
        return {"category_id": category, "bbox": bbox, "area": bbox[2] * bbox[3]}
    points = [
        min(max(value, 0.0), 1.0) * (height if place % 2 else width)
        for place, value in enumerate(values)
    ]
    xs, ys = points[::2], points[1::2]
    bbox = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    # The shoelace formula.
    turns = [xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs))]
    area = abs(sum(turns)) / 2
    return {"category_id": category, "bbox": bbox, "segmentation": [points], "area": area}
