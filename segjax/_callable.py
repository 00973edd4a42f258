"""Modules that can be called, where a function and its module share a name."""

import sys
import types
from typing import Any


class _CallableModule(types.ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **kwargs)


def make_callable(module: str) -> None:
    """Lets `segjax.predict(...)` call `segjax.predict.predict`.

    Importing the module binds its name in the package over that of the function: without
    this, what `segjax.predict` is would depend on who was imported before.
    """
    sys.modules[module].__class__ = _CallableModule
