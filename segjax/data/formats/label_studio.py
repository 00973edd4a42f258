"""Label Studio's exports "JSON" and "JSON-MIN": a list of tasks with their annotations."""

import dataclasses
import re
import urllib.parse
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from segjax.data import rle
from segjax.data.boxes import is_number
from segjax.data.brush import decode_brush
from segjax.data.coco import CocoError, parse_json
from segjax.data.config import DataConfig
from segjax.data.formats.coco_folder import ENDINGS
from segjax.data.formats.gather import Access, Gathered, Part, gathered_splits
from segjax.data.formats.search import ImageFinder, holds, split_folders
from segjax.data.hashing import hash_splits
from segjax.data.polygons import box_around, ellipse
from segjax.data.protocols import Split, Workspace

Task = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class LabelStudio:
    """The format "labelstudio".

    Polygons, ellipses and brush masks become masks. Rectangles become boxes without a mask; key
    points and answers about the whole image are left out. If a task has several annotations, the
    one marked as ground truth is used, or else the first. Images are found by the names under which
    they were uploaded. The folders `train/`, `val/` and `test/` with one json each are the splits;
    without them everything is train.

    Attributes:
      root: folder of the exported json, or the file itself.
      images: folder of the images, including sub-folders; "" for that of the json.
      access: rules for reading images.
    """

    root: str
    images: str
    access: Access

    @classmethod
    def of(cls, config: DataConfig) -> "LabelStudio":
        """Creates the source from a config; raises `ValueError` if `root` is not set."""
        if not config.root:
            raise ValueError('name="labelstudio" needs root: the folder of the exported json')
        return cls(config.root, config.image_root, Access.of(config))

    @classmethod
    def recognises(cls, root: Path) -> str | None:
        """Describes the files that identify a folder as this format; None if it is not."""
        found = [path for folder in split_folders(root).values() for path in _files(folder)]
        return f"{found[0].name}: Label Studio" if found else None

    def fingerprint(self) -> str:
        """Hashes the json by content, images by path, size, time and samples."""
        return hash_splits(self.splits(None))

    def splits(self, workspace: Workspace | None) -> Mapping[str, Split]:
        """Opens the splits; raises `CocoError` if there is no export, or several."""
        root = Path(self.root).expanduser().absolute()
        parts: dict[str, Part] = {}
        for split, folder in split_folders(root).items():
            files = _files(folder)
            if len(files) > 1:
                names = ", ".join(path.name for path in files)
                raise CocoError(f"{folder} holds several exports, {names}: give one of them")
            if files:
                images = Path(self.images).expanduser() if self.images else files[0].parent
                parts[split] = Part(self.access.folder(images), tuple(files))
        if not parts:
            raise CocoError(f"no json of Label Studio in {root}: export the project as JSON")
        return gathered_splits(parts, _read, self.access, self.recognises(root) or "Label Studio")


def _files(folder: Path) -> list[Path]:
    paths = [folder] if folder.suffix.lower() == ".json" else sorted(folder.glob("*.json"))
    return [path for path in paths if holds(path, '"original_width"') and _is_list(path)]


