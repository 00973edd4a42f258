"""Prediction on pictures of any size: numpy arrays in, what is found in original pixels out."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

from segjax import viz, viz_maps
from segjax._callable import make_callable
from segjax.data import transforms
from segjax.data.config import DataConfig
from segjax.data.images import decode_image
from segjax.data.segments import PanopticCategory
from segjax.eval.classes import Classes, gives_instances, gives_semantic
from segjax.eval.detections import ImageDetections
from segjax.eval.files import MapFiles, write_results
from segjax.eval.postprocess import (
    collect_results,
    map_canvas,
    maps_original,
    predict_original,
)
from segjax.eval.result import Result

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A model with its weights and its way of resizing, ready for pictures.

    Attributes:
      model: the module.
      variables: its parameters and statistics.
      class_names: the name of every class; () leaves them as numbers.
      category_ids: the dataset's id of every class; () takes 1..K.
      data: how images are resized: the config the model was trained with.
      pad_multiple: padded sides are multiples of this and of the model's `size_divisor`, where
        no bucket of `data` holds the image: photos of many shapes share a few compiled programs.
        Models whose anchors depend on the padding (`rpn.stride_from_shape`, as torchvision's)
        are padded to `size_divisor` alone, as torchvision does, and compiled for every shape:
        set `data.buckets` to have fewer, with the results that evaluation has on them.
      semantic_names: of the classes of pixels, by label; () leaves them as numbers.
      panoptic_categories: of the segments of panoptic maps; () makes them of the names.
    """

    model: Any
    variables: Any
    class_names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    data: DataConfig = DataConfig()
    pad_multiple: int = 128
    semantic_names: tuple[str, ...] = ()
    panoptic_categories: tuple[PanopticCategory, ...] = ()

    def __call__(
        self,
        image: Shaped[np.ndarray, "h w *c"],
        *,
        score_threshold: float = 0.0,
        max_detections: int | None = None,
    ) -> ImageDetections:
        """Finds the objects of one picture.

        Args:
          image: uint8, [h, w] or [h, w, 1] gray, [h, w, 3] RGB or [h, w, 4] RGBA, of any size.
          score_threshold: leave out scores at or below it, besides the model's own threshold.
          max_detections: keep the best so many; None takes what the model gives.

        Returns:
          Objects in pixels of `image`, best first.

        Raises:
          ValueError: if `image` is not a uint8 picture, or has no pixels, or the model knows no
            objects.
        """
        if not gives_instances(self.model):
            raise ValueError(
                "the model knows no objects, it gives the class of every pixel: use"
                " Predictor.result(image).semantic"
            )
        found = self._find(image, False, score_threshold, max_detections).instances
        assert found is not None
        return found

    def result(
        self,
        image: Shaped[np.ndarray, "h w *c"],
        *,
        score_threshold: float = 0.0,
        max_detections: int | None = None,
    ) -> Result:
        """Finds all that the model gives in one picture: objects, semantic and panoptic map.

        Args:
          image: as for calling the predictor.
          score_threshold: of the objects, as there; the panoptic map has a threshold of its own,
            in the model's `merge`.
          max_detections: of the objects, as there.

        Returns:
          All in pixels of `image`.

        Raises:
          ValueError: if `image` is not a uint8 picture, or has no pixels, or the names of classes
            do not belong together.
        """
        return self._find(image, gives_semantic(self.model), score_threshold, max_detections)

    def _find(
        self,
        image: Shaped[np.ndarray, "h w *c"],
        maps: bool,
        score_threshold: float,
        max_detections: int | None,
    ) -> Result:
        rgb = viz.as_rgb(image)
        height, width = rgb.shape[:2]
        padded, resized = self._prepare(rgb)
        inside, sizes = np.array([resized], np.int32), np.array([[height, width]], np.int32)
        found = predict_original(self.model, self.variables, padded[None], inside, sizes)
        made = None
        if maps:
            made = maps_original(
                found,
                inside,
                sizes,
                padded_size=padded.shape[:2],
                canvas=map_canvas(height, width),
                merge=getattr(self.model, "merge", None),
                paste_padded=bool(self.model.paste_padded),
            )
        classes = Classes(
            self.class_names, self.category_ids, self.semantic_names, self.panoptic_categories
        )
        return collect_results(
            self.model,
            found,
            made,
            [(height, width)],
            classes.named(self.model) if maps else classes,
            score_threshold=score_threshold,
            max_detections=max_detections,
        )[0]

    def _prepare(
        self, rgb: UInt8[np.ndarray, "h w 3"]
    ) -> tuple[UInt8[np.ndarray, "H W 3"], tuple[int, int]]:
        """Resizes and pads; returns the (height, width) inside the padding too."""
        short_side = self.data.eval_short_side or max(self.data.short_side)
        size = transforms.resized_size(rgb.shape[0], rgb.shape[1], short_side, self.data)
        height, width = self._canvas(size)
        padded = np.zeros((height, width, 3), np.uint8)
        padded[: size[0], : size[1]] = transforms.resize_image(rgb, size, self.data.interpolation)
        return padded, size

    def _canvas(self, size: tuple[int, int]) -> tuple[int, int]:
        """The smallest bucket of the data config that holds the image, else multiples."""
        divisor = int(self.model.size_divisor)
        fitting = [b for b in self.data.buckets or () if b[0] >= size[0] and b[1] >= size[1]]
        if fitting:
            return min(fitting, key=lambda bucket: bucket[0] * bucket[1])
        rpn = getattr(self.model, "rpn", None)  # a model without one has no such anchors
        exact = rpn is not None and rpn.stride_from_shape
        multiple = divisor if exact else math.lcm(self.pad_multiple, divisor)
        height, width = (-(-side // multiple) * multiple for side in size)
        return height, width


def predict(
    model: Any,
    variables: Any,
    image: Shaped[np.ndarray, "h w *c"],
    *,
    class_names: Sequence[str] = (),
    data: DataConfig | None = None,
    pad_multiple: int = 128,
    score_threshold: float = 0.0,
    max_detections: int | None = None,
) -> ImageDetections:
    """Finds the objects of one picture; `Predictor` has the arguments, for many pictures."""
    predictor = Predictor(
        model=model,
        variables=variables,
        class_names=tuple(class_names),
        data=DataConfig() if data is None else data,
        pad_multiple=pad_multiple,
    )
    return predictor(image, score_threshold=score_threshold, max_detections=max_detections)


@dataclasses.dataclass(frozen=True)
class FilesReport:
    """What `predict_files` did.

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
    score_threshold: float = 0.5,
    max_detections: int | None = None,
    progress: bool = False,
) -> FilesReport:
    """Predicts picture files: a drawing each, a COCO results json for all, and their maps.

    A picture that cannot be read is named in the report and does not stop the others.

    Args:
      predictor: the model to use.
      paths: picture files, or folders of them.
      out: folder for `NAME_detections.{png,jpg}` (panoptic models: `NAME_panoptic`, semantic
        ones: `NAME_semantic`), small pictures enlarged, and `detections.json`. The json has every
        detection, in original pixels, with its `file_name`; `image_id` is the file's number where
        all names are different numbers (as in COCO), else its place in `paths` from 1. Panoptic
        models write `panoptic.json` and `panoptic/NAME.png` in COCO's format, semantic ones
        `semantic/NAME.png` of labels and `semantic.txt` of their names.
      score_threshold: draw objects with a score above it; a panoptic map is drawn as it is.
      max_detections: per picture, the best.
      progress: show a progress bar.

    Returns:
      What was written, and what could not be read; a command should fail if `failed` is not
      empty.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    files, failed = _expand(paths)
    objects = gives_instances(predictor.model)
    report = FilesReport({}, {}, failed, folder / "detections.json" if objects else None)
    entries: list[dict[str, Any]] = []
    maps, ids = MapFiles(f"{folder}/"), _image_ids(files)
    for path in _progress(files, progress):
        try:
            image = read_image(path)
        except (OSError, ValueError) as error:
            report.failed[path] = str(error)
            continue
        found = predictor.result(image, max_detections=max_detections)
        name = _draw(report, path, folder, image, found, score_threshold)
        maps.add(found, ids[path], name)
        if found.instances is not None:
            category_ids = predictor.category_ids or range(1, int(predictor.model.num_classes) + 1)
            for entry in found.instances.to_coco(ids[path], category_ids):
                entries.append({"file_name": path.name} | entry)
    if report.results_json is not None:
        write_results(report.results_json, entries)
    return dataclasses.replace(report, maps=maps.close())


def _draw(
    report: FilesReport,
    path: Path,
    folder: Path,
    image: UInt8[np.ndarray, "h w 3"],
    found: Result,
    score_threshold: float,
) -> str:
    """Writes the drawing of a picture and reports it; returns a name that no other has."""
    kind, count = "semantic", 0
    if found.panoptic is not None:
        kind, count = "panoptic", sum(s.category.is_thing for s in found.panoptic.segments)
    elif found.instances is not None:
        found = dataclasses.replace(found, instances=found.instances.above(score_threshold))
        kind, count = "detections", len(found.instances or ())
    target, name = _overlay_path(path, folder, kind, set(report.overlays.values()))
    report.counts[path], report.overlays[path] = count, target
    _write_image(
        target, viz_maps.draw_result(image, found, scale=viz.readable_scale(found.image_size))
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


make_callable(__name__)
