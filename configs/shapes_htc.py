"""Hybrid Task Cascade on synthetic shapes: all of it, small enough for a laptop.

    segjax train --config shapes_htc --workdir runs/shapes_htc

The data of `shapes_mask_rcnn.py`, and a Hybrid Task Cascade (1901.07518) with that model's widths:
three stages at IoU 0.5, 0.6 and 0.7, interleaved, with mask information flow and a semantic branch.
Its labels come from the instance masks alone (`semantic="instances"`). Unlike the COCO recipes, it
has box losses of L1 (a beta of 1 asks for more than a few hundred steps), anchors that may cross
the border, trained batch norm, two samples a cell in RoIAlign, and scores from 0.05 on.
`python -m benchmarks.cascades` compares it with its simpler relatives.
"""

import dataclasses

from segjax.config import OptimConfig, TrainConfig
from segjax.data.config import DataConfig
from segjax.data.shapes import ShapesConfig
from segjax.losses.boxes import SmoothL1
from segjax.models import HybridTaskCascade, htc
from segjax.nn.backbones.resnet import resnet
from segjax.nn.heads.semantic import FusedSemanticHead
from segjax.nn.necks.fpn import FPN
from segjax.nn.norm import NormSpec
from segjax.optim import AdamW, Cosine, Warmup

STEPS = 600


def small_htc() -> HybridTaskCascade:
    """Hybrid Task Cascade for small images and few objects; the data decide the classes."""
    model = htc(
        resnet(18, features=16, norm=NormSpec("batch"), frozen_stages=0), neck=FPN(features=64)
    )
    masks = model.mask_head
    pooler = dataclasses.replace(model.box_pooler, sampling_ratio=2, canonical_size=56.0)
    return model.clone(
        rpn=dataclasses.replace(
            model.rpn,
            anchor_sizes=(12.0, 24.0, 48.0, 96.0, 192.0),
            pre_nms_topk=(200, 200),
            post_nms_topk=(100, 60),
            num_samples=64,
            allowed_border=None,
            box_loss=SmoothL1(),
        ),
        box_pooler=pooler,
        box_heads=tuple(head.clone(fc_features=128) for head in model.box_heads),
        box_loss=SmoothL1(),
        stages=tuple(
            dataclasses.replace(stage, sampler=dataclasses.replace(stage.sampler, num_samples=48))
            for stage in model.stages
        ),
        detections=dataclasses.replace(
            model.detections, score_threshold=0.05, max_detections=30, num_candidates=512
        ),
        mask_head=masks.clone(
            pooler=dataclasses.replace(pooler, output_size=14),
            semantic_pooler=dataclasses.replace(masks.semantic_pooler, sampling_ratio=2),
            mask_heads=tuple(head.clone(features=32, num_convs=2) for head in masks.mask_heads),
            features=64,
        ),
        semantic_head=FusedSemanticHead(0, features=64, num_convs=2),
    )


def get_config() -> TrainConfig:
    """The run."""
    return TrainConfig(
        model=small_htc(),
        data=DataConfig(
            name="shapes",
            shapes=ShapesConfig(),
            semantic="instances",
            resize="none",
            batch_size=8,
            eval_batch_size=10,
            max_instances=16,
            overflow="drop_smallest",
            mask_size=56,
        ),
        optim=OptimConfig(
            optimizer=AdamW(),
            learning_rate=2e-3,
            schedule=Cosine(),
            warmup=Warmup(steps=50),
            weight_decay=1e-3,
            clip_norm=10.0,
        ),
        steps=STEPS,
        log_every=50,
        checkpoint_every=200,
    )
