"""Evaluation of a model on a split: every image once, COCO scores at the end."""

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segjax.data import pipeline
from segjax.data.config import DataConfig
from segjax.eval.coco_ap import CocoScores, coco_scores
from segjax.eval.detections import ImageDetections
from segjax.eval.postprocess import collect, predict_original


@dataclasses.dataclass(frozen=True)
class EvalResults:
    """What an evaluation found.

    Attributes:
      scores: box and mask AP and AR.
      detections: COCO results entries of all images.
      seconds: wall-clock time, scoring included.
      images_per_second: of prediction and mask encoding alone.
      num_unreadable: images of the annotation file that are not scored, because they could not
        be read (`on_bad_image="skip"`).
    """

    scores: CocoScores
    detections: list[dict[str, Any]]
    seconds: float
    images_per_second: float
    num_unreadable: int

    def metrics(self) -> dict[str, float]:
        """Flat names for logs, as `segm/AP`; nan where undefined."""
        return self.scores.metrics()

    def text(self) -> str:
        """The printed report: pycocotools' summaries and a table of classes."""
        if not self.num_unreadable:
            return self.scores.text()
        note = f"{self.num_unreadable} images could not be read and are not scored"
        return f"{note}\n{self.scores.text()}"


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Evaluates one model on one split, as often as training asks.

    Attributes:
      model: the module; its compiled prediction is kept from call to call.
      dataset: as `data.pipeline.open_dataset` returns it.
      data: how images are resized and batched.
      split: "val" or "train".
      score_threshold: detections at or below are left out, besides the model's own threshold.
      max_detections: per image, the best; None takes what the model gives.
      max_dets: pycocotools' `maxDets`.
      boundary: also score boundary AP, for models with masks.
      progress: show a progress bar.
    """

    model: Any
    dataset: pipeline.Dataset
    data: DataConfig
    split: str = "val"
    score_threshold: float = 0.0
    max_detections: int | None = None
    max_dets: Sequence[int] = (1, 10, 100)
    boundary: bool = False
    progress: bool = False

    def __post_init__(self):
        if self.boundary and not self.model.has_masks:
            raise ValueError("boundary=True scores masks, and the model has no masks: leave it out")

    def __call__(self, variables: Any, results_json: str | Path | None = None) -> EvalResults:
        """Predicts every image of the split and scores the result.

        Args:
          variables: the model's parameters and statistics.
          results_json: also write the detections here, as a COCO results file.

        Raises:
          ValueError: for scores that are not finite, or an image that came twice.
        """
        started = time.monotonic()
        entries: list[dict[str, Any]] = []
        seen: set[int] = set()
        for image_id, found in self._progress(self.predictions(variables)):
            if image_id in seen:
                raise ValueError(f"image {image_id} came twice in split {self.split!r}")
            seen.add(image_id)
            entries += found.to_coco(image_id, self.dataset.category_ids)
        predicted = time.monotonic()
        if results_json is not None:
            write_results(results_json, entries)
        scores = coco_scores(
            self.dataset.annotations(self.split),
            entries,
            masks=bool(self.model.has_masks),
            max_dets=self.max_dets,
            image_ids=seen,
            boundary=self.boundary,
        )
        return EvalResults(
            scores=scores,
            detections=entries,
            seconds=time.monotonic() - started,
            images_per_second=len(seen) / max(predicted - started, 1e-9),
            num_unreadable=self.dataset.split(self.split).skipped,
        )

    def predictions(self, variables: Any) -> Iterator[tuple[int, ImageDetections]]:
        """Yields (image id, detections in original pixels) for every image of the split."""
        waiting = None
        with pipeline.eval_iterator(self.dataset, self.split, self.data) as batches:
            for element in batches:
                # The device computes this batch while the host encodes the one before.
                launched = predict_original(
                    self.model,
                    variables,
                    element["images"],
                    element["image_sizes"],
                    element["original_sizes"],
                )
                if waiting is not None:
                    yield from self._collect(*waiting)
                waiting = launched, element
            if waiting is not None:
                yield from self._collect(*waiting)

    def _collect(
        self, launched: Any, element: Mapping[str, np.ndarray]
    ) -> Iterator[tuple[int, ImageDetections]]:
        real = int(element["example_valid"].sum())
        if not element["example_valid"][:real].all():
            raise ValueError("rows that fill an evaluation batch must be its last ones")
        sizes = [(int(h), int(w)) for h, w in element["original_sizes"][:real]]
        collected = collect(
            launched,
            sizes,
            paste_padded=bool(self.model.paste_padded),
            class_names=self.dataset.class_names,
            score_threshold=self.score_threshold,
            max_detections=self.max_detections,
        )
        for image_id, found in zip(element["image_ids"][:real], collected, strict=True):
            yield int(image_id), found

    def _progress(
        self, found: Iterator[tuple[int, ImageDetections]]
    ) -> Iterator[tuple[int, ImageDetections]]:
        if not self.progress:
            return found
        from tqdm import tqdm

        return iter(tqdm(found, desc=f"evaluate {self.split}", unit="image", leave=False))


def evaluate(
    model: Any,
    variables: Any,
    dataset: pipeline.Dataset,
    split: str,
    data: DataConfig,
    *,
    score_threshold: float = 0.0,
    max_detections: int | None = None,
    max_dets: Sequence[int] = (1, 10, 100),
    boundary: bool = False,
    results_json: str | Path | None = None,
    progress: bool = False,
) -> EvalResults:
    """Evaluates a model on a split once; `Evaluator` has the arguments."""
    evaluator = Evaluator(
        model=model,
        dataset=dataset,
        data=data,
        split=split,
        score_threshold=score_threshold,
        max_detections=max_detections,
        max_dets=max_dets,
        boundary=boundary,
        progress=progress,
    )
    return evaluator(variables, results_json)


def write_results(path: str | Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Writes a COCO results file.

    Args:
      path: the json to write; its folder is made.
      entries: COCO results.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(list(entries)), encoding="utf-8")
