"""Names and ids of the classes that a model predicts."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from segjax.data.dataset import Dataset
from segjax.data.segments import PanopticCategory
from segjax.data.things import THINGS
from segjax.protocols import Model
from segjax.results.conversions import check_names


@dataclasses.dataclass(frozen=True)
class Classes:
    """Classes of a model, in its order. Fields are empty if unknown or not applicable.

    Attributes:
      names: names of the instance classes.
      category_ids: category ids of the instance classes in the dataset.
      semantic_names: names of the semantic classes, by label.
      panoptic_categories: categories of panoptic segments, in the order of their ids.
    """

    names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    semantic_names: tuple[str, ...] = ()
    panoptic_categories: tuple[PanopticCategory, ...] = ()

    @classmethod
    def of(cls, model: Model, dataset: Dataset) -> "Classes":
        """Returns the classes of the data, without the kinds that the model does not predict."""
        objects, pixels = model.classes.things is not None, model.classes.pixels is not None
        merges = "panoptic" in model.tasks
        return cls(
            names=tuple(dataset.class_names) if objects else (),
            category_ids=tuple(int(i) for i in dataset.category_ids) if objects else (),
            semantic_names=tuple(dataset.semantic_names) if pixels else (),
            panoptic_categories=tuple(dataset.panoptic_categories) if merges else (),
        )

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Classes":
        """Inverts `dataclasses.asdict`, after JSON; missing fields are left empty.

        Raises:
          ValueError: for unknown fields or malformed values.
        """
        if strange := record.keys() - {field.name for field in dataclasses.fields(cls)}:
            raise ValueError(f"classes have no {', '.join(sorted(strange))}")
        try:
            categories = tuple(
                PanopticCategory(**category) for category in record.get("panoptic_categories", ())
            )
        except TypeError as error:
            raise ValueError(f"a panoptic category is not one: {error}") from error
        return cls(
            names=tuple(map(str, record.get("names", ()))),
            category_ids=tuple(map(int, record.get("category_ids", ()))),
            semantic_names=tuple(map(str, record.get("semantic_names", ()))),
            panoptic_categories=categories,
        )

    def checked(self) -> "Classes":
        """Returns self, after checking that the names allow a merge (`conversions.check_names`)."""
        check_names(self.names, self.semantic_names, self.panoptic_categories)
        return self

    def completed(self, other: "Classes") -> "Classes":
        """Returns these classes, with unknown fields taken from `other`."""
        fields = (field.name for field in dataclasses.fields(self))
        return Classes(**{name: getattr(self, name) or getattr(other, name) for name in fields})

    def named(self, model: Model) -> "Classes":
        """Fills in unknown names of a panoptic model with placeholders: "class 0", "stuff 1"."""
        if "panoptic" not in model.tasks:
            return self
        counts = model.classes
        pixels = [f"stuff {label}" for label in range(counts.pixels or 0)]
        if counts.thing_label is not None:
            pixels[counts.thing_label] = THINGS
        names = tuple(f"class {index}" for index in range(counts.things or 0))
        return self.completed(Classes(names=names, semantic_names=tuple(pixels)))


def data_categories(classes: Classes, dataset: Dataset) -> tuple[int | None, ...]:
    """Looks up the data's category id of every instance class of a model, by name.

    Args:
      classes: classes of the model. Without names, they must match the data's in number and
        order.
      dataset: dataset to evaluate on.

    Returns:
      One category id per class; None for classes that the data do not have.

    Raises:
      ValueError: if the data have classes that the model does not predict.
    """
    ids = tuple(int(i) for i in dataset.category_ids)
    if not classes.names:
        return ids
    if (classes.names, classes.category_ids) == (tuple(dataset.class_names), ids):
        return ids  # names can be ambiguous here, as two classes may share one
    id_of = dict(zip(dataset.class_names, ids, strict=True))
    unknown = [name for name in dataset.class_names if name not in classes.names]
    if unknown:
        raise ValueError(
            f"the model's classes are {_short(classes.names)}; the data also have"
            f" {_short(unknown)}: evaluate on data whose classes the model has learned"
        )
    return tuple(id_of.get(name) for name in classes.names)


def _short(names: Sequence[str]) -> str:
    return f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''} ({len(names)})"
