"""Panoptic FPN on EfficientNet-Lite0, on your own images in COCO's panoptic format.

    segjax train --config panoptic_coco_format --data.root=FOLDER --workdir runs/mine

FOLDER holds `train/`, `val/`, `annotations/instances_{train,val}.json`,
`annotations/panoptic_{train,val}.json` and the folders of PNGs of those names; things, stuff, their
names and ids are read from the json. `segjax check-data FOLDER --semantic=panoptic` lists defects
beforehand.

Panoptic FPN (1901.02446) in Detectron2's conventions, small enough for a CPU: the light Mask R-CNN
of `lite_coco_format.py`, from the same ImageNet weights (`efficientnet_lite0.tf_in1k` of the zoo),
and a semantic branch of half the usual width, on images of 256 pixels, 4 a step. Without json of
objects and segments, plain label PNGs train `semantic_fpn` alone. Larger images, pyramids
and schedules are a matter of flags: `--data.size 512 512`, `--model.detector.fpn.features=256`,
`--steps=20000`; so are the forms of the semantic loss: `--model.semantic-loss.focal-gamma=2`,
`--model.semantic-loss.hardest=0.25`, `--model.semantic-loss.dice-weight=1`. `--init-from=None`
starts from random weights.
"""

import dataclasses

from segjax.config import OptimConfig, TrainConfig
from segjax.data.config import DataConfig
from segjax.losses.semantic import SemanticLoss
from segjax.models import PanopticFPN, PanopticMerge, efficientnet_lite, mask_rcnn
from segjax.models.parts.masks import RoIMaskBranch
from segjax.nn.heads.mask import MaskHead
from segjax.nn.heads.semantic import SemanticFPNHead
from segjax.nn.necks.fpn import FPN
from segjax.nn.norm import NormSpec
from segjax.optim import AdamW, Cosine, Warmup


def light_panoptic_fpn() -> PanopticFPN:
    """Panoptic FPN for images of some 256 pixels; the data decide the classes."""
    model = mask_rcnn(
        efficientnet_lite(0, norm=NormSpec("batch", epsilon=1e-3), frozen_stages=0),
        neck=FPN(features=64),
    )
    pooler = dataclasses.replace(model.box_pooler, sampling_ratio=2, canonical_size=112.0)
    detector = model.clone(
        rpn=dataclasses.replace(
            model.rpn,
            anchor_sizes=(12.0, 24.0, 48.0, 96.0, 192.0),
            pre_nms_topk=(500, 500),
            post_nms_topk=(300, 200),
            num_samples=128,
        ),
        box_pooler=pooler,
        box_head=model.box_head.clone(fc_features=256),
        sampler=dataclasses.replace(model.sampler, num_samples=96),
        detections=dataclasses.replace(model.detections, num_candidates=1024),
        mask_head=RoIMaskBranch(
            pooler=dataclasses.replace(pooler, output_size=14),
            head=MaskHead(0, features=64, num_convs=2),
        ),
    )
    return PanopticFPN(
        detector=detector,
        semantic_head=SemanticFPNHead(0, features=64, norm=NormSpec("group", groups=16)),
        semantic_loss=SemanticLoss(weight=0.5, full_resolution=True),
        merge=PanopticMerge(things=0),
    )


def get_config() -> TrainConfig:
    """The run."""
    return TrainConfig(
        model=light_panoptic_fpn(),
        init_from="efficientnet_lite0.tf_in1k",
        data=DataConfig(
            semantic="panoptic",
            merge_things="first",
            resize="fit",
            size=(256, 256),
            batch_size=4,
            eval_batch_size=4,
            overflow="drop_smallest",
            filter_empty=False,
            mask_size=56,
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
