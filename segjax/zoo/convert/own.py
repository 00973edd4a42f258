"""Custom checkpoints: prefixes that trainers add to names, and any number of classes."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.models.variables import variable_shapes
from segjax.protocols import Model
from segjax.zoo.convert.rules import Array, Rule, by_path, path_of

# Prefixes of Lightning, DataParallel, torch.compile and averaged copies. Nested wrappers add
# several, the outermost first.
_WRAPPER = re.compile(
    r"(?:ema_model|model_ema|averaged_model|ema|model|module|net|network|detector|_orig_mod)\."
)


def without_prefix(
    state: Mapping[str, Array], rules: Sequence[Rule]
) -> tuple[dict[str, Array], str, tuple[str, ...]]:
    """Removes the prefix that a trainer added to the names.

    If a file holds several copies of a model, averaged weights are preferred over the latest ones.

    Args:
      state: tensors by the file's names.
      rules: the peer's table.

    Returns:
      The tensors by the peer's names; the prefix, or "" if there is none; and the names of the
      omitted tensors, which lack the prefix. If no name fits the table, all names are unchanged.
    """
    prefixes = {""}
    for name in state:
        place = 0
        while found := _WRAPPER.match(name, place):
            place = found.end()
            prefixes.add(name[:place])
    known = {p: sum(_knows(rules, n[len(p) :]) for n in state if n.startswith(p)) for p in prefixes}
    # The prefix with the most known names wins. Ties go to averaged weights, then to the shortest.
    best = max(prefixes, key=lambda p: (known[p], "ema" in p or "averaged" in p, -len(p)))
    if not best or not known[best]:
        return dict(state), "", ()
    kept = {name[len(best) :]: array for name, array in state.items() if name.startswith(best)}
    return kept, best, tuple(name for name in state if not name.startswith(best))


def _knows(rules: Sequence[Rule], name: str) -> bool:
    try:
        path_of(rules, name)
    except KeyError:
        return False
    return True


def count_classes(
    state: Mapping[str, Array], rules: Sequence[Rule], model: Model
) -> tuple[int | None, int | None]:
    """Infers the numbers of classes from the shapes of a file's tensors.

    Args:
      state: tensors by the peer's names.
      rules: the peer's table.
      model: model of the same architecture, with any number of classes.

    Returns:
      Numbers of instance and of pixel classes; None if the model predicts none, or if the shapes
      do not agree on one number.
    """
    counts = model.classes
    if _all_fit(state, rules, model):
        return counts.things, counts.pixels
    things = pixels = None
    if counts.things is not None:
        things = _count(state, rules, model.with_classes(things=1), model.with_classes(things=2))
    if counts.pixels is not None:
        pixels = _count(state, rules, model.with_classes(pixels=1), model.with_classes(pixels=2))
    return things, pixels


def _all_fit(state: Mapping[str, Array], rules: Sequence[Rule], model: Model) -> bool:
    """Returns True if no tensor has another shape than in the model as it is."""
    wanted = by_path(variable_shapes(model))
    for name, array in state.items():
        path, layout = path_of(rules, name) if _knows(rules, name) else (None, None)
        if path not in wanted or layout is None:
            continue
        try:
            if layout.ours(np.asarray(array)).shape != wanted[path].shape:
                return False
        except (ValueError, IndexError):
            return False
    return True


def _count(state: Mapping[str, Array], rules: Sequence[Rule], one: Model, two: Model) -> int | None:
    """Solves for the number of classes: sides are linear in it, as 1 and 2 classes show."""
    first, second = (by_path(variable_shapes(model)) for model in (one, two))
    found: set[float] = set()
    for name, array in state.items():
        if not _knows(rules, name):
            continue
        path, layout = path_of(rules, name)
        if path not in first or first[path].shape == second[path].shape:
            continue
        try:
            shape: tuple[Any, ...] = layout.ours(np.asarray(array)).shape
        except (ValueError, IndexError):
            return None
        if len(shape) != len(first[path].shape):  # `convert` says what is wrong with it
            return None
        for side, low, high in zip(shape, first[path].shape, second[path].shape, strict=True):
            if low != high:
                found.add(1 + (side - low) / (high - low))
    number = found.pop() if len(found) == 1 else 0
    return int(number) if number >= 1 and number == int(number) else None
