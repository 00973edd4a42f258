"""Hashes of files: what a prepared dataset depends on."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segjax.data.config import DataConfig
from segjax.data.layout import find_maps, find_splits
from segjax.data.semantic import LABELS_VERSION


def cache_key(config: DataConfig, root: str, version: str) -> str:
    """Hashes annotations by content, images by place, size and time: unread, as they are many.

    Args:
      config: `name`, `base_url`, `on_bad_image`, `semantic`, `semantic_root`, `semantic_ignore` and
        `instances` are used.
      root: the folder in COCO format; "" for COCO's archives.
      version: of the files to build.

    Returns:
      16 hexadecimal digits.
    """
    digest = hashlib.blake2b(version.encode(), digest_size=8)
    digest.update(f"{config.name} {config.on_bad_image}".encode())
    alone = labels_alone(config)
    splits = find_splits(root, need_annotations=not alone) if root else {}
    if not root:
        digest.update(config.base_url.encode())
    for name, found in splits.items():
        digest.update(f"{name} {found.annotations}".encode())
        if found.annotations is not None:
            add_file(digest, found.annotations)
        _add_listing(digest, found.images)
    if config.semantic != "none":  # whose key stays what it was before there were labels
        digest.update(f"semantic {config.semantic} {LABELS_VERSION}".encode())
        if config.semantic == "folder":
            digest.update(f" {config.semantic_ignore}".encode())
        if root or config.semantic_root:
            _add_maps(digest, config, root, tuple(splits) or ("train", "val"))
    return digest.hexdigest()


def _add_maps(digest: Any, config: DataConfig, root: str, splits: tuple[str, ...]) -> None:
    for split in splits:
        maps = find_maps(config.semantic, root, config.semantic_root, split)
        if maps is not None:
            for path in (maps.annotations, maps.classes):
                if path is not None:
                    add_file(digest, path)
            _add_listing(digest, maps.folder)


def labels_alone(config: DataConfig) -> bool:
    """Says whether images need no annotation file, since only plain labels are learned from."""
    return config.semantic == "folder" and not config.instances


def add_file(digest: Any, path: Path) -> None:
    """Adds the content of a file to a hash of `hashlib`."""
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)


def _add_listing(digest: Any, folder: Path) -> None:
    for path, size, time in sorted(_list_files(folder)):
        digest.update(f"{path}\0{size}\0{time}\n".encode(errors="surrogateescape"))


def _list_files(folder: Path) -> Iterator[tuple[str, int, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _list_files(Path(entry.path))
            elif entry.is_file():
                status = entry.stat()
                yield entry.path, status.st_size, status.st_mtime_ns
