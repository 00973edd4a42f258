"""Panoptic FPN on synthetic shapes over textured grounds: things and stuff, on a laptop.

    segjax train --config shapes_panoptic --workdir runs/shapes_panoptic

Discs, boxes, triangles and stars on grounds of grass, sand, water and sky, told apart by texture
alone. Model: Panoptic FPN (1901.02446) in Detectron2's conventions, with the widths of
`shapes_mask_rcnn.py`: all things are semantic class 0, instances go over stuff by score. Wanted:
PQ of 60 within six minutes on two CPU cores.
"""

import dataclasses

from segjax.config import OptimConfig, TrainConfig
from segjax.data.config import DataConfig
from segjax.data.shapes import ShapesConfig
from segjax.losses.semantic import SemanticLoss
from segjax.models import PanopticFPN, PanopticMerge, mask_rcnn
from segjax.models.parts.masks import RoIMaskBranch
from segjax.nn.backbones.resnet import resnet
from segjax.nn.heads.mask import MaskHead
from segjax.nn.heads.semantic import SemanticFPNHead
from segjax.nn.necks.fpn import FPN
from segjax.nn.norm import NormSpec
from segjax.optim import AdamW, Cosine, Warmup

STEPS = 600


def small_panoptic_fpn() -> PanopticFPN:
    """Panoptic FPN for small images and few objects; the data decide the classes."""
    model = mask_rcnn(
        resnet(18, features=16, norm=NormSpec("batch"), frozen_stages=0), neck=FPN(features=64)
    )
    pooler = dataclasses.replace(model.box_pooler, sampling_ratio=2, canonical_size=56.0)
    detector = model.clone(
        rpn=dataclasses.replace(
            model.rpn,
            anchor_sizes=(12.0, 24.0, 48.0, 96.0, 192.0),
            pre_nms_topk=(200, 200),
            post_nms_topk=(100, 60),
            num_samples=64,
        ),
        box_pooler=pooler,
        box_head=model.box_head.clone(fc_features=128),
        sampler=dataclasses.replace(model.sampler, num_samples=48),
        detections=dataclasses.replace(model.detections, max_detections=30, num_candidates=512),
        mask_head=RoIMaskBranch(
            pooler=dataclasses.replace(pooler, output_size=14),
            head=MaskHead(0, features=32, num_convs=2),
        ),
    )
    return PanopticFPN(
        detector=detector,
        semantic_head=SemanticFPNHead(0, features=32, norm=NormSpec("group", groups=8)),
        semantic_loss=SemanticLoss(weight=0.5, full_resolution=True),
        merge=PanopticMerge(score_threshold=0.5, stuff_area=64, things=0),
    )


def get_config() -> TrainConfig:
    """The run."""
    return TrainConfig(
        model=small_panoptic_fpn(),
        data=DataConfig(
            name="shapes",
            shapes=ShapesConfig(stuff_regions=4),
            semantic="panoptic",
            merge_things="first",
            resize="none",
            batch_size=8,
            eval_batch_size=10,
            max_instances=16,
            overflow="drop_smallest",
            filter_empty=False,
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
