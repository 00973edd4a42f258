"""A folder in COCO format, or a folder of images only, for training with label maps."""

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path

from segjax.data.coco import CocoDataset, CocoError, ImageRecord, load_coco
from segjax.data.config import DataConfig
from segjax.data.hashing import hash_splits
from segjax.data.images import MAX_IMAGE_PIXELS, ImageError, read_size
from segjax.data.labels import LABELS, LabelFiles, find_labels
from segjax.data.layout import ALIASES, candidates, first
from segjax.data.problems import Problems
from segjax.data.protocols import Split, Workspace
from segjax.data.store import FolderStore, ImageStore, StoreError

_ANNOTATIONS = (
    "annotations/instances_{}.json",
    "annotations/instances_{}2017.json",
    "{}/_annotations.coco.json",
)
_IMAGES = ("{}", "{}2017", "images/{}", "images/{}2017", "images")
# Without an annotation file, all images in a folder belong to the split, so that the shared folder
# "images" does not qualify.
_PLAIN_IMAGES = _IMAGES[:4]
ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclasses.dataclass(frozen=True)
class CocoFolder:
    """The format "folder": `train/`, `val/` and `annotations/instances_{train,val}.json`.

    Attributes:
      root: path of the folder.
      semantic: semantic labels in the same folder, or "none".
      need_annotations: require annotation files; False also accepts folders of images only.
      follow_links: read images through links that point outside their folder.
      max_pixels: largest accepted image, height x width.
      upright: apply the EXIF orientation of images.
    """

    root: str
    semantic: str = "none"
    need_annotations: bool = True
    follow_links: bool = False
    max_pixels: int = MAX_IMAGE_PIXELS
    upright: bool = False

    @classmethod
    def of(cls, config: DataConfig) -> "CocoFolder":
        """Creates the source from a config; raises `ValueError` if `root` is not set."""
        if not config.root:
            raise ValueError('name="folder" needs root: the path of a folder in COCO format')
        labels = LABELS.get(config.semantic)
        return cls(
            root=config.root,
            semantic="none" if config.semantic_root else config.semantic,
            need_annotations=config.instances or labels is None or labels.needs_objects,
            follow_links=config.follow_links,
            max_pixels=config.max_image_pixels,
            upright=config.exif == "upright",
        )

    def fingerprint(self) -> str:
        """Hashes annotations by content, images and labels by path, size, time and samples."""
        return hash_splits(self._splits())

    def splits(self, workspace: Workspace) -> Mapping[str, Split]:
        """Opens the splits; raises `CocoError` if something is missing."""
        return self._splits()

    def _splits(self) -> dict[str, Split]:
        found = find_splits(self.root, need_annotations=self.need_annotations)
        splits: dict[str, Split] = {}
        for split, files in found.items():
            try:
                labels = find_labels(self.semantic, self.root, split, apart=False)
            except CocoError:
                if split != "test":  # the labels of test splits are often not published
                    raise
                continue
            splits[split] = coco_split(
                files.annotations,
                FolderStore(files.images, follow_links=self.follow_links),
                labels,
                max_pixels=self.max_pixels,
                upright=self.upright,
            )
        return splits


def coco_split(
    annotations: str | os.PathLike[str] | None,
    images: str | os.PathLike[str] | ImageStore,
    labels: LabelFiles | None = None,
    *,
    max_pixels: int = MAX_IMAGE_PIXELS,
    upright: bool = False,
) -> Split:
    """Creates a split from a COCO annotation file.

    Args:
      annotations: path of the `instances_*.json`; None for a folder of images only.
      images: folder of the images, or another store.
      labels: files of the semantic labels.
      max_pixels: largest accepted image, height x width.
      upright: apply the EXIF orientation of images.

    Returns:
      The split.
    """
    store = images if isinstance(images, ImageStore) else FolderStore(images)
    if annotations is None:
        assert isinstance(store, FolderStore)
        listed = functools.partial(list_images, store, max_pixels=max_pixels, upright=upright)
        return Split(store, listed, labels)
    path = Path(annotations)
    load = functools.partial(load_coco, path, store, max_pixels=max_pixels, upright=upright)
    return Split(store, load, labels, (path,))


