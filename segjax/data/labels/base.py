"""Parts that all kinds of semantic labels share, and the reading of their PNGs.

Label maps are PNGs whose pixels are numbers, read under names that nobody has checked yet.
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
    """A label map that cannot be used."""


class MissingMapError(MapError):
    """An image without label map."""


@dataclasses.dataclass(frozen=True)
class LabelFiles:
    """The files that the labels of a split are read from.

    Attributes:
      store: where the PNGs are.
      annotations: the json that says what their numbers are; None for labels that need none.
      names: file of the class names, if there is one.
    """

    store: ImageStore
    annotations: Path | None = None
    names: Path | None = None


@dataclasses.dataclass(frozen=True)
class LabelNumbers:
    """Meaning of the numbers in plain label PNGs.

    Attributes:
      ignore: number that counts for nothing, in addition to `IGNORE`.
      values: numbers of the classes 0, 1, ..., in order; () where they are 0, 1, ... themselves.
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
    """Reads the segments of images too, for panoptic quality."""

    def segments(self, image: ImageRecord) -> tuple[bytes, tuple[Segment, ...]]:
        """Returns the PNG of segment ids, as it is, and the segments of an image.

        Args:
          image: one whose labels `read` returned without an error.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Labels:
    """The semantic labels of a dataset, opened.

    Attributes:
      names: class names by label; empty where only reading all labels tells how many there are.
      readers: by split.
      is_thing: whether each class is a thing, by label; empty where nobody knows.
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
        """Returns what reading all labels showed that no single map shows."""
        return Problems()


@dataclasses.dataclass(frozen=True)
class LabelArchive:
    """An archive of the web with the labels of COCO 2017.

    Attributes:
      url: its address.
      open: takes the archive, a folder for what must be unpacked (it can be deleted after
        reading), and the split; returns the split's files.
    """

    url: str
    open: Callable[[Path, Path, str], LabelFiles]


@runtime_checkable
class LabelSource(Protocol):
    """A kind of semantic labels: a row of `segjax.data.labels.LABELS`.

    Attributes:
      title: a few words for messages that list all kinds.
      hint: says what the kind reads and where that lies; the sentence begins with its name.
      has_files: whether labels have files of their own.
      needs_objects: whether annotated objects are needed to read them; where False, images with
        labels alone can be trained on.
      knows_things: whether it tells things from stuff, which `merge_things` needs.
      has_segments: whether its readers are `SegmentReader`s, for panoptic quality.
    """

    title: str
    hint: str
    has_files: bool
    needs_objects: bool
    knows_things: bool
    has_segments: bool

    def find(self, base: Path, split: str, *, apart: bool) -> LabelFiles | None:
        """Looks for the files of a split.

        Args:
          base: folder of the dataset, or of the labels alone.
          split: "train" or "val".
          apart: whether `base` holds nothing but labels.

        Returns:
          The files; None for labels that have none.

        Raises:
          CocoError: if they are missing; it names what was looked for.
        """
        ...

    def archive(self, base_url: str) -> LabelArchive | None:
        """Returns where COCO 2017's labels of this kind can be downloaded.

        Args:
          base_url: COCO's address, as `DataConfig.base_url`.

        Returns:
          The archive; None if there is none.
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
          files: by split; empty for labels that have none.
          splits: names of the splits.
          numbers: meaning of the PNGs' numbers, for labels that nothing else explains.

        Raises:
          CocoError: if a file that says what the labels are cannot be used.
        """
        ...


def ways() -> str:
    """Returns the hints of all kinds, for errors about labels that are missing."""
    from segjax.data.labels import LABELS  # the table imports its rows, which import this module

    return "; ".join(f'semantic="{name}" {source.hint}' for name, source in LABELS.items())


def find_first(
    base: Path, forms: Sequence[str], split: str, accepts: Callable[[Path], bool]
) -> Path:
    """Looks for a file or a folder of a split's labels.

    Args:
      base: the folder to look in.
      forms: as `segjax.data.layout.candidates` takes them.
      split: "train" or "val".
      accepts: says whether a path will do, as `Path.is_dir`.

    Raises:
      CocoError: if nothing is found; it names what was looked for.
    """
    paths = candidates(base, forms, split)
    found = first(paths, accepts)
    if found is None:
        tried = ", ".join(str(path) for path in paths[: len(forms)])
        raise CocoError(f"no semantic labels of {split}: found none of {tried}: {ways()}")
    return found


def png_name(image: ImageRecord) -> str:
    """Returns the name of an image's label map: that of the image, ending in .png."""
    return str(PurePosixPath(image.file_name).with_suffix(".png"))


def read_map(
    store: ImageStore, name: Any, image: ImageRecord, channels: int
) -> UInt8[np.ndarray, "h w *channels"]:
    """Reads a PNG of an image's size.

    Args:
      store: where the PNG is.
      name: its name there, as an untrusted file gives it.
      image: the image that it belongs to.
      channels: 1 or 3, as `segjax.data.images.decode_map` takes them.

    Returns:
      The numbers; without last axis for 1 channel.

    Raises:
      MapError: if it is missing, of a forbidden name, damaged, or of another size or kind.
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
