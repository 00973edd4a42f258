"""Lists all defects of a dataset, without stopping at the first."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from segjax.data.coco import CocoDataset, CocoError, merge_categories
from segjax.data.config import DataConfig
from segjax.data.examine import examine
from segjax.data.formats import open_source, open_splits
from segjax.data.images import ImageError
from segjax.data.labels import open_labels
from segjax.data.labels.base import LabelNumbers, LabelReader, MapError, MissingMapError
from segjax.data.prepared import index_row
from segjax.data.problems import Problems
from segjax.data.protocols import Split, Workspace
from segjax.data.store import ImageStore, StoreError
from segjax.data.together import (
    check_caps,
    check_classes,
    check_format,
    check_masks,
    check_names,
    match_categories,
)


def splits_to_check(config: DataConfig) -> Mapping[str, Split]:
    """Opens the splits of a dataset that is on disk.

    Args:
      config: names the data and the labels.

    Returns:
      The splits by name.

    Raises:
      CocoError: if something is missing; the message names it.
      ValueError: if the data would have to be downloaded.
    """

    def download(urls: dict[str, str]) -> dict[str, Path]:
        raise ValueError(
            f'name="{config.name}" is downloaded ({", ".join(urls.values())}) and checked when it '
            "is prepared: only data on disk can be checked beforehand"
        )

    workspace = Workspace(download, Path(config.cache_dir).expanduser())
    return open_splits(open_source(config), config, workspace)


def check_dataset(
    config: DataConfig, *, decode: bool = True, masks: bool = True
) -> dict[str, Problems]:
    """Finds the defects of each split, and of all splits together, as preparing the data does.

    Args:
      config: names the data and the labels.
      decode: also decode every image and label map, which takes a few milliseconds each.
      masks: require masks; False for models that predict boxes only.

    Returns:
      Named defects by split, with counts and the first places they occur. Defects that concern
      all splits together are under "all splits".

    Raises:
      CocoError: if an annotation file is not a JSON object with the three lists, or if label files
        cannot be used.
      ValueError: if the data would have to be downloaded.
    """
    splits = splits_to_check(config)
    datasets = {name: split.load(on_problem="collect") for name, split in splits.items()}
    found = {name: dataset.problems for name, dataset in datasets.items()}
    together = check_names(datasets)
    together.update(check_format(splits, config.name))
    try:
        datasets, matched = match_categories(datasets)
        together.update(matched)
        categories = merge_categories([dataset.categories for dataset in datasets.values()])
    except CocoError as error:
        together.add("category_mismatch", str(error))
        return found | {"all splits": together}
    together.update(check_classes(datasets))
    labels = None
    if config.semantic != "none":
        files = {name: split.labels for name, split in splits.items()}
        numbers = LabelNumbers(config.semantic_ignore, config.semantic_values)
        labels = open_labels(config.semantic, categories, files, numbers)
    if decode:
        for name, dataset in datasets.items():
            reader = None if labels is None else labels.readers.get(name)
            _check_files(dataset, splits[name].images, reader, config)
        if labels is not None:
            together.update(labels.problems())
    if config.instances and "train" in datasets:
        index = np.array([index_row(i) for i in datasets["train"].images], np.int64).reshape(-1, 6)
        together.update(check_caps("train", index, config.max_instances))
        if masks:
            together.update(check_masks(index))
    return found | {"all splits": together}


def check(split: Split, *, decode: bool = True) -> Problems:
    """Finds the defects of one split.

    Args:
      split: split from `splits_to_check`, or from
        `segjax.data.formats.coco_folder.coco_split(...)` for a single annotation file.
      decode: also decode every image, which takes a few milliseconds each.

    Returns:
      Named defects, with counts and the first places they occur.

    Raises:
      CocoError: if an annotation file is not a JSON object with the three lists.
    """
    dataset = split.load(on_problem="collect")
    if decode:
        _check_files(dataset, split.images, None, DataConfig())
    return dataset.problems


def _check_files(
    dataset: CocoDataset, store: ImageStore, labels: LabelReader | None, config: DataConfig
) -> None:
    """Decodes every image, reads its labels, and adds what fails to `dataset.problems`."""
    for image in dataset.images:
        where = f"image {image.id} ({image.file_name})"
        try:
            examine(image, store, config, dataset.problems)
        except (ImageError, StoreError) as error:
            dataset.problems.add("bad_image", f"{where} {error}")
            if not image.height:
                continue  # labels cannot be checked against an unknown image size
        try:
            if labels is not None:
                labels.read(image)
        except MissingMapError as error:
            dataset.problems.add("missing_map", str(error))
        except MapError as error:
            dataset.problems.add("bad_map", str(error))
