"""Hashes of the files that a prepared dataset depends on."""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from segjax.data.coco import CocoError
from segjax.data.config import DataConfig
from segjax.data.labels import LABELS_VERSION, LabelFiles, find_labels
from segjax.data.layout import ALIASES
from segjax.data.protocols import Source, Split
from segjax.data.store import FolderStore, ImageStore

_SAMPLE = 256  # bytes
# In larger folders, only every second, third, ... file is sampled, because opening a file takes
# milliseconds on a network file system.
_MOST_SAMPLED = 20_000


def cache_key(config: DataConfig, source: Source, version: str) -> str:
    """Hashes everything that a prepared dataset is made from.

    Args:
      config: names the format and the labels, and says how to read images.
      source: source of the data, as named by the config.
      version: version of the files to build.

    Returns:
      16 hexadecimal digits.
    """
    digest = hashlib.blake2b(version.encode(), digest_size=8)
    read = f"{config.on_bad_image} {config.exif} {config.max_image_pixels}"
    digest.update(f"{config.name} {read} {source.fingerprint()}".encode())
    if config.val_fraction:
        chosen = f"{config.val_fraction} {config.val_seed} {config.val_group}"
        digest.update(chosen.encode())
    if config.semantic != "none":
        numbers = f"{config.semantic_ignore} {config.semantic_values}"
        digest.update(f"{config.semantic} {LABELS_VERSION} {numbers}".encode())
    # Labels in the folder of the data are part of the source's fingerprint.
    if config.semantic_root:
        for split in ALIASES:
            # Missing labels are reported by the build, which knows which splits exist.
            with contextlib.suppress(CocoError):
                _add_labels(
                    digest, find_labels(config.semantic, config.semantic_root, split, apart=True)
                )
    return digest.hexdigest()


def hash_splits(splits: Mapping[str, Split]) -> str:
    """Hashes annotation files by content, images and labels by path, size, time and samples.

    The samples are three short pieces of each image, because unpacking or copying can replace an
    image by another with the same name, size and time.

    Args:
      splits: splits with images and labels in folders.

    Returns:
      16 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=8)
    listed: set[Path] = set()
    for name, split in splits.items():
        digest.update(name.encode())
        for path in split.files:
            digest.update(str(path).encode())
            _add_file(digest, path)
        # Splits of many formats share a folder.
        root = split.images.root if isinstance(split.images, FolderStore) else None
        if root is None or root not in listed:
            _add_listing(digest, split.images)
        if root is not None:
            listed.add(root)
        _add_labels(digest, split.labels)
    return digest.hexdigest()


def _add_labels(digest: Any, labels: LabelFiles | None) -> None:
    if labels is not None:
        for path in (labels.annotations, labels.names):
            if path is not None:
                _add_file(digest, path)
        _add_listing(digest, labels.store)


def _add_file(digest: Any, path: Path) -> None:
    """Adds the content of a file."""
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)


def _add_listing(digest: Any, store: ImageStore) -> None:
    """Adds path, size and time of every file of a folder, and samples of their contents."""
    assert isinstance(store, FolderStore), f"{store} is not a folder, and not hashed by this"
    files = sorted(_list_files(store.root))
    step = -(-len(files) // _MOST_SAMPLED) or 1
    for number, (path, size, time) in enumerate(files):
        digest.update(f"{path}\0{size}\0{time}\n".encode(errors="surrogateescape"))
        if number % step == 0:
            _add_sample(digest, path, size)


def _add_sample(digest: Any, path: str, size: int) -> None:
    """Adds pieces at a quarter, the middle and the end of a file; it starts with a header."""
    with open(path, "rb", buffering=0) as file:
        for place in (size // 4, size // 2, max(size - _SAMPLE, 0)):
            file.seek(place)
            digest.update(file.read(_SAMPLE))


def _list_files(folder: Path) -> Iterator[tuple[str, int, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _list_files(Path(entry.path))
            elif entry.is_file():
                status = entry.stat()
                yield entry.path, status.st_size, status.st_mtime_ns
