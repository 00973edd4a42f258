"""Cascade Mask R-CNN, ResNet-101-FPN, 20-epoch schedule on COCO 2017, in mmdet's conventions.

Papers: 1712.00726, 1906.09756.
Wanted on val2017: box AP 43.4, mask AP 37.8 (mmdet's configs/cascade_rcnn/metafile.yml,
cascade_mask_rcnn_r101_fpn_20e_coco).
Hardware of the published run: 8 V100, 2 images and 7.9 GB each; mmdet gives no training time.
Schedule: 146,600 steps of 16 images (20 epochs of 7,330 steps, the images without objects left
out), learning rate 0.02, divided by 10 after epochs 16 and 19; shortest edge 800 pixels, longest
at most 1333.
The cascade is mmdet's: a mask head for each stage, whose regions are matched and drawn again.
The published run starts from torchvision's ImageNet weights of the backbone, whose stem and first
stage stay frozen and whose norms keep ImageNet's statistics: `resnet101.tv_in1k_v1` of the zoo,
fetched by the first run. This recipe has not been run in full here yet.

    segjax train --config cascade_mask_rcnn_r101_fpn_20e_coco
"""

from segjax.config import OptimConfig, TrainConfig
from segjax.data.config import DataConfig
from segjax.models import cascade_mask_rcnn, resnet
from segjax.optim import SGD, Steps, Warmup


def get_config() -> TrainConfig:
    """The run."""
    return TrainConfig(
        model=cascade_mask_rcnn(resnet(101), num_classes=80, flavour="mmdet"),
        init_from="resnet101.tv_in1k_v1",
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
            optimizer=SGD(momentum=0.9),
            learning_rate=0.02,
            schedule=Steps(milestones=(117_280, 139_270)),
            warmup=Warmup(steps=500, start=0.001, form="mmdet"),
            weight_decay=1e-4,
        ),
        steps=146_600,
        log_every=100,
        eval_every=29_320,
        checkpoint_every=7_330,
    )
