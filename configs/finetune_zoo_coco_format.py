"""Mask R-CNN R50-FPN fine-tuned on your own images, from Detectron2's COCO weights.

    segjax train --config finetune_zoo_coco_format --data.root=FOLDER --workdir runs/mine

FOLDER holds `train/`, `val/` and `annotations/instances_{train,val}.json`; the classes, their
names and ids are read from the json. The weights (`mask_rcnn_resnet50_fpn.d2_3x` of the zoo, box
AP 41.0, mask AP 37.2 on COCO; CC BY-SA 3.0) are fetched once; offline, the error says which file
to put where. All layers start from them but those that depend on the classes, which the log names;
the stem and the first stage stay frozen and all norms constant, as in Detectron2.

Any detector of `segjax models` can be started from with its own model: `model` below and
`init_from` must belong together, or the run stops and says what differs.

Paper: 1703.06870. Hardware: one GPU of 12 GB (8 images a step of 800 x 1333 pixels; fewer with
`--data.batch-size`, and the learning rate in proportion). No published figure: it depends on the
data. Schedule: 3,000 steps, learning rate 0.01 with 200 steps of warm-up, divided by 10 at 2,000
and 2,700.
"""

from segjax.config import OptimConfig, TrainConfig
from segjax.data.config import DataConfig
from segjax.models import mask_rcnn, resnet
from segjax.optim import SGD, Steps, Warmup


def get_config() -> TrainConfig:
    """The run."""
    return TrainConfig(
        model=mask_rcnn(resnet(50), flavour="detectron2"),
        init_from="mask_rcnn_resnet50_fpn.d2_3x",
        data=DataConfig(
            batch_size=8,
            short_side=(640, 672, 704, 736, 768, 800),
            eval_short_side=800,
            long_side=1333,
            interpolation="pil",
            overflow="drop_smallest",
        ),
        optim=OptimConfig(
            optimizer=SGD(momentum=0.9),
            learning_rate=0.01,
            schedule=Steps(milestones=(2_000, 2_700)),
            warmup=Warmup(steps=200, start=0.001),
            weight_decay=1e-4,
            norm_decay=0.0,
        ),
        steps=3_000,
        eval_every=1_000,
        checkpoint_every=500,
    )
