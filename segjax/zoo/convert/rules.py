"""Conversion by table: a rule says what a peer's tensor is called here and how its array lies.

One table serves both ways. `convert` must use every tensor of a file and fill
every variable of the model, `export` must write every variable; what is left
over on either side is an error that lists the names.
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
    """Layout of an array on both sides.

    Attributes:
      ours: the peer's array -> ours.
      peers: our array -> the peer's.
      background: number of the peer's first rows that belong to the background, which has none
        here: `ours` leaves them out, `peers` makes them zeros.
    """

    ours: Callable[[Array], Array]
    peers: Callable[[Array], Array]
    background: int = 0


same = Layout(lambda x: x, lambda x: x)
"""Vectors: as they are."""

conv = Layout(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
"""Convolution kernel: [out, in, kh, kw] and [kh, kw, in, out]."""

deconv = Layout(lambda x: x.transpose(2, 3, 0, 1), lambda x: x.transpose(2, 3, 0, 1))
"""Transposed convolution kernel: [in, out, kh, kw] and [kh, kw, in, out]."""

dense = Layout(np.transpose, np.transpose)
"""Fully connected: [out, in] and [in, out]."""


def dense_after_pool(cells: int) -> Layout:
    """Fully connected on region features of S = `cells`: [out, C * S * S] and [S * S * C, out]."""

    def ours(x: Array) -> Array:
        maps = x.reshape(x.shape[0], -1, cells, cells)  # [out, C, S, S]
        return maps.transpose(2, 3, 1, 0).reshape(-1, x.shape[0])

    def peers(x: Array) -> Array:
        maps = x.reshape(cells, cells, -1, x.shape[1])  # [S, S, C, out]
        return maps.transpose(3, 2, 0, 1).reshape(x.shape[1], -1)

    return Layout(ours, peers)


def foreground(layout: Layout, background: int) -> Layout:
    """The same layout of all rows of the peer's array but the first, which are the background's."""

    def peers(x: Array) -> Array:
        rows = layout.peers(x)
        return np.concatenate([np.zeros((background, *rows.shape[1:]), rows.dtype), rows])

    return Layout(lambda x: layout.ours(x[background:]), peers, background)


@dataclasses.dataclass(frozen=True)
class Rule:
    """One line of a converter's table.

    Names are templates: every "#" stands for a number, and the numbers are the same, in the
    same order, on both sides: "layer#.#.conv#.weight" is "layer#_#/conv#/kernel".

    Attributes:
      peer: the peer's name; None for a variable that the peer has no tensor for, which
        is `value` throughout.
      path: ours below the collection, "/"-joined; None for a tensor that carries nothing
        for us: read, it is dropped; written, if `beside` says so, it is a counter at 0.
      layout: how the array lies.
      beside: one of our variables, collection included. The tensor is written only for models
        that have it: this tells two names of one layer apart, and batch norms from frozen ones.
      old: a name that only older files have: read, never written.
      value: see `peer`.
    """

    peer: str | None
    path: str | None
    layout: Layout = same
    beside: str | None = None
    old: bool = False
    value: float = 0.0


# ---- Lines that every table has ---------------------------------------------------------------


def conv_rules(peer: str, ours: str, *, bias: bool, old: bool = False) -> list[Rule]:
    """A convolution's kernel and, if it has one, its bias."""
    kernel = Rule(f"{peer}.weight", f"{ours}/kernel", conv, old=old)
    return [kernel, Rule(f"{peer}.bias", f"{ours}/bias", old=old)] if bias else [kernel]


def deconv_rules(peer: str, ours: str) -> list[Rule]:
    """A transposed convolution's kernel and bias."""
    return [
        Rule(f"{peer}.weight", f"{ours}/kernel", deconv),
        Rule(f"{peer}.bias", f"{ours}/bias"),
    ]


def dense_rules(
    peer: str, ours: str, layout: Layout = dense, *, beside: str | None = None
) -> list[Rule]:
    """A fully connected layer's kernel and bias."""
    return [
        Rule(f"{peer}.weight", f"{ours}/kernel", layout, beside),
        Rule(f"{peer}.bias", f"{ours}/bias", same, beside),
    ]


def norm_rules(peer: str, ours: str, *, frozen: bool = True) -> list[Rule]:
    """A batch norm's scale, bias and running statistics.

    Args:
      peer: its name there.
      ours: its name here.
      frozen: the peer has another norm for constants, which does not count its batches as
        batch norms do; ours is one if scale and bias are not parameters.
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
    """A group norm's scale and bias."""
    return [
        Rule(f"{peer}.weight", f"{ours}/group/scale"),
        Rule(f"{peer}.bias", f"{ours}/group/bias"),
    ]


def dropped(*names: str) -> list[Rule]:
    """Tensors that carry nothing for us and are never written."""
    return [Rule(name, None) for name in names]


def under(prefix: str, rules: Sequence[Rule]) -> list[Rule]:
    """The same table for a model that holds ours as its child `prefix`."""

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
    """Our path and the layout of the peer's tensor `name`; the first rule that fits counts.

    Raises:
      KeyError: if no rule knows the name.
    """
    for rule in rules:
        numbers = _numbers(rule.peer, name)
        if numbers is not None:
            return _filled(rule.path, numbers), rule.layout
    raise KeyError(name)


def convert(
    state: Mapping[str, Array], rules: Sequence[Rule], variables: Mapping[str, Any]
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
      ValueError: listing the tensors that no rule knows, that have no place in the
        model or the same as another one, the variables that nothing filled, and
        shapes that differ.
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
        except (ValueError, IndexError):  # too few axes, or sides that cannot be split
            value = np.asarray(array)
            problems.append(f"{name}: {value.shape} cannot become {path} {shape}")
        else:
            # Copied only if it fits: a file may give one large array every name of the model.
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
    """Variables of a model as the peer's state dict: the way back of `convert`.

    What the peer's module has and we do not is written too, as zeros: batch norms' counters, and
    the background's boxes and masks where the peer has them. `unread.with_unread` puts in what a
    file of the peer said of these.

    Args:
      variables: the model's, by collection.
      rules: the peer's table.

    Returns:
      The peer's tensors by its names: float32 numpy arrays, and int64 counters at 0.

    Raises:
      ValueError: listing the variables that the table gives no name to, and those that the
        peer's files cannot hold because they differ from what it takes for granted.
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
    """The rule that writes our `path` and the peer's name, None for a constant."""
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
    """Returns the numbers that stand for the template's "#" in `text`; None if it does not fit."""
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
    """Returns all variables by their paths below the collections, which never share one."""
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
    """The structure of `variables` with the values of the paths."""

    def fill(tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        return {
            key: fill(value, f"{prefix}{key}/")
            if isinstance(value, Mapping)
            else values[prefix + key]
            for key, value in tree.items()
        }

    return {collection: fill(tree, "") for collection, tree in variables.items()}
