"""All the defects of a dataset, listed without stopping at any."""

import os
from pathlib import Path

from segjax.data.coco import CocoDataset
from segjax.data.config import Semantic
from segjax.data.images import IGNORE, ImageError, verify_image
from segjax.data.maps import MapError, Maps, MissingMapError
from segjax.data.problems import Problems
from segjax.data.semantic import LabelSource, open_labels
from segjax.data.sources import SplitSource
from segjax.data.store import FolderStore, ImageStore, StoreError


def check(
    annotations_json: str | os.PathLike[str] | None,
    images: str | os.PathLike[str] | ImageStore,
    *,
    decode: bool = True,
    semantic: Semantic = "none",
    maps: Maps | None = None,
    ignore: int = IGNORE,
) -> Problems:
    """Finds the defects of a dataset.

    Args:
      annotations_json: the annotation file; None for images that need none.
      images: the folder, or another store, of its images.
      decode: also decode every image and map, which takes a few milliseconds each.
      semantic: labels that shall be trained on.
      maps: where they are read from, if they have files of their own.
      ignore: as `DataConfig.semantic_ignore`.

    Returns:
      Named defects with counts and first places.

    Raises:
      CocoError: if an annotation file is no JSON object with the three lists, or a panoptic one
        has a defect outside its images.
    """
    store = images if isinstance(images, ImageStore) else FolderStore(images)
    annotations = None if annotations_json is None else Path(annotations_json)
    dataset = SplitSource(annotations, store, maps).load(on_problem="collect")
    labels = None
    if semantic != "none":
        opened = open_labels(semantic, dataset.categories, {"split": maps}, ignore)
        labels = opened.sources["split"]
    if decode:
        _check_files(dataset, store, labels)
    return dataset.problems


def _check_files(dataset: CocoDataset, store: ImageStore, labels: LabelSource | None) -> None:
    """Decodes every image and reads its labels."""
    for image in dataset.images:
        where = f"image {image.id} ({image.file_name})"
        try:
            verify_image(store.read(image.file_name), image.height, image.width)
        except (ImageError, StoreError) as error:
            dataset.problems.add("bad_image", f"{where} {error}")
            if not image.height:
                continue  # of unknown size, that its labels could be compared with
        try:
            if labels is not None:
                labels.read(image)
        except MissingMapError as error:
            dataset.problems.add("missing_map", str(error))
        except MapError as error:
            dataset.problems.add("bad_map", str(error))
