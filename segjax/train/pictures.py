"""Saves validation images with the model's predictions drawn on them."""

# pyright: strict, reportUnknownMemberType=false, reportMissingTypeStubs=false

import contextlib
import dataclasses
import itertools
from pathlib import Path
from typing import Any

from segjax.data.build import open_records
from segjax.data.example import decode_stored
from segjax.eval.runner import Evaluator
from segjax.results.draw import maps as viz_maps
from segjax.results.draw import objects as viz


def write_pictures(
    evaluator: Evaluator, variables: Any, folder: Path, number: int, score_threshold: float
) -> list[Path]:
    """Draws the predictions on a split's first images, computed as in an evaluation.

    Args:
      evaluator: evaluator with model, data and split.
      variables: variables of the model.
      folder: output folder; created if missing.
      number: number of images.
      score_threshold: only detections with a higher score are drawn.

    Returns:
      Paths of the written files, `IMAGE_ID.png`. Small images are enlarged.
    """
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    split = evaluator.dataset.split(evaluator.split)
    records = open_records(split)
    rows = {int(image_id): row for row, image_id in enumerate(split.index[:, 0])}
    # All images on one device of this process, without asking the others.
    quiet = dataclasses.replace(
        evaluator,
        score_threshold=score_threshold,
        progress=False,
        should_stop=None,
        devices=(),
        share=(0, 1),
    )
    written: list[Path] = []
    predictions: Any = quiet.predictions(variables)
    with contextlib.closing(predictions):  # also stops the data reader
        for image_id, found in itertools.islice(predictions, number):
            image = decode_stored(records[rows[image_id]])
            written.append(folder / f"{image_id}.png")
            scale = viz.readable_scale(found.image_size)
            Image.fromarray(viz_maps.draw_result(image, found, scale=scale)).save(written[-1])
    return written
