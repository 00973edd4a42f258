"""Evaluates a model on a split: predicts every image once, then computes the scores."""

# pyright: strict, reportUnknownMemberType=false, reportMissingTypeStubs=false
# jax.jit and lax.map forget types:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

import collections
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from segjax.data import pipeline
from segjax.data.config import DataConfig
from segjax.data.dataset import image_sizes
from segjax.distributed import gather
from segjax.eval.coco_ap import CocoScores, coco_scores
from segjax.eval.map_scores import MapScores
from segjax.eval.mean_iou import SemanticScores
from segjax.eval.panoptic_quality import PanopticScores
from segjax.figure_ground.refine import MaskRefinement
from segjax.protocols import Model
from segjax.results.classes import Classes, data_categories
from segjax.results.detections import ImageDetections
from segjax.results.files import MapWriter, write_results
from segjax.results.postprocess import (
    MapOutputs,
    collect_results,
    map_canvas,
    maps_on_mesh,
    maps_original,
    predict_on_mesh,
    predict_original,
)
from segjax.results.result import Result
from segjax.types import Detections


@dataclasses.dataclass(frozen=True)
class EvalResults:
    """Scores of an evaluation.

    Scores are None for outputs that the model does not predict or that the data have no ground
    truth for. `notes` gives the reasons.

    Attributes:
      scores: AP and AR of boxes and masks; None for a model that predicts no objects.
      detections: COCO results of all images.
      seconds: wall-clock time, including the computation of scores.
      images_per_second: speed of prediction and of encoding masks and maps, excluding scores.
      num_unreadable: number of annotated images that were not scored because they could not be
        read (`on_bad_image="skip"`).
      semantic: scores of the semantic maps.
      panoptic: panoptic quality.
      notes: reasons for missing scores, and counts of omitted results, one line each.
      files: paths of the written files.
    """

    scores: CocoScores | None
    detections: list[dict[str, Any]]
    seconds: float
    images_per_second: float
    num_unreadable: int
    semantic: SemanticScores | None = None
    panoptic: PanopticScores | None = None
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    def metrics(self) -> dict[str, float]:
        """Returns metrics by name: `segm/AP`, `semantic/mIoU`, `panoptic/PQ`; NaN if undefined."""
        return {k: v for scores in self._scored() for k, v in scores.metrics().items()}

    def text(self) -> str:
        """Formats the report: notes first, then summaries and tables of classes."""
        lines = list(self.notes)
        if self.num_unreadable:
            count = self.num_unreadable
            lines.insert(0, f"{count} images could not be read and are not scored")
        return "\n".join([*lines, *(scores.text() for scores in self._scored())])

    def _scored(self) -> list[CocoScores | SemanticScores | PanopticScores]:
        parts = (self.scores, self.semantic, self.panoptic)
        return [scores for scores in parts if scores is not None]


