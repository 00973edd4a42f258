"""COCO instances as a TFDS dataset in ArrayRecord files, built and read without TensorFlow.

TFDS's own `coco/2017` lacks instance masks and truncates areas to integers, which shifts AP by
size. This dataset keeps encoded images unchanged, areas and boxes as floats, and masks as RLE text.
Examples are ordered by image id. A small index of sizes and counts next to the records makes it
possible to plan batches without reading images.

Processes that prepare the same dataset at the same time wait for each other.
"""

import dataclasses
import errno
import hashlib
import io
import itertools
import json
import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from segjax._files import free_bytes, locked, written_whole
from segjax.data.coco import (
    Category,
    CocoDataset,
    CocoError,
    ImageRecord,
    merge_categories,
)
from segjax.data.config import DataConfig
from segjax.data.examine import examine
from segjax.data.formats import open_source, open_splits
from segjax.data.hashing import cache_key
from segjax.data.images import ImageError, encode_labels
from segjax.data.labels import LABELS, open_labels
from segjax.data.labels.base import LabelNumbers, LabelReader, Labels, SegmentReader
from segjax.data.prepared import (
    META,
    SET_ASIDE,
    Prepared,
    PreparedSplit,
    forget_older,
    index_row,
    load_prepared,
    save_index,
)
from segjax.data.problems import Problems
from segjax.data.protocols import Workspace
from segjax.data.store import ImageStore, StoreError
from segjax.data.together import check_classes, check_format, match_categories, raise_fatal

VERSION = "1.4.0"
# Subfolder of the dataset for files that must be unpacked to be read; deleted after the build.
_UNPACKED = "unpacked"


@dataclasses.dataclass(eq=False)
class CocoConfig(tfds.core.BuilderConfig):
    """TFDS builder config that wraps a `DataConfig`.

    Attributes:
      data: config that names the format, location and labels of the data.
    """

    data: DataConfig = DataConfig()


