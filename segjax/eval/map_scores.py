"""Scores the semantic and panoptic maps of a model on a split, as far as it has ground truth."""

# pyright: strict, reportUnknownMemberType=false, reportMissingTypeStubs=false

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from segjax.data.dataset import Dataset
from segjax.distributed import gather, process_index
from segjax.eval.mean_iou import MeanIou, SemanticScores
from segjax.eval.panoptic_quality import PanopticQuality, PanopticScores
from segjax.protocols import Model
from segjax.results.classes import Classes
from segjax.results.panoptic_merge import Dropped
from segjax.results.result import Result


class MapScores:
    """Compares semantic and panoptic maps with the available ground truth.

    Args:
      model: model that predicts the maps.
      dataset: dataset with the ground truth.
      split: name of the split to score.
      classes: names of the model's classes.
      boundary: also compute the boundary IoU of semantic classes.

    Raises:
      ValueError: if the classes of the data's labels are not those of the model.
    """

    def __init__(
        self, model: Model, dataset: Dataset, split: str, classes: Classes, boundary: bool = False
    ) -> None:
        self._semantic: MeanIou | None = None
        self._panoptic: PanopticQuality | None = None
        self._labels: Any = {}
        self._segments: Any = {}
        self._dropped = Dropped() if "panoptic" in model.tasks else None
        self._unscored = _unscored(model, dataset)
        if "semantic" in model.tasks and dataset.semantic != "none":
            _check_names(model.classes.pixels or 0, classes, dataset)
            self._semantic = MeanIou(dataset.semantic_names, boundary=boundary)
            self._labels = dataset.semantic_labels(split)
        if "panoptic" in model.tasks and dataset.semantic == "panoptic":
            self._panoptic = PanopticQuality(dataset.panoptic_categories)
            self._segments = dataset.panoptic(split)

    def __bool__(self) -> bool:
        """Returns True if any map is scored."""
        return self._semantic is not None or self._panoptic is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """Reasons for missing scores, and counts of what the panoptic maps so far omit."""
        left_out = () if self._dropped in (None, Dropped()) else (self._dropped.text(),)
        return (*self._unscored, *left_out)

    def add(self, image_id: int, found: Result) -> None:
        """Adds one image."""
        if self._dropped is not None and found.panoptic is not None:
            self._dropped += found.panoptic.dropped or Dropped()
        if self._semantic is not None:
            assert found.semantic is not None
            self._semantic.add(self._labels[image_id], found.semantic.labels)
        if self._panoptic is not None:
            assert found.panoptic is not None
            ids, segments = self._segments[image_id]
            self._panoptic.add(ids, segments, *found.panoptic.to_segments())

    def merge_processes(self) -> None:
        """Adds what the other processes counted; afterwards, all have the counts of all."""
        for counts in (self._semantic, self._panoptic):
            if counts is None:
                continue
            # JSON keeps all digits of float64, and sums in the order of the processes.
            states = gather(counts.state().tolist())
            del states[process_index()]
            for state in states:
                counts.merge(np.array(state, counts.state().dtype))
        if self._dropped is not None:
            everyone = gather(dataclasses.asdict(self._dropped))
            self._dropped = sum((Dropped(**one) for one in everyone), Dropped())

    @property
    def semantic(self) -> SemanticScores | None:
        """Scores of the semantic maps; None if not scored."""
        return None if self._semantic is None else self._semantic.results()

    @property
    def panoptic(self) -> PanopticScores | None:
        """Scores of the panoptic maps; None if not scored."""
        return None if self._panoptic is None else self._panoptic.results()


def _unscored(model: Model, dataset: Dataset) -> tuple[str, ...]:
    """Returns the reasons for missing scores."""
    source = dataset.semantic
    if "semantic" in model.tasks:
        notes: list[str] = []
        if source == "none":
            notes.append("mean IoU is not scored: --data.semantic=none gives no labels")
        if "panoptic" in model.tasks and source != "panoptic":
            notes.append(
                f"panoptic quality is not scored: --data.semantic={source} gives no segments,"
                " --data.semantic=panoptic does"
            )
        return tuple(notes)
    if source == "none":
        return ()
    reason = (
        "the model's semantic branch only serves its detections"
        if model.classes.pixels is not None
        else "the model has no semantic branch"
    )
    return (f"mean IoU is not scored: {reason}",)


def _check_names(number: int, classes: Classes, dataset: Dataset) -> None:
    """Checks that the classes of the model's maps are those of the ground truth."""
    if number != len(dataset.semantic_names):
        raise ValueError(
            f"the model has {number} semantic classes, the labels of"
            f" --data.semantic={dataset.semantic} have {len(dataset.semantic_names)}: choose those"
            " that it was trained on, or --data.semantic=none to leave them unscored"
        )
    pairs: tuple[tuple[str, Sequence[Any], Sequence[Any]], ...] = (
        ("semantic", classes.semantic_names, dataset.semantic_names),
        ("panoptic", classes.panoptic_categories, dataset.panoptic_categories),
    )
    for kind, ours, theirs in pairs:
        if ours and theirs and ours != theirs:
            both = list(itertools.zip_longest(ours, theirs))
            place = next(i for i, (mine, other) in enumerate(both) if mine != other)
            mine, other = both[place]
            raise ValueError(
                f"the {kind} classes must be those of the model, in its order: number {place} is"
                f" {mine} in the model and {other} in the data; --data.semantic=none leaves them"
                " unscored"
            )
