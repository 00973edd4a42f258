"""Architectures: each a linen module, its losses, and a factory per published flavour."""

from segjax.models.cascade import Stage as Stage
from segjax.models.cascade_flavours import CASCADE_FLAVOURS as CASCADE_FLAVOURS
from segjax.models.cascade_flavours import CascadeFlavour as CascadeFlavour
from segjax.models.cascade_rcnn import CascadeMaskRCNN as CascadeMaskRCNN
from segjax.models.cascade_rcnn import CascadeRCNN as CascadeRCNN
from segjax.models.cascade_rcnn import cascade_mask_rcnn_resnet_fpn as cascade_mask_rcnn_resnet_fpn
from segjax.models.cascade_rcnn import cascade_rcnn_resnet_fpn as cascade_rcnn_resnet_fpn
from segjax.models.faster_rcnn import FasterRCNN as FasterRCNN
from segjax.models.faster_rcnn import faster_rcnn_resnet_fpn as faster_rcnn_resnet_fpn
from segjax.models.htc import HybridTaskCascade as HybridTaskCascade
from segjax.models.htc import htc_resnet_fpn as htc_resnet_fpn
from segjax.models.mask_rcnn import MaskRCNN as MaskRCNN
from segjax.models.mask_rcnn import (
    mask_rcnn_efficientnet_lite_fpn as mask_rcnn_efficientnet_lite_fpn,
)
from segjax.models.mask_rcnn import mask_rcnn_resnet_fpn as mask_rcnn_resnet_fpn
from segjax.models.panoptic_fpn import PanopticFPN as PanopticFPN
from segjax.models.panoptic_fpn import PanopticMerge as PanopticMerge
from segjax.models.panoptic_fpn import panoptic_fpn_resnet as panoptic_fpn_resnet
from segjax.models.semantic_fpn import SemanticFPN as SemanticFPN
from segjax.models.semantic_fpn import semantic_fpn_resnet as semantic_fpn_resnet
