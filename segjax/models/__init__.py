"""Architectures: linen modules with their losses, and factories that take a backbone."""

from segjax.models.cascade_rcnn import CascadeMaskRCNN as CascadeMaskRCNN
from segjax.models.cascade_rcnn import CascadeRCNN as CascadeRCNN
from segjax.models.cascade_rcnn import cascade_mask_rcnn as cascade_mask_rcnn
from segjax.models.cascade_rcnn import cascade_rcnn as cascade_rcnn
from segjax.models.faster_rcnn import FasterRCNN as FasterRCNN
from segjax.models.faster_rcnn import faster_rcnn as faster_rcnn
from segjax.models.flavours.cascades import CASCADE_FLAVOURS as CASCADE_FLAVOURS
from segjax.models.flavours.cascades import CascadeFlavour as CascadeFlavour
from segjax.models.htc import HybridTaskCascade as HybridTaskCascade
from segjax.models.htc import htc as htc
from segjax.models.mask_rcnn import MaskRCNN as MaskRCNN
from segjax.models.mask_rcnn import mask_rcnn as mask_rcnn
from segjax.models.panoptic_fpn import PanopticFPN as PanopticFPN
from segjax.models.panoptic_fpn import PanopticMerge as PanopticMerge
from segjax.models.panoptic_fpn import panoptic_fpn as panoptic_fpn
from segjax.models.parts.box_cascade import Stage as Stage
from segjax.models.semantic_fpn import SemanticFPN as SemanticFPN
from segjax.models.semantic_fpn import semantic_fpn as semantic_fpn
from segjax.nn.backbones.efficientnet import efficientnet_lite as efficientnet_lite
from segjax.nn.backbones.resnet import resnet as resnet
from segjax.nn.backbones.swin import swin as swin
