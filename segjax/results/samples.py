"""Pictures of a dataset: its images as they are annotated, and as training sees them."""

import dataclasses
import html
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from segjax.data import rle
from segjax.data.config import DataConfig
from segjax.data.dataset import Dataset, open_dataset
from segjax.data.rows import Row
from segjax.data.samples import Sample, samples
from segjax.data.truth import ImageObjects, objects_of, semantic_of
from segjax.results.detections import ImageDetections
from segjax.results.draw import maps as viz_maps
from segjax.results.draw import objects as viz
from segjax.results.maps import SemanticMap

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.4 system-ui, sans-serif; }}
body {{ margin: 1rem; }}
section {{ display: flex; flex-wrap: wrap; gap: .75rem; margin: 1rem 0 2rem; }}
h2 {{ flex-basis: 100%; margin: 0; font-size: 1rem; overflow-wrap: anywhere; }}
figure {{ margin: 0; flex: 1 1 18rem; max-width: 32rem; }}
img {{ max-width: 100%; height: auto; display: block; }}
</style>
<h1>{title}</h1>
<p>{words}</p>
{sections}
</html>
"""


@dataclasses.dataclass(frozen=True)
class Browsed:
    """What `browse` wrote.

    Attributes:
      page: path of `index.html`.
      pictures: paths of the pictures.
      total: number of images in the split.
    """

    page: Path
    pictures: tuple[Path, ...]
    total: int


def browse(
    config: DataConfig,
    out: str | Path,
    *,
    split: str = "train",
    number: int = 12,
    copies: int = 3,
    seed: int = 0,
) -> Browsed:
    """Draws a random choice of a dataset's images, and a page that shows them.

    Args:
      config: names the data, and how they are resized and augmented.
      out: folder for `index.html` and the pictures; created if missing.
      split: name of the split.
      number: number of images; all if there are fewer.
      copies: number of augmented pictures of each, with the pixels and masks of training's batches;
        only for the split "train".
      seed: seed of the choice and of the augmentation.

    Returns:
      Paths of what was written.

    Raises:
      CocoError: if the data cannot be used.
      ValueError: if there is no such split.
    """
    dataset = open_dataset(config)
    if split not in dataset.splits:
        raise ValueError(f'no split "{split}": the dataset has {", ".join(dataset.splits)}')
    folder = Path(out).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    copies = copies if split == "train" else 0
    pictures: list[Path] = []
    sections: list[str] = []
    for sample in samples(dataset, split, config, number=number, copies=copies, seed=seed):
        figures = [
            (_write(folder, f"{sample.image_id}_{name}.jpg", picture), words)
            for name, words, picture in _pictures(sample, dataset, config)
        ]
        pictures += [path for path, _ in figures]
        sections.append(_section(sample, figures))
    total = len(dataset.split(split).index)
    words = f"{len(sections)} of {total} images of the split {split}, chosen at random."
    page = folder / "index.html"
    title = html.escape(f"{config.root or config.name}: {split}")
    text = _PAGE.format(title=title, words=html.escape(words), sections="\n".join(sections))
    page.write_text(text, encoding="utf-8")
    return Browsed(page, tuple(pictures), total)


def _pictures(
    sample: Sample, dataset: Dataset, config: DataConfig
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yields name, description and picture of everything that is shown of an image."""
    names = (*dataset.class_names, *(f"{name} (crowd)" for name in dataset.class_names))
    if config.instances:
        truth = objects_of(sample.record)
        found = _annotated(truth, names, dataset.category_ids)
        yield "annotated", _counted(truth), _drawn(sample.image, found)
    if config.semantic != "none":
        labels = semantic_of(sample.record, dataset.label_table)
        yield "labels", "semantic labels", _drawn_labels(sample.image, labels, dataset)
    for place, row in enumerate(sample.rows, 1):
        if config.instances:
            yield f"augmented_{place}", _described(row), _drawn(row.image, _in_row(row, names))
        if row.semantic is not None:
            labels = dataset.label_table[row.semantic]
            picture = _drawn_labels(row.image, labels, dataset)
            yield f"augmented_labels_{place}", f"augmented {place}", picture


def _drawn(image: np.ndarray, found: ImageDetections) -> np.ndarray:
    return viz.draw(image, found, scale=viz.readable_scale(found.image_size))


def _drawn_labels(image: np.ndarray, labels: np.ndarray, dataset: Dataset) -> np.ndarray:
    made = SemanticMap(labels, dataset.semantic_names)
    return viz_maps.draw_semantic(image, made, scale=viz.readable_scale(made.image_size))


def _annotated(
    truth: ImageObjects, names: Sequence[str], category_ids: Sequence[int]
) -> ImageDetections:
    """Objects of an image as the file has them; crowds have classes of their own."""
    size = truth.height, truth.width
    index = {category: place for place, category in enumerate(category_ids)}
    classes = np.array([index[i] for i in truth.category_ids.tolist()], np.int32)
    boxes = truth.boxes.astype(np.float32).reshape(-1, 4)
    empty = rle.empty_counts(*size)
    return ImageDetections(
        boxes=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
        scores=None,
        classes=classes + len(category_ids) * truth.is_crowd.astype(np.int32),
        image_size=size,
        class_names=tuple(names),
        mask_rles=tuple({"size": list(size), "counts": text or empty} for text in truth.masks),
    )


def _in_row(row: Row, names: Sequence[str]) -> ImageDetections:
    """Objects of an augmented image, with the masks that the model learns from."""
    height, width = row.image.shape[:2]
    crowds = row.is_crowd.astype(np.int32) * (len(names) // 2)
    masks = None
    if row.masks.shape[1:] != (1, 1):
        masks = tuple(_mask_in_row(row, i) for i in range(len(row.classes)))
    return ImageDetections(
        boxes=row.boxes,
        scores=None,
        classes=row.classes.astype(np.int32) + crowds,
        image_size=(height, width),
        class_names=tuple(names),
        mask_rles=masks,
    )


def _mask_in_row(row: Row, index: int) -> rle.Rle:
    size = row.image.shape[:2]
    raster = row.masks[index]
    if raster.shape == size:  # `mask_frame="image"`
        return rle.encode(raster)
    x0, y0, x1, y1 = np.rint(row.boxes[index]).astype(int).tolist()
    shape = max(1, x1 - x0), max(1, y1 - y0)
    pasted = cv2.resize(raster, shape, interpolation=cv2.INTER_NEAREST).astype(bool)
    return rle.encode_part(pasted, (x0, y0), *size)


def _counted(truth: ImageObjects) -> str:
    count = len(truth.category_ids)
    return f"as annotated: {count} object{'' if count == 1 else 's'}"


def _described(row: Row) -> str:
    height, width = row.image.shape[:2]
    words = f"as training sees it: {height} x {width} pixels, {len(row.classes)} objects"
    dropped = row.degenerate + row.truncated
    return words + (f", {dropped} dropped as too small or too many" if dropped else "")


def _write(folder: Path, name: str, picture: np.ndarray) -> Path:
    from PIL import Image

    path = folder / name
    Image.fromarray(picture).save(path, quality=90)
    return path


def _section(sample: Sample, figures: Sequence[tuple[Path, str]]) -> str:
    name = html.escape(sample.name)
    shown = "\n".join(
        f'<figure><a href="{path.name}"><img src="{path.name}" loading="lazy"'
        f' alt="{name}, {html.escape(words)}"></a>'
        f"<figcaption>{html.escape(words)}</figcaption></figure>"
        for path, words in figures
    )
    return f"<section>\n<h2>{name}</h2>\n{shown}\n</section>"
