"""Hybrid Task Cascade, ResNeXt-101-64x4d-FPN, 20-epoch schedule on COCO, in mmdet's conventions.

Paper: 1901.07518.
Wanted on val2017: box AP 47.0, mask AP 41.4 (mmdet's configs/htc/metafile.yml,
htc_x101_64x4d_fpn_16x1_20e_coco).
Hardware of the published run: 16 V100, 1 image and 14.5 GB each; mmdet gives no training time.
Schedule: 146,600 steps of 16 images (20 epochs of 7,330 steps, the images without objects left
out), learning rate 0.02, divided by 10 after epochs 16 and 19; shortest edge 800 pixels, longest
at most 1333.
Semantic labels: COCO-stuff's stuffthingmaps, 183 classes. With other labels, as in
--data.semantic=panoptic or instances, let the data decide the classes
(--model.semantic-head.num-classes=0); the published AP is not theirs.
The published run starts from open-mmlab's ImageNet weights of the backbone (resnext101_64x4d),
whose stem and first stage stay frozen and whose norms keep ImageNet's statistics:
`resnext101_64x4d.mm_in1k` of the zoo, fetched by the first run. This recipe has not been run in
full here yet.

    segjax train --config htc_x101_64x4d_fpn_20e_coco
"""

from segjax.config import OptimConfig, TrainConfig
from segjax.data.config import DataConfig
from segjax.models import htc, resnet
from segjax.optim import SGD, Steps, Warmup


def get_config() -> TrainConfig:
    """The run."""
    return TrainConfig(
        model=htc(resnet(101, groups=64, group_width=4), num_classes=80, semantic_classes=183),
        init_from="resnext101_64x4d.mm_in1k",
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
            schedule=Steps(milestones=(117_280, 139_270)),
            warmup=Warmup(steps=500, start=0.001, form="mmdet"),
            weight_decay=1e-4,
        ),
        steps=146_600,
        log_every=100,
        eval_every=29_320,
        checkpoint_every=7_330,
    )
