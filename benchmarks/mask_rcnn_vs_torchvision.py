"""Times Mask R-CNN R50-FPN against torchvision: same weights, image and machine, in alternation.

    pip install torch torchvision
    python -m benchmarks.mask_rcnn_vs_torchvision

Inputs are 800 x 1344 pixels in float32, with two threads per side. Inference includes pasting 100
masks into the image. A training step is forward, backward and SGD with momentum on 512 regions, 128
of them foreground, with the stem and first stage frozen. Both sides sample foreground from a
lowered IoU threshold, because random weights yield too few regions otherwise. Compilation is
reported separately.
"""

import argparse
import dataclasses
import functools
import os
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torchvision

from benchmarks import machine
from segjax.config import OptimConfig
from segjax.models import MaskRCNN, mask_rcnn, resnet
from segjax.ops.masks import paste_masks
from segjax.optim import Constant
from segjax.train.optim import learning_rate, make_optimizer
from segjax.train.state import init_state
from segjax.train.step import make_step
from segjax.types import Batch
from segjax.zoo.convert import RULES, convert
from tests.support import golden_recipe as recipe

THREADS = 2
HEIGHT, WIDTH, OBJECTS = 800, 1344, 20
FOREGROUND_IOU = 0.05  # for proposals of random weights; 0.5 would leave a handful


