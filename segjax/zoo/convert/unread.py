"""Arrays of a peer's file that segjax does not use, kept so that exporting is lossless.

These are batch-norm counters, classifiers of backbones, and the background rows of torchvision's
heads. `export` alone would write zeros in their place or omit them.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from segjax.zoo.convert.rules import Array, Rule, path_of


def unread(state: Mapping[str, Array], rules: Sequence[Rule]) -> dict[str, Array]:
    """Collects the arrays that `convert` drops.

    Args:
      state: the peer's tensors by its names.
      rules: the peer's table, which must match all names.

    Returns:
      Arrays by the peer's names: whole tensors without a place in a model, and the leading
      background rows of tensors with a `Layout.background`.

    Raises:
      KeyError: if no rule matches a name.
    """
    left: dict[str, Array] = {}
    for name, array in state.items():
        path, layout = path_of(rules, name)
        if path is None:
            left[name] = array
        elif layout.background:
            left[name] = array[: layout.background]
    return left


def with_unread(
    state: Mapping[str, Array], rules: Sequence[Rule], left: Mapping[str, Array]
) -> dict[str, Array]:
    """Adds the unused arrays of a peer's file to an exported state dict.

    Args:
      state: result of `export`.
      rules: the peer's table.
      left: result of `unread`. Arrays that the table does not know come from another peer and are
        not written.

    Returns:
      The complete state dict.

    Raises:
      ValueError: if the shape of background rows does not fit the other rows.
    """
    whole = dict(state)
    for name, rest in left.items():
        try:
            path, layout = path_of(rules, name)
        except KeyError:
            continue
        if path is None:
            whole[name] = rest
        elif layout.background and name in state:
            wanted = state[name][: layout.background].shape
            if rest.shape != wanted:
                raise ValueError(f"{name}: the background's rows are {rest.shape}, wanted {wanted}")
            whole[name] = np.concatenate([rest, state[name][layout.background :]])
    return whole
