"""Configs as plain JSON, so that a run can be rebuilt without executing anything it wrote.

A dataclass (linen modules are dataclasses) becomes `{"class": "module:Name", "fields":
{...}}`, a function `{"function": "module:name"}`, a dtype `{"dtype": "bfloat16"}`. On
reading, only classes and functions of the packages in `TRUSTED` are looked up, and of
those only dataclasses are called: a config that came with somebody's checkpoint runs no
code of theirs.
"""

import contextlib
import dataclasses
import functools
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

TRUSTED = ("segjax.", "flax.linen", "jax.nn", "jax._src.nn", "jax.nn.initializers")


def to_json(value: Any) -> Any:
    """Returns `value` as JSON's own types.

    Args:
      value: nested dataclasses, linen modules, tuples, dicts with text keys, functions
        with a module-level name, partial applications of those, dtypes, numbers, texts.

    Raises:
      TypeError: for anything else, naming its type.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {"dict": {str(key): to_json(item) for key, item in value.items()}}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_json(getattr(value, f.name)) for f in _config_fields(value)}
        return {"class": _name_of(type(value)), "fields": fields}
    if isinstance(value, functools.partial):
        return {
            "partial": to_json(value.func),
            "args": to_json(value.args),
            "keywords": to_json(value.keywords),
        }
    return _leaf_to_json(value)


def from_json(value: Any) -> Any:
    """Rebuilds what `to_json` wrote; lists come back as tuples.

    Raises:
      ValueError: if a class or function is not segjax's, Flax's or JAX's, or does not exist.
    """
    if isinstance(value, list):
        return tuple(from_json(item) for item in value)
    if not isinstance(value, dict):
        return value
    for kind, build in _BUILDERS.items():
        if kind in value:
            return build(value)
    raise ValueError(f"a config holds an object with the keys {sorted(value)}")


def _build_dataclass(record: dict[str, Any]) -> Any:
    cls: Any = _look_up(record["class"])
    if not (isinstance(cls, type) and hasattr(cls, "__dataclass_fields__")):
        raise ValueError(f"{record['class']} in a config is not a dataclass")
    return cls(**{name: from_json(item) for name, item in record["fields"].items()})


def _build_partial(record: dict[str, Any]) -> Any:
    keywords = from_json(record["keywords"])
    return functools.partial(from_json(record["partial"]), *from_json(record["args"]), **keywords)


_BUILDERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "class": _build_dataclass,
    "partial": _build_partial,
    "function": lambda record: _look_up(record["function"]),
    "dtype": lambda record: getattr(jnp, jnp.dtype(record["dtype"]).name),
    "dict": lambda record: {key: from_json(item) for key, item in record["dict"].items()},
}


def save_config(path: Path, config: Any, versions: dict[str, str]) -> None:
    """Writes a config with the versions of the libraries that it ran on."""
    text = json.dumps({"versions": versions, "config": to_json(config)}, indent=2)
    path.write_text(text + "\n")


def read_config(path: Path) -> Any:
    """Reads what `save_config` wrote.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it is not a config of this library.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path.name} in {path.parent}: a run's folder holds it beside checkpoints/"
        )
    try:
        return from_json(json.loads(path.read_text())["config"])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} does not hold a config of this version: {error}") from error


def _leaf_to_json(value: Any) -> Any:
    if callable(value) and not isinstance(value, type) and hasattr(value, "__qualname__"):
        if "<" in value.__qualname__:
            raise TypeError(
                f"a config holds {value.__qualname__} of {value.__module__}; only functions with"
                " a name of their own can be written down: define it at module level"
            )
        return {"function": _name_of(value)}
    if isinstance(value, type | np.dtype):
        with contextlib.suppress(TypeError):
            return {"dtype": jnp.dtype(value).name}
    raise TypeError(f"a config holds {value!r} of {type(value)}, which cannot be written")


def _config_fields(value: Any) -> list[dataclasses.Field[Any]]:
    """The fields that a constructor takes, less those that linen manages itself."""
    fields = [f for f in dataclasses.fields(value) if f.init]
    if isinstance(value, nn.Module):
        fields = [f for f in fields if f.name != "parent" and (f.name != "name" or value.name)]
    return fields


def _name_of(named: Any) -> str:
    return f"{named.__module__}:{named.__qualname__}"


def _look_up(name: str) -> Any:
    """The class or function called `module:Name`, from a trusted package only."""
    module, _, path = name.partition(":")
    if not module.startswith(TRUSTED):
        raise ValueError(
            f"a config names {name}, which is not of segjax, flax.linen or jax.nn;"
            " for a module of your own, build the model in Python and restore its variables"
        )
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found
