"""Semantic FPN on EfficientNet-Lite0, from ImageNet weights, on your own images and label PNGs.

    segjax train --config lite_semantic_label_pngs --data.root=FOLDER --workdir runs/mine

FOLDER holds `train/`, `val/` and, named as the images, label PNGs in `labels/{train,val}/` whose
numbers are the classes; `labels/classes.txt` names them, one a line. No json is needed.
`segjax check-data FOLDER --semantic=folder` lists defects beforehand. Black and white masks want
`--data.semantic-values 0 255`.

The semantic branch of Panoptic FPN (1901.02446) alone, small enough for a CPU: the backbone and the
pyramid of `lite_coco_format.py`, from the same ImageNet weights, on images of 256 pixels, 4 a step.
Larger images, pyramids and schedules are a matter of flags: `--data.size 512 512`, `--steps=20000`;
so are the forms of the loss: `--model.semantic-loss.focal-gamma=2`,
`--model.semantic-loss.dice-weight=1`.
"""

from segjax.config import OptimConfig, TrainConfig
from segjax.data.config import DataConfig
from segjax.models import SemanticFPN, efficientnet_lite, semantic_fpn
from segjax.nn.heads.semantic import SemanticFPNHead
from segjax.nn.necks.fpn import FPN
from segjax.nn.norm import NormSpec
from segjax.optim import AdamW, Cosine, Warmup


def light_semantic_fpn() -> SemanticFPN:
    """Semantic FPN for images of some 256 pixels; the data decide the classes."""
    model = semantic_fpn(
        efficientnet_lite(0, norm=NormSpec("batch", epsilon=1e-3), frozen_stages=0),
        neck=FPN(features=64),
    )
    head = SemanticFPNHead(0, features=64, norm=NormSpec("group", groups=16))
    return model.clone(semantic_head=head)


def get_config() -> TrainConfig:
    """The run."""
    return TrainConfig(
        model=light_semantic_fpn(),
        init_from="efficientnet_lite0.tf_in1k",
        data=DataConfig(
            semantic="folder",
            instances=False,
            masks=False,
            resize="fit",
            size=(256, 256),
            batch_size=4,
            eval_batch_size=4,
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
