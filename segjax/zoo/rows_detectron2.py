"""Detectors of Detectron2's model zoo.

Files come from `detectron2/model_zoo/model_zoo.py`, scores from MODEL_ZOO.md, which also states
that a file's name contains the first digits of its MD5. Detectron2 has no 1x schedule for
ResNet-101 and ResNeXt-101, and Cascade R-CNN only with ResNet-50.
"""

import functools
import re
from collections.abc import Callable

from segjax.data.config import DataConfig
from segjax.models import cascade_mask_rcnn, faster_rcnn, mask_rcnn, panoptic_fpn, resnet
from segjax.models.flavours.libraries import DETECTRON2_X101_32X8D
from segjax.protocols import Model
from segjax.results.classes import Classes
from segjax.zoo.coco_classes import COCO_IDS, COCO_NAMES, PANOPTIC_CATEGORIES, THINGS_FIRST_NAMES
from segjax.zoo.entry import Entry, Weights

URL = "https://dl.fbaipublicfiles.com/detectron2/"
SOURCE = "https://github.com/facebookresearch/detectron2/blob/main/MODEL_ZOO.md"
LICENCE = "CC BY-SA 3.0"

# Name, file relative to URL, box AP, mask AP, PQ.
_TABLE = """
faster_rcnn_resnet50_fpn.d2_1x COCO-Detection/faster_rcnn_R_50_FPN_1x/137257794/model_final_b275ba.pkl 37.9
faster_rcnn_resnet50_fpn.d2_3x COCO-Detection/faster_rcnn_R_50_FPN_3x/137849458/model_final_280758.pkl 40.2
faster_rcnn_resnet101_fpn.d2_3x COCO-Detection/faster_rcnn_R_101_FPN_3x/137851257/model_final_f6e8b1.pkl 42.0
faster_rcnn_resnext101_32x8d_fpn.d2_3x COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x/139173657/model_final_68b088.pkl 43.0
mask_rcnn_resnet50_fpn.d2_1x COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x/137260431/model_final_a54504.pkl 38.6 35.2
mask_rcnn_resnet50_fpn.d2_3x COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl 41.0 37.2
mask_rcnn_resnet101_fpn.d2_3x COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x/138205316/model_final_a3ec72.pkl 42.9 38.6
mask_rcnn_resnext101_32x8d_fpn.d2_3x COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x/139653917/model_final_2d9806.pkl 44.3 39.5
cascade_mask_rcnn_resnet50_fpn.d2_1x Misc/cascade_mask_rcnn_R_50_FPN_1x/138602847/model_final_e9d89b.pkl 42.1 36.4
cascade_mask_rcnn_resnet50_fpn.d2_3x Misc/cascade_mask_rcnn_R_50_FPN_3x/144998488/model_final_480dd8.pkl 44.3 38.5
panoptic_fpn_resnet50.d2_1x COCO-PanopticSegmentation/panoptic_fpn_R_50_1x/139514544/model_final_dbfeb4.pkl 37.6 34.7 39.4
panoptic_fpn_resnet50.d2_3x COCO-PanopticSegmentation/panoptic_fpn_R_50_3x/139514569/model_final_c10459.pkl 40.0 36.5 41.5
panoptic_fpn_resnet101.d2_3x COCO-PanopticSegmentation/panoptic_fpn_R_101_3x/139514519/model_final_cafdb1.pkl 42.4 38.5 43.0
"""  # noqa: E501

_R50, _R101 = {"backbone": resnet(50)}, {"backbone": resnet(101)}
_X101 = {
    "backbone": resnet(101, groups=32, group_width=8),
    "flavour": DETECTRON2_X101_32X8D,
}
_THINGS = len(COCO_NAMES)
_faster_rcnn = functools.partial(faster_rcnn, num_classes=_THINGS, flavour="detectron2")
_mask_rcnn = functools.partial(mask_rcnn, num_classes=_THINGS, flavour="detectron2")
_panoptic_fpn = functools.partial(
    panoptic_fpn,
    num_classes=_THINGS,
    semantic_classes=len(THINGS_FIRST_NAMES),
    flavour="detectron2",
)

# Architecture -> factory, key of the converter's table.
_MODELS: dict[str, tuple[Callable[[], Model], str]] = {
    "faster_rcnn_resnet50_fpn": (functools.partial(_faster_rcnn, **_R50), "detectron2"),
    "faster_rcnn_resnet101_fpn": (functools.partial(_faster_rcnn, **_R101), "detectron2"),
    "faster_rcnn_resnext101_32x8d_fpn": (functools.partial(_faster_rcnn, **_X101), "detectron2"),
    "mask_rcnn_resnet50_fpn": (functools.partial(_mask_rcnn, **_R50), "detectron2"),
    "mask_rcnn_resnet101_fpn": (functools.partial(_mask_rcnn, **_R101), "detectron2"),
    "mask_rcnn_resnext101_32x8d_fpn": (functools.partial(_mask_rcnn, **_X101), "detectron2"),
    "cascade_mask_rcnn_resnet50_fpn": (
        functools.partial(cascade_mask_rcnn, num_classes=_THINGS, flavour="detectron2", **_R50),
        "detectron2_cascade",
    ),
    "panoptic_fpn_resnet50": (functools.partial(_panoptic_fpn, **_R50), "detectron2_panoptic"),
    "panoptic_fpn_resnet101": (functools.partial(_panoptic_fpn, **_R101), "detectron2_panoptic"),
}


def _row(name: str, file: str, *figures: str) -> Entry:
    make, peer = _MODELS[name.split(".", maxsplit=1)[0]]
    panoptic = peer == "detectron2_panoptic"
    (md5,) = re.findall(r"model_final_([0-9a-f]{6})\.pkl$", file)
    metrics = ("box/AP", "segm/AP", "panoptic/PQ")
    return Entry(
        name=name,
        make=make,
        peer=peer,
        weights=Weights(URL + file, md5=md5),
        kind="detector",
        # Models without masks or pixel classes have only the first scores.
        published={m: float(figure) for m, figure in zip(metrics, figures, strict=False)},
        source=SOURCE,
        licence=LICENCE,
        data=DataConfig(interpolation="pil"),  # Detectron2 resizes with PIL.
        classes=Classes(
            COCO_NAMES,
            COCO_IDS,
            semantic_names=THINGS_FIRST_NAMES if panoptic else (),
            panoptic_categories=PANOPTIC_CATEGORIES if panoptic else (),
        ),
    )


ROWS = tuple(_row(*line.split()) for line in _TABLE.strip().splitlines())
