"""Opens a dataset: finds it in the cache, or prepares it."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Int64, UInt8

from segjax.data.canvas import Canvas, derive_canvases
from segjax.data.config import DataConfig, MergeThings
from segjax.data.labels import LABELS
from segjax.data.prepared import PreparedSplit
from segjax.data.segments import PanopticCategory
from segjax.data.things import merge_things
from segjax.data.truth import (
    InstanceTruth,
    PanopticTruth,
    Truth,
    objects_of,
    panoptic_of,
    semantic_of,
)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset on disk, ready to be iterated.

    Attributes:
      class_names: names of the classes, by class index.
      category_ids: ids in the annotation file, by class index.
      splits: splits by name, such as "train" and "val".
      fingerprint: hash of annotations, images and labels, independent of their location.
      semantic: source of the semantic labels, as in `DataConfig.semantic`.
      semantic_names: class names of the semantic labels, by label; empty without labels.
      merge_things: treatment of things in these labels, as in `DataConfig.merge_things`.
      label_table: lookup table from stored labels to training labels.
      panoptic_categories: categories of panoptic segments, ordered by id; empty unless
        `semantic="panoptic"`.
      problems: defects of all splits taken together, one line per kind; each split also has its
        own.
    """

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    splits: dict[str, PreparedSplit]
    fingerprint: str
    semantic: str = "none"
    semantic_names: tuple[str, ...] = ()
    merge_things: MergeThings = "no"
    label_table: UInt8[np.ndarray, "256"] = dataclasses.field(
        default_factory=lambda: np.arange(256, dtype=np.uint8), compare=False
    )
    panoptic_categories: tuple[PanopticCategory, ...] = ()
    problems: tuple[str, ...] = ()

    def split(self, name: str) -> PreparedSplit:
        """Returns a split.

        Raises:
          KeyError: if there is no such split; the message lists the existing ones.
        """
        if name not in self.splits:
            raise KeyError(f'no split "{name}": the dataset has {sorted(self.splits)}')
        return self.splits[name]

    def instances(self, split: str) -> InstanceTruth:
        """Returns the annotated objects of a split, read lazily image by image.

        Args:
          split: name of the split, such as "val".

        Returns:
          The objects by image id, in the order of the records, and the categories.

        Raises:
          KeyError: if there is no such split.
          ValueError: if the split has only images and semantic labels.
        """
        found = self.split(split)
        if not found.annotated:
            raise ValueError(
                f'the split "{split}" has images and labels, but no annotated objects '
                f"(instances_{split}.json in a COCO folder): instances cannot be evaluated"
            )
        names = dict(zip(self.category_ids, self.class_names, strict=True))
        return InstanceTruth(Truth(found, objects_of), names)

    def panoptic(self, split: str) -> Truth[PanopticTruth]:
        """Returns the panoptic annotations of a split, read lazily image by image.

        Args:
          split: name of the split, such as "val".

        Returns:
          By image id, in the order of the records: segment ids (int32, (H, W) as stored, 0 where
          nothing is annotated), and the segments, with categories from `panoptic_categories`.

        Raises:
          KeyError: if there is no such split.
          ValueError: if the dataset was opened without panoptic annotations.
        """
        if self.semantic == "none" or not LABELS[self.semantic].has_segments:
            raise ValueError(
                f'the dataset was opened with semantic="{self.semantic}", which has no panoptic '
                'segments: open it with semantic="panoptic"'
            )
        return Truth(self.split(split), panoptic_of)

    def semantic_labels(self, split: str) -> Truth[UInt8[np.ndarray, "h w"]]:
        """Returns the semantic labels of a split, read lazily image by image.

        Args:
          split: name of the split, such as "val".

        Returns:
          By image id, in the order of the records: labels (uint8, (H, W) as stored, 255 for
          ignored pixels) that index `semantic_names`, with things merged as in training.

        Raises:
          KeyError: if there is no such split.
          ValueError: if the dataset was opened without semantic labels.
        """
        if self.semantic == "none":
            raise ValueError(
                'the dataset was opened with semantic="none" and has no labels: open it with those '
                "that shall be evaluated"
            )
        return Truth(self.split(split), functools.partial(semantic_of, table=self.label_table))

    def buckets(self, config: DataConfig) -> tuple[Canvas, ...]:
        """Returns the canvases (height, width) of batches, shared by all splits."""
        index = np.concatenate([split.index for split in self.splits.values()])
        return derive_canvases(image_sizes(index), config)


def open_dataset(config: DataConfig) -> Dataset:
    """Finds the dataset in the cache, or prepares it: downloads, draws and builds as needed.

    Args:
      config: names the data and the labels.

    Returns:
      The dataset.

    Raises:
      CocoError: if annotations, images or label maps cannot be used.
      ValueError: if the config lacks a field that its format needs.
    """
    from segjax.data.build import prepare  # requires TFDS, which prediction does not need

    prepared = prepare(config)
    how: MergeThings = "no" if config.semantic == "none" else config.merge_things
    names, table = merge_things(prepared.semantic_names, prepared.semantic_things, how)
    return Dataset(
        class_names=tuple(category.name for category in prepared.categories),
        category_ids=tuple(category.id for category in prepared.categories),
        splits=prepared.splits,
        fingerprint=prepared.fingerprint,
        semantic=config.semantic,
        semantic_names=names,
        merge_things=how,
        label_table=table,
        panoptic_categories=prepared.panoptic_categories,
        problems=prepared.problems,
    )


def image_sizes(index: Int64[np.ndarray, "n 6"]) -> Int64[np.ndarray, "n 2"]:
    """Returns the (height, width) columns of a split's index."""
    return index[:, 1:3]
