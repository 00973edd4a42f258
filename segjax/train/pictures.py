"""Validation pictures with what the model finds in them."""

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
    """Draws what is found in a split's first images, as evaluation predicts them.

    Args:
      evaluator: knows model, data and split.
      variables: variables of the model.
      folder: to write to; made if missing.
      number: number of pictures.
      score_threshold: only detections above it are drawn.

    Returns:
      The files written: `IMAGE_ID.png`, small images enlarged.
    """
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    split = evaluator.dataset.split(evaluator.split)
    records = open_records(split)
    rows = {int(image_id): row for row, image_id in enumerate(split.index[:, 0])}
    quiet = dataclasses.replace(evaluator, score_threshold=score_threshold, progress=False)
    written: list[Path] = []
    predictions: Any = quiet.predictions(variables)
    with contextlib.closing(predictions):  # ends the reader too
        for image_id, found in itertools.islice(predictions, number):
            image = decode_stored(records[rows[image_id]])
            written.append(folder / f"{image_id}.png")
            scale = viz.readable_scale(found.image_size)
            Image.fromarray(viz_maps.draw_result(image, found, scale=scale)).save(written[-1])
    return written
