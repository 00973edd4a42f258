"""Prediction on picture files: a drawing of each, results and maps in COCO's formats."""

# pyright: strict, reportUnknownMemberType=false, reportMissingTypeStubs=false

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from segjax.data.images import decode_image
from segjax.predict.predictor import Predictor
from segjax.protocols import Model, PanopticModel
from segjax.results.draw import maps as viz_maps
from segjax.results.draw import objects as viz
from segjax.results.files import MapWriter, write_results
from segjax.results.result import Result

Drawing = Literal["panoptic", "instances", "semantic"]
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}


@dataclasses.dataclass(frozen=True)
class FilesReport:
    """Report of `predict_files`.

    Attributes:
      counts: picture to the number of objects drawn on it.
      overlays: picture to the overlay written for it.
      failed: picture to why it could not be read.
      results_json: the COCO results file; None for a model that knows no objects.
      maps: json, folders and lists written for the maps; empty for a model without.
    """

    counts: dict[Path, int]
    overlays: dict[Path, Path]
    failed: dict[Path, str]
    results_json: Path | None
    maps: tuple[Path, ...] = ()

    def text(self) -> str:
        """A line of totals, and a line per picture that could not be read."""
        total, written = sum(self.counts.values()), [str(path) for path in self.maps]
        first = f"{len(self.counts)} pictures"
        if self.results_json is not None:
            first += f", {total} objects drawn"
            written.insert(0, str(self.results_json))
        lines = [f"{first}; results in {', '.join(written)}" if written else first]
        if self.failed:
            lines.append(f"{len(self.failed)} could not be read:")
            lines += [f"  {path}: {reason}" for path, reason in self.failed.items()]
        return "\n".join(lines)


def predict_files(
    predictor: Predictor,
    paths: Iterable[str | Path],
    out: str | Path,
    *,
    score_threshold: float | None = None,
    max_detections: int | None = None,
    draw: Drawing | None = None,
    progress: bool = False,
) -> FilesReport:
    """Predicts picture files: a drawing each, a COCO results json for all, and their maps.

    A picture that cannot be read is named in the report and does not stop the others.

    Args:
      predictor: the model to use.
      paths: picture files, or folders of them.
      out: folder for `NAME_KIND.{png,jpg}`, KIND as `draw` has it, small pictures enlarged, and
        `detections.json`. The json has every
        detection, in original pixels, with its `file_name`; `image_id` is the file's number where
        all names are different numbers (as in COCO), else its place in `paths` from 1. Panoptic
        models write `panoptic.json` and `panoptic/NAME.png` in COCO's format, semantic ones
        `semantic/NAME.png` of labels and `semantic.txt` of their names.
      score_threshold: lowest score of objects that are drawn; None means 0.5. For a panoptic
        model also of objects that become segments; None leaves that to its `merge`.
      max_detections: per picture, the best.
      draw: "instances", "semantic" or "panoptic"; None takes panoptic before instances before
        semantic, as far as the model gives them.
      progress: show a progress bar.

    Returns:
      What was written, and what could not be read; a command should fail if `failed` is not
      empty.
    """
    draw = _drawing(predictor.model, draw)
    model = predictor.model
    if isinstance(model, PanopticModel) and score_threshold is not None:
        model = model.with_score_threshold(score_threshold)
        predictor = dataclasses.replace(predictor, model=model)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    files, failed = _expand(paths)
    things = model.classes.things
    results_json = None if things is None else folder / "detections.json"
    report = FilesReport({}, {}, failed, results_json)
    entries: list[dict[str, Any]] = []
    maps, ids = MapWriter(f"{folder}/"), _image_ids(files)
    for path in _progress(files, progress):
        try:
            image = read_image(path)
        except (OSError, ValueError) as error:
            report.failed[path] = str(error)
            continue
        found = predictor.result(image, max_detections=max_detections)
        shown = _shown(found, draw, 0.5 if score_threshold is None else score_threshold)
        name = _draw(report, path, folder, image, shown, draw)
        maps.add(found, ids[path], name, path.name)
        if found.instances is not None:
            category_ids = predictor.classes.category_ids or range(1, (things or 0) + 1)
            for entry in found.instances.to_coco(ids[path], category_ids):
                entries.append({"file_name": path.name} | entry)
    if report.results_json is not None:
        write_results(report.results_json, entries)
    return dataclasses.replace(report, maps=maps.close())


