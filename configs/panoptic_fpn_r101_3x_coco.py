"""Panoptic FPN, ResNet-101-FPN, 3x schedule on COCO 2017, in Detectron2's conventions.

Paper: 1901.02446.
Wanted on val2017: PQ 43.0 (Detectron2's model zoo, panoptic_fpn_R_101_3x).
Schedule: 270,000 steps of 16 images (about 37 epochs), learning rate 0.02, divided by 10 at
210,000 and 250,000; shortest edge drawn from 640 to 800 pixels, longest at most 1333.
The semantic branch learns 54 classes: all things as one, and COCO's 53 kinds of stuff, from the
panoptic annotation; images without objects count, too.
The published run starts from MSRA's ImageNet weights of the backbone, whose stem and first stage
stay frozen: `resnet101.d2_msra` of the zoo, fetched by the first run. This recipe has not been run
in full here yet.

    segjax train --config panoptic_fpn_r101_3x_coco
"""

from segjax.config import OptimConfig, TrainConfig
from segjax.data.config import DataConfig
from segjax.models import panoptic_fpn, resnet
from segjax.optim import SGD, Steps, Warmup


def get_config() -> TrainConfig:
    """The run."""
    return TrainConfig(
        model=panoptic_fpn(resnet(101), num_classes=80, semantic_classes=54),
        init_from="resnet101.d2_msra",
        data=DataConfig(
            name="2017",
            semantic="panoptic",
            merge_things="first",
            batch_size=16,
            short_side=(640, 672, 704, 736, 768, 800),
            eval_short_side=800,
            long_side=1333,
            interpolation="pil",
            overflow="drop_smallest",
            filter_empty=False,
            num_workers=8,
        ),
        optim=OptimConfig(
            optimizer=SGD(momentum=0.9),
            learning_rate=0.02,
            schedule=Steps(milestones=(210_000, 250_000)),
            warmup=Warmup(steps=1000, start=0.001),
            weight_decay=1e-4,
            norm_decay=0.0,
        ),
        steps=270_000,
        log_every=100,
        eval_every=15_000,
        checkpoint_every=5_000,
    )
