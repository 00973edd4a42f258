"""Mask R-CNN Swin-T FPN on COCO 2017, after MMDetection's 1x schedule.

Wanted on val2017: box AP 42.7, mask AP 39.3 (MMDetection, mask-rcnn_swin-t-p4-w7_fpn_1x_coco).
Schedule: 87,960 steps of 16 images (12 epochs of 7,330 steps, the images without objects left
out), AdamW, learning rate 1e-4, divided by 10 after epochs 8 and 11; shortest edge 800 pixels,
longest at most 1333. Norms and relative position biases have no weight decay.
The published run starts from the Swin authors' ImageNet weights; this one from torchvision's own
training of the same model, `swin_t.tv_in1k_v1` of the zoo, fetched by the first run. Nothing is
frozen. This recipe has not been run in full here yet.

    segjax train --config mask_rcnn_swin_t_fpn_1x_coco
"""

from segjax.config import OptimConfig, TrainConfig
from segjax.data.config import DataConfig
from segjax.models import mask_rcnn, swin
from segjax.optim import AdamW, ParamRule, Steps, Warmup


def get_config() -> TrainConfig:
    """The run."""
    return TrainConfig(
        model=mask_rcnn(swin("tiny"), num_classes=80, flavour="mmdet"),
        init_from="swin_t.tv_in1k_v1",
        data=DataConfig(
            name="2017",
            batch_size=16,
            short_side=(800,),
            long_side=1333,
            interpolation="cv2",
            overflow="drop_smallest",
            num_workers=8,
        ),
        optim=OptimConfig(
            optimizer=AdamW(b1=0.9, b2=0.999),
            learning_rate=1e-4,
            weight_decay=0.05,
            rules=(ParamRule("norm|relative_position_bias", decay=0.0),),
            warmup=Warmup(steps=1000, start=0.001, form="mmdet"),
            schedule=Steps(milestones=(58_640, 80_630)),
        ),
        steps=87_960,
        log_every=100,
        eval_every=14_660,
        checkpoint_every=7_330,
    )
