"""Predicts image files, and writes drawings as well as results and maps in COCO formats."""

# pyright: strict, reportUnknownMemberType=false, reportMissingTypeStubs=false

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segjax.predict.frames import Drawings, read_all, with_progress
from segjax.predict.predictor import Predictor
from segjax.predict.sources import find_sources
from segjax.protocols import PanopticModel
from segjax.results.draw import maps as viz_maps
from segjax.results.draw import objects as viz
from segjax.results.files import MapWriter, write_results
from segjax.results.result import Result
from segjax.results.save import open_writers

Drawing = Literal["panoptic", "instances", "semantic"]


@dataclasses.dataclass(frozen=True)
class FilesReport:
    """Report of `predict_files`.

    Attributes:
      counts: number of objects drawn, by image and class.
      overlays: path of the drawing of each image.
      failed: reasons for images and arguments that could not be read.
      skipped: number of skipped files in folders, by reason.
      results_json: path of the COCO results file; None for a model that predicts no objects, or if
        no image could be read.
      maps: paths of other files and folders written, for maps and `save`.
    """

    counts: dict[str, dict[str, int]]
    overlays: dict[str, Path]
    failed: dict[str, str]
    skipped: dict[str, int] = dataclasses.field(default_factory=dict[str, int])
    results_json: Path | None = None
    maps: tuple[Path, ...] = ()

    def text(self) -> str:
        """Formats the totals, followed by one line per reason for skipping and per failure."""
        total: collections.Counter[str] = collections.Counter()
        for counts in self.counts.values():
            total.update(counts)
        written = [str(path) for path in self.maps]
        first = f"{len(self.counts)} pictures"
        if self.results_json is not None:
            first += f", {sum(total.values())} objects drawn"
            first += f" ({describe_counts(total)})" if total else ""
            written.insert(0, str(self.results_json))
        lines = [f"{first}; results in {', '.join(written)}" if written else first]
        lines += [f"skipped {count} {reason}" for reason, count in sorted(self.skipped.items())]
        if self.failed:
            lines.append(f"{len(self.failed)} could not be read:")
            lines += [f"  {path}: {reason}" for path, reason in self.failed.items()]
        return "\n".join(lines)


def describe_counts(counts: Mapping[str, int]) -> str:
    """Formats counts as "2 person, 1 dog", most frequent first."""
    order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {name}" for name, count in order)


def predict_files(
    predictor: Predictor,
    paths: Iterable[str | Path],
    out: str | Path,
    *,
    score_threshold: float | None = None,
    max_detections: int | None = None,
    classes: Sequence[str] = (),
    draw: Drawing | None = None,
    recursive: bool = False,
    stride: int = 1,
    save: Sequence[str] = (),
    progress: bool = False,
) -> FilesReport:
    """Predicts images; writes a drawing of each, COCO results of all, and maps.

    Images that cannot be read are listed in the report and do not stop the others. If no image can
    be read, the results of an earlier run are kept.

    Args:
      predictor: model to predict with.
      paths: files, folders, patterns, URLs, videos or "camera:0", as for
        `segjax.predict.sources.find_sources`.
      out: output folder. Drawings are written as `NAME_KIND.{png,jpg}`, with KIND from `draw`, and
        small images are enlarged. `detections.json` contains all detections, in original pixels,
        with their `file_name`. The `image_id` is the number in the file name if all names are
        different numbers (as in COCO), or else the position, starting at 1. Panoptic models write
        `panoptic.json` and `panoptic/NAME.png` in COCO's format. Semantic models write labels to
        `semantic/NAME.png` and class names to `semantic.txt`. Videos are written as
        `NAME_KIND.mp4`, and their frames are named `NAME#1`, `NAME#2`, ...
      score_threshold: minimum score of drawn objects; None for 0.5. For a panoptic model, also the
        minimum score of objects in the panoptic map; None to use its `merge`.
      max_detections: maximum number of objects per image, best first; None for no limit.
      classes: names of the classes to keep; () to keep all.
      draw: "instances", "semantic" or "panoptic"; None to select the first of panoptic, instances
        and semantic that the model predicts.
      recursive: include sub-folders of folders.
      stride: predict every `stride`-th frame of a video.
      save: additional formats to save the drawn objects in, such as "csv" or "yolo"; names in
        `segjax.results.save.WRITERS`.
      progress: show a progress bar.

    Returns:
      A report of written files and failures. Commands should fail if `failed` is not empty.

    Raises:
      ValueError: for unknown classes, or a kind of drawing that the model does not support.
    """
    draw = _drawing(predictor, draw)
    model = predictor.model
    if isinstance(model, PanopticModel) and score_threshold is not None:
        model = model.with_score_threshold(score_threshold)
        predictor = dataclasses.replace(predictor, model=model)
    wanted = _wanted(predictor, classes, draw)
    if save and draw == "semantic":
        raise ValueError("there are no objects to save: the model gives the class of every pixel")
    folder = Path(out).expanduser()
    found = find_sources(paths, recursive=recursive, out=folder)
    report = FilesReport({}, {}, dict(found.failed), found.skipped)
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    writers = open_writers(save, folder)
    maps, drawings = MapWriter(f"{folder}/"), Drawings(folder, draw)
    threshold = 0.5 if score_threshold is None else score_threshold
    things = model.classes.things
    category_ids = predictor.classes.category_ids or range(1, (things or 0) + 1)
    frames = read_all(found.sources, report.failed, stride)
    total = 0 if any(s.is_video for s in found.sources) else len(found.sources)
    for image_id, frame in with_progress(frames, total, progress):
        result = _only(predictor.result(frame.image, max_detections=max_detections), wanted)
        shown = _shown(result, draw, threshold)
        scale = viz.readable_scale(shown.image_size)
        path, name = drawings.write(frame, viz_maps.draw_result(frame.image, shown, scale=scale))
        report.counts[frame.name] = _counts(shown)
        report.overlays[frame.name] = path
        maps.add(result, image_id, name, frame.name)
        for writer in writers:
            objects = shown.instances
            if objects is None or shown.panoptic is not None:
                objects = shown.panoptic_to_instances()
            writer.add(frame.name, name, frame.image, objects)
        if result.instances is not None:
            for entry in result.instances.to_coco(image_id, category_ids):
                entries.append({"file_name": frame.name} | entry)
    drawings.close()
    if not report.counts:
        return report
    results_json = None if things is None else folder / "detections.json"
    if results_json is not None:
        write_results(results_json, entries)
    saved = tuple(path for writer in writers for path in writer.close())
    return dataclasses.replace(report, results_json=results_json, maps=maps.close() + saved)


