"""The names of what a model finds, and which of the three tasks it does."""

import dataclasses
from typing import Any

from segjax.data.dataset import Dataset
from segjax.data.segments import PanopticCategory
from segjax.data.things import THINGS


@dataclasses.dataclass(frozen=True)
class Classes:
    """The classes of a model, all in its order; what is empty is unknown, or not there.

    Attributes:
      names: of the instance classes.
      category_ids: the data set's ids of those.
      semantic_names: of the classes of pixels, by label.
      panoptic_categories: of the segments of panoptic maps, in the order of their ids.
    """

    names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    semantic_names: tuple[str, ...] = ()
    panoptic_categories: tuple[PanopticCategory, ...] = ()

    @classmethod
    def of(cls, model: Any, dataset: Dataset) -> "Classes":
        """Those of the data's classes that the model knows."""
        objects, pixels = gives_instances(model), knows_semantic(model)
        return cls(
            names=tuple(dataset.class_names) if objects else (),
            category_ids=tuple(int(i) for i in dataset.category_ids) if objects else (),
            semantic_names=tuple(dataset.semantic_names) if pixels else (),
            panoptic_categories=tuple(dataset.panoptic_categories) if gives_panoptic(model) else (),
        )

    def completed(self, other: "Classes") -> "Classes":
        """These classes, and the other's where these are unknown."""
        fields = (field.name for field in dataclasses.fields(self))
        return Classes(**{name: getattr(self, name) or getattr(other, name) for name in fields})

    def named(self, model: Any) -> "Classes":
        """With made-up names where a panoptic model's are unknown: "class 0", "stuff 1"."""
        if not gives_panoptic(model):
            return self
        number, things = int(model.semantic_classes), model.merge.things
        pixels = [f"stuff {label}" for label in range(number)]
        if things is not None:
            pixels[things] = THINGS
        names = tuple(f"class {index}" for index in range(int(model.num_classes)))
        return self.completed(Classes(names=names, semantic_names=tuple(pixels)))


def gives_instances(model: Any) -> bool:
    """Whether the model finds objects."""
    return model.num_classes is not None


def gives_panoptic(model: Any) -> bool:
    """Whether the model knows how to merge its objects and classes of pixels."""
    return getattr(model, "merge", None) is not None


def gives_semantic(model: Any) -> bool:
    """Whether the model tells the class of every pixel.

    The semantic branch of Hybrid Task Cascade does not count: it serves the heads of the cascade
    alone.
    """
    return gives_panoptic(model) or not gives_instances(model)


def knows_semantic(model: Any) -> bool:
    """Whether the model has a semantic branch, which it may have for training alone."""
    return getattr(model, "semantic_classes", None) is not None
