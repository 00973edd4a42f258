"""Whether weights to start from fit a model that will be trained."""

import dataclasses
from typing import Any

import numpy as np

from segjax.zoo.hub import Pretrained


def check_same_inputs(found: Pretrained, model: Any) -> None:
    """Raises a `ValueError` if weights are for other inputs or another body than a model has.

    Args:
      found: a model's weights, or a backbone's alone.
      model: that will start from them.
    """
    ours, theirs = (getattr(m, "detector", m) for m in (model, found.model))
    alone = not hasattr(theirs, "losses")
    body, mine = (getattr(m, "backbone", None) for m in (theirs, ours))
    body = theirs if alone else body
    wrong = [] if body is None or mine is None else _differing_fields(body, mine, "backbone")
    learned = found.preprocess or getattr(theirs, "preprocess", None)
    if learned is not None and hasattr(ours, "preprocess"):
        wrong += _differing_fields(learned, ours.preprocess, "preprocess")
    if wrong:
        raise ValueError(
            f"the weights to start from are of another model: {'; '.join(wrong)}: change the"
            " model's fields, or choose weights that fit it (`segjax models`)"
        )


def _differing_fields(theirs: Any, ours: Any, name: str) -> list[str]:
    """Describes the fields, but those that weights do not depend on, that differ."""
    if type(theirs) is not type(ours):
        return [f"{name} is {type(ours).__name__}, wanted {type(theirs).__name__}"]
    free = {"norm", "output_norms", "drop_path_rate", "frozen_stages", "dtype", "parent", "name"}
    fields = [f.name for f in dataclasses.fields(theirs) if f.name not in free]
    pairs = [(field, getattr(ours, field), getattr(theirs, field)) for field in fields]
    return [f"{name}.{f} is {a}, wanted {b}" for f, a, b in pairs if not _alike(a, b)]


def _alike(a: Any, b: Any) -> bool:
    """Whether two settings are equal, numbers up to rounding."""
    if isinstance(a, tuple) and isinstance(b, tuple) and all(isinstance(x, float) for x in a + b):
        return len(a) == len(b) and bool(np.allclose(a, b, rtol=1e-6))
    return bool(a == b)
