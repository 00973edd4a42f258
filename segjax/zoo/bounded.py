"""Limits on model sizes read from untrusted files."""

from typing import Any

import flax.linen as nn

from segjax.models.variables import variable_shapes
from segjax.protocols import Backbone, Model

# Config fields whose numbers are counts of repeated layers.
_COUNTS = ("num_convs", "num_fcs", "stage_sizes", "depths")


def bounded_shapes(model: Model | Backbone, described: Any, arrays: int) -> dict[str, Any]:
    """Returns the shapes and dtypes of a model's variables; stops early at far too many layers.

    A small config can describe a billion layers, too many to trace.

    Args:
      model: the linen module.
      described: the JSON that the module was built from.
      arrays: number of arrays in its weights. Models call one or two layers for each.

    Raises:
      ValueError: if the model has far more layers than arrays.
    """
    left = 4 * arrays + 200
    error = ValueError(f"it has far more layers than its {arrays} arrays are enough for")
    if _layers(described) > left:
        raise error

    def counted(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise error
        return call(*args, **kwargs)

    with nn.intercept_methods(counted):
        return variable_shapes(model)


def _layers(value: Any, counts: bool = False) -> int:
    """Counts the layers that a config asks for, before any of them is built."""
    if isinstance(value, dict):
        return sum(_layers(item, counts or key in _COUNTS) for key, item in value.items())
    if isinstance(value, list):
        return sum(_layers(item, counts) for item in value)
    return max(value, 0) if counts and isinstance(value, int) else 0
