"""Finds the inputs of `segjax predict`: files, folders, patterns, URLs and videos."""

import collections
import dataclasses
import glob
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from segjax.predict.images import is_url

IMAGE_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
    *(".ppm", ".pgm", ".jp2"),
}
VIDEO_SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"}
DRAWN = re.compile(r"(.+)_(?:instances|panoptic|semantic)")


@dataclasses.dataclass(frozen=True)
class Source:
    """An image or video to predict.

    Attributes:
      place: path, URL, or "camera:N".
      name: unique name in results: the file name, with parent folders if several files share it.
    """

    place: str
    name: str

    @property
    def stem(self) -> str:
        """Name without folders and suffix, for output files."""
        return re.sub(r"[^\w. -]", "_", Path(self.name).stem) or "picture"

    @property
    def is_video(self) -> bool:
        """True for video files and cameras."""
        return self.place.startswith("camera:") or Path(self.name).suffix.lower() in VIDEO_SUFFIXES


@dataclasses.dataclass(frozen=True)
class Found:
    """Images and videos found from arguments.

    Attributes:
      sources: images and videos, without duplicates, in the order of the arguments.
      failed: reasons by argument, for arguments that match nothing.
      skipped: number of skipped files, by reason.
    """

    sources: tuple[Source, ...]
    failed: dict[str, str]
    skipped: dict[str, int]


def find_sources(
    places: Iterable[str | Path], *, recursive: bool = False, out: Path | None = None
) -> Found:
    """Finds the images and videos that arguments refer to.

    Args:
      places: files, folders, patterns such as "photos/*.jpg", URLs, or "camera:0"; "~" is the
        home folder.
      recursive: include sub-folders of folders.
      out: output folder, in which earlier drawings are skipped.

    Returns:
      Images and videos, and counts of skipped files.
    """
    skipped: collections.Counter[str] = collections.Counter()
    failed: dict[str, str] = {}
    files: list[str] = []
    for place in map(str, places):
        if is_url(place) or re.fullmatch(r"camera:\d+", place):
            files.append(place)
            continue
        path = Path(place).expanduser()
        if path.is_dir():
            inside = list(_inside(path, recursive, out, skipped))
            if not inside:
                failed[place] = "a folder without pictures"
            files += inside
        elif not path.exists() and glob.has_magic(place):
            matching = sorted(glob.glob(str(path), recursive=True))
            if not matching:
                failed[place] = "a pattern that no file matches"
            files += [match for match in matching if Path(match).is_file()]
        else:
            files.append(str(path))
    files = list(dict.fromkeys(files))
    names = _names(files)
    sources = tuple(Source(place, names[place]) for place in files)
    return Found(sources, failed, dict(skipped))


def _inside(
    folder: Path, recursive: bool, out: Path | None, skipped: collections.Counter[str]
) -> Iterator[str]:
    """Yields the images and videos of a folder, sorted by name, and counts skipped files."""
    entries = sorted(folder.iterdir())
    stems = {entry.stem for entry in entries}
    for entry in entries:
        drawn = DRAWN.fullmatch(entry.stem)
        if entry.is_dir():
            if out is not None and entry.resolve() in (out.resolve(), *_map_folders(out)):
                continue
            if recursive:
                yield from _inside(entry, True, out, skipped)
            else:
                skipped["sub-folders (--recursive looks into them)"] += 1
        elif entry.name.startswith("."):
            skipped["hidden files, such as macOS's ._ companions"] += 1
        elif entry.suffix.lower() not in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
            skipped["files that are not pictures by their ending"] += 1
        elif out is not None and folder.resolve() == out.resolve() and drawn and drawn[1] in stems:
            skipped["drawings of an earlier run"] += 1
        else:
            yield str(entry)


def _map_folders(out: Path) -> tuple[Path, ...]:
    """Returns the folders of maps that `predict` writes in its output folder."""
    return tuple((out / name).resolve() for name in ("panoptic", "semantic"))


def _names(files: Sequence[str]) -> dict[str, str]:
    """Returns the shortest unique suffix of each path."""
    parts = {place: _parts(place) for place in files}
    names: dict[str, str] = {}
    for place, own in parts.items():
        length = 1
        others = [other for name, other in parts.items() if name != place]
        while length < len(own) and any(o[-length:] == own[-length:] for o in others):
            length += 1
        names[place] = "/".join(own[-length:])
    return names


def _parts(place: str) -> tuple[str, ...]:
    if is_url(place):
        split = urlsplit(place)
        return (split.netloc, *filter(None, unquote(split.path).split("/")))
    return Path(place).absolute().parts[1:] if not place.startswith("camera:") else (place,)
