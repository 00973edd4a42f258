"""Conversion by table: a rule maps a peer's tensor name and array layout to ours.

One table serves both directions. `convert` must use every tensor of a file and fill every variable
of the model; `export` must write every variable. Anything left over on either side is an error
that lists the names.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Layout:
    """Conversion of an array between the peer's layout and ours.

    Attributes:
      ours: function from the peer's array to ours.
      peers: function from our array to the peer's.
      background: number of leading rows that the peer has for the background and we do not: `ours`
        drops them, `peers` fills them with zeros.
    """

    ours: Callable[[Array], Array]
    peers: Callable[[Array], Array]
    background: int = 0


same = Layout(lambda x: x, lambda x: x)
"""Vectors, unchanged."""

conv = Layout(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
"""Convolution kernels: [out, in, kh, kw] (peer) and [kh, kw, in, out] (ours)."""

deconv = Layout(lambda x: x.transpose(2, 3, 0, 1), lambda x: x.transpose(2, 3, 0, 1))
"""Transposed convolution kernels: [in, out, kh, kw] (peer) and [kh, kw, in, out] (ours)."""

dense = Layout(np.transpose, np.transpose)
"""Fully connected kernels: [out, in] (peer) and [in, out] (ours)."""


def dense_after_pool(cells: int) -> Layout:
    """Returns the layout of a dense kernel on S x S region features, S = `cells`.

    The peer's shape is [out, C * S * S], ours is [S * S * C, out].
    """

    def ours(x: Array) -> Array:
        maps = x.reshape(x.shape[0], -1, cells, cells)  # [out, C, S, S]
        return maps.transpose(2, 3, 1, 0).reshape(-1, x.shape[0])

    def peers(x: Array) -> Array:
        maps = x.reshape(cells, cells, -1, x.shape[1])  # [S, S, C, out]
        return maps.transpose(3, 2, 0, 1).reshape(x.shape[1], -1)

    return Layout(ours, peers)


def foreground(layout: Layout, background: int) -> Layout:
    """Returns `layout` for the peer's array without its first `background` rows."""

    def peers(x: Array) -> Array:
        rows = layout.peers(x)
        return np.concatenate([np.zeros((background, *rows.shape[1:]), rows.dtype), rows])

    return Layout(lambda x: layout.ours(x[background:]), peers, background)


@dataclasses.dataclass(frozen=True)
class Rule:
    """One line of a converter's table.

    Names are templates: each "#" matches a number. Numbers appear in the same order on both sides:
    "layer#.#.conv#.weight" is "layer#_#/conv#/kernel".

    Attributes:
      peer: the peer's name; None for a variable without a counterpart, filled with `value`.
      path: our name below the collection, "/"-joined; None for a tensor that we do not use. Such a
        tensor is dropped on reading; with `beside`, it is written as a counter at 0.
      layout: conversion of the array.
      beside: one of our variables, including its collection. The tensor is written only for models
        that have this variable, which distinguishes two names of one layer, and trainable from
        frozen batch norms.
      old: True for a name in older files only, which is read but never written.
      value: constant for a variable without a counterpart; see `peer`.
    """

    peer: str | None
    path: str | None
    layout: Layout = same
    beside: str | None = None
    old: bool = False
    value: float = 0.0


# ---- Rules that tables share -----------------------------------------------------------------


def conv_rules(peer: str, ours: str, *, bias: bool, old: bool = False) -> list[Rule]:
    """Returns the rules of a convolution's kernel and, with `bias`, its bias."""
    kernel = Rule(f"{peer}.weight", f"{ours}/kernel", conv, old=old)
    return [kernel, Rule(f"{peer}.bias", f"{ours}/bias", old=old)] if bias else [kernel]


def deconv_rules(peer: str, ours: str) -> list[Rule]:
    """Returns the rules of a transposed convolution's kernel and bias."""
    return [
        Rule(f"{peer}.weight", f"{ours}/kernel", deconv),
        Rule(f"{peer}.bias", f"{ours}/bias"),
    ]