def _drawing(model: Model, wanted: Drawing | None) -> Drawing:
    """Chooses what to draw of a model's results; raises a `ValueError` if the model lacks it."""
    given: dict[Drawing, bool] = {
        "panoptic": "panoptic" in model.tasks,
        "instances": model.classes.things is not None,
        "semantic": "semantic" in model.tasks,
    }
    kinds: list[Drawing] = [kind for kind, there in given.items() if there]
    if wanted is not None and wanted not in kinds:
        raise ValueError(f"the model gives nothing {wanted} to draw, but {' and '.join(kinds)}")
    return wanted or kinds[0]


def _shown(found: Result, draw: Drawing, score_threshold: float) -> Result:
    """The part of a result that is drawn."""
    if draw == "semantic":
        return Result(found.image_size, semantic=found.semantic)
    if draw == "instances":
        assert found.instances is not None
        return Result(found.image_size, instances=found.instances.above(score_threshold))
    return found


def _draw(
    report: FilesReport,
    path: Path,
    folder: Path,
    image: UInt8[np.ndarray, "h w 3"],
    shown: Result,
    kind: Drawing,
) -> str:
    """Writes the drawing of a picture and reports it; returns a name that no other has."""
    count = 0
    if shown.panoptic is not None:
        count = sum(s.category.is_thing for s in shown.panoptic.segments)
    elif shown.instances is not None:
        count = len(shown.instances)
    target, name = _overlay_path(path, folder, kind, set(report.overlays.values()))
    report.counts[path], report.overlays[path] = count, target
    _write_image(
        target,
        viz_maps.draw_result(image, shown, scale=viz.readable_scale(shown.image_size)),
    )
    return name


def read_image(path: str | Path) -> UInt8[np.ndarray, "h w 3"]:
    """Reads a picture file as RGB.

    Raises:
      OSError: if the file cannot be opened.
      ValueError: if it is not a picture that can be decoded.
    """
    return decode_image(Path(path).read_bytes())


def _expand(paths: Iterable[str | Path]) -> tuple[list[Path], dict[Path, str]]:
    """Picture files, folders replaced by those inside, each once; and folders without any."""
    files: list[Path] = []
    failed: dict[Path, str] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            files.append(path)
            continue
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not inside:
            failed[path] = "a folder without pictures"
        files += inside
    return list(dict.fromkeys(files)), failed


def _image_ids(files: Sequence[Path]) -> dict[Path, int]:
    stems = [path.stem for path in files]
    numbered = all(stem.isascii() and stem.isdigit() for stem in stems)
    numbers = [int(stem) for stem in stems] if numbered else []
    if len(set(numbers)) < len(files):
        numbers = list(range(1, len(files) + 1))
    return dict(zip(files, numbers, strict=True))


def _overlay_path(path: Path, folder: Path, kind: str, taken: set[Path]) -> tuple[Path, str]:
    """PNG for PNG, JPEG for the rest; numbered where pictures of two folders share a name.

    Maps are PNGs whatever the picture is: the second thing returned, the name without kind and
    suffix, is unlike all others too.
    """
    suffix = ".png" if path.suffix.lower() == ".png" else ".jpg"
    names = {target.stem for target in taken}
    name, number = path.stem, 2
    while f"{name}_{kind}" in names:
        name = f"{path.stem}_{number}"
        number += 1
    return folder / f"{name}_{kind}{suffix}", name


def _write_image(path: Path, image: UInt8[np.ndarray, "h w 3"]) -> None:
    from PIL import Image

    Image.fromarray(image).save(path, quality=92)


def _progress(files: Sequence[Path], progress: bool) -> Iterable[Path]:
    if not progress:
        return files
    from tqdm import tqdm

    return tqdm(files, desc="predict", unit="image", leave=False)
