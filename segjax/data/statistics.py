"""Counts of a dataset: images, sizes, objects and classes of each split, and equal pictures."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int64

from segjax.data.check import splits_to_check
from segjax.data.coco import CocoDataset
from segjax.data.config import DataConfig
from segjax.data.duplicates import group_images
from segjax.data.protocols import Split
from segjax.data.store import StoreError
from segjax.data.together import match_categories

# COCO's limits between small, medium and large objects, in pixels of area.
_SMALL, _LARGE = 32**2, 96**2


@dataclasses.dataclass(frozen=True)
class SplitCounts:
    """Counts of one split.

    Attributes:
      sizes: (height, width) of each image.
      objects: number of objects of each image, without crowds.
      crowds: number of crowd regions.
      areas: area of each object in pixels.
      without_mask: number of objects without a mask.
      classes: number of objects by class name, including classes without objects.
    """

    sizes: Int64[np.ndarray, "n 2"]
    objects: Int64[np.ndarray, " n"]
    crowds: int
    areas: Float[np.ndarray, " m"]
    without_mask: int
    classes: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Counts of a dataset.

    Attributes:
      splits: counts by split.
      shared: groups of equal or nearly equal pictures in more than one split, as "split/name".
    """

    splits: Mapping[str, SplitCounts]
    shared: tuple[tuple[str, ...], ...]

    def text(self) -> str:
        """Returns tables of splits and of classes, and the pictures that splits share."""
        lines = [*_table(_overview(self.splits)), "", *_table(_by_class(self.splits))]
        if self.shared:
            lines += ["", f"{len(self.shared)} pictures are in more than one split; first:"]
            lines += ["  " + ", ".join(group) for group in self.shared[:5]]
        elif len(self.splits) > 1:
            lines += ["", "no picture is in more than one split"]
        return "\n".join(lines)


def describe_dataset(config: DataConfig) -> Statistics:
    """Counts images and objects, and searches for pictures that splits share.

    Entries with defects are skipped, as `check_dataset` reports.

    Args:
      config: names the data.

    Returns:
      The counts.

    Raises:
      CocoError: if the data cannot be read at all.
      ValueError: if the data would have to be downloaded.
    """
    splits = splits_to_check(config)
    datasets = {name: split.load(on_problem="collect") for name, split in splits.items()}
    datasets, _ = match_categories(datasets)
    counts = {name: count_split(dataset) for name, dataset in datasets.items()}
    return Statistics(counts, _shared(datasets, splits, config.val_group))


def count_split(dataset: CocoDataset) -> SplitCounts:
    """Counts the images and objects of one split."""
    objects = [[a for a in image.annotations if not a.is_crowd] for image in dataset.images]
    every = [one for found in objects for one in found]
    names = {category.id: category.name for category in dataset.categories}
    classes = dict.fromkeys(names.values(), 0)
    for one in every:
        classes[names[one.category_id]] += 1
    return SplitCounts(
        sizes=np.array([(i.height, i.width) for i in dataset.images], np.int64).reshape(-1, 2),
        objects=np.array([len(found) for found in objects], np.int64),
        crowds=sum(a.is_crowd for image in dataset.images for a in image.annotations),
        areas=np.array([one.area for one in every], np.float64),
        without_mask=sum(not one.counts for one in every),
        classes=classes,
    )


def _shared(
    datasets: Mapping[str, CocoDataset], splits: Mapping[str, Split], pattern: str
) -> tuple[tuple[str, ...], ...]:
    """Finds equal and nearly equal pictures, and variants of one source, in several splits."""
    if len(datasets) < 2:
        return ()
    places = [(name, image.file_name) for name, found in datasets.items() for image in found.images]

    def contents() -> Iterator[tuple[str, bytes]]:
        for split, name in places:
            try:
                yield name, splits[split].images.read(name)
            except StoreError:  # `check_dataset` reports it
                yield name, f"{split} {name}".encode()

    groups, _ = group_images(contents(), pattern)
    members: dict[int, list[tuple[str, str]]] = {}
    for place, group in zip(places, groups, strict=True):
        members.setdefault(group, []).append(place)
    return tuple(
        tuple(f"{split}/{name}" for split, name in found)
        for found in members.values()
        if len({split for split, _ in found}) > 1
    )


def _overview(splits: Mapping[str, SplitCounts]) -> list[list[str]]:
    """Rows of a table with a column for each split."""
    rows = {
        "images": [str(len(s.sizes)) for s in splits.values()],
        "without objects": [str(int((s.objects == 0).sum())) for s in splits.values()],
        "height": [_range(s.sizes[:, 0]) for s in splits.values()],
        "width": [_range(s.sizes[:, 1]) for s in splits.values()],
        "objects": [str(int(s.objects.sum())) for s in splits.values()],
        "objects an image": [_range(s.objects) for s in splits.values()],
        "crowds": [str(s.crowds) for s in splits.values()],
        "without mask": [str(s.without_mask) for s in splits.values()],
        "small, below 32 x 32": [str(int((s.areas < _SMALL).sum())) for s in splits.values()],
        "medium": [
            str(int(((s.areas >= _SMALL) & (s.areas < _LARGE)).sum())) for s in splits.values()
        ],
        "large, from 96 x 96": [str(int((s.areas >= _LARGE).sum())) for s in splits.values()],
    }
    return [["", *splits], *([name, *values] for name, values in rows.items())]


def _by_class(splits: Mapping[str, SplitCounts]) -> list[list[str]]:
    """Rows of a table of the classes that have objects, the most frequent first."""
    names = dict.fromkeys(name for split in splits.values() for name in split.classes)
    rows = {name: [s.classes.get(name, 0) for s in splits.values()] for name in names}
    order = sorted((name for name in names if any(rows[name])), key=lambda name: -sum(rows[name]))
    listed = [[name, *map(str, rows[name])] for name in order]
    if len(order) < len(names):
        listed.append([f"{len(names) - len(order)} more classes", *("0" for _ in splits)])
    return [["objects by class", *splits], *listed]


def _range(values: np.ndarray) -> str:
    """Writes minimum, median and maximum, or a value that all have."""
    if not values.size:
        return "-"
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low}..{float(np.median(values)):g}..{high}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligns columns: the first to the left, the others to the right."""
    sizes = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:{'<' if place == 0 else '>'}{size}}"
            for place, (cell, size) in enumerate(zip(row, sizes, strict=True))
        ).rstrip()
        for row in rows
    ]