class _Info(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Does nothing: there is no cloud bucket with this dataset."""


class SegjaxCoco(tfds.core.GeneratorBasedBuilder):
    """TFDS builder for objects with masks and semantic labels, from any format.

    The configs "2017" and "2017_skip" download COCO 2017.
    """

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS: ClassVar = [
        CocoConfig(
            name="2017", description="COCO 2017 with instance masks", data=DataConfig(name="2017")
        ),
        CocoConfig(
            name="2017_skip",
            description="2017 without its bad images",
            data=DataConfig(name="2017", on_bad_image="skip"),
        ),
    ]
    pkg_dir_path = epath.Path(__file__).parent
    # By default, TFDS 4.9.10 finds this path with importlib_resources, which it does not declare.
    code_path = epath.Path(__file__)

    def __init__(self, **kwargs: Any) -> None:
        self.index: dict[str, list[tuple[int, ...]]] = {}
        self.annotated: dict[str, bool] = {}
        self.problems: dict[str, tuple[str, ...]] = {}
        self.skipped: dict[str, int] = {}
        self.together = Problems()
        self.set_aside: tuple[str, ...] = ()
        self.image_hashes: dict[str, str] = {}
        self.categories: tuple[Category, ...] = ()
        self.labels = Labels((), {})
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        objects = {
            "id": np.int64,
            "category_id": np.int64,
            "label": np.int64,
            "bbox": tfds.features.Tensor(shape=(4,), dtype=np.float64),
            "area": np.float64,
            "is_crowd": np.bool_,
            "segmentation": tfds.features.Text(),
        }
        features = {
            "image": tfds.features.Image(shape=(None, None, None)),
            "image/id": np.int64,
            "image/filename": tfds.features.Text(),
            "image/height": np.int64,
            "image/width": np.int64,
            "image/orientation": np.int64,
            "objects": tfds.features.Sequence(objects),
        }
        semantic = self._config.semantic
        if semantic != "none":
            features["semantic"] = tfds.features.Image(shape=(None, None, 1), encoding_format="png")
        if semantic != "none" and LABELS[semantic].has_segments:
            features["panoptic"] = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
            features["segments"] = tfds.features.Sequence(
                {"id": np.int64, "category_id": np.int64, "is_crowd": np.bool_}
            )
        return _Info(
            builder=self,
            description="COCO instances: encoded images, xywh boxes in pixels, masks as RLE text.",
            features=tfds.features.FeaturesDict(features),
            homepage="https://cocodataset.org",
            disable_shuffling=True,  # records stay in the index's order
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        config = self._config

        def download(urls: dict[str, str]) -> dict[str, Path]:
            # TFDS returns paths of its own class.
            return {name: Path(path) for name, path in dl_manager.download(urls).items()}

        workspace = Workspace(download, Path(self.data_dir) / _UNPACKED)
        splits = open_splits(open_source(config), config, workspace)
        datasets = {name: split.load() for name, split in splits.items()}
        datasets, self.together = match_categories(datasets)
        self.together.update(check_format(splits, config.name))
        self.together.update(check_classes(datasets))
        if config.val_fraction:
            self.set_aside = tuple(image.file_name for image in datasets["val"].images)
        raise_fatal(self.together, config.root or config.name)
        self.annotated = {name: bool(dataset.categories) for name, dataset in datasets.items()}
        self.categories = merge_categories([dataset.categories for dataset in datasets.values()])
        if config.semantic != "none":
            files = {name: split.labels for name, split in splits.items()}
            self.labels = open_labels(
                config.semantic,
                self.categories,
                files,
                LabelNumbers(config.semantic_ignore, config.semantic_values),
            )
        made = {}
        for name, split in splits.items():
            reader = self.labels.readers.get(name)
            examples = self._generate_examples(name, datasets[name], split.images, reader)
            first = next(examples, None)
            # TFDS cannot write a split without examples; it only gets an index without rows.
            if first is not None:
                made[name] = itertools.chain([first], examples)
        return made

    @property
    def _config(self) -> DataConfig:
        assert isinstance(self.builder_config, CocoConfig)
        return self.builder_config.data

    def _generate_examples(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, split: str, dataset: CocoDataset, store: ImageStore, reader: LabelReader | None
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        labels = {category.id: index for index, category in enumerate(self.categories)}
        rows = self.index.setdefault(split, [])
        digest = hashlib.blake2b(digest_size=8)
        for image in dataset.images:
            found = self._read(dataset, image, store)
            if found is None:
                continue
            data, orientation = found
            digest.update(f"{image.file_name}\0{len(data)}\n".encode() + data)
            rows.append(index_row(image))
            digest.update(repr(image.annotations).encode())
            example = _example(image, data, orientation, labels)
            if reader is not None:
                pixels = reader.read(image)
                digest.update(pixels.tobytes())
                example["semantic"] = io.BytesIO(encode_labels(pixels))
            if isinstance(reader, SegmentReader):
                added, kept = _panoptic_fields(reader, image)
                digest.update(added)
                example |= kept
            yield len(rows) - 1, example
        self.problems[split] = tuple(dataset.problems.lines())
        self.skipped[split] = len(dataset.images) - len(rows)
        self.image_hashes[split] = digest.hexdigest()

    def _read(
        self, dataset: CocoDataset, image: ImageRecord, store: ImageStore
    ) -> tuple[bytes, int] | None:
        """Reads and verifies an image, so that training never encounters one that fails.

        Returns:
          The bytes of the file, and the EXIF orientation to apply when it is decoded; None if the
          image is skipped.
        """
        try:
            data, orientation = examine(image, store, self._config, dataset.problems)
        except (ImageError, StoreError) as error:
            where = f"image {image.id} ({image.file_name}) {error}"
            if self._config.on_bad_image == "raise":
                raise CocoError(
                    f'{where}: replace it, or choose on_bad_image="skip" to leave such images out'
                ) from error
            dataset.problems.add("bad_image", where)
            return None
        return data, orientation


def prepare(config: DataConfig) -> Prepared:
    """Builds the dataset, unless the cache already contains it for exactly these files.

    Args:
      config: names the data and the labels; resizing and batching do not matter.

    Returns:
      The dataset on disk.

    Raises:
      CocoError: if annotations or images cannot be used; the message says which, and why.
    """
    cache = Path(config.cache_dir).expanduser()
    cache.mkdir(parents=True, exist_ok=True)
    home = cache / f"{config.name}-{cache_key(config, open_source(config), VERSION)}"
    with locked(cache / f"{home.name}.lock"):
        if config.rebuild or not (home / META).exists():
            _build(config, cache, home)
            forget_older(cache, home, _place(config))
    return load_prepared(home)


def open_records(split: PreparedSplit) -> Any:
    """Opens the records of a split for random access; images and labels stay encoded.

    Args:
      split: split of a dataset from `prepare`.

    Returns:
      A sequence of examples with the features of `SegjaxCoco`; empty for a split without images.
    """
    if not len(split.index):
        return []
    builder: Any = tfds.builder_from_directory(builder_dir=split.folder)
    encoded = {"image", "semantic", "panoptic"} & set(builder.info.features)
    decoders = {name: tfds.decode.SkipDecoding() for name in encoded}
    return builder.as_data_source(split.name, decoders=decoders)


def _build(config: DataConfig, cache: Path, home: Path) -> None:
    """Builds the dataset in a new folder; the file that marks it as complete is written last."""
    shutil.rmtree(home, ignore_errors=True)
    downloads = tfds.download.DownloadConfig(try_download_gcs=False)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()  # it would fill pages of a log file
    with _quiet(), _room_errors(cache):
        builder = SegjaxCoco(config=CocoConfig(name="prepared", data=config), data_dir=str(home))
        builder.download_and_prepare(
            download_dir=str(cache / "downloads"), download_config=downloads
        )
    _check_labels(builder, config.root or config.name)
    folder = Path(builder.data_dir)
    shutil.rmtree(folder / _UNPACKED, ignore_errors=True)
    for name, rows in builder.index.items():
        save_index(folder, name, rows)
    meta = {
        "folder": str(folder.relative_to(home)),
        "categories": [[c.id, c.name] for c in builder.categories],
        "annotated": builder.annotated,
        "problems": builder.problems,
        "skipped": builder.skipped,
        "fingerprint": _fingerprint(builder),
        "labels": _labels_facts(builder.labels),
        "together": builder.together.lines(),
        "place": _place(config),
    }
    if builder.set_aside:
        chosen = {
            "val_fraction": config.val_fraction,
            "val_seed": config.val_seed,
            "val_group": config.val_group,
            "val_images": builder.set_aside,
        }
        (home / SET_ASIDE).write_text(json.dumps(chosen, indent=1))
    with written_whole(home / META) as partial:
        partial.write_text(json.dumps(meta))


def _check_labels(builder: SegjaxCoco, where: str) -> None:
    """Checks all label maps together, once they have been read."""
    problems = builder.labels.problems()
    raise_fatal(problems, where)
    builder.together.update(problems)


def _place(config: DataConfig) -> str:
    """Identifies the source of a dataset, independently of the contents of its files."""
    root = str(Path(config.root).expanduser().absolute()) if config.root else ""
    labels = (config.semantic, config.semantic_root, config.semantic_ignore, config.semantic_values)
    files = (config.train_json, config.val_json, config.test_json, config.image_root)
    chosen = (config.val_fraction, config.val_seed, config.val_group)
    return repr((config.name, root, files, labels, config.on_bad_image, config.exif, chosen))


def _labels_facts(labels: Labels) -> dict[str, Any]:
    return {
        "names": labels.all_names(),
        "is_thing": labels.is_thing,
        "categories": [[c.id, c.name, c.is_thing] for c in labels.categories],
    }


def _fingerprint(builder: SegjaxCoco) -> str:
    """Hashes the contents of the dataset, so that a run can resume with any copy of it."""
    digest = hashlib.blake2b(VERSION.encode(), digest_size=8)
    digest.update(repr([(c.id, c.name) for c in builder.categories]).encode())
    for name, annotated in sorted(builder.annotated.items()):
        digest.update(f"{name} {annotated} {builder.image_hashes[name]}".encode())
    if builder.labels.readers:
        digest.update(json.dumps(builder.labels.all_names()).encode())
    if builder.labels.categories:
        digest.update(json.dumps(builder.labels.is_thing).encode())
    return digest.hexdigest()


def _example(
    image: ImageRecord, data: bytes, orientation: int, labels: dict[int, int]
) -> dict[str, Any]:
    return {
        "image": io.BytesIO(data),
        "image/id": image.id,
        "image/filename": image.file_name,
        "image/height": image.height,
        "image/width": image.width,
        "image/orientation": orientation,
        "objects": [
            {
                "id": a.id,
                "category_id": a.category_id,
                "label": labels[a.category_id],
                "bbox": np.array(a.bbox, np.float64),
                "area": a.area,
                "is_crowd": a.is_crowd,
                "segmentation": a.counts,
            }
            for a in image.annotations
        ],
    }


def _panoptic_fields(reader: SegmentReader, image: ImageRecord) -> tuple[bytes, dict[str, Any]]:
    """Returns the bytes to hash, and the panoptic features of an example, for evaluation."""
    png, segments = reader.segments(image)
    rows = [dataclasses.asdict(segment) for segment in segments]
    return png + json.dumps(rows).encode(), {"panoptic": io.BytesIO(png), "segments": rows}


@contextmanager
def _room_errors(cache: Path) -> Iterator[None]:
    """Names the folder when the disk is full, which the writers of TFDS and ArrayRecord do not."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        causes: list[BaseException | None] = [error]
        while (last := causes[-1]) is not None:
            causes.append(last.__cause__ or last.__context__)
        words = ("No space left", "RESOURCE_EXHAUSTED", "Disk quota exceeded")
        if not any(word in str(cause) for cause in causes[:-1] for word in words):
            raise
        raise OSError(
            errno.ENOSPC,
            f"the file system of the cache, {cache}, is full ({free_bytes(cache) / 2**20:.0f} MiB"
            " left): make room, or choose another folder with --data.cache-dir",
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences TFDS's messages about dataset sizes that it does not know."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
