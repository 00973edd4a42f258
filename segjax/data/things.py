"""Semantic labels in which all things are one class, as panoptic models learn them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from segjax.data.config import MergeThings
from segjax.data.images import IGNORE

THINGS = "things"


def merge_things(
    names: Sequence[str], is_thing: Sequence[bool], how: MergeThings
) -> tuple[tuple[str, ...], UInt8[np.ndarray, "256"]]:
    """Makes all things one class and numbers stuff in its order.

    Args:
      names: names of the classes, by label.
      is_thing: whether each is a thing.
      how: "first" makes things 0 and stuff 1..S, as Detectron2 does; "last" makes stuff 0..S-1 and
        things S, as MMDetection does; "no" changes nothing.

    Returns:
      The new names, and the new label of each label; that of `IGNORE` stays.

    Raises:
      ValueError: if nobody knows which classes are things.
    """
    table = np.arange(256, dtype=np.uint8)
    if how == "no":
        return tuple(names), table
    if len(is_thing) != len(names):
        raise ValueError(
            f'merge_things="{how}": the labels do not say which classes are things; '
            'semantic="panoptic", "stuffthingmaps" and "instances" do'
        )
    stuff = [label for label, thing in enumerate(is_thing) if not thing]
    merged = [names[label] for label in stuff]
    merged.insert(0 if how == "first" else len(merged), THINGS)
    table[: len(names)] = 0 if how == "first" else len(stuff)
    table[stuff] = np.arange(len(stuff), dtype=np.uint8) + (how == "first")
    assert table[IGNORE] == IGNORE
    return tuple(merged), table
