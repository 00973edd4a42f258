"""COCO annotation files at arbitrary paths, one flag per split."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path

from segjax.data.coco import CocoError
from segjax.data.config import DataConfig
from segjax.data.formats.coco_folder import coco_split
from segjax.data.hashing import hash_splits
from segjax.data.labels import find_labels
from segjax.data.layout import candidates, first
from segjax.data.protocols import Split, Workspace
from segjax.data.store import FolderStore


@dataclasses.dataclass(frozen=True)
class CocoFiles:
    """Annotation files from `DataConfig.train_json` and its siblings, and one image folder.

    Attributes:
      files: pairs of a split's name and the path of its annotation file.
      images: folder that all file names are relative to.
      labels: kind of semantic labels and their folder, or ("none", "").
      follow_links: read images through links that point outside their folder.
      max_pixels: largest accepted image, height x width.
      upright: apply the EXIF orientation of images.
    """

    files: tuple[tuple[str, str], ...]
    images: str
    labels: tuple[str, str]
    follow_links: bool
    max_pixels: int
    upright: bool

    @classmethod
    def of(cls, config: DataConfig) -> "CocoFiles":
        """Creates the source from a config.

        Raises:
          ValueError: if neither `image_root` nor `root` is set.
        """
        images = config.image_root or config.root
        if not images:
            raise ValueError("train_json and val_json need image_root: the folder of the images")
        named = (
            ("train", config.train_json),
            ("val", config.val_json),
            ("test", config.test_json),
        )
        apart = config.semantic == "none" or bool(config.semantic_root)
        return cls(
            tuple((split, path) for split, path in named if path),
            images,
            ("none", "") if apart else (config.semantic, config.root or images),
            config.follow_links,
            config.max_image_pixels,
            config.exif == "upright",
        )

    def fingerprint(self) -> str:
        """Hashes annotations by content, images by path, size, time and samples."""
        return hash_splits(self._splits())

    def splits(self, workspace: Workspace) -> Mapping[str, Split]:
        """Opens the splits; raises `CocoError` if a file is missing."""
        return self._splits()

    def _splits(self) -> dict[str, Split]:
        folder = Path(self.images).expanduser().absolute()
        if not folder.is_dir():
            raise CocoError(f"no folder of images at {folder}")
        semantic, base = self.labels
        found: dict[str, Split] = {}
        for split, path in self.files:
            file = Path(path).expanduser().absolute()
            if not file.is_file():
                raise CocoError(f"no annotation file at {file}, which is to be {split}")
            images = _images_of(split, file, folder)
            found[split] = coco_split(
                file,
                FolderStore(images, follow_links=self.follow_links),
                find_labels(semantic, base, split, apart=False),
                max_pixels=self.max_pixels,
                upright=self.upright,
            )
        return found


def _images_of(split: str, file: Path, folder: Path) -> Path:
    """Returns the folder of a split's images: the given one, or its sub-folder for the split.

    The sub-folder is taken if the first image that the file names is only there, as in COCO, whose
    names lack "train2017/".
    """
    with file.open("rb") as opened:
        head = opened.read(1 << 20).decode("utf-8", errors="ignore")
    named = re.search(r'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")', head)
    if named is None:
        return folder
    try:
        name = json.loads(named.group(1))
    except ValueError:  # reported when the file is read
        return folder
    places = [folder, *filter(Path.is_dir, candidates(folder, ("{}", "{}2017"), split))]
    return first(places, lambda place: FolderStore(place).problem(name) is None) or folder
