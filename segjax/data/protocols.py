"""Protocols of the parts that users can add: sources, transforms and mixes."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from segjax.data.coco import CocoDataset
from segjax.data.example import Example
from segjax.data.labels.base import LabelFiles
from segjax.data.store import ImageStore

Sizes = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Split:
    """A split of a dataset that is not prepared yet.

    Attributes:
      images: store that the images are read from.
      load: function that reads and validates the annotations; takes `on_problem`, like
        `segjax.data.coco.load_coco`.
      labels: files of the labels named by `DataConfig.semantic`; None if these have no files or the
        source does not provide them.
      files: annotation files, for messages and to detect changes.
      note: description of a format that was recognised; "" if the format was requested.
    """

    images: ImageStore
    load: Callable[..., CocoDataset]
    labels: LabelFiles | None = None
    files: tuple[Path, ...] = ()
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Workspace:
    """Tools for a source while its dataset is prepared.

    Attributes:
      download: function that maps URLs under arbitrary keys to the paths of the downloaded files
        under the same keys; the cache keeps the files.
      folder: folder for files that must be unpacked to be read; deleted afterwards.
    """

    download: Callable[[dict[str, str]], Mapping[str, Path]]
    folder: Path


@runtime_checkable
class Source(Protocol):
    """A dataset in some format, as a frozen dataclass; a row of `segjax.data.formats.FORMATS`."""

    @classmethod
    def of(cls, config: Any) -> "Source":
        """Creates the source from the fields of a `DataConfig`.

        Raises:
          ValueError: if a field that the format needs is missing.
        """
        ...

    def fingerprint(self) -> str:
        """Returns a string that changes with annotations, images and labels.

        This should not read whole images. For data in folders, use
        `segjax.data.hashing.hash_splits`.
        """
        ...

    def splits(self, workspace: Workspace) -> Mapping[str, Split]:
        """Opens the existing splits among "train", "val" and "test".

        Args:
          workspace: tools for sources that download or unpack files.

        Raises:
          CocoError: if something is missing; the message names it.
        """
        ...


@runtime_checkable
class Recognises(Protocol):
    """Member of the sources whose data can be recognised without their name."""

    def recognises(self, root: Path) -> str | None:
        """Describes the files that identify a folder or file as this format; None if it is not."""
        ...


@runtime_checkable
class Transform(Protocol):
    """Transforms an example; a frozen dataclass, so that configs can compare and store it."""

    def __call__(self, example: Example, rng: np.random.Generator | None) -> Example:
        """Returns the transformed example.

        Args:
          example: image with its objects and labels.
          rng: random generator, the only source of randomness; None for evaluation and prediction,
            where the result must depend on nothing but the example.
        """
        ...

    def sizes(self, height: int, width: int) -> Sizes:
        """Returns the possible sizes of the result, from which canvases are derived.

        Args:
          height: rows of the image before the transform.
          width: columns of the image before the transform.

        Returns:
          (height, width) of every possible result, including that of evaluation. If there are very
          many, those with the largest height and the largest width suffice.
        """
        ...


@runtime_checkable
class Mix(Protocol):
    """Mixes parts of other images into an image, in training only; a frozen dataclass."""

    def mix(
        self, example: Example, other: Callable[[], Example], rng: np.random.Generator
    ) -> Example:
        """Returns the mixed example, which keeps the `image_id` of `example`.

        Args:
          example: image after the preceding transforms.
          other: function that reads another random image of the split on each call, and applies
            the same preceding transforms; it costs nothing unless called.
          rng: random generator, the only source of randomness.
        """
        ...

    def sizes(self, height: int, width: int) -> Sizes:
        """Returns the possible sizes of the result, like `Transform.sizes`."""
        ...