def _is_list(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(64).lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n\0")[:1] == b"["


def _read(part: Part, found: Gathered) -> None:
    finder = ImageFinder(part.images)
    try:
        tasks = parse_json(part.files[0])
    except CocoError as error:
        found.problems.add("bad_annotation_file", str(error))
        return
    seen = {_read_task(task, place, found, finder) for place, task in enumerate(tasks, 1)}
    for name in finder.names:
        if name not in seen:
            found.problems.add("image_not_annotated", name)


def _read_task(task: Any, place: int, found: Gathered, finder: ImageFinder) -> str | None:
    """Adds the image of a task and its objects; returns the image if it was annotated."""
    if not isinstance(task, dict):
        found.problems.add("bad_task", f"task {place}: {task!r:.80}")
        return None
    where = f"task {task.get('id', place)}"
    given, regions = _image_of(task), _regions(task, found, where)
    if given is None:
        found.problems.add("bad_task", f"{where} names no image")
        return None
    name = _find(given, task, finder)
    if regions is None:
        if not finder.has(name):  # those that are there are counted as images
            found.problems.add("image_not_annotated", f"{where}: {name}")
        return None
    image = found.add_image(name, _size(regions))
    for number, region in enumerate(regions, 1):
        _read_region(region, found, image, f"{where}, region {region.get('id', number)}")
    return name


def _image_of(task: Task) -> str | None:
    """Returns the image of a task: "image" of its data, or else the first path of an image."""
    data = task.get("data", task)
    texts = (
        [text for text in data.values() if isinstance(text, str)] if isinstance(data, dict) else []
    )
    if texts and isinstance(data.get("image"), str):
        return data["image"] or None
    named = (t for t in texts for p in (t.partition("?")[0], t) if p.lower().endswith(ENDINGS))
    return next(named, None)


def _find(given: str, task: Task, finder: ImageFinder) -> str:
    """Finds an image from its path or URL on the server."""
    url = urllib.parse.urlsplit(given)
    local = urllib.parse.parse_qs(url.query).get("d")  # /data/local-files/?d=PATH
    path = local[0] if local else urllib.parse.unquote(url.path)
    upload = task.get("file_upload")
    names = [path, *([upload] if isinstance(upload, str) else [])]
    # Uploaded files have eight random digits before their names.
    names += [re.sub(r"^[0-9a-f]{8}-", "", PurePosixPath(name).name) for name in names]
    places = (finder.find(name, near) for name in names for near in ("", "images"))
    return next((place for place in places if finder.has(place)), path.lstrip("/") or given)


def _regions(task: Task, found: Gathered, where: str) -> list[dict[str, Any]] | None:
    """Returns the regions of a task; None if it was not annotated."""
    given = task.get("annotations", task.get("completions"))
    if given is None:
        return _flat_regions(task)
    listed = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
    done = [one for one in listed if not one.get("was_cancelled") and "result" in one]
    if not done:
        return None
    if len(done) > 1:
        found.problems.add("further_annotation", f"{where} has {len(done)}")
    best = next((one for one in done if one.get("ground_truth")), done[0])
    return _joined([region for region in best["result"] or [] if isinstance(region, dict)])


def _flat_regions(task: Task) -> list[dict[str, Any]] | None:
    """Returns the regions of a task in JSON-MIN, which are lists under the names of the tags."""
    lists = [value for value in task.values() if isinstance(value, list)]
    values = [one for listed in lists for one in listed if isinstance(one, dict)]
    sizes = ("original_width", "original_height")
    regions = [
        {"value": one, **{key: one.get(key) for key in sizes}} for one in values if sizes[0] in one
    ]
    return regions or None


def _joined(regions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Joins the results of one region: some projects store shape and label separately."""
    found: dict[Any, dict[str, Any]] = {}
    for place, region in enumerate(regions):
        known = found.setdefault(region.get("id") or place, {**region, "value": {}})
        if isinstance(region.get("value"), dict):
            known["value"] |= region["value"]
    return list(found.values())


def _size(regions: list[dict[str, Any]]) -> tuple[int, int] | None:
    """Returns (height, width) of the image from the first region that has them."""
    for region in regions:
        height, width = region.get("original_height"), region.get("original_width")
        if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0:
            return height, width
    return None


# Keys that identify the shape of a region.
_SHAPES = {
    "brush": ("rle",),
    "polygon": ("points",),
    "ellipse": ("x", "y", "radiusX", "radiusY"),
    "rectangle": ("x", "y", "width", "height"),
}


def _read_region(region: dict[str, Any], found: Gathered, image: int, where: str) -> None:
    value, labels = region["value"], _labels(region["value"])
    shape = next((kind for kind, keys in _SHAPES.items() if value.keys() >= set(keys)), None)
    if shape is None:
        kinds = ", ".join(sorted(value)) or str(region.get("type"))
        found.problems.add("unsupported_shape", f"{where}: {kinds:.60}")
    elif region.get("image_rotation") or value.get("image_rotation"):
        found.problems.add("rotated_image", f"{where}: drawn on the image in another orientation")
    elif not labels:
        found.problems.add("bad_shape", f"{where} has no label")
    else:
        if len(labels) > 1:
            found.problems.add("several_labels", f"{where}: {', '.join(labels)}")
        try:
            _add_object(shape, value, labels[0], found, image, where)
        except ValueError as error:
            found.problems.add("bad_shape", f"{where} ({shape}): {error}")


def _labels(value: Task) -> list[str]:
    for key, names in value.items():
        if key.endswith("labels") and isinstance(names, list) and names:
            return [str(name) for name in names]
    return []


def _add_object(
    shape: str, value: Task, label: str, found: Gathered, image: int, where: str
) -> None:
    """Adds an object, whose coordinates are percentages of the image's sides."""
    size = found.size_of(image)
    if size is None:
        return  # `read_content` reports the image
    height, width = size
    if shape == "brush":
        mask = rle.encode(decode_brush(_as_list(value["rle"]), height, width))
        found.add_object(image, label, masks=[mask], where=where)
        return
    if shape == "polygon":
        points = [_scaled(pair, width, height) for pair in _as_list(value["points"])]
        polygon = [number for pair in points for number in pair]
        found.add_object(image, label, polygons=[polygon], where=where)
        return
    numbers = [value[key] for key in _SHAPES[shape]]
    place, extent = _scaled(numbers[:2], width, height), _scaled(numbers[2:], width, height)
    turn = value.get("rotation") or 0.0
    if not is_number(turn):
        raise ValueError(f"rotation is {turn!r:.40}")
    degrees = float(turn)
    if shape == "ellipse":
        found.add_object(image, label, polygons=[ellipse(place, extent, degrees)], where=where)
    else:  # it is turned around its first corner
        box = box_around(place, extent, degrees, place)
        found.add_object(image, label, box=box, where=where)


def _scaled(pair: Any, width: int, height: int) -> tuple[float, float]:
    if not isinstance(pair, list) or len(pair) != 2 or not all(map(is_number, pair)):
        raise ValueError(f"{pair!r:.60}, wanted two percentages")
    return pair[0] * width / 100, pair[1] * height / 100


def _as_list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r:.60}, wanted a list")
    return value