def _drawing(predictor: Predictor, wanted: Drawing | None) -> Drawing:
    """Chooses what to draw of the results; raises a `ValueError` if there is no such result."""
    model = predictor.model
    if wanted == "panoptic" and "panoptic" in model.tasks and predictor.tiles is not None:
        raise ValueError("tiles give no panoptic map: draw instances or semantic")
    given: dict[Drawing, bool] = {
        "panoptic": "panoptic" in model.tasks and predictor.tiles is None,
        "instances": model.classes.things is not None,
        "semantic": "semantic" in model.tasks,
    }
    kinds: list[Drawing] = [kind for kind, there in given.items() if there]
    if wanted is not None and wanted not in kinds:
        raise ValueError(f"the model gives nothing {wanted} to draw, but {' and '.join(kinds)}")
    return wanted or kinds[0]


def _shown(found: Result, draw: Drawing, score_threshold: float) -> Result:
    """Returns the part of a result that is drawn."""
    if draw == "semantic":
        return Result(found.image_size, semantic=found.semantic)
    if draw == "instances":
        assert found.instances is not None
        return Result(found.image_size, instances=found.instances.above(score_threshold))
    return found


def _counts(shown: Result) -> dict[str, int]:
    """Counts the drawn objects, by class."""
    counts: collections.Counter[str] = collections.Counter()
    if shown.panoptic is not None:
        counts.update(s.category.name for s in shown.panoptic.segments if s.category.is_thing)
    elif shown.instances is not None:
        counts.update(shown.instances.names)
    return dict(counts)


def _wanted(predictor: Predictor, classes: Sequence[str], draw: Drawing) -> list[int] | None:
    """Returns the indices of the classes to keep; None for all.

    Raises:
      ValueError: for a name that the model does not have, or a drawing other than "instances".
    """
    if not classes:
        return None
    if draw != "instances":
        raise ValueError(f'classes choose among objects, not {draw} maps: take draw="instances"')
    names = predictor.classes.names or tuple(
        str(index) for index in range(predictor.model.classes.things or 0)
    )
    if unknown := [name for name in classes if name not in names]:
        raise ValueError(
            f"the model has no class {', '.join(map(repr, unknown))}: it has {', '.join(names)}"
        )
    return [index for index, name in enumerate(names) if name in classes]


def _only(found: Result, wanted: list[int] | None) -> Result:
    """Keeps only the objects of some classes."""
    if wanted is None or found.instances is None:
        return found
    keep = np.isin(found.instances.classes, wanted)
    return dataclasses.replace(found, instances=found.instances.select(keep))
