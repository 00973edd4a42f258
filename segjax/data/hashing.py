"""Hashes of files: what a prepared dataset depends on."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segjax.data.config import DataConfig
from segjax.data.layout import find_splits


def cache_key(config: DataConfig, root: str, version: str) -> str:
    """Hashes annotations by content, images by place, size and time: unread, as they are many.

    Args:
      config: `name`, `base_url` and `on_bad_image` are used.
      root: the folder in COCO format; "" for COCO's archives.
      version: of the files to build.

    Returns:
      16 hexadecimal digits.
    """
    digest = hashlib.blake2b(version.encode(), digest_size=8)
    digest.update(f"{config.name} {config.on_bad_image}".encode())
    if not root:
        digest.update(config.base_url.encode())
        return digest.hexdigest()
    for name, found in find_splits(root).items():
        digest.update(f"{name} {found.annotations}".encode())
        add_file(digest, found.annotations)
        for path, size, time in sorted(_list_files(found.images)):
            digest.update(f"{path}\0{size}\0{time}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def add_file(digest: Any, path: Path) -> None:
    """Adds the content of a file to a hash of `hashlib`."""
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)


def _list_files(folder: Path) -> Iterator[tuple[str, int, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _list_files(Path(entry.path))
            elif entry.is_file():
                status = entry.stat()
                yield entry.path, status.st_size, status.st_mtime_ns
