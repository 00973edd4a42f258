"""Contracts of the parts that others can add: sources, transforms and mixes."""

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
      images: where its images are read from.
      load: reads and checks what is known about the images; takes `on_problem`, as
        `segjax.data.coco.load_coco` does.
      labels: files of the semantic labels that `DataConfig.semantic` names; None if they have no
        files, or the source knows none.
      files: annotation files, for messages and to notice when they change.
      note: words that say which format was recognised; "" for the one that was asked for.
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
      download: fetches URLs, by any names, and returns the path of each file by the same names;
        files are kept in the cache.
      folder: for files that must be unpacked to be read; it is deleted afterwards.
    """

    download: Callable[[dict[str, str]], Mapping[str, Path]]
    folder: Path


@runtime_checkable
class Source(Protocol):
    """A dataset as others store it: a frozen value, a row of `segjax.data.formats.FORMATS`."""

    @classmethod
    def of(cls, config: Any) -> "Source":
        """Makes the source from the fields of a `DataConfig`.

        Raises:
          ValueError: if a field that the format needs is missing.
        """
        ...

    def fingerprint(self) -> str:
        """Returns a text that changes with annotations, images and labels, without reading images.

        `segjax.data.hashing.hash_splits` makes one for what lies in folders.
        """
        ...

    def splits(self, workspace: Workspace) -> Mapping[str, Split]:
        """Opens the splits "train" and "val", as far as there are.

        Args:
          workspace: for sources that download or unpack.

        Raises:
          CocoError: if something is missing; it names what.
        """
        ...


@runtime_checkable
class Transform(Protocol):
    """Changes one example: a frozen value, so that configs can hold, compare and store it."""

    def __call__(self, example: Example, rng: np.random.Generator | None) -> Example:
        """Returns the changed example.

        Args:
          example: the image and what is known about it.
          rng: the only source of randomness; None for evaluation and prediction, where the
            result must be a function of the example alone.
        """
        ...

    def sizes(self, height: int, width: int) -> Sizes:
        """Returns the sizes that an image can get, from which canvases are made.

        Args:
          height: rows of the image before.
          width: columns of the image before.

        Returns:
          (height, width) of every possible result, evaluation's included; of very many, enough
          to know the largest height and the largest width.
        """
        ...


@runtime_checkable
class Mix(Protocol):
    """Puts parts of other images into one, in training alone; a frozen value."""

    def mix(
        self, example: Example, other: Callable[[], Example], rng: np.random.Generator
    ) -> Example:
        """Returns the mixed example, which keeps the `image_id` of the first.

        Args:
          example: after the transforms that stand before this one.
          other: reads another image of the split, drawn at random with each call, and passes it
            through the same transforms; not calling it costs nothing.
          rng: the only source of randomness.
        """
        ...

    def sizes(self, height: int, width: int) -> Sizes:
        """Returns the sizes that an image can get, as `Transform.sizes` does."""
        ...
