"""Merges all things into one semantic class, as in the semantic heads of panoptic models."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from segjax.data.config import MergeThings
from segjax.data.images import IGNORE

THINGS = "things"


def merge_things(
    names: Sequence[str], is_thing: Sequence[bool], how: MergeThings
) -> tuple[tuple[str, ...], UInt8[np.ndarray, "256"]]:
    """Merges all things into one class; stuff classes keep their order.

    Args:
      names: class names, by label.
      is_thing: True for each class that is a thing.
      how: "first" maps things to 0 and stuff to 1..S, as in Detectron2; "last" maps stuff to 0..S-1
        and things to S, as in MMDetection; "no" changes nothing.

    Returns:
      The new names, and a lookup table from old to new labels, which keeps `IGNORE`.

    Raises:
      ValueError: if it is not known which classes are things.
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
