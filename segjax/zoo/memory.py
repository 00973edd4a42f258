"""Facts about loaded models for the time when they are saved again.

A linen module and its variables hold neither names of classes nor the way of resizing, and
`segjax.save(folder, *segjax.load(other))` shall lose none of these.
"""

import dataclasses
import weakref
from collections.abc import Mapping
from typing import Any

from segjax.data.config import DataConfig
from segjax.ops.preprocess import Preprocess
from segjax.protocols import Backbone, Model
from segjax.results.classes import Classes


@dataclasses.dataclass(frozen=True)
class Facts:
    """Parts of a model's folder besides the module and its variables; as in `Pretrained`."""

    classes: Classes = Classes()
    data: DataConfig = DataConfig()
    preprocess: Preprocess | None = None
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)


# By the identity of the modules, for as long as these live.
_loaded: dict[int, tuple[weakref.ref[Any], Facts]] = {}


def remember(model: Model | Backbone, facts: Facts) -> None:
    """Keeps the facts of a model as long as the module lives."""
    key = id(model)
    _loaded[key] = weakref.ref(model, lambda _: _loaded.pop(key, None)), facts


def remembered(model: Model | Backbone) -> Facts:
    """Returns the facts of a model that was loaded; the defaults for any other."""
    reference, facts = _loaded.get(id(model), (None, Facts()))
    return facts if reference is not None and reference() is model else Facts()
