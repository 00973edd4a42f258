"""All the defects of a dataset, listed without stopping at any."""

from collections.abc import Mapping
from pathlib import Path

from segjax.data.coco import CocoDataset
from segjax.data.config import DataConfig
from segjax.data.formats import open_source, open_splits
from segjax.data.images import IGNORE, ImageError, verify_image
from segjax.data.labels import open_labels
from segjax.data.labels.base import LabelReader, MapError, MissingMapError
from segjax.data.problems import Problems
from segjax.data.protocols import Split, Workspace
from segjax.data.store import ImageStore, StoreError


def splits_to_check(config: DataConfig) -> Mapping[str, Split]:
    """Opens the splits of a dataset that lies on disk.

    Args:
      config: which data, and which labels.

    Returns:
      The splits by name.

    Raises:
      CocoError: if something is missing; it names what.
      ValueError: if the data would have to be downloaded.
    """

    def download(urls: dict[str, str]) -> dict[str, Path]:
        raise ValueError(
            f'name="{config.name}" is downloaded ({", ".join(urls.values())}) and checked when it '
            "is prepared: only data on disk can be checked beforehand"
        )

    workspace = Workspace(download, Path(config.cache_dir).expanduser())
    return open_splits(open_source(config), config, workspace)


def check(
    split: Split, *, decode: bool = True, semantic: str = "none", ignore: int = IGNORE
) -> Problems:
    """Finds the defects of a split.

    Args:
      split: one of `splits_to_check`, or `segjax.data.formats.coco_folder.coco_split(...)` of an
        annotation file.
      decode: also decode every image and map, which takes a few milliseconds each.
      semantic: labels to check, as `DataConfig.semantic`.
      ignore: as `DataConfig.semantic_ignore`.

    Returns:
      Named defects with counts and first places.

    Raises:
      CocoError: if an annotation file is no JSON object with the three lists, or a panoptic one
        has a defect outside its images.
    """
    dataset = split.load(on_problem="collect")
    labels = None
    if semantic != "none":
        opened = open_labels(semantic, dataset.categories, {"split": split.labels}, ignore)
        labels = opened.readers["split"]
    if decode:
        _check_files(dataset, split.images, labels)
    return dataset.problems


def _check_files(dataset: CocoDataset, store: ImageStore, labels: LabelReader | None) -> None:
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
