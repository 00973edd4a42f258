"""Tables for converting between the parameter names and layouts of other libraries and ours."""

from segjax.zoo.convert import caffe2, detectron2, efficientnet, mmdet, swin, torchvision
from segjax.zoo.convert.rules import Rule as Rule
from segjax.zoo.convert.rules import convert as convert
from segjax.zoo.convert.rules import export as export
from segjax.zoo.convert.rules import path_of as path_of
from segjax.zoo.convert.unread import unread as unread
from segjax.zoo.convert.unread import with_unread as with_unread

RULES: dict[str, list[Rule]] = {
    "torchvision": torchvision.RULES,
    "torchvision_backbone": torchvision.BACKBONE_RULES,  # timm uses the same names.
    "detectron2": detectron2.RULES,
    "detectron2_cascade": detectron2.CASCADE_RULES,
    "detectron2_panoptic": detectron2.PANOPTIC_RULES,
    "detectron2_backbone": detectron2.BACKBONE_RULES,
    "caffe2_backbone": caffe2.BACKBONE_RULES,
    "caffe2_folded_backbone": caffe2.FOLDED_BACKBONE_RULES,
    "mmdet": mmdet.RULES,
    "mmdet_panoptic": mmdet.PANOPTIC_RULES,
    "efficientnet_lite": efficientnet.BACKBONE_RULES,
    "torchvision_swin": swin.BACKBONE_RULES,
}
