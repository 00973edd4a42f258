"""Stores configs as plain JSON, so that runs can be loaded without executing untrusted code.

A dataclass (including Linen modules) becomes `{"class": "module:Name", "fields": {...}}`, a
function `{"function": "module:name"}`, and a dtype `{"dtype": "bfloat16"}`. When a config is read,
only classes and functions defined in `TRUSTED` packages are looked up. Only dataclasses are
called, with fields of their declared types. A config from someone else's checkpoint therefore
cannot run code of its own. Readers can trust additional packages, for custom models.
"""

import contextlib
import dataclasses
import functools
import importlib
import json
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from segjax.protocols import Model

# Configs may only name classes of these modules, as their functions read, write or execute files.
SETTINGS = (
    "segjax.config",
    "segjax.data.config",
    "segjax.data.shapes",
    "segjax.data.transforms",
    "segjax.optim",
)
# Packages whose classes and functions configs may name, for models and layers.
TRUSTED = (
    *SETTINGS,
    "segjax.losses",
    "segjax.models",
    "segjax.nn",
    "segjax.ops",
    "flax.linen",
    "jax.nn",
    "jax._src.nn",
)


def to_json(value: Any) -> Any:
    """Converts a value to JSON types.

    Args:
      value: nested dataclasses, Linen modules, tuples, dicts with string keys, module-level
        functions and partial applications of them, dtypes, numbers and strings.

    Raises:
      TypeError: for anything else; the message names its type.
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


def from_json(value: Any, trust: Sequence[str] = ()) -> Any:
    """Inverts `to_json`, except that lists become tuples.

    Args:
      value: value from `to_json`.
      trust: additional packages or modules, such as ("my_package",), whose classes and functions
        the config may name. They are imported, which runs their code.

    Raises:
      ValueError: if a class or function does not exist or is not from segjax, Flax, JAX or a
        trusted package, or if a field does not have its declared type.
    """
    return _build(value, (*TRUSTED, *check_trust(trust)))


def check_trust(trust: Sequence[str]) -> tuple[str, ...]:
    """Returns package names as a tuple; rejects a single string, whose letters would be names."""
    if isinstance(trust, str):
        raise ValueError(f"trust is the text {trust!r}: give names of packages, ({trust!r},)")
    return tuple(trust)


def _build(value: Any, packages: tuple[str, ...]) -> Any:
    if isinstance(value, list):
        return tuple(_build(item, packages) for item in value)
    if not isinstance(value, dict):
        return value
    for kind, build in _BUILDERS.items():
        if kind in value:
            return build(value, packages)
    raise ValueError(f"a config holds an object with the keys {sorted(value)}")


def _build_dataclass(record: dict[str, Any], packages: tuple[str, ...]) -> Any:
    name = record["class"]
    cls: Any = _look_up(name, packages)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise ValueError(f"{name} in a config is not a dataclass")
    known = {f.name for f in dataclasses.fields(cls) if f.init} - {"parent"}
    if strange := sorted(record["fields"].keys() - known):
        raise ValueError(f"{name} in a config has no field {', '.join(strange)}")
    fields = {field: _build(item, packages) for field, item in record["fields"].items()}
    hints = typing.get_type_hints(cls)
    for field, value in fields.items():
        if not _fits(value, hints[field]):
            raise ValueError(f"{name} in a config: {field} is {value!r}, not {hints[field]}")
    try:
        return cls(**fields)
    except TypeError as error:
        raise ValueError(f"{name} in a config: {error}") from error


def _fits(value: Any, hint: Any) -> bool:
    """Returns True if a value has a declared type; unsupported kinds of hints always match."""
    kind, parts = typing.get_origin(hint), typing.get_args(hint)
    if kind is None:
        return _is_a(value, hint)
    if kind in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if kind is typing.Literal:
        return value in parts
    if kind is tuple:
        if parts[-1:] == (...,):
            parts = parts[:1] * len(value) if isinstance(value, tuple) else ()
        right = isinstance(value, tuple) and len(value) == len(parts)
        return right and all(map(_fits, value, parts))
    return callable(value) if kind is Callable else True


def _is_a(value: Any, cls: Any) -> bool:
    if cls is Any or not isinstance(cls, type):
        return True
    if isinstance(value, bool):  # bool is a subclass of int
        return cls in (bool, object)
    return isinstance(value, int | float if cls is float else cls)


def _build_function(record: dict[str, Any], packages: tuple[str, ...]) -> Any:
    found = _look_up(record["function"], packages)
    if isinstance(found, type) or not callable(found):
        raise ValueError(f"{record['function']} in a config is not a function")
    if _within(found.__module__, SETTINGS):
        raise ValueError(f"{record['function']} in a config is not a function of a model")
    return found


def _build_partial(record: dict[str, Any], packages: tuple[str, ...]) -> Any:
    if "function" not in record["partial"]:
        raise ValueError(f"a config holds a partial application of {record['partial']}")
    function = _build_function(record["partial"], packages)
    args, keywords = (_build(record[part], packages) for part in ("args", "keywords"))
    return functools.partial(function, *args, **keywords)


def _build_dtype(record: dict[str, Any], _: tuple[str, ...]) -> Any:
    try:
        return getattr(jnp, jnp.dtype(record["dtype"]).name)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"a config names the dtype {record['dtype']}: {error}") from error


def _build_dict(record: dict[str, Any], packages: tuple[str, ...]) -> Any:
    return {key: _build(item, packages) for key, item in record["dict"].items()}


_BUILDERS: dict[str, Callable[[dict[str, Any], tuple[str, ...]], Any]] = {
    "class": _build_dataclass,
    "partial": _build_partial,
    "function": _build_function,
    "dtype": _build_dtype,
    "dict": _build_dict,
}


def save_config(path: Path, config: Any, versions: dict[str, str]) -> None:
    """Writes a config, with the library versions of its run."""
    text = json.dumps({"versions": versions, "config": to_json(config)}, indent=2)
    path.write_text(text + "\n")


def read_config(path: Path, trust: Sequence[str] = (), model: Model | None = None) -> Any:
    """Reads a config written by `save_config`.

    Args:
      path: path of the JSON file.
      trust: additional packages whose classes the config may name, as for `from_json`.
      model: model to use instead of the one in the config, which is then not looked up or built.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file is not a config of this version of the library.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path.name} in {path.parent}: a run's folder holds it beside checkpoints/"
        )
    try:
        record = json.loads(path.read_text())["config"]
        if model is not None:
            record["fields"]["model"] = model  # `_build` passes other objects through
        return from_json(record, trust)
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
    """Returns the fields that a constructor takes, except those that Linen manages itself."""
    fields = [f for f in dataclasses.fields(value) if f.init]
    if isinstance(value, nn.Module):
        fields = [f for f in fields if f.name != "parent" and (f.name != "name" or value.name)]
    return fields


