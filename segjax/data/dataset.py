"""A dataset on disk: found in the cache, or prepared."""

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
      class_names: by class index.
      category_ids: the annotation file's ids, by class index.
      splits: "train" and "val", as far as there are.
      fingerprint: changes with annotations, images and labels, not with where they lie.
      semantic: what the semantic labels were made from, as `DataConfig.semantic` names it.
      semantic_names: classes of the semantic labels, by label; empty if there are none.
      merge_things: what became of the things among them, as `DataConfig.merge_things` names it.
      label_table: the label that each label of the records has become.
      panoptic_categories: categories of panoptic segments, in the order of their ids; empty unless
        `semantic="panoptic"`.
      problems: what all splits together showed, a line a kind; each split has its own.
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
          KeyError: if the dataset has none of this name; the text names those it has.
        """
        if name not in self.splits:
            raise KeyError(f'no split "{name}": the dataset has {sorted(self.splits)}')
        return self.splits[name]

    def instances(self, split: str) -> InstanceTruth:
        """Returns the objects of a split as annotated, to be read image by image.

        Args:
          split: "val", or "train".

        Returns:
          The objects by image id, in the order of the records, and the categories.

        Raises:
          KeyError: if there is no such split.
          ValueError: if the split has images and labels alone.
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
        """Returns the panoptic annotation of a split, to be read image by image.

        Args:
          split: "val", or "train".

        Returns:
          By image id, in the order of the records: segment ids (int32, (H, W) as stored, 0 where
          nothing is annotated), and the segments, whose categories are `panoptic_categories`.

        Raises:
          KeyError: if there is no such split.
          ValueError: if the dataset was opened without panoptic annotation.
        """
        if self.semantic == "none" or not LABELS[self.semantic].has_segments:
            raise ValueError(
                f'the dataset was opened with semantic="{self.semantic}", which has no panoptic '
                'segments: open it with semantic="panoptic"'
            )
        return Truth(self.split(split), panoptic_of)

    def semantic_labels(self, split: str) -> Truth[UInt8[np.ndarray, "h w"]]:
        """Returns the semantic labels of a split, to be read image by image.

        Args:
          split: "val", or "train".

        Returns:
          By image id, in the order of the records: labels (uint8, (H, W) as stored, 255 where
          nothing is known) of the classes `semantic_names`, things merged as in training.

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
        """Returns the canvases (height, width) that batches of any split can have."""
        index = np.concatenate([split.index for split in self.splits.values()])
        return derive_canvases(image_sizes(index), config)


def open_dataset(config: DataConfig) -> Dataset:
    """Prepares (downloads, draws, builds) what the config names, or finds it in the cache.

    Args:
      config: which data.

    Returns:
      The dataset.

    Raises:
      CocoError: if annotations, images or label maps cannot be used.
      ValueError: if the config lacks a field that its format needs.
    """
    from segjax.data.build import prepare  # which needs TFDS: predicting does not

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
    """Takes (height, width) out of a split's index."""
    return index[:, 1:3]
