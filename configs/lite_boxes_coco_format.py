"""Faster R-CNN on EfficientNet-Lite0, boxes alone, from ImageNet weights, on your own images.

    segjax train --config lite_boxes_coco_format --data.root=FOLDER --workdir runs/mine

FOLDER holds `train/`, `val/` and `annotations/instances_{train,val}.json`, whose objects need boxes
and no masks; `segjax check-data FOLDER --no-masks` lists defects beforehand.

The light Mask R-CNN of `lite_coco_format.py` without its mask head (Faster R-CNN, 1506.01497), from
the same ImageNet weights: for CPUs and first tries. Larger images, pyramids and schedules are a
matter of flags: `--data.size 512 512`, `--model.fpn.features=256`, `--steps=20000`.
"""

import dataclasses

from segjax.config import OptimConfig, TrainConfig
from segjax.data.config import DataConfig
from segjax.models import FasterRCNN, efficientnet_lite, faster_rcnn
from segjax.nn.necks.fpn import FPN
from segjax.nn.norm import NormSpec
from segjax.optim import AdamW, Cosine, Warmup


def light_faster_rcnn() -> FasterRCNN:
    """Faster R-CNN for images of some 256 pixels; the data decide the classes."""
    model = faster_rcnn(
        efficientnet_lite(0, norm=NormSpec("batch", epsilon=1e-3), frozen_stages=0),
        neck=FPN(features=64),
    )
    return model.clone(
        rpn=dataclasses.replace(
            model.rpn,
            anchor_sizes=(12.0, 24.0, 48.0, 96.0, 192.0),
            pre_nms_topk=(500, 500),
            post_nms_topk=(300, 200),
            num_samples=128,
        ),
        box_pooler=dataclasses.replace(model.box_pooler, sampling_ratio=2, canonical_size=112.0),
        box_head=model.box_head.clone(fc_features=256),
        sampler=dataclasses.replace(model.sampler, num_samples=96),
        detections=dataclasses.replace(model.detections, num_candidates=1024),
    )


def get_config() -> TrainConfig:
    """The run."""
    return TrainConfig(
        model=light_faster_rcnn(),
        init_from="efficientnet_lite0.tf_in1k",
        data=DataConfig(
            resize="fit",
            size=(256, 256),
            batch_size=4,
            eval_batch_size=4,
            overflow="drop_smallest",
            masks=False,
        ),
        optim=OptimConfig(
            optimizer=AdamW(),
            learning_rate=1e-3,
            schedule=Cosine(),
            warmup=Warmup(steps=50),
            weight_decay=1e-3,
            clip_norm=10.0,
        ),
        steps=600,
        log_every=50,
        checkpoint_every=200,
    )
