"""Makes a golden file of a Detectron2 model.

    python -m benchmarks.peers.detectron2_goldens \
        COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x.yaml d2_mask_rcnn_r101_fpn

Needs Detectron2 and its folder of configs (DETECTRON2_CONFIGS, or the installed one). The file
records DETECTRON2_SOURCE as its source, or Detectron2's version if that is unset. The files of R101
and X101 come from the copy of Detectron2 in the package PixelLib 0.7.1, with PanopticFPN, which
that copy lacks, taken from Detectron2's repository; its R50 models reproduce Detectron2's own
numbers.
"""

import json
import os
from pathlib import Path
from typing import Any

import detectron2
import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from benchmarks.peers.golden_file import HEIGHT, WIDTH, GoldenFile, arguments

# Exceeds the number of anchors and regions; both enter normalisers.
SIZES = {"rpn_batch_size_per_image": 20460, "roi_batch_size_per_image": 10000}
STUFF_CLASSES = 54


def build(config: str) -> torch.nn.Module:
    """Builds the config's model with samplers that keep everything."""
    cfg = get_cfg()
    folder = os.environ.get("DETECTRON2_CONFIGS")
    if folder is None:
        from detectron2 import model_zoo

        folder = Path(model_zoo.__file__).parent / "configs"
    cfg.merge_from_file(str(Path(folder) / config))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = SIZES["rpn_batch_size_per_image"]
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = SIZES["roi_batch_size_per_image"]
    # Random weights produce low scores and small areas.
    cfg.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH = 0.15
    cfg.MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT = 256
    return build_model(cfg)


def add_heads(golden: GoldenFile, features: dict[str, torch.Tensor]) -> None:
    """Adds box and mask head outputs of every stage on the fixed regions."""
    heads = golden.model.roi_heads
    rois = golden.rois()
    first = [Boxes(rois[:8])]
    levels = [features[name] for name in heads.box_in_features]
    golden.add("roi_feature", heads.box_pooler(levels, first)[:, ::16])
    if hasattr(heads, "num_cascade_stages"):
        regions = [Instances((HEIGHT, WIDTH), proposal_boxes=Boxes(rois))]
        for stage in range(heads.num_cascade_stages):
            golden.add_box_head(stage, *heads._run_stage(levels, regions, stage))
    else:
        pooled = heads.box_pooler(levels, [Boxes(rois)])
        golden.add_box_head(0, *heads.box_predictor(heads.box_head(pooled)))
    if heads.mask_on:
        levels = [features[name] for name in heads.mask_in_features]
        masks = heads.mask_head.layers(heads.mask_pooler(levels, first))
        golden.add("roi_mask_logits", masks[:, ::9])


def add_panoptic(golden: GoldenFile, features: dict[str, torch.Tensor], found: Any) -> None:
    """Adds the semantic branch's logits and the merged map."""
    logits, _ = golden.model.sem_seg_head(features, None)
    golden.add("semantic_logits", logits[0, ::6, ::8, ::8])
    segments, info = found["panoptic_seg"]
    golden.add("panoptic/segments", segments.int())
    golden.add("panoptic/info", json.dumps(info))
    golden.add("semantic_argmax", found["sem_seg"].argmax(0).to(torch.uint8))


@torch.no_grad()
def add_inference(golden: GoldenFile, inputs: list[dict[str, Any]]) -> None:
    """Adds every output that needs no ground truth."""
    model = golden.model
    images = model.preprocess_image(inputs)
    features = model.backbone(images.tensor)
    golden.add_features(features.items())
    rpn = model.proposal_generator
    golden.add_rpn(*rpn.rpn_head([features[name] for name in rpn.in_features]))
    proposals, _ = rpn(images, features, None)
    golden.add("proposals", proposals[0].proposal_boxes.tensor)
    add_heads(golden, features)
    found = model(inputs)[0]
    instances = found["instances"]
    masks = instances.pred_masks if instances.has("pred_masks") else None
    golden.add_detections(
        instances.pred_boxes.tensor, instances.scores, instances.pred_classes, masks
    )
    if "panoptic_seg" in found:
        add_panoptic(golden, features, found)


def with_ground_truth(golden: GoldenFile, image: torch.Tensor) -> list[dict[str, Any]]:
    """Returns the input of a training step."""
    boxes, labels, masks = golden.ground_truth()
    instances = Instances((HEIGHT, WIDTH), gt_boxes=Boxes(boxes), gt_classes=labels.long())
    if golden.model.roi_heads.mask_on:
        instances.gt_masks = BitMasks(torch.from_numpy(np.array(masks)))
    return [
        {
            "image": image,
            "height": HEIGHT,
            "width": WIDTH,
            "instances": instances,
            "sem_seg": golden.semantic(STUFF_CLASSES),
        }
    ]


def main() -> None:
    """Writes the golden file of the config named on the command line."""
    args = arguments(__doc__)
    model = build(args.config)
    source = os.environ.get("DETECTRON2_SOURCE") or f"detectron2 {detectron2.__version__}"
    golden = GoldenFile(model, args, source=source, **SIZES)
    image = golden.image_bgr()
    add_inference(golden, [{"image": image, "height": HEIGHT, "width": WIDTH}])
    model.train()  # needed to compute losses; its norms are frozen
    with EventStorage():
        golden.train(lambda: model(with_ground_truth(golden, image)))
    golden.write()


if __name__ == "__main__":
    main()
