"""Checks that initial weights fit the model that will be trained."""

import dataclasses
from typing import Any

import numpy as np

from segjax.protocols import Model
from segjax.zoo.hub import Pretrained


def check_same_inputs(found: Pretrained, model: Model) -> None:
    """Checks that weights were trained with a model's preprocessing and backbone.

    Args:
      found: weights of a whole model or of a backbone alone.
      model: model that will start from them.

    Raises:
      ValueError: if the preprocessing or the backbone differs.
    """
    theirs = found.model
    alone = not isinstance(theirs, Model)
    body = theirs if alone else theirs.backbone
    learned = found.preprocess or (None if alone else theirs.preprocess)
    wrong: list[str] = []
    if body is not None and model.backbone is not None:
        wrong += _differing_fields(body, model.backbone, "backbone")
    if learned is not None and model.preprocess is not None:
        wrong += _differing_fields(learned, model.preprocess, "preprocess")
    if wrong:
        raise ValueError(
            f"the weights to start from are of another model: {'; '.join(wrong)}: change the"
            " model's fields, or choose weights that fit it (`segjax models`)"
        )


def _differing_fields(theirs: Any, ours: Any, name: str) -> list[str]:
    """Describes the fields that differ, except for those that do not affect the weights."""
    if type(theirs) is not type(ours):
        return [f"{name} is {type(ours).__name__}, wanted {type(theirs).__name__}"]
    free = {"norm", "output_norms", "drop_path_rate", "frozen_stages", "dtype", "parent", "name"}
    fields = [f.name for f in dataclasses.fields(theirs) if f.name not in free]
    pairs = [(field, vars(ours)[field], vars(theirs)[field]) for field in fields]
    return [f"{name}.{f} is {a}, wanted {b}" for f, a, b in pairs if not _alike(a, b)]


def _alike(a: Any, b: Any) -> bool:
    """Returns True if two settings are equal; tuples of floats up to rounding."""
    if a is None or b is None:  # None, False and 0 all mean "off".
        return not a and not b
    if isinstance(a, tuple) and isinstance(b, tuple) and all(isinstance(x, float) for x in a + b):
        return len(a) == len(b) and bool(np.allclose(a, b, rtol=1e-6))
    return bool(a == b)
