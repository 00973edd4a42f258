"""Conversion by table: a rule turns a peer's parameter name into ours and its layout too.

A conversion must use every tensor of the file and fill every variable of the
model; what is left over on either side is an error that lists the names.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Layout = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Rule:
    r"""One line of a converter's table.

    Attributes:
      pattern: regular expression that the whole peer name must match.
      path: our path below the collection, "/"-joined, with the pattern's groups
        as \1, \2; None for tensors that carry nothing (counters).
      layout: the peer's array -> ours.
    """

    pattern: str
    path: str | None
    layout: Layout


def same(x: np.ndarray) -> np.ndarray:
    """Vectors: as they are."""
    return x


def conv(x: np.ndarray) -> np.ndarray:
    """Convolution kernel: [out, in, kh, kw] -> [kh, kw, in, out]."""
    return x.transpose(2, 3, 1, 0)


def deconv(x: np.ndarray) -> np.ndarray:
    """Transposed convolution kernel: [in, out, kh, kw] -> [kh, kw, in, out]."""
    return x.transpose(2, 3, 0, 1)


def dense(x: np.ndarray) -> np.ndarray:
    """Fully connected: [out, in] -> [in, out]."""
    return x.T


def dense_after_pool(cells: int) -> Layout:
    """Fully connected on flattened region features: [out, C * S * S] -> [S * S * C, out]."""

    def layout(x: np.ndarray) -> np.ndarray:
        maps = x.reshape(x.shape[0], -1, cells, cells)  # [out, C, S, S]
        return maps.transpose(2, 3, 1, 0).reshape(-1, x.shape[0])

    return layout


def conv_rules(peer: str, ours: str, *, bias: bool) -> list[Rule]:
    """A convolution's kernel and, if it has one, its bias."""
    rules = [Rule(peer + r"\.weight", ours + "/kernel", conv)]
    return rules + ([Rule(peer + r"\.bias", ours + "/bias", same)] if bias else [])


def dense_rules(peer: str, ours: str, layout: Layout = dense) -> list[Rule]:
    """A fully connected layer's kernel and bias."""
    return [
        Rule(peer + r"\.weight", ours + "/kernel", layout),
        Rule(peer + r"\.bias", ours + "/bias", same),
    ]


def norm_rules(peer: str, ours: str) -> list[Rule]:
    """A batch norm's scale, bias and running statistics."""
    leaves = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    rules = [Rule(rf"{peer}\.{theirs}", f"{ours}/{leaf}", same) for theirs, leaf in leaves.items()]
    return [*rules, Rule(peer + r"\.num_batches_tracked", None, same)]


def path_of(rules: Sequence[Rule], name: str) -> tuple[str | None, Layout]:
    """Our path and the layout change for the peer's parameter `name`.

    Raises:
      KeyError: if no rule knows the name.
    """
    for rule in rules:
        match = re.fullmatch(rule.pattern, name)
        if match:
            return (None if rule.path is None else match.expand(rule.path)), rule.layout
    raise KeyError(name)


def convert(
    state: Mapping[str, np.ndarray], rules: Sequence[Rule], variables: Mapping[str, Any]
) -> dict[str, Any]:
    """A peer's state dict as variables of a model.

    Args:
      state: the peer's tensors by its names.
      rules: the peer's table.
      variables: the model's variables, or their shapes (`jax.eval_shape` of
        `model.init`), by collection.

    Returns:
      Variables of the same structure, float32 numpy arrays.

    Raises:
      ValueError: listing the tensors that no rule knows or that have no place
        in the model, the variables that nothing filled, and shapes that differ.
    """
    wanted = {
        path: (collection, leaf)
        for collection, tree in variables.items()
        for path, leaf in _flatten(tree).items()
    }
    filled: dict[str, np.ndarray] = {}
    problems: list[str] = []
    for name, array in state.items():
        try:
            path, layout = path_of(rules, name)
        except KeyError:
            problems.append(f"no rule for {name} {tuple(array.shape)}")
            continue
        if path is None:
            continue
        if path not in wanted:
            problems.append(f"the model has no {path} (from {name})")
            continue
        value = np.ascontiguousarray(layout(np.asarray(array, np.float32)))
        shape = tuple(wanted[path][1].shape)
        if value.shape != shape:
            problems.append(f"{name}: {value.shape} does not fit {path} {shape}")
        filled[path] = value
    problems += [f"nothing in the file fills {path}" for path in wanted if path not in filled]
    if problems:
        raise ValueError(f"{len(problems)} mismatches:\n  " + "\n  ".join(problems))
    out: dict[str, Any] = {}
    for path, (collection, _) in wanted.items():
        node = out.setdefault(collection, {})
        *parents, leaf = path.split("/")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = filled[path]
    return out


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}/")
        else:
            flat[prefix + key] = value
    return flat
