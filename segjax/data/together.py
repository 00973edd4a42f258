"""Defects that show only when all splits of a dataset are seen together."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int64

from segjax.data.coco import Category, CocoDataset, CocoError, merge_categories
from segjax.data.prepared import INDEX_COLUMNS
from segjax.data.problems import Problems
from segjax.data.protocols import Split


def match_categories(
    datasets: Mapping[str, CocoDataset],
) -> tuple[dict[str, CocoDataset], Problems]:
    """Gives a class the same number in all splits, by its name.

    Splits that were exported one by one often number the same classes differently. The first
    split (train, where there is one) decides.

    Args:
      datasets: annotations by split.

    Returns:
      The annotations, renumbered where they have to be, and a note for each class that was.

    Raises:
      CocoError: if a number has two names, and names cannot decide: one is twice in a split, or in
        one split alone.
    """
    problems = Problems()
    if not datasets:
        return {}, problems
    order = sorted(datasets, key=lambda name: (name != "train", name != "val", name))
    known: dict[str, int] = {c.name: c.id for c in datasets[order[0]].categories}
    matched = {order[0]: datasets[order[0]]}
    for split in order[1:]:
        dataset = datasets[split]
        numbers = _numbers(known, dataset.categories)
        if numbers is None:
            merge_categories(
                [*(found.categories for found in matched.values()), dataset.categories]
            )
            numbers = {c.id: c.id for c in dataset.categories}
        for category in dataset.categories:
            known.setdefault(category.name, numbers[category.id])
            if numbers[category.id] != category.id:
                problems.add(
                    "matched_by_name",
                    f'"{category.name}" is {numbers[category.id]} in earlier splits and'
                    f" {category.id} in {split}",
                )
        matched[split] = _renumbered(dataset, numbers)
    return {name: matched[name] for name in datasets}, problems


def _numbers(known: Mapping[str, int], categories: tuple[Category, ...]) -> dict[int, int] | None:
    """New number of every category; None where they agree already, or names cannot decide."""
    names = [category.name for category in categories]
    taken = set(known.values())
    if len(set(names)) < len(names) or len(taken) < len(known):
        return None
    if any(c.name not in known and c.id in taken for c in categories):
        return None  # one number for two classes: nobody knows which is meant
    numbers = {c.id: known.get(c.name, c.id) for c in categories}
    return None if all(old == new for old, new in numbers.items()) else numbers


def _renumbered(dataset: CocoDataset, numbers: Mapping[int, int]) -> CocoDataset:
    def moved(category: Category) -> Category:
        return dataclasses.replace(category, id=numbers[category.id])

    images = tuple(
        dataclasses.replace(
            image,
            annotations=tuple(
                dataclasses.replace(a, category_id=numbers[a.category_id])
                for a in image.annotations
            ),
        )
        for image in dataset.images
    )
    categories = sorted(map(moved, dataset.categories), key=lambda category: category.id)
    return dataclasses.replace(dataset, categories=tuple(categories), images=images)


def check_classes(datasets: Mapping[str, CocoDataset]) -> Problems:
    """Finds classes that cannot be learned.

    Args:
      datasets: annotations by split, their categories matched.

    Returns:
      Classes without objects, or with objects outside of train alone; and an error if all
      objects of train are crowds.
    """
    problems = Problems()
    annotated = {name: data for name, data in datasets.items() if data.categories}
    if not annotated:
        return problems
    used = {name: _used(data) for name, data in annotated.items()}
    parents = frozenset[str]().union(*(data.parents for data in annotated.values()))
    for category in merge_categories([data.categories for data in annotated.values()]):
        splits = [name for name, ids in used.items() if category.id in ids]
        if not splits:
            kind = "" if category.name not in parents else " (the supercategory of other classes)"
            problems.add("class_without_objects", f'"{category.name}"{kind}')
        elif "train" in used and "train" not in splits:
            problems.add("class_only_in_val", f'"{category.name}" ({", ".join(splits)})')
    train = annotated.get("train")
    crowds = 0 if train is None else sum(a.is_crowd for i in train.images for a in i.annotations)
    if crowds and not used["train"]:
        problems.add(
            "only_crowds",
            f"all {crowds} objects of train are crowds (iscrowd=1), which nothing is learned from:"
            " tools that write run lengths set it by mistake, set iscrowd to 0",
        )
    return problems


def _used(dataset: CocoDataset) -> set[int]:
    """Categories of objects that can be learned from."""
    return {a.category_id for i in dataset.images for a in i.annotations if not a.is_crowd}


def check_names(datasets: Mapping[str, CocoDataset]) -> Problems:
    """Finds splits that are missing for training."""
    problems = Problems()
    for name in ("train", "val"):
        if name not in datasets:
            problems.add(
                "missing_split",
                f'no split "{name}": training wants annotations/instances_{name}.json and the'
                f" folder {name}/",
            )
    return problems


def check_format(splits: Mapping[str, Split], named: str) -> Problems:
    """Notes a format that was recognised and not asked for by name."""
    problems = Problems()
    for note in dict.fromkeys(split.note for split in splits.values()):
        if note and named == "folder":
            problems.add("recognised", note)
    return problems


def check_caps(split: str, index: Int64[np.ndarray, "images 6"], limit: int) -> Problems:
    """Counts the objects of training images that are over `DataConfig.max_instances`."""
    problems = Problems()
    counts = index[:, INDEX_COLUMNS.index("objects")] if len(index) else np.zeros(0, np.int64)
    for row in np.flatnonzero(counts > limit).tolist():
        problems.add("objects_over_cap", f"{split}: image {index[row, 0]} has {counts[row]}")
    return problems


def check_masks(index: Int64[np.ndarray, "images 6"]) -> Problems:
    """Finds training data none of whose objects has a mask."""
    problems = Problems()
    objects, masked = (
        int(index[:, INDEX_COLUMNS.index(name)].sum()) for name in ("objects", "masked")
    )
    if objects and not masked:
        problems.add(
            "no_masks",
            f"none of the {objects} objects of train has a mask: train a model of boxes"
            " alone, with --data.masks=False (check-data --no-masks)",
        )
    return problems


def raise_fatal(problems: Problems, where: str) -> None:
    """Raises a `CocoError` that lists the problems that forbid training."""
    if names := list(problems.fatal()):
        raise CocoError(f"{where} cannot be used as it is:\n" + "\n".join(problems.lines(names)))