def _name_of(named: Any) -> str:
    return f"{named.__module__}:{named.__qualname__}"


def _look_up(reference: str, packages: tuple[str, ...]) -> Any:
    """Looks up the class or function `module:Name`, which a trusted package has to define.

    Only top-level names are allowed. Modules that a trusted module imports (`os`, `runpy`), and
    anything that is reachable through them, are rejected.
    """
    module, _, name = reference.partition(":")
    if not _within(module, packages) or not name.isidentifier():
        raise ValueError(_refusal(reference, module))
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"a config names {reference}, which does not exist here") from error
    # Re-exports (jax.nn:relu is defined in jax._src.nn) are fine if their origin is also trusted.
    home = getattr(found, "__module__", None)
    if not _within(home, packages) or getattr(found, "__qualname__", None) != name:
        raise ValueError(_refusal(reference, home))
    return found


def _refusal(reference: str, module: Any) -> str:
    text = f"a config names {reference}, which is not of segjax's models, flax.linen or jax.nn"
    package = str(module).partition(".")[0]
    if not package.isidentifier() or package in ("segjax", "flax", "jax"):
        return text
    return (
        f"{text}: if you trust the code of {package} to run, pass trust=({package!r},), or"
        f" --trust {package} on the command line; or build the model yourself and pass it as model="
    )


def _within(module: Any, packages: tuple[str, ...]) -> bool:
    return isinstance(module, str) and any(
        module == package or module.startswith(package + ".") for package in packages
    )
