"""Training: the loop, the step it compiles, its state, checkpoints and metrics."""

import importlib
from typing import TYPE_CHECKING, Any

from segjax._callable import make_callable

if TYPE_CHECKING:
    from segjax.train.checkpoint import Run as Run
    from segjax.train.checkpoint import load_run as load_run
    from segjax.train.checkpoint import save_run as save_run
    from segjax.train.loop import TrainResults as TrainResults
    from segjax.train.loop import train as train

_HOMES = {
    "Run": "checkpoint",
    "load_run": "checkpoint",
    "save_run": "checkpoint",
    "TrainResults": "loop",
    "train": "loop",
}


def __getattr__(name: str) -> Any:
    """Imports a public name on first use: the parts do not need the loop."""
    if name not in _HOMES:
        raise AttributeError(f"module 'segjax.train' has no attribute {name!r}")
    return getattr(importlib.import_module(f"segjax.train.{_HOMES[name]}"), name)


make_callable(__name__)
