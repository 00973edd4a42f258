"""Metadata of loaded models, for when they are saved again.

A linen module and its variables hold neither class names nor image resizing, but
`segjax.save(folder, *segjax.load(other))` has to preserve both.
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
    """Contents of a model's folder other than module and variables; see `Pretrained`."""

    classes: Classes = Classes()
    data: DataConfig = DataConfig()
    preprocess: Preprocess | None = None
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)


# By the identity of the module: equal modules may come from different folders. The weak reference
# removes an entry with its module, before Python can reuse the id.
_loaded: dict[int, tuple[weakref.ref[Any], Facts]] = {}


def remember(model: Model | Backbone, facts: Facts) -> None:
    """Stores a model's facts for the lifetime of the module."""
    key = id(model)
    _loaded[key] = weakref.ref(model, lambda _: _loaded.pop(key, None)), facts


def remembered(model: Model | Backbone) -> Facts:
    """Returns the facts of a loaded model, or the defaults for any other model."""
    reference, facts = _loaded.get(id(model), (None, Facts()))
    return facts if reference is not None and reference() is model else Facts()
