"""Hybrid Task Cascade, ResNet-50-FPN, 1x schedule on COCO 2017, in mmdet's conventions.

Paper: 1901.07518.
Wanted on val2017: box AP 42.3, mask AP 37.4 (mmdet's configs/htc/metafile.yml,
htc_r50_fpn_1x_coco).
Hardware of the published run: 8 V100, 2 images and 8.2 GB each; mmdet gives no training time.
Schedule: 87,960 steps of 16 images (12 epochs of 7,330 steps, the images without objects left
out), learning rate 0.02, divided by 10 after epochs 8 and 11; shortest edge 800 pixels, longest at
most 1333.
Semantic labels: COCO-stuff's stuffthingmaps, 183 classes. With other labels, as in
--data.semantic=panoptic or instances, let the data decide the classes
(--model.semantic-head.num-classes=0); the published AP is not theirs.
The published run starts from torchvision's ImageNet weights of the backbone, whose stem and first
stage stay frozen and whose norms keep ImageNet's statistics: `resnet50.tv_in1k_v1` of the zoo,
fetched by the first run. This recipe has not been run in full here yet.

    segjax train --config htc_r50_fpn_1x_coco
"""

from segjax.config import OptimConfig, TrainConfig
from segjax.data.config import DataConfig
from segjax.models import htc, resnet
from segjax.optim import SGD, Steps, Warmup


def get_config() -> TrainConfig:
    """The run."""
    return TrainConfig(
        model=htc(resnet(50), num_classes=80, semantic_classes=183),
        init_from="resnet50.tv_in1k_v1",
        data=DataConfig(
            name="2017",
            semantic="stuffthingmaps",
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
            schedule=Steps(milestones=(58_640, 80_630)),
            warmup=Warmup(steps=500, start=0.001, form="mmdet"),
            weight_decay=1e-4,
        ),
        steps=87_960,
        log_every=100,
        eval_every=29_320,
        checkpoint_every=7_330,
    )