def dense_rules(
    peer: str, ours: str, layout: Layout = dense, *, beside: str | None = None
) -> list[Rule]:
    """Returns the rules of a fully connected layer's kernel and bias."""
    return [
        Rule(f"{peer}.weight", f"{ours}/kernel", layout, beside),
        Rule(f"{peer}.bias", f"{ours}/bias", same, beside),
    ]


def norm_rules(peer: str, ours: str, *, frozen: bool = True) -> list[Rule]:
    """Returns the rules of a batch norm's scale, bias and running statistics.

    Args:
      peer: the peer's name.
      ours: our name.
      frozen: True if the peer has a separate module for frozen norms, which has no batch counter.
        Ours is frozen if scale and bias are not parameters.
    """
    counts = f"params/{ours}/scale" if frozen else f"batch_stats/{ours}/mean"
    return [
        Rule(f"{peer}.weight", f"{ours}/scale"),
        Rule(f"{peer}.bias", f"{ours}/bias"),
        Rule(f"{peer}.running_mean", f"{ours}/mean"),
        Rule(f"{peer}.running_var", f"{ours}/var"),
        Rule(f"{peer}.num_batches_tracked", None, beside=counts),
    ]


def group_norm_rules(peer: str, ours: str) -> list[Rule]:
    """Returns the rules of a group norm's scale and bias."""
    return [
        Rule(f"{peer}.weight", f"{ours}/group/scale"),
        Rule(f"{peer}.bias", f"{ours}/group/bias"),
    ]


def dropped(*names: str) -> list[Rule]:
    """Returns rules for tensors that we do not use and never write."""
    return [Rule(name, None) for name in names]


def under(prefix: str, rules: Sequence[Rule]) -> list[Rule]:
    """Returns the table for a model that contains the table's model as its child `prefix`."""

    def moved(rule: Rule) -> Rule:
        path, beside = rule.path, rule.beside
        if path is not None:
            path = f"{prefix}/{path}"
        if beside is not None:
            beside = beside.replace("/", f"/{prefix}/", 1)
        return dataclasses.replace(rule, path=path, beside=beside)

    return [moved(rule) for rule in rules]


# ---- Reading and writing ----------------------------------------------------------------------


def path_of(rules: Sequence[Rule], name: str) -> tuple[str | None, Layout]:
    """Returns our path and the layout of the peer's tensor `name`, from the first matching rule.

    Raises:
      KeyError: if no rule matches the name.
    """
    for rule in rules:
        numbers = _numbers(rule.peer, name)
        if numbers is not None:
            return _filled(rule.path, numbers), rule.layout
    raise KeyError(name)


def convert(
    state: Mapping[str, Array], rules: Sequence[Rule], variables: Mapping[str, Any]
) -> dict[str, Any]:
    """Converts a peer's state dict to variables of a model.

    Args:
      state: the peer's tensors by its names.
      rules: the peer's table.
      variables: the model's variables, or their shapes (`jax.eval_shape` of `model.init`), by
        collection.

    Returns:
      Variables of the same structure, as float32 numpy arrays.

    Raises:
      ValueError: if a tensor matches no rule, has no place in the model or the same place as
        another, if a variable is not filled, or if shapes differ. The message lists all of these.
    """
    wanted = by_path(variables)
    filled: dict[str, Array] = {}
    source: dict[str, str] = {}
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
        if path in source:
            problems.append(f"{source[path]} and {name} both fill {path}")
        shape = tuple(wanted[path].shape)
        try:
            value = layout.ours(np.asarray(array))
        except (ValueError, IndexError):  # Too few axes, or sides that do not divide.
            value = np.asarray(array)
            problems.append(f"{name}: {value.shape} cannot become {path} {shape}")
        else:
            # Copied only if it fits: a hostile file may give one large array to every name.
            if value.shape == shape:
                value = np.ascontiguousarray(value, np.float32)
            else:
                problems.append(f"{name}: {value.shape} does not fit {path} {shape}")
        filled[path], source[path] = value, name
    for path, leaf in wanted.items():
        constant = None if path in filled else _constant(rules, path)
        if constant is not None:
            filled[path] = np.full(leaf.shape, constant, np.float32)
    problems += [f"nothing in the file fills {path}" for path in wanted if path not in filled]
    _raise(problems)
    return _rebuilt(variables, filled)


