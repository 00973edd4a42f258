"""Mask R-CNN on your own images, in COCO format.

    segjax train --config finetune_coco_format --data.root=FOLDER --workdir runs/mine

FOLDER holds `train/`, `val/` and `annotations/instances_{train,val}.json`; the classes, their
names and ids are read from the json. `segjax check-data FOLDER` lists defects beforehand.

The model is Mask R-CNN (1703.06870) with a ResNet-18 and an FPN of half the usual widths, on
images of 256 pixels: small enough for a CPU. Larger ones are a matter of flags: `--data.size 512
512`, `--model.fpn.features=256`, `--steps=20000`. `--init-from=RUN` starts from the weights of
another run of the same widths; its heads may have had other classes.
"""

import dataclasses

from segjax.config import OptimConfig, TrainConfig
from segjax.data.config import DataConfig
from segjax.models import MaskRCNN, mask_rcnn
from segjax.models.parts.masks import RoIMaskBranch
from segjax.nn.backbones.resnet import resnet
from segjax.nn.heads.mask import MaskHead
from segjax.nn.necks.fpn import FPN
from segjax.nn.norm import NormSpec
from segjax.optim import AdamW, Cosine, Warmup


def medium_mask_rcnn() -> MaskRCNN:
    """Mask R-CNN for images of some 256 pixels; the data decide the classes."""
    model = mask_rcnn(
        resnet(18, features=32, norm=NormSpec("batch"), frozen_stages=0), neck=FPN(features=96)
    )
    pooler = dataclasses.replace(model.box_pooler, sampling_ratio=2, canonical_size=112.0)
    return model.clone(
        rpn=dataclasses.replace(
            model.rpn,
            anchor_sizes=(12.0, 24.0, 48.0, 96.0, 192.0),
            pre_nms_topk=(500, 500),
            post_nms_topk=(300, 200),
            num_samples=128,
        ),
        box_pooler=pooler,
        box_head=model.box_head.clone(fc_features=256),
        sampler=dataclasses.replace(model.sampler, num_samples=128),
        detections=dataclasses.replace(model.detections, num_candidates=1024),
        mask_head=RoIMaskBranch(
            pooler=dataclasses.replace(pooler, output_size=14),
            head=MaskHead(0, features=64, num_convs=2),
        ),
    )


def get_config() -> TrainConfig:
    """The run."""
    return TrainConfig(
        model=medium_mask_rcnn(),
        data=DataConfig(
            resize="fit",
            size=(256, 256),
            batch_size=4,
            eval_batch_size=4,
            overflow="drop_smallest",
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
