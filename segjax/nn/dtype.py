"""Sets the compute dtype of a module and of all modules inside it."""

import dataclasses
from typing import Any, TypeVar

import flax.linen as nn

from segjax.types import Dtype

M = TypeVar("M")


def with_dtype(module: M, dtype: Dtype) -> M:
    """Returns a copy of a linen module with a new `dtype`, also in all modules inside it."""
    part: Any = module
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if field.name == "dtype":
            changes["dtype"] = dtype
        # `parent` is a field of every linen module, but points to the module around it.
        elif isinstance(value, nn.Module) and field.name != "parent":
            changes[field.name] = with_dtype(value, dtype)
        elif isinstance(value, tuple) and any(isinstance(v, nn.Module) for v in value):
            changes[field.name] = tuple(with_dtype(v, dtype) for v in value)
    return part.clone(**changes)
