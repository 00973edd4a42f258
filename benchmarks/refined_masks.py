"""Scores trained models by AP and boundary AP with and without refined masks.

    python -m benchmarks.refined_masks shapes=runs/shapes nuclei=runs/nuclei

Each NAME=FOLDER is a run of a model with masks, evaluated on the validation split of its data.
Coarser heads are simulated by averaging 2 x 2 or 4 x 4 cells of the predicted masks: the best that
a head of half or a quarter of the resolution could predict.
"""

import argparse
import dataclasses
import sys
import time
from typing import Any

import jax
from jaxtyping import Array

from benchmarks import machine
from segjax.data.pipeline import open_dataset
from segjax.eval.runner import evaluate
from segjax.figure_ground.refine import MaskRefinement
from segjax.ops.soft_masks import BoxMasks
from segjax.train.weights import pretrained_run
from segjax.types import Detections

SHOWN = tuple(f"{kind}/AP{size}" for kind in ("segm", "boundary") for size in ("", "75", "s", "m"))


@dataclasses.dataclass(frozen=True)
class CoarseMasks(MaskRefinement):
    """Averages masks over blocks of cells to simulate a coarse mask head; optionally refines them.

    Attributes:
      factor: number of cells averaged along each axis.
      refine: if True, refine the averaged masks.
    """

    factor: int = 1
    refine: bool = False

    def __call__(self, images: Array, detections: Detections) -> Detections:
        """Coarsens, and optionally refines, the masks of a batch."""
        masks, k = detections.masks, self.factor
        assert isinstance(masks, BoxMasks)
        window = (1, 1, k, k)
        sums = jax.lax.reduce_window(masks.probs, 0.0, jax.lax.add, window, window, "VALID")
        fewer = dataclasses.replace(masks, probs=sums / k**2)
        coarse = dataclasses.replace(detections, masks=fewer)
        return super().__call__(images, coarse) if self.refine else coarse


def main() -> None:
    """Evaluates every run in every form and writes benchmarks/results/refined_masks.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="NAME=FOLDER")
    named = [run.partition("=") for run in parser.parse_args().runs]
    results: dict[str, Any] = {
        "command": "python -m benchmarks.refined_masks "
        + " ".join(f"{name}=FOLDER" for name, _, _ in named),
        "settings": repr(MaskRefinement()),
        "runs": {name: scores_of(folder) for name, _, folder in named},
        "machine": machine.describe(),
    }
    machine.write("refined_masks", results)


def scores_of(folder: str) -> dict[str, Any]:
    """Returns a run's plain and refined scores by number of mask cells."""
    found = pretrained_run(folder, None)
    dataset = open_dataset(found.data)
    scores: dict[str, Any] = {}
    for factor in (1, 2, 4):
        pair = {}
        for name, refine in (("plain", False), ("refined", True)):
            started = time.perf_counter()
            made = evaluate(
                found.model,
                found.variables,
                dataset,
                "val",
                found.data,
                boundary=True,
                classes=found.classes,
                refine=CoarseMasks(factor=factor, refine=refine),
            )
            metrics = made.metrics()
            pair[name] = {key: round(metrics[key], 4) for key in SHOWN}
            pair[name]["seconds"] = round(time.perf_counter() - started, 1)
            print(
                folder, f"cells averaged: {factor}", name, pair[name], file=sys.stderr, flush=True
            )
        scores[f"{factor} x {factor} cells averaged"] = pair
    return scores


if __name__ == "__main__":
    main()
