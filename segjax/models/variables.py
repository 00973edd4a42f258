"""Initialises, describes and compares variables of models, and transfers trained ones."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from segjax.protocols import Backbone, Model


def init_variables(model: Model | Backbone, key: PRNGKeyArray) -> dict[str, Any]:
    """Initialises the variables of a model, with one image of a size that it chooses.

    Args:
      model: model to call with images uint8 [1, S, S, 3] and image_sizes int32 [1, 2], where S is
        its `padding.init_side`; or backbone to call with normalised images float32 [1, S, S, 3],
        where S is twice its `size_divisor`.
      key: random key.

    Returns:
      {"params", "batch_stats"}; the latter is empty if the model has none.
    """
    # Under jit, XLA removes the forward pass, of which only the shapes are needed.
    return jax.jit(functools.partial(_init, model))(key)


def _init(model: Model | Backbone, key: PRNGKeyArray) -> dict[str, Any]:
    if isinstance(model, Model):
        side = model.padding.init_side
        inputs = (jnp.zeros((1, side, side, 3), jnp.uint8), jnp.full((1, 2), side, jnp.int32))
    else:
        side = 2 * model.size_divisor
        inputs = (jnp.zeros((1, side, side, 3)),)
    variables = dict(model.init(key, *inputs))
    return {"batch_stats": {}} | variables


def variable_shapes(model: Model | Backbone) -> dict[str, Any]:
    """Returns shapes and dtypes of the result of `init_variables`, without computing it."""
    return jax.eval_shape(functools.partial(_init, model), jax.random.key(0))


def variable_names(variables: Any) -> list[str]:
    """Returns the "/"-joined names of all arrays, collection first."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]


def flatten_variables(variables: Any) -> dict[str, Any]:
    """Returns the arrays by their "/"-joined names, collection first."""
    return dict(zip(variable_names(variables), jax.tree.leaves(variables), strict=True))


def unflatten_variables(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Inverts `flatten_variables`; the result always has both collections.

    Raises:
      ValueError: if a name is both an array and a group of arrays.
    """
    tree: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for name, array in arrays.items():
        *parents, leaf = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"{name} is below {parent}, which is an array itself")
        if isinstance(node.get(leaf), dict) and node[leaf]:
            raise ValueError(f"{name} is an array, and others are below it")
        node[leaf] = array
    return tree


def differing_shapes(wanted: Any, given: Any) -> list[str]:
    """Describes the arrays that differ in name or shape between two trees, one per line."""
    ours, theirs = (
        {name: tuple(leaf.shape) for name, leaf in flatten_variables(tree).items()}
        for tree in (wanted, given)
    )
    return [
        f"{name} is {theirs.get(name, 'missing')}, wanted {ours.get(name, 'no such array')}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]


def start_from(trained: Any, model: Model, key: PRNGKeyArray) -> tuple[dict[str, Any], list[str]]:
    """Uses trained weights where names and shapes match, and initialises the rest.

    Args:
      trained: variables of another model: one of the same kind, the detector of a panoptic
        `model`, or a backbone.
      model: model to create variables for.
      key: random key; new arrays are the same as from `init_variables`.

    Returns:
      The variables of the model, and the names of the newly initialised ones.

    Raises:
      ValueError: if no name and shape match.
    """
    taken, drawn = matching(trained, variable_shapes(model))
    if drawn:

        def draw(key: PRNGKeyArray) -> list[Array]:
            every = flatten_variables(_init(model, key))
            return [every[name] for name in drawn]

        # XLA removes arrays that are not returned, so this compiles quickly.
        taken |= dict(zip(drawn, jax.jit(draw)(key), strict=True))
    return unflatten_variables(taken), drawn


def matching(trained: Any, wanted: Any) -> tuple[dict[str, Any], list[str]]:
    """Looks up the arrays of `wanted` among trained variables, by name and shape.

    Args:
      trained: variables of another model, as in `start_from`.
      wanted: variables, or their shapes.

    Returns:
      The trained array, or None if there is none, for every name of `wanted`; and the names
      without one.

    Raises:
      ValueError: if no name and shape match.
    """
    shapes, known = flatten_variables(wanted), flatten_variables(trained)
    taken = {name: _same_shape(known, name, leaf.shape) for name, leaf in shapes.items()}
    lacking = [name for name, array in taken.items() if array is None]
    if len(lacking) == len(shapes):
        raise ValueError("no weight of this model has the name and shape of a given one")
    return taken, lacking


def _same_shape(known: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> Any:
    for candidate in _names_elsewhere(name):
        found = known.get(candidate)
        if found is not None and tuple(found.shape) == tuple(shape):
            return found
    return None


def _names_elsewhere(name: str) -> tuple[str, ...]:
    """Returns the names that an array can have elsewhere, best first.

    Other models may lack the `detector/` or `backbone/` prefix. The scale and bias of a norm are
    parameters in some models, and constants among the statistics in others.
    """
    collection, _, path = name.partition("/")
    plain = path.removeprefix("detector/")
    paths = (path, plain)
    if plain.startswith("backbone/"):
        paths = (*paths, plain.removeprefix("backbone/"))
    other = "batch_stats" if collection == "params" else "params"
    return tuple(f"{place}/{path}" for place in (collection, other) for path in paths)
