"""A model's variables: drawn, described, compared, and taken over from other models."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from segjax.protocols import Backbone, Model


def init_variables(model: Model | Backbone, key: PRNGKeyArray) -> dict[str, Any]:
    """Draws parameters, on one image of the size that the model chooses.

    Args:
      model: a model, called with images uint8 [1, S, S, 3] and image_sizes int32
        [1, 2], S being its `padding.init_side`; or a backbone, called with normalised images
        float32 [1, S, S, 3], S being twice its `size_divisor`.
      key: random key.

    Returns:
      {"params", "batch_stats"}; the latter empty for a model without any.
    """
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
    """Shapes and dtypes of what `init_variables` draws, without drawing."""
    return jax.eval_shape(functools.partial(_init, model), jax.random.key(0))


def variable_names(variables: Any) -> list[str]:
    """The "/"-joined names of all arrays, collection first."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]


def flatten_variables(variables: Any) -> dict[str, Any]:
    """Arrays by their "/"-joined names, collection first."""
    return dict(zip(variable_names(variables), jax.tree.leaves(variables), strict=True))


def unflatten_variables(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Inverts `flatten_variables`; both collections are present.

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
    """Describes, a line each, the arrays that two trees do not have in common by name and shape."""
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
    """Takes trained weights where names and shapes agree, and draws the rest.

    Args:
      trained: variables of another model: of the same kind, of a detector that is part of a
        panoptic model here, or of a backbone alone.
      model: that the variables are for.
      key: random key; what is drawn is what `init_variables` draws.

    Returns:
      The model's variables, and the names of those that were drawn.

    Raises:
      ValueError: if no name and shape agree at all.
    """
    taken, drawn = matching(trained, variable_shapes(model))
    if drawn:

        def draw(key: PRNGKeyArray) -> list[Array]:
            every = flatten_variables(_init(model, key))
            return [every[name] for name in drawn]

        # Compiles little: what nobody asks for is not drawn.
        taken |= dict(zip(drawn, jax.jit(draw)(key), strict=True))
    return unflatten_variables(taken), drawn


def matching(trained: Any, wanted: Any) -> tuple[dict[str, Any], list[str]]:
    """The arrays of `wanted` by name, of `trained` where names and shapes agree, and the others.

    Args:
      trained: as for `start_from`.
      wanted: variables, or their shapes.

    Returns:
      An array or None for every name, and the names that have None.

    Raises:
      ValueError: if all have.
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
    """Alternative names of an array: with or without the `detector/` or `backbone/` prefix.

    The scale and bias of a norm also stand among the statistics, where they are constants.
    """
    collection, _, path = name.partition("/")
    plain = path.removeprefix("detector/")
    paths = (path, plain)
    if plain.startswith("backbone/"):
        paths = (*paths, plain.removeprefix("backbone/"))
    other = "batch_stats" if collection == "params" else "params"
    return tuple(f"{place}/{path}" for place in (collection, other) for path in paths)
