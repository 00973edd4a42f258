"""Writes docs/troubleshooting.md by making common mistakes and recording what segjax says.

python -m benchmarks.troubleshooting
"""

import contextlib
import dataclasses
import io
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PAGE = Path(__file__).parent.parent / "docs" / "troubleshooting.md"
BEGIN = """# Troubleshooting

Mistakes of the first hour, what segjax says, and what to do. The answers are made by
`python -m benchmarks.troubleshooting`, which makes every one of these mistakes.
"""


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A mistake and its remedy.

    Attributes:
      title: what went wrong, in words a user would search for.
      arguments: arguments of `segjax`; "FOLDER" is replaced with the folder of the data.
      prepare: function that creates the data.
      remedy: advice on what to do.
    """

    title: str
    arguments: tuple[str, ...]
    remedy: str
    prepare: Callable[[Path], None] = lambda folder: folder.mkdir()


Change = Callable[[dict[str, Any]], None]


def coco(change: Change = lambda content: None, splits: tuple[str, ...] = ("train", "val")) -> Any:
    """Returns a function that makes a COCO folder with one object per image, after `change`."""

    def prepare(folder: Path) -> None:
        for split in splits:
            (folder / split).mkdir(parents=True)
            content = _content()
            change(content)
            (folder / "annotations").mkdir(exist_ok=True)
            path = folder / "annotations" / f"instances_{split}.json"
            path.write_text(json.dumps(content))
            for i in range(1, 5):
                pixels = np.zeros((100, 120, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / f"{i}.png")

    return prepare


def _content() -> dict[str, Any]:
    outline = [30, 40, 80, 40, 80, 60, 30, 60]
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": 100, "width": 120} for i in range(1, 5)
        ],
        "annotations": [
            {
                "id": i,
                "image_id": i,
                "category_id": 1,
                "bbox": [30, 40, 50, 20],
                "area": 1000,
                "iscrowd": 0,
                "segmentation": [outline],
            }
            for i in range(1, 5)
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }


def each(**fields: Any) -> Change:
    """Returns a change that sets fields of every object."""

    def change(content: dict[str, Any]) -> None:
        for entry in content["annotations"]:
            entry.update(fields)

    return change


def named(name: str) -> Change:
    """Returns a change that renames the first image."""
    return lambda content: content["images"][0].update(file_name=name)


def black_and_white(folder: Path) -> None:
    """Creates images with masks of 0 and 255."""
    for split in ("train", "val"):
        for kind in (split, f"labels/{split}"):
            (folder / kind).mkdir(parents=True)
        mask = np.zeros((40, 60), np.uint8)
        mask[10:20, 20:40] = 255
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder / split / "1.png")
        Image.fromarray(mask).save(folder / "labels" / split / "1.png")


def rotated(folder: Path) -> None:
    """Creates photographs with an EXIF rotation, annotated as displayed."""
    coco(lambda content: [i.update(height=120, width=100) for i in content["images"]])(folder)
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in folder.glob("*/*.png"):
        with Image.open(path) as image:
            image.load()
            image.save(path, exif=exif)


CHECK = ("check-data", "FOLDER")
MISTAKES = (
    Mistake(
        "The folder is not in a known format", CHECK, "Compare with the formats in [Data](data.md)."
    ),
    Mistake(
        "There is no validation split",
        CHECK,
        "Add `--data.val-fraction=0.1` (`--val-fraction` of `check-data`), or put some images and"
        " their annotations aside.",
        coco(splits=("train",)),
    ),
    Mistake(
        "Names in the json are paths of Windows",
        CHECK,
        "Write the names as the files are called below `train/`.",
        coco(named("C:\\data\\train\\1.png")),
    ),
    Mistake(
        "Names in the json are of an annotation tool's server",
        CHECK,
        "Write the names as the files are called below `train/`.",
        coco(named("/data/upload/7/0a1b2c3d-1.png")),
    ),
    Mistake(
        "Boxes are corners, not sizes",
        CHECK,
        "Write `[x, y, width, height]`.",
        coco(each(bbox=[30, 40, 80, 60])),
    ),
    Mistake(
        "Polygons are pairs of numbers",
        CHECK,
        "Write one flat list for each polygon.",
        coco(each(segmentation=[[[30, 40], [80, 40], [80, 60]]])),
    ),
    Mistake(
        "Coordinates are fractions",
        CHECK,
        "Multiply by the image's width and height.",
        coco(each(bbox=[0.25, 0.4, 0.42, 0.2], segmentation=[])),
    ),
    Mistake("All objects are crowds", CHECK, "Set `iscrowd` to 0.", coco(each(iscrowd=1))),
    Mistake(
        "No object has a mask",
        CHECK,
        "Train a model of boxes alone, such as `lite_boxes_coco_format`.",
        coco(each(segmentation=[])),
    ),
    Mistake(
        "Photographs are annotated as shown, not as stored",
        CHECK,
        "Add `--data.exif=upright` to `segjax train`.",
        rotated,
    ),
    Mistake(
        "Masks are black and white",
        (*CHECK, "--semantic=folder"),
        "Add `--data.semantic-values 0 255` to `segjax train`.",
        black_and_white,
    ),
    Mistake(
        "A recipe's name is not quite right",
        ("train", "--config", "lite_coco"),
        "`segjax configs` lists them.",
    ),
    Mistake(
        "A flag's name is not quite right",
        ("train", "--config", "lite_coco_format", "--optim.learning-rat=0.1"),
        "`segjax train --config NAME --help` lists them.",
    ),
    Mistake(
        "A flag is of another library",
        ("train", "--config", "lite_coco_format", "--resume"),
        "See [Training](train.md).",
    ),
    Mistake(
        "A device is not known",
        ("train", "--config", "lite_coco_format", "--device", "mps"),
        "See [Training](train.md).",
    ),
    Mistake(
        "A recipe downloads COCO, and a folder is given",
        ("train", "--config", "mask_rcnn_r50_fpn_1x_coco", "--data.root=FOLDER", "--workdir=RUN"),
        "Take a recipe for your own data, such as `finetune_zoo_coco_format`.",
    ),
    Mistake(
        "The name of weights is not quite right",
        ("predict", "--model", "mask_rcnn_resnet50_fpn.d2_3", "photo.jpg", "--out=RUN"),
        "`segjax models NAME` lists those with NAME in them.",
    ),
)


def answers() -> Iterator[tuple[Mistake, str]]:
    """Makes every mistake; yields the first error line of segjax's output."""
    for mistake in MISTAKES:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "data"
            mistake.prepare(folder)
            names = {"FOLDER": str(folder), "RUN": str(Path(place) / "run")}
            yield mistake, _said([_filled(a, names) for a in mistake.arguments], place)


def _filled(argument: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        argument = argument.replace(name, value)
    return argument


def _said(arguments: list[str], place: str) -> str:
    from segjax import cli

    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        status = cli.main(arguments)
    if status == 0:
        raise AssertionError(f"segjax {' '.join(arguments)} found nothing wrong")
    lines = [line for line in out.getvalue().splitlines() if line.startswith("ERROR")]
    lines += [line for line in errors.getvalue().splitlines() if line.startswith("segjax: ")]
    first = lines[0].replace(f"{place}/data", "FOLDER").replace(f"{place}/run", "RUN")
    first = first.replace(str(Path.cwd()), ".")
    return re.sub(r"; first: ([^;]*(?:; \"[^\"]*\" is there[^;]*)?).*", r"; first: \1", first)


def page() -> str:
    """Returns the text of the page."""
    parts = [BEGIN]
    for mistake, answer in answers():
        command = " ".join(("segjax", *mistake.arguments))
        parts.append(f"## {mistake.title}\n\n```\n{command}\n{answer}\n```\n\n{mistake.remedy}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
