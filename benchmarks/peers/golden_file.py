"""Writes the golden file of a torch model of any library.

`tests/support/golden_recipe.py` draws weights, image and ground truth; `tests/test_goldens.py`
reads the files written here. Norm layers stay in eval mode, and samplers keep every anchor and
region.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.support import golden_recipe as recipe

HEIGHT, WIDTH = 256, 320
CLASSES, OBJECTS = 80, 5
SGD = {"lr": 2e-4, "momentum": 0.9, "weight_decay": 1e-4}


def arguments(description: str | None) -> argparse.Namespace:
    """Parses the command line shared by the scripts of all peers."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("config", help="its path in the peer's folder of configs")
    parser.add_argument("name", help="of the file, without .npz")
    parser.add_argument("--out", type=Path, default=Path("tests/goldens"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--steps",
        type=int,
        default=5,
        help="of training, 0 for inference alone; fewer where the peer, run with --no-onednn,\n"
        "is off by more than the test allows (a box whose IoU is 0.499995)",
    )
    parser.add_argument(
        "--no-onednn", action="store_true", help="the same in torch's own kernels, to compare"
    )
    parser.add_argument(
        "--scale",
        action="append",
        default=[],
        metavar="PART=FACTOR",
        help="multiplies the weights whose name contains PART",
    )
    args = parser.parse_args()
    torch.backends.mkldnn.enabled = not args.no_onednn
    return args


def level(feature: torch.Tensor) -> torch.Tensor:
    """Subsamples a pyramid level [1, C, H, W] to every 8th channel and about 16 columns."""
    step = max(1, feature.shape[3] // 16)
    return feature[0, ::8, ::step, ::step]


class GoldenFile:
    """Collects a peer's numbers by key and writes them to a file."""

    def __init__(self, model: torch.nn.Module, args: argparse.Namespace, **meta: Any) -> None:
        self.model, self.args, self.seed = model, args, args.seed
        self.keys: dict[str, Any] = {}
        factors = {part: float(factor) for part, factor in (text.split("=") for text in args.scale)}
        manifest = {name: list(value.shape) for name, value in model.state_dict().items()}
        self.meta = meta | {
            "config": args.config,
            "seed": args.seed,
            "height": HEIGHT,
            "width": WIDTH,
            "num_classes": CLASSES,
            "sampling": "all",
            "sgd": SGD,
            "manifest": manifest,
        }
        if factors:
            self.meta["scaled"] = factors
        weights = recipe.state_dict(manifest, args.seed, factors)
        model.load_state_dict({name: torch.from_numpy(x) for name, x in weights.items()})
        model.eval()

    # ---- inputs -------------------------------------------------------------------------

    def image_bgr(self) -> torch.Tensor:
        """The input image, uint8 [3, H, W]."""
        image = recipe.image(HEIGHT, WIDTH, self.seed)[:, :, ::-1].transpose(2, 0, 1)
        return torch.from_numpy(np.ascontiguousarray(image))

    def rois(self) -> torch.Tensor:
        """The boxes that the heads run on, [48, 4]."""
        rois = recipe.regions(HEIGHT, WIDTH, 48, self.seed)
        self.keys["rois"] = rois
        return torch.from_numpy(rois)

    def ground_truth(self) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        """Boxes [5, 4], labels [5] starting at 0, and bool masks [5, H, W]."""
        boxes, labels, masks = recipe.instances(HEIGHT, WIDTH, OBJECTS, CLASSES, self.seed)
        self.keys["gt/boxes"], self.keys["gt/labels"] = boxes, labels
        return torch.from_numpy(boxes), torch.from_numpy(labels), masks

    def semantic(self, classes: int) -> torch.Tensor:
        """Semantic labels, int64 [H, W]; 255 marks ignored pixels."""
        return torch.from_numpy(recipe.semantic(HEIGHT, WIDTH, classes, self.seed).astype(np.int64))

    # ---- the peer's numbers -------------------------------------------------------------

    def add(self, key: str, value: Any) -> None:
        """Adds an array under a key, unchanged."""
        self.keys[key] = value.numpy() if isinstance(value, torch.Tensor) else value

    def add_features(self, levels: Iterable[tuple[Any, torch.Tensor]]) -> None:
        """Adds the pyramid, [1, C, h, w] per level under the peer's level names."""
        for name, feature in levels:
            self.add(f"feature/{name}", level(feature))
            self.add(f"feature_rms/{name}", np.float32(feature.double().pow(2).mean().sqrt()))

    def add_rpn(self, logits: list[torch.Tensor], deltas: list[torch.Tensor]) -> None:
        """Adds the RPN's maps [1, A, h, w] and [1, 4A, h, w]; prints where probabilities tie."""
        for i, (scores, boxes) in enumerate(zip(logits, deltas, strict=True)):
            step = max(1, scores.shape[3] // 20)
            self.add(f"rpn_logits/{i}", scores[0, :, ::step, ::step])
            self.add(f"rpn_deltas/{i}", boxes[0, :, ::step, ::step])
            ones = int((scores.sigmoid() == 1).sum())
            print(f"level {i}: largest logit {scores.max():.1f}, probability 1 at {ones} anchors")

    def add_box_head(self, stage: int, logits: torch.Tensor, deltas: torch.Tensor) -> None:
        """Adds one stage's class logits [48, K] and box deltas [48, n]."""
        self.add(f"roi_class_logits/{stage}", logits)
        self.add(f"roi_box_deltas/{stage}", deltas if deltas.shape[1] == 4 else deltas[:, ::7])

    def add_detections(
        self,
        boxes: torch.Tensor,
        scores: torch.Tensor,
        labels: torch.Tensor,
        masks: torch.Tensor | None,
    ) -> None:
        """Adds final detections, with the first ten bool masks [n, H, W]."""
        self.add("detection/boxes", boxes)
        self.add("detection/scores", scores)
        self.add("detection/labels", labels)
        if masks is not None:
            count = min(10, len(masks))
            self.add("detection/masks_packed", np.packbits(masks[:count].numpy().astype(bool)))
            self.add("detection/num_masks", np.int64(count))

    def train(self, losses: Callable[[], dict[str, torch.Tensor]]) -> None:
        """Runs SGD steps on the one image; `losses` recomputes the loss terms on every call."""
        parameters = {
            name: value for name, value in self.model.named_parameters() if value.requires_grad
        }
        optimizer = torch.optim.SGD(parameters.values(), **SGD)
        names, trajectory = [], []
        for step in range(self.args.steps):
            optimizer.zero_grad()
            terms = dict(sorted(losses().items()))
            total = torch.stack([term.mean() for term in terms.values()]).sum()
            total.backward()
            print(f"step {step}: loss {float(total.detach()):.4f}")
            names = list(terms)
            trajectory.append([float(term.detach()) for term in terms.values()])
            if step == 0:
                self.add("grad_names", np.array(list(parameters)))
                self.add("grad_norms", np.array([_norm(p) for p in parameters.values()]))
            optimizer.step()
        if names:
            self.add("loss_names", np.array(names))
            self.add("loss_trajectory", np.array(trajectory))

    def write(self) -> None:
        """Writes OUT/NAME.npz."""
        self.args.out.mkdir(parents=True, exist_ok=True)
        arrays = {name: np.array(value) for name, value in self.keys.items()}
        np.savez_compressed(
            self.args.out / f"{self.args.name}.npz", meta=json.dumps(self.meta), **arrays
        )


def _norm(parameter: torch.Tensor) -> float:
    return 0.0 if parameter.grad is None else float(parameter.grad.double().norm())
