"""Validation images taken from train, for data without a split "val" of their own."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping

from segjax.data.coco import CocoDataset, CocoError
from segjax.data.config import DataConfig
from segjax.data.duplicates import group_images
from segjax.data.problems import Problems
from segjax.data.protocols import Split
from segjax.data.store import ImageStore, StoreError


def set_aside(splits: Mapping[str, Split], config: DataConfig) -> Mapping[str, Split]:
    """Divides train into train and val, as `val_fraction` says.

    Images that show the same picture, or are of one source, stay together. The choice depends on
    the contents of the images and on `val_seed` alone: names, places and order do not matter, and
    an image that is added later moves few others.

    Args:
      splits: splits of the data.
      config: `val_fraction`, `val_seed` and `val_group` are used.

    Returns:
      The splits, with "val"; as they are if `val_fraction` is 0.

    Raises:
      CocoError: if the data have a split "val", or no split "train".
    """
    if not config.val_fraction:
        return splits
    if "val" in splits or "train" not in splits:
        raise CocoError(
            f"val_fraction is {config.val_fraction}, which takes images of train for val, and the"
            f" data have the splits {', '.join(splits)}: leave it out"
        )
    halves = _Halves(splits["train"], config)
    found = {
        name: dataclasses.replace(splits["train"], load=functools.partial(halves.load, name))
        for name in ("train", "val")
    }
    return {**found, **{name: split for name, split in splits.items() if name not in found}}


class _Halves:
    """Loads train once, and divides it."""

    def __init__(self, split: Split, config: DataConfig) -> None:
        self._split, self._config = split, config
        self._whole = functools.cache(self._load)

    def load(self, name: str, on_problem: str = "raise") -> CocoDataset:
        """Loads one half; the problems of the annotations are those of train."""
        dataset, chosen, together = self._whole(on_problem)
        problems = dataset.problems.copy() if name == "train" else Problems()
        if name == "val":
            for image in dataset.images:
                if image.id in chosen:
                    problems.add("set_aside", image.file_name)
        else:
            problems.update(together)
        images = tuple(i for i in dataset.images if (i.id in chosen) == (name == "val"))
        return dataclasses.replace(dataset, images=images, problems=problems)

    def _load(self, on_problem: str) -> tuple[CocoDataset, frozenset[int], Problems]:
        dataset = self._split.load(on_problem=on_problem)
        names = [image.file_name for image in dataset.images]
        groups, hashes = group_images(_contents(names, self._split.images), self._config.val_group)
        chosen = _choose(groups, hashes, self._config)
        together = Problems()
        members: dict[int, list[str]] = {}
        for name, group in zip(names, groups, strict=True):
            members.setdefault(group, []).append(name)
        for found in members.values():
            if len(found) > 1:
                shown = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
                together.add("same_picture", f"{shown} ({len(found)} images)")
        ids = frozenset(
            image.id for image, taken in zip(dataset.images, chosen, strict=True) if taken
        )
        return dataset, ids, together


def _contents(names: list[str], store: ImageStore) -> Iterator[tuple[str, bytes]]:
    """Yields names and contents; an image that cannot be read is reported when it is checked."""
    for name in names:
        try:
            yield name, store.read(name)
        except StoreError:
            yield name, name.encode()


def _choose(groups: list[int], hashes: list[str], config: DataConfig) -> list[bool]:
    """Chooses groups in the order of their hashes, until val has its share.

    Raises:
      CocoError: if train or val would have no image.
    """
    members: dict[int, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)

    def rank(group: int) -> bytes:
        contents = min(hashes[place] for place in members[group])
        return hashlib.blake2b(f"{config.val_seed} {contents}".encode()).digest()

    wanted = max(config.val_fraction * len(groups), 1.0)
    chosen = [False] * len(groups)
    count = 0
    for group in sorted(members, key=rank):
        # A group is taken if it brings the share nearer.
        if abs(count + len(members[group]) - wanted) < abs(count - wanted):
            count += len(members[group])
            for place in members[group]:
                chosen[place] = True
    if not 0 < count < len(groups):
        sizes = sorted(map(len, members.values()))
        raise CocoError(
            f"val_fraction={config.val_fraction} of {len(groups)} images leaves train or val"
            f" without one, as pictures of one source stay together (smallest groups: {sizes[:5]}):"
            " choose another fraction"
        )
    return chosen