@dataclasses.dataclass(frozen=True)
class SplitFiles:
    """Image folder of a split, and its annotation file if there is one."""

    annotations: Path | None
    images: Path


def has_annotations(root: Path) -> bool:
    """Returns True if a folder contains an annotation file of any split."""
    return any(
        path.is_file() for split in ALIASES for path in candidates(root, _ANNOTATIONS, split)
    )


def find_splits(
    root: str | os.PathLike[str], *, need_annotations: bool = True
) -> dict[str, SplitFiles]:
    """Finds the splits "train", "val" and "test" of a folder in COCO format.

    Args:
      root: folder with `annotations/instances_train.json` and `train/`, COCO's own
        `instances_train2017.json` and `train2017/` or `images/`, or `_annotations.coco.json` next
        to the images.
      need_annotations: require annotation files; False also accepts folders of images only.

    Returns:
      The files of every split found, at least one.

    Raises:
      CocoError: if nothing is found, or an annotation file has no image folder.
    """
    folder = Path(root).expanduser().absolute()
    found: dict[str, SplitFiles] = {}
    for split in ALIASES:
        annotations = first(candidates(folder, _ANNOTATIONS, split), Path.is_file)
        forms = _IMAGES if annotations or need_annotations else _PLAIN_IMAGES
        images = first(candidates(folder, forms, split), Path.is_dir)
        if annotations and not images:
            raise CocoError(f"{annotations} has no image folder: wanted {folder / split}")
        if images and (annotations or not need_annotations):
            found[split] = SplitFiles(annotations, images)
    if not found and not need_annotations:
        raise CocoError(f"no images in {folder}: wanted the folders train/ and val/")
    if not found:
        raise CocoError(
            f"no COCO annotations in {folder}, nor files of another known format: wanted "
            "annotations/instances_train.json and train/, annotations/instances_val.json and val/; "
            'only label PNGs alone need none, with semantic="folder" and instances=False'
        )
    return found


def list_images(
    store: FolderStore,
    *,
    on_problem: str = "raise",
    max_pixels: int = MAX_IMAGE_PIXELS,
    upright: bool = False,
) -> CocoDataset:
    """Lists the images in a folder and its subfolders, ordered by name.

    Args:
      store: store of the folder; hidden files and files without one of the `ENDINGS` are skipped.
      on_problem: "raise" raises an error on names that cannot be used; "collect" skips such files
        and counts them.
      max_pixels: largest accepted image, height x width.
      upright: return sizes after applying the EXIF orientation.

    Returns:
      The images, with ids from 1 and without categories or objects. Images with an unreadable
      header get height and width 0, so that building and checking report them later.

    Raises:
      CocoError: if there are no images, or names that cannot be used with `on_problem="raise"`.
    """
    problems, folder = Problems(), store.root
    records: list[ImageRecord] = []
    for name in image_names(folder):
        problem = store.problem(name)
        if problem:
            problems.add(problem.kind, f"{name!r}, which {problem.reason}")
            continue
        try:
            height, width = read_size(store.read(name), max_pixels, upright)
        except (ImageError, StoreError):
            height, width = 0, 0
        records.append(ImageRecord(len(records) + 1, name, height, width, ()))
    if on_problem == "raise" and problems.fatal():
        lines = "\n".join(problems.lines())
        raise CocoError(
            f"{folder} holds files that cannot be used:\n{lines}\nRename or remove them."
        )
    if not records:
        raise CocoError(f"{folder} holds no image: wanted files ending in {', '.join(ENDINGS)}")
    return CocoDataset((), tuple(records), problems)


def image_names(folder: Path) -> list[str]:
    """Lists the images in a folder and its subfolders by relative path, skipping hidden ones."""
    found: list[str] = []
    for place, folders, files in os.walk(folder):
        # In place, so that `os.walk` does not descend into hidden folders.
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(ENDINGS) and not name.startswith("."):
                found.append(Path(place, name).relative_to(folder).as_posix())
    return sorted(found)
