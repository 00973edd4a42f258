"""Architectures: each a linen module, its losses, and a factory per published flavour."""

from segjax.models.faster_rcnn import FasterRCNN as FasterRCNN
from segjax.models.faster_rcnn import faster_rcnn_resnet_fpn as faster_rcnn_resnet_fpn
from segjax.models.mask_rcnn import MaskRCNN as MaskRCNN
from segjax.models.mask_rcnn import mask_rcnn_resnet_fpn as mask_rcnn_resnet_fpn
