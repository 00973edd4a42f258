"""YOLO segmentation format: images, and one text file of polygons per image."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segjax.data.coco import Category, CocoError
from segjax.data.config import DataConfig
from segjax.data.formats.coco_folder import image_names
from segjax.data.formats.gather import Access, Gathered, Part, gathered_splits
from segjax.data.formats.search import ImageFinder, read_lines, read_text
from segjax.data.hashing import hash_splits
from segjax.data.layout import ALIASES
from segjax.data.protocols import Split, Workspace

_YAMLS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_NAMES = ("classes.txt", "obj.names", "classes.names")


@dataclasses.dataclass(frozen=True)
class YoloFolder:
    """The format "yolo", as specified by Ultralytics.

    `data.yaml`, or another yaml with `names:`, gives the classes and the images of each split: a
    folder, several, or a text file with a list. Without a yaml, `images/train/` or `train/images/`
    and so on are the splits, `images/` alone is train, and `classes.txt` names the classes. Next to
    `images/`, `labels/` contains one text file per image with one object per line: "class x y x y
    ...", with coordinates as fractions of the image's sides. Lines of five numbers are boxes:
    "class x y width height", where x and y are the centre.

    Attributes:
      root: folder that contains the yaml, or the yaml itself.
      access: rules for reading images.
    """

    root: str
    access: Access

    @classmethod
    def of(cls, config: DataConfig) -> "YoloFolder":
        """Creates the source from a config; raises `ValueError` if `root` is not set."""
        if not config.root:
            raise ValueError('name="yolo" needs root: the folder with data.yaml')
        return cls(config.root, Access.of(config))

    @classmethod
    def recognises(cls, root: Path) -> str | None:
        """Describes the files that identify a folder as this format; None if it is not."""
        found = _yaml_of(root)
        if found is not None:
            return f"{found.name} and labels/*.txt: YOLO"
        folders = map(_labels_of, _plain_folders(root).values())
        texts = (path for folder in folders for path in _label_files(folder))
        return None if next(texts, None) is None else "images/ and labels/*.txt: YOLO"

    def fingerprint(self) -> str:
        """Hashes the yaml and the labels by content, images by path, size, time and samples."""
        return hash_splits(self.splits(None))

    def splits(self, workspace: Workspace | None) -> Mapping[str, Split]:
        """Opens the splits; raises `CocoError` if the yaml or a folder is missing."""
        root = Path(self.root).expanduser().absolute()
        path = _yaml_of(root)
        described = None if path is None else _read_yaml(path)
        if path is None or described is None:
            classes, parts = _listed_classes(root), self._plain_parts(root)
        else:
            classes, parts = _classes(described, path), self._yaml_parts(described, path)
        known = {str(number): Category(number, name) for number, name in classes.items()}
        return gathered_splits(
            parts,
            lambda part, found: _read(part, found, classes),
            self.access,
            self.recognises(root) or "YOLO",
            categories=known or None,
        )

    def _yaml_parts(self, described: Mapping[str, Any], path: Path) -> dict[str, Part]:
        """Finds the images of the splits that a yaml names."""
        base = _base(described, path)
        parts: dict[str, Part] = {}
        for split, names in ALIASES.items():
            value = next((described[name] for name in names if described.get(name)), None)
            if value is not None:
                values = value if isinstance(value, list) else [value]
                places = [_place_of(one, base, path) for one in values]
                whole = len(places) == 1 and places[0].is_dir()
                parts[split] = (
                    self._folder_part(places[0], path)
                    if whole
                    else self._list_part(places, base, path)
                )
        if not parts:
            raise CocoError(f"{path} names no folder of images: wanted train: and val:")
        return parts

    def _plain_parts(self, root: Path) -> dict[str, Part]:
        folders = _plain_folders(root)
        if not folders:
            raise CocoError(
                f"no data.yaml in {root}: wanted the file that names classes and folders, or the"
                " folders images/ and labels/"
            )
        names = [root / name for name in _NAMES if (root / name).is_file()]
        return {split: self._folder_part(folder, *names) for split, folder in folders.items()}

    def _folder_part(self, images: Path, *files: Path) -> Part:
        labels = _labels_of(images)
        return Part(self.access.folder(images), (*files, *_label_files(labels)), folder=labels)

    def _list_part(self, places: list[Path], base: Path, path: Path) -> Part:
        """Opens the images of several folders, or of text files that list them."""
        store = self.access.folder(base)
        finder, names = ImageFinder(store), list[str]()
        for place in places:
            if place.is_file():
                names += [finder.find(line) for line in read_lines(place)]
            elif place.resolve().is_relative_to(store.root):
                near = place.resolve().relative_to(store.root)
                names += [(near / name).as_posix() for name in image_names(place)]
            else:
                raise CocoError(f"{path} names {place} among others, which is not in {store.root}")
        lists = [place for place in places if place.is_file()]
        labels = [text for name in names if (text := _label_of(store.root / name)).is_file()]
        return Part(store, (path, *lists, *labels), tuple(dict.fromkeys(names)))


def _yaml_of(root: Path) -> Path | None:
    """Finds the yaml: one of the usual names, or the only one with `names:` in it."""
    if root.suffix.lower() in (".yaml", ".yml") and root.is_file():
        return root
    usual = [root / name for name in _YAMLS if (root / name).is_file()]
    others = [path for form in ("*.yaml", "*.yml") for path in sorted(root.glob(form))]
    named = [path for path in others if "\nnames:" in f"\n{read_text(path)}"]
    return usual[0] if usual else named[0] if len(named) == 1 else None


def _plain_folders(root: Path) -> dict[str, Path]:
    """Finds folders of images next to folders of labels, by split."""
    found: dict[str, Path] = {}
    for split, names in ALIASES.items():
        forms = [form.format(name) for name in names for form in ("images/{}", "{}/images")]
        paths = [root / form for form in forms if (root / form).is_dir()]
        if paths and _labels_of(paths[0]).is_dir():
            found[split] = paths[0]
    if "train" not in found and (root / "images").is_dir() and (root / "labels").is_dir():
        return {"train": root / "images"}
    return found


def _label_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*.txt")) if path.name not in _NAMES]


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise CocoError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise CocoError(f"{path} holds a {type(content).__name__}, wanted names:, train: and val:")
    if content.get("kpt_shape"):
        raise CocoError(f"{path} has kpt_shape: its labels are key points, wanted polygons")
    return content


def _classes(described: Mapping[str, Any], path: Path) -> dict[int, str]:
    """Returns class names by number from `names`, a list or a mapping from numbers."""
    names = described.get("names")
    listed = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(listed, dict) or not listed or not all(type(k) is int for k in listed):
        raise CocoError(
            f"{path} has no names of classes: wanted names: as a list, or 0: NAME lines"
        )
    return {number: str(name) for number, name in listed.items()}


def _listed_classes(root: Path) -> dict[int, str]:
    """Returns class names by number from a text file; none if there is no such file."""
    places = [root / name for name in _NAMES] + [root / "labels" / name for name in _NAMES]
    found = next((path for path in places if path.is_file()), None)
    return {} if found is None else dict(enumerate(read_lines(found)))


def _base(described: Mapping[str, Any], path: Path) -> Path:
    """Returns the base of relative folders: `path:` if that folder exists, else the yaml's."""
    base = described.get("path")
    given = Path(str(base)).expanduser() if base else path.parent
    here = given if given.is_absolute() else path.parent / given
    return here if here.is_dir() else path.parent


