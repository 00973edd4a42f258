"""COCO annotation files without COCO's folder layout: any names, with images anywhere near them."""

import dataclasses
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segjax.data.coco import CocoError, load_json
from segjax.data.config import DataConfig
from segjax.data.formats.coco_folder import coco_split
from segjax.data.formats.gather import Access
from segjax.data.formats.search import holds, split_of
from segjax.data.hashing import hash_splits
from segjax.data.layout import ALIASES
from segjax.data.protocols import Split, Workspace
from segjax.data.store import bad_name

_SECTIONS = ('"images"', '"annotations"', '"categories"')
# Number of file names by which the folder of the images is found.
_TRIED = 50


@dataclasses.dataclass(frozen=True)
class CocoJson:
    """The format "coco_json": any json of COCO's form, and images near it.

    Jsons with the name of a split, such as `train.json` or `instances_val.json`, are that split. A
    single json of another name, such as `result.json`, is train.

    Attributes:
      root: folder of the jsons, which may be in `annotations/`; or a single json.
      images: folder of the images; "" to search for it.
      access: rules for reading images.
    """

    root: str
    images: str
    access: Access

    @classmethod
    def of(cls, config: DataConfig) -> "CocoJson":
        """Creates the source from a config; raises `ValueError` if `root` is not set."""
        if not config.root:
            raise ValueError('name="coco_json" needs root: the folder of the json')
        return cls(config.root, config.image_root, Access.of(config))

    @classmethod
    def recognises(cls, root: Path) -> str | None:
        """Describes the files that identify a folder as this format; None if it is not."""
        found = _files(root)
        return f"{', '.join(path.name for path in found)}: COCO json" if found else None

    def fingerprint(self) -> str:
        """Hashes the jsons by content, images by path, size, time and samples."""
        return hash_splits(self.splits(None))

    def splits(self, workspace: Workspace | None) -> Mapping[str, Split]:
        """Opens the splits; raises `CocoError` if there is no json, or no folder of its images."""
        root = Path(self.root).expanduser().absolute()
        found: dict[str, Split] = {}
        for split, path in _by_split(root).items():
            images = Path(self.images).expanduser() if self.images else _images_of(path, split)
            opened = coco_split(
                path,
                self.access.folder(images),
                max_pixels=self.access.max_pixels,
                upright=self.access.upright,
            )
            note = f"{path.name} with images in {images.name}/: COCO json"
            found[split] = dataclasses.replace(opened, note=note)
        return found


def _files(root: Path) -> list[Path]:
    paths = [root] if root.is_file() else [*root.glob("*.json"), *root.glob("annotations/*.json")]
    return [path for path in sorted(paths) if path.suffix == ".json" and holds(path, *_SECTIONS)]


def _by_split(root: Path) -> dict[str, Path]:
    """Assigns the jsons to splits by their names."""
    files = _files(root)
    if not files:
        raise CocoError(f"no COCO json in {root}: wanted images, annotations and categories in it")
    if len(files) == 1 and (root.is_file() or _split_named(files[0]) is None):
        return {"train": files[0]}
    found: dict[str, Path] = {}
    for path in files:
        split = _split_named(path)
        if split is None or split in found:
            names = ", ".join(path.name for path in files)
            raise CocoError(
                f"{root} holds {names}: name the annotations of each split with"
                " --data.train-json, --data.val-json and --data.image-root, or give one of them"
            )
        found[split] = path
    return found


def _split_named(path: Path) -> str | None:
    """Returns the split that a part of a file's name stands for."""
    words = re.split(r"[^a-z]+", path.stem.lower())
    splits = {split for split in map(split_of, words) if split is not None}
    return splits.pop() if len(splits) == 1 else None


def _images_of(path: Path, split: str) -> Path:
    """Finds the folder where most of the first images of a json are."""
    status = path.stat()
    names = _first_names(path, status.st_mtime_ns, status.st_size)
    near = [path.parent, *([path.parent.parent] if path.parent.name == "annotations" else [])]
    forms = ("images/{}", "{}", "images", "data", "", "images/default")
    places = [
        base / form.format(name) for base in near for form in forms for name in ALIASES[split]
    ]
    counts = {p: sum((p / name).is_file() for name in names) for p in places if p.is_dir()}
    best = max(counts, key=lambda place: counts[place])
    if not counts[best]:
        tried = ", ".join(dict.fromkeys(map(str, counts)))
        raise CocoError(
            f"the images of {path}, such as {', '.join(names[:2])}, are not in {tried}: name their"
            " folder with --data.image-root"
        )
    return best


@functools.lru_cache(maxsize=8)
def _first_names(path: Path, time: int, size: int) -> tuple[str, ...]:
    """Lists the first file names of a json; its time and size distinguish its versions."""
    entries = load_json(path)["images"][:_TRIED]
    names: list[Any] = [entry.get("file_name") for entry in entries if isinstance(entry, dict)]
    return tuple(name for name in names if not bad_name(name))
