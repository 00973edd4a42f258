"""A dataset on disk: found in the cache, or prepared."""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from segjax.data import shapes
from segjax.data.buckets import Canvas, derive_canvases
from segjax.data.config import DataConfig, Semantic
from segjax.data.tfds_builder import PreparedSplit, prepare


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset on disk, ready to be iterated.

    Attributes:
      class_names: by class index.
      category_ids: of the annotation file, by class index.
      splits: "train" and "val", as far as there are.
      fingerprint: changes with annotations, images and labels, not with where they lie.
      semantic: what the semantic labels were made from, as `DataConfig.semantic` names it.
      semantic_names: classes of the semantic labels, by label; empty if there are none.
    """

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    splits: dict[str, PreparedSplit]
    fingerprint: str
    semantic: Semantic = "none"
    semantic_names: tuple[str, ...] = ()

    def split(self, name: str) -> PreparedSplit:
        """Returns a split.

        Raises:
          KeyError: if the dataset has none of this name; the text names those it has.
        """
        if name not in self.splits:
            raise KeyError(f'no split "{name}": the dataset has {sorted(self.splits)}')
        return self.splits[name]

    def annotations(self, split: str) -> str:
        """Returns the path of a split's `instances_*.json`, for pycocotools."""
        return self.split(split).annotations

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
      ValueError: if the config names no data.
    """
    prepared = prepare(config, _root(config))
    return Dataset(
        class_names=tuple(category.name for category in prepared.categories),
        category_ids=tuple(category.id for category in prepared.categories),
        splits=prepared.splits,
        fingerprint=prepared.fingerprint,
        semantic=config.semantic,
        semantic_names=prepared.semantic_names,
    )


def image_sizes(index: Int64[np.ndarray, "n 6"]) -> Int64[np.ndarray, "n 2"]:
    """Takes (height, width) out of a split's index."""
    return index[:, 1:3]


def _root(config: DataConfig) -> str:
    """Returns the folder to read, drawing the shapes into it first if they are wanted."""
    if config.name == "2017":
        return ""
    if config.name == "folder":
        if not config.root:
            raise ValueError('name="folder" needs root: the path of a folder in COCO format')
        return config.root
    made = config.shapes or shapes.ShapesConfig()
    root = Path(config.root or f"{config.cache_dir}/shapes-{made.fingerprint()}").expanduser()
    shapes.generate(made, root)
    return str(root)