def _place_of(value: Any, base: Path, path: Path) -> Path:
    """Finds an image folder or a list; paths from other machines are looked up near the yaml."""
    if not isinstance(value, str):
        raise CocoError(f"{path} names {value!r:.100} for images: wanted folders, or a list")
    given = Path(value)
    parts = [part for part in given.parts if part not in ("..", "/", given.anchor)]
    # A path from another machine often ends like one here: try its suffixes, the longest first.
    ends = [Path(*parts[start:]) for start in range(len(parts))]
    places = [given if given.is_absolute() else base / given]
    places += [root / end for end in ends for root in (base, path.parent)]
    for place in places:
        if place.is_dir() or (place.suffix == ".txt" and place.is_file()):
            return place
    raise CocoError(f"{path} names {value}, which is not there")


def _labels_of(images: Path) -> Path:
    """Returns the label folder: the image folder with its last "images" replaced by "labels"."""
    parts = list(images.parts)
    if "images" not in parts:
        return images
    place = len(parts) - 1 - parts[::-1].index("images")
    return Path(*parts[:place], "labels", *parts[place + 1 :])


def _label_of(image: Path) -> Path:
    return _labels_of(image.parent) / f"{image.stem}.txt"


def _read(part: Part, found: Gathered, classes: Mapping[int, str]) -> None:
    """Reads the images of a split and their labels; images without a text file have no object."""
    if not classes:
        found.problems.add("unnamed_classes", f"{part.place}: wanted classes.txt, a line a class")
    unused = set(part.files[:0] if part.folder is None else _label_files(part.folder))
    for name in image_names(part.images.root) if part.names is None else part.names:
        if part.folder is None:
            path = _label_of(part.images.root / name)
        else:
            path = (part.folder / name).with_suffix(".txt")
        image = found.add_image(name)
        unused.discard(path)
        if path.is_file():
            _read_labels(path, found, image, classes)
    for path in sorted(unused):
        found.problems.add("label_without_image", str(path))


def _read_labels(path: Path, found: Gathered, image: int, classes: Mapping[int, str]) -> None:
    try:
        lines = read_text(path).splitlines()
    except CocoError as error:
        found.problems.add("bad_annotation_file", str(error))
        return
    height, width = found.size_of(image) or (1, 1)  # nothing is added to an image without a size
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            label, values = _fields(line, classes)
        except ValueError as error:
            found.problems.add("bad_line", f"{where}, {error}")
            continue
        if len(values) == 4:
            x, y, w, h = values
            box = ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height)
            found.add_object(image, label, box=box, where=where)
            continue
        inside = [min(max(value, 0.0), 1.0) for value in values]
        if max(abs(a - b) for a, b in zip(inside, values, strict=True)) > 1e-3:
            found.problems.add("point_outside", where)
        points = [value * (height if i % 2 else width) for i, value in enumerate(inside)]
        found.add_object(image, label, polygons=[points], where=where)


def _fields(line: str, classes: Mapping[int, str]) -> tuple[str, list[float]]:
    """Returns the class of a line, as a text of its number, and its coordinates."""
    words = line.split()
    try:
        fields = [float(word) for word in words]
    except ValueError:
        raise ValueError(f"is {line!r:.80}: wanted numbers") from None
    if fields[0] % 1 or fields[0] < 0 or (classes and fields[0] not in classes):
        names = (
            f"the names are of {min(classes)}..{max(classes)}" if classes else "wanted 0, 1, ..."
        )
        raise ValueError(f"has the class {words[0]}: {names}")
    if len(fields) != 5 and (len(fields) < 7 or len(fields) % 2 == 0):
        raise ValueError(
            f"has {len(fields)} numbers: wanted a class and 3 or more points x y, or a class and x"
            " y width height"
        )
    if not all(-0.5 <= value <= 1.5 for value in fields[1:]):
        raise ValueError("has values above 1: wanted fractions of the sides")
    return str(int(fields[0])), fields[1:]
