"""Interfaces shared by all kinds of semantic labels, and reading of label maps.

Label maps are PNGs whose pixel values are labels or ids. Their file names are untrusted.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from segjax.data.coco import Category, CocoError, ImageRecord
from segjax.data.images import IGNORE, ImageError, decode_map
from segjax.data.layout import candidates, first
from segjax.data.problems import Problems
from segjax.data.segments import PanopticCategory, Segment
from segjax.data.store import ImageStore, StoreError


class MapError(CocoError):
    """Raised for label maps that cannot be used."""


class MissingMapError(MapError):
    """Raised for images without a label map."""


@dataclasses.dataclass(frozen=True)
class LabelFiles:
    """Label files of a split.

    Attributes:
      store: store that holds the PNGs.
      annotations: json that describes the values in the PNGs; None for labels that need none.
      names: file with the class names, if there is one.
    """

    store: ImageStore
    annotations: Path | None = None
    names: Path | None = None


@dataclasses.dataclass(frozen=True)
class LabelNumbers:
    """Meaning of the values in plain label PNGs.

    Attributes:
      ignore: value of ignored pixels, in addition to `IGNORE`.
      values: values of the classes 0, 1, ..., in order; () if they are 0, 1, ... themselves.
    """

    ignore: int = IGNORE
    values: tuple[int, ...] = ()


@runtime_checkable
class LabelReader(Protocol):
    """Reads the semantic labels of a split's images."""

    def read(self, image: ImageRecord) -> UInt8[np.ndarray, "h w"]:
        """Returns the labels of an image at its stored size; raises `MapError`."""
        ...


@runtime_checkable
class SegmentReader(LabelReader, Protocol):
    """Also reads the segments of images, for panoptic quality."""

    def segments(self, image: ImageRecord) -> tuple[bytes, tuple[Segment, ...]]:
        """Returns the PNG of segment ids, still encoded, and the segments of an image.

        Args:
          image: image that `read` has accepted.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Labels:
    """Opened semantic labels of a dataset.

    Attributes:
      names: class names by label; empty if their number is unknown until all labels are read.
      readers: readers by split.
      is_thing: True for each class that is a thing, by label; empty if unknown.
      categories: categories of panoptic segments; empty for other labels.
    """

    names: tuple[str, ...]
    readers: Mapping[str, LabelReader]
    is_thing: tuple[bool, ...] = ()
    categories: tuple[PanopticCategory, ...] = ()

    def all_names(self) -> tuple[str, ...]:
        """Returns the names, once all labels have been read."""
        return self.names

    def problems(self) -> Problems:
        """Returns defects that only show once all label maps have been read."""
        return Problems()


@dataclasses.dataclass(frozen=True)
class LabelArchive:
    """Downloadable archive with the labels of COCO 2017.

    Attributes:
      url: address of the archive.
      open: function of the archive's path, a folder for unpacked files (which can be deleted after
        reading) and the split's name; returns the files of the split.
    """

    url: str
    open: Callable[[Path, Path, str], LabelFiles]


@runtime_checkable
class LabelSource(Protocol):
    """A kind of semantic labels: a row of `segjax.data.labels.LABELS`.

    Attributes:
      title: short description for messages.
      hint: what this kind reads and from where, to follow its name in a sentence.
      has_files: True if the labels have files of their own.
      needs_objects: True if reading the labels requires annotated objects; if False, models can
        train on images that only have labels.
      knows_things: True if the labels distinguish things from stuff, which `merge_things` needs.
      has_segments: True if the readers are `SegmentReader`s, for panoptic quality.
    """

    title: str
    hint: str
    has_files: bool
    needs_objects: bool
    knows_things: bool
    has_segments: bool

    def find(self, base: Path, split: str, *, apart: bool) -> LabelFiles | None:
        """Finds the files of a split.

        Args:
          base: folder of the dataset, or of labels only.
          split: name of the split, such as "train".
          apart: True if `base` contains only labels.

        Returns:
          The files; None for labels without files.

        Raises:
          CocoError: if the files are missing; the message names the paths that were tried.
        """
        ...

    def archive(self, base_url: str) -> LabelArchive | None:
        """Returns the archive from which COCO 2017's labels of this kind can be downloaded.

        Args:
          base_url: COCO's address, as in `DataConfig.base_url`.

        Returns:
          The archive, or None if there is none.
        """
        ...

    def open(
        self,
        categories: Sequence[Category],
        files: Mapping[str, LabelFiles],
        splits: Sequence[str],
        numbers: LabelNumbers,
    ) -> Labels:
        """Opens the labels of all splits.

        Args:
          categories: categories of the objects, by class index.
          files: label files by split; empty for labels without files.
          splits: names of the splits.
          numbers: meaning of the values in the PNGs, for labels without a description of their own.

        Raises:
          CocoError: if a file that describes the labels cannot be used.
        """
        ...


def ways() -> str:
    """Returns the hints of all kinds, for errors about missing labels."""
    from segjax.data.labels import LABELS  # its rows import this module

    return "; ".join(f'semantic="{name}" {source.hint}' for name, source in LABELS.items())


def find_first(
    base: Path, forms: Sequence[str], split: str, accepts: Callable[[Path], bool]
) -> Path:
    """Finds a file or folder with the labels of a split.

    Args:
      base: folder to search.
      forms: path templates, as for `segjax.data.layout.candidates`.
      split: name of the split, such as "train".
      accepts: predicate that a path must satisfy, such as `Path.is_dir`.

    Raises:
      CocoError: if nothing is found; the message names the paths that were tried.
    """
    paths = candidates(base, forms, split)
    found = first(paths, accepts)
    if found is None:
        tried = ", ".join(str(path) for path in paths[: len(forms)])
        raise CocoError(f"no semantic labels of {split}: found none of {tried}: {ways()}")
    return found


def png_name(image: ImageRecord) -> str:
    """Returns the name of an image's label map: the image's name with the suffix .png."""
    return str(PurePosixPath(image.file_name).with_suffix(".png"))


def read_map(
    store: ImageStore, name: Any, image: ImageRecord, channels: int
) -> UInt8[np.ndarray, "h w *channels"]:
    """Reads the label map of an image.

    Args:
      store: store that holds the PNG.
      name: name of the PNG in the store; may come from an untrusted file.
      image: image that the map belongs to.
      channels: 1 or 3, as for `segjax.data.images.decode_map`.

    Returns:
      The stored values, without the last axis for 1 channel.

    Raises:
      MapError: if the map is missing, has a forbidden name, is damaged, or has another size or
        format than expected.
    """
    problem = store.problem(name)
    if problem and problem.kind == "missing_file":
        raise MissingMapError(
            f"image {image.id} ({image.file_name}) has no label map at {store.where(name)}: "
            f"{ways()}"
        )
    if problem:
        raise MapError(
            f"image {image.id}: its label map has the name {name!r}, which {problem.reason}"
        )
    try:
        return decode_map(store.read(name), image.height, image.width, channels)
    except (ImageError, StoreError) as error:
        raise MapError(f"image {image.id}: its label map {store.where(name)} {error}") from error
