"""What a dataset is built from: a folder, or COCO's archives over HTTP."""

import dataclasses
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from segjax.data.coco import CocoDataset, load_coco
from segjax.data.config import Semantic
from segjax.data.layout import find_maps, find_splits
from segjax.data.maps import Maps
from segjax.data.plain_images import list_images
from segjax.data.store import FolderStore, ImageStore, ZipStore

# COCO-Stuff's README gives this address; COCO's own server does not hold the maps.
STUFFTHINGMAPS_URL = (
    "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/"
    "stuffthingmaps_trainval2017.zip"
)
# Annotations, and archives that lie inside other archives, are unpacked here to be read once.
UNPACKED = "unpacked"


@dataclasses.dataclass(frozen=True)
class SplitSource:
    """The files of a split.

    Attributes:
      annotations: the `instances_*.json`; None where images come alone.
      images: where they are read from.
      maps: of semantic labels, if these have files of their own.
    """

    annotations: Path | None
    images: ImageStore
    maps: Maps | None

    def load(self, on_problem: str = "raise") -> CocoDataset:
        """Reads the annotations, or lists the images where there are none.

        Args:
          on_problem: as `segjax.data.coco.load_coco` takes it.
        """
        if self.annotations is not None:
            return load_coco(self.annotations, self.images, on_problem=on_problem)
        assert isinstance(self.images, FolderStore)
        return list_images(self.images.root, self.images)


@runtime_checkable
class Downloads(Protocol):
    """The part of TFDS's download manager that is used."""

    def download(self, url_or_urls: Any) -> Any:
        """Fetches files, and gives their paths in place of the addresses."""
        ...


def folder_sources(
    root: str, semantic: Semantic, semantic_root: str, *, need_annotations: bool = True
) -> dict[str, SplitSource]:
    """Finds the splits of a folder.

    Args:
      root: in COCO format.
      semantic: which label maps to find.
      semantic_root: their folder, if it is not `root`.
      need_annotations: False also takes images without an `instances_*.json`.

    Returns:
      Each split's files.

    Raises:
      CocoError: if something is missing; it names what.
    """
    return {
        split: SplitSource(
            files.annotations,
            FolderStore(files.images),
            folder_maps(semantic, root, semantic_root, split),
        )
        for split, files in find_splits(root, need_annotations=need_annotations).items()
    }


def folder_maps(semantic: Semantic, root: str, semantic_root: str, split: str) -> Maps | None:
    """Opens the label maps that lie in a folder, as `segjax.data.layout.find_maps` finds them."""
    found = find_maps(semantic, root, semantic_root, split)
    return found and Maps(FolderStore(found.folder), found.annotations, found.classes)


def archive_sources(
    downloads: Downloads, base_url: str, folder: Path, semantic: Semantic, semantic_root: str
) -> dict[str, SplitSource]:
    """Downloads COCO 2017; images and maps are read out of the archives without unpacking.

    Args:
      downloads: fetches and keeps the archives.
      base_url: where COCO's `zips/` and `annotations/` are.
      folder: where files that must be unpacked are put; it can be deleted after reading.
      semantic: which label maps to fetch.
      semantic_root: folder that holds them already.

    Returns:
      Each split's files.
    """
    urls = {
        "train": f"{base_url}/zips/train2017.zip",
        "val": f"{base_url}/zips/val2017.zip",
        "annotations": f"{base_url}/annotations/annotations_trainval2017.zip",
    }
    if not semantic_root and semantic == "stuffthingmaps":
        urls["maps"] = STUFFTHINGMAPS_URL
    if not semantic_root and semantic == "panoptic":
        urls["maps"] = f"{base_url}/annotations/panoptic_annotations_trainval2017.zip"
    paths = downloads.download(urls)
    sources: dict[str, SplitSource] = {}
    for split in ("train", "val"):
        target = folder / f"instances_{split}.json"
        _unpack(paths["annotations"], f"annotations/instances_{split}2017.json", target)
        if semantic_root:
            maps = folder_maps(semantic, "", semantic_root, split)
        else:
            maps = _archived_maps(paths, folder, semantic, split)
        sources[split] = SplitSource(target, ZipStore(paths[split], f"{split}2017"), maps)
    return sources


def _archived_maps(
    paths: Mapping[str, Any], folder: Path, semantic: Semantic, split: str
) -> Maps | None:
    if semantic == "stuffthingmaps":
        return Maps(ZipStore(paths["maps"], f"{split}2017"))
    if semantic != "panoptic":
        return None
    name = f"panoptic_{split}2017"
    for ending in ("json", "zip"):
        _unpack(paths["maps"], f"annotations/{name}.{ending}", folder / f"{name}.{ending}")
    return Maps(ZipStore(folder / f"{name}.zip", name), folder / f"{name}.json")


def _unpack(archive: Any, member: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        zipfile.ZipFile(archive) as opened,
        opened.open(member) as source,
        target.open("wb") as copy,
    ):
        shutil.copyfileobj(source, copy)
