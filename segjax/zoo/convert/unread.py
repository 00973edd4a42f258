"""Arrays of a peer's file that segjax does not use, kept so that exporting is lossless.

Batch norms' counters, classifiers of backbones, and what torchvision's heads say of the
background: nothing here reads them, and `export` alone would write zeros or leave them out.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from segjax.zoo.convert.rules import Array, Rule, path_of


def unread(state: Mapping[str, Array], rules: Sequence[Rule]) -> dict[str, Array]:
    """Collects the arrays that `convert` leaves behind.

    Args:
      state: the peer's tensors by its names.
      rules: the peer's table, which knows all of the names.

    Returns:
      By the peer's names: whole tensors that have no place in a model, and the first rows, the
      background's, of those that `Layout.background` counts some of.

    Raises:
      KeyError: if no rule knows a name.
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
    """A peer's state dict with what its own file held besides.

    Args:
      state: what `export` gave.
      rules: the peer's table.
      left: what `unread` gave; what has no such place in this table is another peer's, and is
        not written.

    Returns:
      The state dict, whole.

    Raises:
      ValueError: if rows of the background are of another shape than the others.
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