def main() -> None:
    """Times both sides in turns and writes benchmarks/results/mask_rcnn_vs_torchvision.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    # This has to precede XLA's start, which sizes its thread pool by the available cores.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    torch.set_num_threads(THREADS)
    theirs = Theirs()
    ours = Ours(theirs.state)
    results = {
        "height": HEIGHT,
        "width": WIDTH,
        "objects": OBJECTS,
        "machine": machine.describe(("jax", "jaxlib", "flax", "torch", "torchvision")),
        "compile_s": {},
    }
    for name in ("inference", "training"):
        start = time.perf_counter()
        mine = getattr(ours, name)()
        results["compile_s"][name] = time.perf_counter() - start
        other = getattr(theirs, name)()
        results[name] = {"check": compare(name, mine, other)}
        pairs = [(timed(getattr(ours, name)), timed(getattr(theirs, name))) for _ in range(runs)]
        results[name] |= machine.ratio(*(list(times) for times in zip(*pairs, strict=True)))
    machine.write("mask_rcnn_vs_torchvision", results)


def timed(function: Any) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    """Returns figures showing that both sides did the same work."""
    if name == "inference":
        return {
            "detections_ours": len(ours["boxes"]),
            "detections_theirs": len(theirs["boxes"]),
            "largest_box_difference": float(np.abs(ours["boxes"] - theirs["boxes"]).max()),
            "mask_pixels_that_differ": float(
                ((ours["masks"] > 0.5) != (theirs["masks"] > 0.5)).mean()
            ),
        }
    return {
        f"{side}_{k}": v
        for side, got in (("ours", ours), ("theirs", theirs))
        for k, v in got.items()
    }


class Theirs:
    """The torchvision side."""

    def __init__(self) -> None:
        detection = torchvision.models.detection
        model = detection.maskrcnn_resnet50_fpn(
            weights=None,
            weights_backbone=None,
            min_size=HEIGHT,
            max_size=WIDTH,
            box_fg_iou_thresh=FOREGROUND_IOU,
            box_bg_iou_thresh=FOREGROUND_IOU,
        )
        shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
        # Frozen batch norms with eps 0, as for the released weights.
        _freeze_norms(model)
        manifest = {n: s for n, s in shapes.items() if not n.endswith("num_batches_tracked")}
        self.state = recipe.state_dict(manifest, seed=0)
        model.load_state_dict({n: torch.from_numpy(a) for n, a in self.state.items()})
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(
                "body" not in name or any(f"layer{i}" in name for i in (2, 3, 4))
            )
        self.model = model
        picture = recipe.image(HEIGHT, WIDTH, seed=0)
        self.image = torch.from_numpy(picture.transpose(2, 0, 1).astype(np.float32) / 255)
        boxes, classes, masks = recipe.instances(HEIGHT, WIDTH, OBJECTS, 90, seed=0)
        self.target = {
            "boxes": torch.from_numpy(boxes),
            "labels": torch.from_numpy(classes + 1),
            "masks": torch.from_numpy(masks.astype(np.uint8)),
        }
        trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=1e-6, momentum=0.9, weight_decay=1e-4)
        self.positives = 0
        select = model.roi_heads.select_training_samples

        def counting(proposals: Any, targets: Any) -> Any:
            result = select(proposals, targets)
            self.positives = int((result[2][0] > 0).sum())
            return result

        model.roi_heads.select_training_samples = counting

    def inference(self) -> dict[str, Any]:
        """Returns detections with full-size soft masks."""
        self.model.eval()
        with torch.inference_mode():
            out = self.model([self.image])[0]
        return {"boxes": out["boxes"].numpy(), "masks": out["masks"][:, 0].numpy()}

    def training(self) -> dict[str, float]:
        """Runs one step of SGD."""
        self.model.train()
        losses = self.model([self.image], [self.target])
        self.optimizer.zero_grad()
        sum(losses.values()).backward()
        self.optimizer.step()
        return {"positives": self.positives, "loss": float(sum(losses.values()).detach())}


def _freeze_norms(module: torch.nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, torch.nn.BatchNorm2d | torchvision.ops.FrozenBatchNorm2d):
            size = child.num_features if hasattr(child, "num_features") else len(child.weight)
            setattr(module, name, torchvision.ops.FrozenBatchNorm2d(size, eps=0.0))
        else:
            _freeze_norms(child)


class Ours:
    """The segjax side."""

    def __init__(self, state: dict[str, np.ndarray]) -> None:
        model = mask_rcnn(resnet(50), num_classes=90, flavour="torchvision")
        sampler = dataclasses.replace(
            model.sampler,
            matcher=dataclasses.replace(
                model.sampler.matcher, high=FOREGROUND_IOU, low=FOREGROUND_IOU
            ),
        )
        self.model: MaskRCNN = model.clone(sampler=sampler)
        self.images = jnp.asarray(recipe.image(HEIGHT, WIDTH, seed=0)[None])
        self.sizes = jnp.array([[HEIGHT, WIDTH]], jnp.int32)
        shapes = jax.eval_shape(self.model.init, jax.random.key(0), self.images, self.sizes)
        converted = convert(state, RULES["torchvision"], shapes)
        self.variables = jax.tree.map(jnp.asarray, converted)
        self.batch = self._batch()
        self._predict = jax.jit(self._predict_and_paste)
        sgd = OptimConfig(learning_rate=1e-6, weight_decay=1e-4, schedule=Constant())
        frozen = self.model.frozen_paths()
        optimizer = make_optimizer(sgd, 100, frozen)
        step = make_step(self.model, optimizer, learning_rate(sgd, 100), frozen)
        # The training step donates its state, so it gets a copy and inference keeps the original.
        self.state = init_state(jax.tree.map(jnp.copy, self.variables), optimizer)
        self._step = jax.jit(functools.partial(step, axis_name=None), donate_argnums=0)

    def _batch(self) -> Batch:
        boxes, classes, masks = recipe.instances(HEIGHT, WIDTH, OBJECTS, 90, seed=0)
        return Batch(
            images=self.images,
            image_sizes=self.sizes,
            gt_boxes=jnp.asarray(boxes[None]),
            gt_classes=jnp.asarray(classes[None], jnp.int32),
            gt_valid=jnp.ones((1, OBJECTS), bool),
            gt_is_crowd=jnp.zeros((1, OBJECTS), bool),
            gt_masks=jnp.asarray(
                np.stack([_crop(m, b) for m, b in zip(masks, boxes, strict=True)])[None]
            ),
            gt_mask_frames=jnp.asarray(boxes[None]),
        )

    def _predict_and_paste(self, variables: Any, images: Any, sizes: Any) -> Any:
        found = self.model.apply(variables, images, sizes)
        masks = paste_masks(found.masks.probs[0], found.boxes[0], HEIGHT, WIDTH, padded=True)
        return found.boxes[0], found.valid[0], masks

    def inference(self) -> dict[str, Any]:
        """Returns detections with full-size soft masks."""
        boxes, valid, masks = jax.block_until_ready(
            self._predict(self.variables, self.images, self.sizes)
        )
        count = int(valid.sum())
        return {"boxes": np.asarray(boxes)[:count], "masks": np.asarray(masks)[:count]}

    def training(self) -> dict[str, float]:
        """Runs one step of SGD."""
        self.state, metrics = self._step(self.state, self.batch, jax.random.key(0))
        return {"positives": float(metrics["positive_rois"]), "loss": float(metrics["loss"])}


def _crop(mask: np.ndarray, box: np.ndarray, size: int = 112) -> np.ndarray:
    """Crops a mask to its box and resamples it by nearest neighbour."""
    x0, y0, x1, y1 = box
    rows = (y0 + (np.arange(size) + 0.5) * (y1 - y0) / size).astype(int)
    columns = (x0 + (np.arange(size) + 0.5) * (x1 - x0) / size).astype(int)
    return mask[rows][:, columns].astype(np.uint8)


if __name__ == "__main__":
    main()
