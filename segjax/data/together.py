"""Finds defects that concern all splits of a dataset together."""

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
    """Matches categories across splits by name, so that a class has the same id in all of them.

    Splits that were exported separately often number the same classes differently. Earlier splits
    take precedence, in the order train, val, others.

    Args:
      datasets: annotations by split.

    Returns:
      The annotations, renumbered where necessary, and a note for each renumbered class.

    Raises:
      CocoError: if an id has two names, and matching by name is ambiguous because a name occurs
        twice in a split or in one split only.
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
    """Returns the new id of every category; None if the ids agree or names are ambiguous."""
    names = [category.name for category in categories]
    taken = set(known.values())
    if len(set(names)) < len(names) or len(taken) < len(known):
        return None
    if any(c.name not in known and c.id in taken for c in categories):
        return None  # one id for two classes: renamed or different, names cannot tell
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
      datasets: annotations by split, with matched categories.

    Returns:
      Notes on classes without objects, or without objects in train; and an error if all objects in
      train are crowds.
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
    """Returns the ids of categories with non-crowd objects, which training can learn from."""
    return {a.category_id for i in dataset.images for a in i.annotations if not a.is_crowd}


_ADVICE = ", or a part of train: --data.val-fraction=0.1"


def check_names(datasets: Mapping[str, CocoDataset]) -> Problems:
    """Reports missing splits that training needs."""
    problems = Problems()
    for name in ("train", "val"):
        if name not in datasets:
            problems.add(
                "missing_split",
                f'no split "{name}": training wants annotations/instances_{name}.json and the'
                f" folder {name}/{_ADVICE if name == 'val' else ''}",
            )
    return problems


def check_format(splits: Mapping[str, Split], named: str) -> Problems:
    """Notes a format that was recognised rather than named in the config."""
    problems = Problems()
    for note in dict.fromkeys(split.note for split in splits.values()):
        if note and named == "folder":
            problems.add("recognised", note)
    return problems


def check_caps(split: str, index: Int64[np.ndarray, "images 6"], limit: int) -> Problems:
    """Notes images with more objects than `limit`, which is `DataConfig.max_instances`."""
    problems = Problems()
    counts = index[:, INDEX_COLUMNS.index("objects")] if len(index) else np.zeros(0, np.int64)
    for row in np.flatnonzero(counts > limit).tolist():
        problems.add("objects_over_cap", f"{split}: image {index[row, 0]} has {counts[row]}")
    return problems


def check_masks(index: Int64[np.ndarray, "images 6"]) -> Problems:
    """Reports an error if there are objects, but none has a mask."""
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
    """Raises a `CocoError` that lists the problems that prevent training, if there are any."""
    if names := list(problems.fatal()):
        raise CocoError(f"{where} cannot be used as it is:\n" + "\n".join(problems.lines(names)))