def export(variables: Mapping[str, Any], rules: Sequence[Rule]) -> dict[str, Array]:
    """Converts variables of a model to the peer's state dict: the inverse of `convert`.

    Tensors that only the peer's module has are written as zeros: batch-norm counters, and the
    background's boxes and masks if the peer has them. `unread.with_unread` restores their values
    from a file of the peer.

    Args:
      variables: the model's variables, by collection.
      rules: the peer's table.

    Returns:
      The peer's tensors by its names, as float32 numpy arrays, and int64 counters at 0.

    Raises:
      ValueError: if the table has no name for a variable, or if a variable differs from the
        constant that the peer assumes. The message lists all of these.
    """
    names = _flatten(variables)
    state: dict[str, Array] = {}
    problems: list[str] = []
    for path, leaf in by_path(variables).items():
        value = np.asarray(leaf, np.float32)
        found = _writer(rules, path, names)
        if found is None:
            problems.append(f"no rule writes {path} {value.shape}")
        elif found[1] is not None:
            state[found[1]] = np.ascontiguousarray(found[0].layout.peers(value))
        elif not np.array_equal(value, np.full_like(value, found[0].value)):
            problems.append(f"the peer has no place for {path}, unless it is {found[0].value}")
    _raise(problems)
    # Batch counters: no variable of ours leads to them, only the norm they belong to.
    for rule in rules:
        if rule.path is None and rule.beside is not None:
            for path in names:
                numbers = _numbers(rule.beside, path)
                if numbers is not None:
                    state[str(_filled(rule.peer, numbers))] = np.zeros((), np.int64)
    return state


def _writer(
    rules: Sequence[Rule], path: str, names: Mapping[str, Any]
) -> tuple[Rule, str | None] | None:
    """Returns the rule that writes our `path` and the peer's name, which is None for a constant."""
    for rule in rules:
        numbers = None if rule.old else _numbers(rule.path, path)
        if numbers is None:
            continue
        if rule.beside is None or _filled(rule.beside, numbers) in names:
            return rule, _filled(rule.peer, numbers)
    return None


def _constant(rules: Sequence[Rule], path: str) -> float | None:
    for rule in rules:
        if rule.peer is None and _numbers(rule.path, path) is not None:
            return rule.value
    return None


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(re.escape("#"), r"(\d+)"))


def _numbers(template: str | None, text: str) -> tuple[str, ...] | None:
    """Returns the numbers in `text` at each "#" of the template; None if it does not match."""
    match = None if template is None else _pattern(template).fullmatch(text)
    return None if match is None else match.groups()


def _filled(template: str | None, numbers: Sequence[str]) -> str | None:
    if template is None:
        return None
    for number in numbers:
        template = template.replace("#", number, 1)
    return template


def _raise(problems: Sequence[str]) -> None:
    if problems:
        raise ValueError(f"{len(problems)} mismatches:\n  " + "\n  ".join(problems))


# ---- Trees ------------------------------------------------------------------------------------


def by_path(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all variables by their paths below the collections, which share no path."""
    return {path: leaf for tree in variables.values() for path, leaf in _flatten(tree).items()}


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}/")
        else:
            flat[prefix + key] = value
    return flat


def _rebuilt(variables: Mapping[str, Any], values: Mapping[str, Array]) -> dict[str, Any]:
    """Returns the structure of `variables` filled with `values` by path."""

    def fill(tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        return {
            key: fill(value, f"{prefix}{key}/")
            if isinstance(value, Mapping)
            else values[prefix + key]
            for key, value in tree.items()
        }

    return {collection: fill(tree, "") for collection, tree in variables.items()}
