"""Compares Mask R-CNN, Cascade Mask R-CNN and HTC with and without its semantic branch.

    python -m benchmarks.cascades

Trains the model of `configs/shapes_htc.py` and the simpler models obtained by removing its parts.
All four share backbone, pyramid, RPN, heads, loss, optimizer, data and number of steps, and follow
mmdet's conventions; each is trained with three seeds. Training is shorter than in the config
because there are twelve runs. Runs already in the results file with the same number of steps,
machine and commit are skipped, unless the checkout had uncommitted changes. Mask R-CNN predicts one
box per class, as in its paper; the cascades predict class-agnostic boxes.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

import segjax
from benchmarks import machine
from segjax.config import TrainConfig, load_config
from segjax.models import HybridTaskCascade, cascade_mask_rcnn, mask_rcnn, resnet
from segjax.models.parts.masks import RoIMaskBranch

CONFIG = Path(__file__).parent.parent / "configs" / "shapes_htc.py"

SHARED = (
    *("preprocess", "backbone", "fpn", "rpn_head", "rpn", "box_pooler"),
    *("detections", "box_loss"),
)


def relatives(htc: HybridTaskCascade) -> dict[str, Any]:
    """Returns the four models by name, simplest first, built from the same parts."""
    shared = {name: getattr(htc, name) for name in SHARED}
    first, masks = htc.stages[0], htc.mask_head
    branches = tuple(
        RoIMaskBranch(pooler=masks.pooler, head=head.clone(), targets=masks.targets)
        for head in masks.mask_heads
    )
    return {
        "Mask R-CNN": mask_rcnn(resnet(50), flavour="mmdet").clone(
            **shared,
            box_head=htc.box_heads[0].clone(class_agnostic=False),
            box_coder=first.coder,
            sampler=first.sampler,
            mask_head=branches[0].clone(),
        ),
        "Cascade Mask R-CNN": cascade_mask_rcnn(resnet(50), flavour="mmdet").clone(
            **shared, box_heads=htc.box_heads, stages=htc.stages, mask_heads=branches
        ),
        "HTC without semantic branch": htc.clone(semantic_head=None),
        "HTC": htc,
    }


def run(config: TrainConfig, seed: int) -> dict[str, float]:
    """Trains once; returns the AP of the last evaluation and the CPU minutes of the whole run."""
    started = time.process_time()
    with tempfile.TemporaryDirectory() as workdir:
        config = dataclasses.replace(
            config, seed=seed, workdir=workdir, num_pictures=0, checkpoint_every=0
        )
        metrics = segjax.train(config).metrics
    minutes = (time.process_time() - started) / 60
    return {name: metrics[name] for name in ("box/AP", "segm/AP", "segm/AP75")} | {
        "cpu_minutes": round(minutes, 2)
    }


def main() -> None:
    """Runs what is missing, writing benchmarks/results/cascades.json after every run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--name", default="cascades", help="of the file of results")
    options = parser.parse_args()
    config = load_config(CONFIG)
    config = dataclasses.replace(config, steps=options.steps)
    results: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.cascades", *sys.argv[1:]]),
        "steps": config.steps,
        "machine": machine.describe(),
        "runs": {},
    }
    path = machine.RESULTS / f"{options.name}.json"
    if path.exists() and not results["machine"]["commit"].endswith("-dirty"):
        known = json.loads(path.read_text())
        if (known["steps"], known["machine"]) == (config.steps, results["machine"]):
            results["runs"] = known["runs"]
    htc: Any = config.model
    for seed in options.seeds:
        for name, model in relatives(htc).items():
            runs = results["runs"].setdefault(name, {})
            if str(seed) not in runs:
                runs[str(seed)] = run(dataclasses.replace(config, model=model), seed)
                machine.write(options.name, results)
                jax.clear_caches()


if __name__ == "__main__":
    main()
