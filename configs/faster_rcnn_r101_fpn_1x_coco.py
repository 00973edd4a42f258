"""Faster R-CNN, ResNet-101-FPN, 1x schedule on COCO 2017, in Detectron2's conventions.

Paper: 1506.01497, with FPN 1612.03144.
Wanted on val2017: box AP 39.8 (mmdet, R-101-FPN caffe 1x, 1 scale; Detectron2 publishes none).
Hardware of the published run: 8 V100, 2 images each; 0.286 s a step, 7 hours.
Schedule: 90,000 steps of 16 images (about 12 epochs), learning rate 0.02, divided by 10 at
60,000 and 80,000; shortest edge drawn from 640 to 800 pixels, longest at most 1333.
The published run starts from MSRA's ImageNet weights of the backbone, whose stem and first stage
stay frozen: `resnet101.d2_msra` of the zoo, fetched by the first run. This recipe has not been run
in full here yet.

    segjax train --config faster_rcnn_r101_fpn_1x_coco
"""

from segjax.config import OptimConfig, TrainConfig
from segjax.data.config import DataConfig
from segjax.models import faster_rcnn, resnet
from segjax.optim import SGD, Steps, Warmup


def get_config() -> TrainConfig:
    """The run."""
    return TrainConfig(
        model=faster_rcnn(resnet(101), num_classes=80, flavour="detectron2"),
        init_from="resnet101.d2_msra",
        data=DataConfig(
            name="2017",
            batch_size=16,
            short_side=(640, 672, 704, 736, 768, 800),
            eval_short_side=800,
            long_side=1333,
            interpolation="pil",
            overflow="drop_smallest",
            num_workers=8,
            masks=False,
        ),
        optim=OptimConfig(
            optimizer=SGD(momentum=0.9),
            learning_rate=0.02,
            schedule=Steps(milestones=(60_000, 80_000)),
            warmup=Warmup(steps=1000, start=0.001),
            weight_decay=1e-4,
            norm_decay=0.0,
        ),
        steps=90_000,
        log_every=100,
        eval_every=15_000,
        checkpoint_every=5_000,
    )
