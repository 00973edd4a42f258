"""Trains the light Mask R-CNN from random and from ImageNet weights for equal numbers of steps.

    python -m benchmarks.pretrained --root FOLDER --data-name dsb_small

Both sides are `configs/lite_coco_format.py` with the same flags, except for `--init-from`: the same
model, data, order of images, optimizer and number of steps. For a given seed the pyramid and the
heads start from the same random weights. Training is shorter than in the config because there are
several runs. The runs follow each other in one session, and pycocotools scores each after its last
step. The learning rate is the config's for both sides; it was tuned for neither.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.runs import trained

SIDES = {"ImageNet": "efficientnet_lite0.tf_in1k", "random": "None"}


def main() -> None:
    """Trains both sides once per seed and writes the results after every run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--root", required=True, help="folder in COCO format")
    parser.add_argument("--data-name", required=True, help="what the results call it")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--workdir", help="of all runs; default: a new folder")
    options = parser.parse_args()
    workdir = Path(options.workdir or tempfile.mkdtemp(prefix="pretrained-"))
    seeds = " ".join(map(str, options.seeds))
    results: dict[str, Any] = {
        "command": "python -m benchmarks.pretrained --root FOLDER "
        f"--data-name {options.data_name} --steps {options.steps} --seeds {seeds}",
        "data": options.data_name,
        "images": {split: _images(options.root, split) for split in ("train", "val")},
        "steps": options.steps,
        "machine": machine.describe(),
        "runs": {side: {} for side in SIDES},
    }
    for seed in options.seeds:
        for side, weights in SIDES.items():
            folder = workdir / f"{options.data_name}_{side}_{seed}"
            if folder.exists():  # otherwise it would be resumed and finish at once
                raise FileExistsError(f"{folder} holds another run: give another --workdir")
            flags = [
                "--config=configs/lite_coco_format.py",
                f"--data.root={options.root}",
                f"--init-from={weights}",
                f"--steps={options.steps}",
                f"--seed={seed}",
                "--checkpoint-every=0",
                "--num-pictures=0",
            ]
            results["runs"][side][str(seed)] = trained(folder, flags)
            machine.write("pretrained", results)


def _images(root: str, split: str) -> int:
    """Returns the number of images in the annotation file."""
    text = (Path(root) / "annotations" / f"instances_{split}.json").read_text()
    return len(json.loads(text)["images"])


if __name__ == "__main__":
    main()