class EvaluationStopped(Exception):
    """Raised by an evaluation that `Evaluator.should_stop` ended before all images were seen."""


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Evaluates one model on one split; can be called repeatedly, for example during training.

    Attributes:
      model: Linen module; its compiled prediction is reused between calls.
      dataset: dataset from `data.pipeline.open_dataset`.
      data: config for resizing and batching.
      split: "val" or "train".
      score_threshold: detections with a score up to this are dropped, after the model's own
        threshold; panoptic maps have a separate threshold in the model's `merge`.
      max_detections: maximum number of detections per image, best first; None for no limit.
      max_dets: pycocotools' `maxDets`.
      boundary: also compute boundary AP of masks and boundary IoU of semantic maps.
      progress: show a progress bar.
      classes: names of the model's classes; what is unknown is taken from the dataset.
      refine: how masks are made to follow the images' contours; None scores the model's own.
      should_stop: asked before each batch; True ends the evaluation with `EvaluationStopped`.
      devices: devices of this process that share the images of a batch; () for JAX's default one.
      share: (index, count) of the processes that share the images of the split. Each predicts its
        part, and all return the scores of all.
    """

    model: Model
    dataset: pipeline.Dataset
    data: DataConfig
    split: str = "val"
    score_threshold: float = 0.0
    max_detections: int | None = None
    max_dets: Sequence[int] = (1, 10, 100)
    boundary: bool = False
    progress: bool = False
    classes: Classes = Classes()
    refine: MaskRefinement | None = None
    should_stop: Callable[[], bool] | None = None
    devices: tuple[Any, ...] = ()
    share: tuple[int, int] = (0, 1)

    def __post_init__(self):
        if self.refine is not None and "masks" not in self.model.tasks:
            raise ValueError("there are no masks to refine: the model gives none")
        if self.boundary and not self.model.tasks & {"masks", "semantic"}:
            raise ValueError(
                "boundary=True scores masks and semantic maps, and the model gives neither: leave"
                " it out"
            )

    def __call__(self, variables: Any, results_json: str | Path | None = None) -> EvalResults:
        """Predicts every image of the split and scores the results.

        Panoptic maps are written next to `results_json`, as `NAME_panoptic.json` and a folder of
        PNGs with the same name. Semantic maps are written as `NAME_semantic/`, unless the model
        also predicts panoptic maps (see `files.MapWriter`).

        Args:
          variables: the model's parameters and statistics.
          results_json: COCO results file to write the detections to; None to write no files.

        Raises:
          ValueError: for scores or logits that are not finite, an image that came twice, or
            labels or classes other than the model's.
          EvaluationStopped: if `should_stop` says so.
        """
        started = time.monotonic()
        if results_json is not None and self.share[1] > 1:
            raise ValueError("results are written by one process: evaluate the run with one")
        entries: list[dict[str, Any]] = []
        seen: list[int] = []
        of_data = _DataClasses(self._classes, self.dataset)
        maps = MapScores(
            self.model, self.dataset, self.split, self._classes, boundary=self.boundary
        )
        files = (
            None if results_json is None else MapWriter(f"{Path(results_json).with_suffix('')}_")
        )
        predictions = self.predictions(variables, maps=bool(maps) or files is not None)
        for image_id, found in self._progress(predictions):
            seen.append(image_id)
            if found.instances is not None:
                entries += of_data.entries(image_id, found.instances)
            maps.add(image_id, found)
            if files is not None:
                files.add(found, image_id, f"{image_id:012d}")
        if self.share[1] > 1:
            entries, seen = self._of_all_processes(entries, seen, of_data, maps)
        self._check_once(seen)
        predicted = time.monotonic()
        written: tuple[Path, ...] = ()
        if results_json is not None and files is not None:
            written = files.close()
            if self._finds_objects:
                write_results(results_json, entries)
                written = (Path(results_json), *written)
        return EvalResults(
            scores=self._coco_scores(entries, set(seen)) if self._finds_objects else None,
            detections=entries,
            seconds=time.monotonic() - started,
            images_per_second=len(seen) / max(predicted - started, 1e-9),
            num_unreadable=self.dataset.split(self.split).skipped,
            semantic=maps.semantic,
            panoptic=maps.panoptic,
            notes=(*of_data.notes, *maps.notes),
            files=written,
        )

    def _of_all_processes(
        self,
        entries: list[dict[str, Any]],
        seen: list[int],
        of_data: "_DataClasses",
        maps: MapScores,
    ) -> tuple[list[dict[str, Any]], list[int]]:
        """Collects what every process found, in the order of a single process's results."""
        everyone = gather({"entries": entries, "seen": seen, "left_out": of_data.left_out})
        of_data.left_out = collections.Counter[str]()
        for one in everyone:
            of_data.left_out.update(one["left_out"])
        maps.merge_processes()
        order = {int(number): row for row, number in enumerate(self._index[:, 0])}
        found = [entry for one in everyone for entry in one["entries"]]
        found.sort(key=lambda entry: order[entry["image_id"]])  # stable: best first, as before
        return found, [number for one in everyone for number in one["seen"]]

    def _check_once(self, seen: Sequence[int]) -> None:
        """Checks that every image was predicted exactly once."""
        twice = [number for number, count in collections.Counter(seen).items() if count > 1]
        if twice:
            raise ValueError(f"image {twice[0]} came twice in split {self.split!r}")
        missing = set(self._index[:, 0].tolist()) - set(seen)
        if missing:
            raise ValueError(f"{len(missing)} images of split {self.split!r} were not predicted")

    @property
    def _index(self) -> np.ndarray:
        return self.dataset.split(self.split).index

    @functools.cached_property
    def _mesh(self) -> Mesh | None:
        """The devices that share a batch; None for a single one."""
        if len(self.devices) < 2:
            return None
        return Mesh(np.array(self.devices), ("image",))

    def placed(self, variables: Any) -> Any:
        """Puts variables where the evaluation needs them: on each device that predicts.

        Args:
          variables: arrays of this process, or copies that all processes have.
        """
        local = jax.tree.map(_of_this_process, variables)
        if self._mesh is not None:
            return jax.device_put(local, NamedSharding(self._mesh, P()))
        return jax.device_put(local, self.devices[0]) if self.devices else local

    def predictions(self, variables: Any, maps: bool = True) -> Iterator[tuple[int, Result]]:
        """Yields (image id, result in original pixels) for every image of the split.

        Args:
          variables: the model's parameters and statistics.
          maps: include semantic and panoptic maps, if the model predicts them.
        """
        waiting = None
        index, count = self.share
        parts = count * max(1, len(self.devices))
        data = dataclasses.replace(
            self.data, eval_batch_size=-(-self.data.eval_batch_size // parts) * parts
        )
        with pipeline.eval_iterator(
            self.dataset, self.split, data, process_index=index, process_count=count
        ) as batches:
            for element in batches:
                if self.should_stop is not None and self.should_stop():
                    raise EvaluationStopped(f"the evaluation of {self.split} was stopped")
                # The device computes this batch while the host encodes the one before.
                wanted = maps and "semantic" in self.model.tasks
                launched = self._launch(variables, element, wanted)
                if waiting is not None:
                    yield from self._collect(*waiting)
                waiting = launched, element
            if waiting is not None:
                yield from self._collect(*waiting)

    def _launch(self, variables: Any, element: Mapping[str, np.ndarray], maps: bool) -> Any:
        """Starts the prediction of a batch; returns detections and maps (or None) on the device."""
        images, inside, sizes = (
            element[name] for name in ("images", "image_sizes", "original_sizes")
        )
        found: Detections
        mesh = self._mesh
        if mesh is None:
            found = predict_original(
                self.model, variables, images, inside, sizes, refine=self.refine
            )
        else:
            rows = NamedSharding(mesh, P("image"))
            images, inside, sizes = jax.device_put((images, inside, sizes), rows)
            found = predict_on_mesh(
                self.model, variables, images, inside, sizes, mesh=mesh, refine=self.refine
            )
        if not maps:
            return found, None
        # One canvas for all images of the split: one more program for each shape of a batch.
        largest = image_sizes(self._index).max(axis=0)
        make = maps_original if mesh is None else functools.partial(maps_on_mesh, mesh=mesh)
        made: MapOutputs = make(
            self.model,
            found,
            inside,
            sizes,
            padded_size=images.shape[1:3],
            canvas=map_canvas(*largest.tolist()),
        )
        return found, made

    @property
    def _finds_objects(self) -> bool:
        return self.model.classes.things is not None

    @property
    def _classes(self) -> Classes:
        known = self.classes.completed(Classes.of(self.model, self.dataset))
        return known.named(self.model)

    def _coco_scores(self, entries: list[dict[str, Any]], seen: set[int]) -> CocoScores:
        return coco_scores(
            self.dataset.instances(self.split),
            entries,
            masks="masks" in self.model.tasks,
            max_dets=self.max_dets,
            image_ids=seen,
            boundary=self.boundary and "masks" in self.model.tasks,
        )

    def _collect(
        self, launched: Any, element: Mapping[str, np.ndarray]
    ) -> Iterator[tuple[int, Result]]:
        # The last batch may end in padding rows, which keep its shape fixed.
        real = int(element["example_valid"].sum())
        if not element["example_valid"][:real].all():
            raise ValueError("rows that fill an evaluation batch must be its last ones")
        sizes = [(int(h), int(w)) for h, w in element["original_sizes"][:real]]
        found, maps = launched
        results = collect_results(
            self.model,
            found,
            maps,
            sizes,
            self._classes,
            score_threshold=self.score_threshold,
            max_detections=self.max_detections,
        )
        yield from zip(element["image_ids"][:real].tolist(), results, strict=True)

    def _progress(self, found: Iterator[tuple[int, Result]]) -> Iterator[tuple[int, Result]]:
        if not self.progress:
            return found
        from tqdm import tqdm

        return iter(tqdm(found, desc=f"evaluate {self.split}", unit="image", leave=False))


def _of_this_process(array: Any) -> Any:
    """The copy that this process has of an array that all processes have."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return array.addressable_data(0)
    return array


class _DataClasses:
    """Converts detections to COCO results in the data's categories, and drops other classes."""

    def __init__(self, classes: Classes, dataset: pipeline.Dataset) -> None:
        self._names = classes.names
        self._ids = data_categories(classes, dataset)
        self._known = np.array([i is not None for i in self._ids], bool)
        self.left_out: collections.Counter[str] = collections.Counter()

    def entries(self, image_id: int, found: ImageDetections) -> list[dict[str, Any]]:
        keep = self._known[found.classes]
        self.left_out.update(self._names[k] for k in found.classes[~keep].tolist())
        return found.select(keep).to_coco(image_id, [0 if i is None else i for i in self._ids])

    @property
    def notes(self) -> tuple[str, ...]:
        if not self.left_out:
            return ()
        listed = ", ".join(f"{name} {count}" for name, count in self.left_out.most_common(5))
        return (
            f"{self.left_out.total()} detections of classes that the data do not have are left"
            f" out: {listed}",
        )


def evaluate(
    model: Model,
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
    classes: Classes | None = None,
    refine: MaskRefinement | None = None,
) -> EvalResults:
    """Evaluates a model on a split once; see `Evaluator` for the arguments."""
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
        classes=Classes() if classes is None else classes,
        refine=refine,
    )
    return evaluator(variables, results_json)
