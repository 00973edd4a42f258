"""Detectors of torchvision 0.29.

URLs, sizes and AP come from its `FasterRCNN_ResNet50_FPN_Weights` etc.; `COCO_V1` there is
`ARCHITECTURE.tv_coco_v1` here.
"""

import dataclasses
import functools
from collections.abc import Callable

from segjax.data.config import DataConfig
from segjax.models import faster_rcnn, mask_rcnn, resnet
from segjax.models.flavours.libraries import TORCHVISION_V2, Flavour
from segjax.results.classes import Classes
from segjax.zoo.coco_classes import TORCHVISION_IDS, TORCHVISION_NAMES
from segjax.zoo.entry import Entry, Weights

URL = "https://download.pytorch.org/models/"
SOURCE = "https://github.com/pytorch/vision/blob/main/torchvision/models/"
LICENCE = "BSD-3-Clause"

# torchvision's factories freeze the stem and the first stage of pretrained models, and nothing of
# others (`_validate_trainable_layers`). Ours also freeze the batch norms in those stages;
# torchvision's keep updating their statistics.
_V2 = dataclasses.replace(TORCHVISION_V2, frozen_stages=2)


def _row(
    architecture: str,
    factory: Callable,
    flavour: str | Flavour,
    file: str,
    mib: float,
    published: dict[str, float],
) -> Entry:
    module = architecture.split("_resnet", maxsplit=1)[0]
    return Entry(
        name=f"{architecture}.tv_coco_v1",
        make=functools.partial(
            factory, resnet(50), num_classes=len(TORCHVISION_NAMES), flavour=flavour
        ),
        peer="torchvision",
        weights=Weights.sha256_in_name(URL + file, mib),
        kind="detector",
        published=published,
        source=f"{SOURCE}detection/{module}.py",
        licence=LICENCE,
        data=DataConfig(size_rounding="floor"),  # torchvision rounds resized sides down.
        classes=Classes(TORCHVISION_NAMES, TORCHVISION_IDS),
    )


ROWS = (
    _row(
        "faster_rcnn_resnet50_fpn",
        faster_rcnn,
        "torchvision",
        "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
        159.743,
        {"box/AP": 37.0},
    ),
    _row(
        "faster_rcnn_resnet50_fpn_v2",
        faster_rcnn,
        _V2,
        "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth",
        167.104,
        {"box/AP": 46.7},
    ),
    _row(
        "mask_rcnn_resnet50_fpn",
        mask_rcnn,
        "torchvision",
        "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
        169.84,
        {"box/AP": 37.9, "segm/AP": 34.6},
    ),
    _row(
        "mask_rcnn_resnet50_fpn_v2",
        mask_rcnn,
        _V2,
        "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth",
        177.219,
        {"box/AP": 47.4, "segm/AP": 41.8},
    ),
)
