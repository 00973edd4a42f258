"""Conventions of the three libraries for two-stage detectors, one value per library.

A `Flavour` only supplies constructor arguments to a factory. Models do not store it.
"""

import dataclasses
from typing import Any, TypeVar

from segjax.losses.boxes import SmoothL1
from segjax.models.parts.masks import MaskTargets, RoIMaskBranch
from segjax.models.parts.rois import DetectionFilter, RoIPooler, RoISampler
from segjax.models.parts.rpn import RPN
from segjax.nn.dtype import with_dtype
from segjax.nn.heads.box import BoxHead
from segjax.nn.heads.mask import MaskHead
from segjax.nn.heads.rpn import RPNHead
from segjax.nn.necks.fpn import FPN
from segjax.nn.norm import NormSpec
from segjax.ops.boxes import DeltaCoder
from segjax.ops.matching import Matcher
from segjax.ops.preprocess import Preprocess
from segjax.protocols import Backbone, BoxLoss, Neck
from segjax.types import Dtype

B = TypeVar("B")


@dataclasses.dataclass(frozen=True)
class Flavour:
    """Conventions of one library; `MaskRCNN` documents the other fields.

    Attributes:
      preprocess: input normalisation for backbones without a `preprocess` of their own.
      backbone_norm: normalisation layers for backbones whose `norm` is None.
      stride_in_1x1: `ResNet.stride_in_1x1` for backbones where it is None.
      frozen_stages: number of frozen parts for backbones where it is None.
      head_norm: normalisation of the FPN, the convolutional box head and the mask head.
      mask_pooler: RoIAlign of the mask branch.
      mask_targets: targets of the mask branch.
      paste_padded: pasting rule for masks; see `RoIMaskBranch.padded`.
      rpn_convs: number of 3x3 convolutions in the RPN head.
      box_convs: number of 3x3 convolutions in the box head. If there are any, one fully
        connected layer follows, otherwise two.
      sampler_without_masks: sampler of Faster R-CNN; None if it is the same.
    """

    preprocess: Preprocess
    backbone_norm: NormSpec
    rpn: RPN
    box_pooler: RoIPooler
    mask_pooler: RoIPooler
    sampler: RoISampler
    detections: DetectionFilter = DetectionFilter()
    mask_targets: MaskTargets = MaskTargets()
    box_coder: DeltaCoder = DeltaCoder(weights=(10.0, 10.0, 5.0, 5.0))
    head_norm: NormSpec | None = None
    stride_in_1x1: bool = False
    frozen_stages: int = 2
    rpn_convs: int = 1
    box_convs: int = 0
    box_loss: BoxLoss = SmoothL1()
    paste_padded: bool = False
    sampler_without_masks: RoISampler | None = None

    def preprocess_of(self, backbone: Backbone) -> Preprocess:
        """Returns the input normalisation of the backbone, or the library's if it has none."""
        return backbone.preprocess or self.preprocess

    def backbone(self, backbone: Backbone, dtype: Dtype) -> Backbone:
        """Returns the backbone with its None fields set to the library's conventions."""
        conventions = {
            "norm": self.backbone_norm,
            "stride_in_1x1": self.stride_in_1x1,
            "frozen_stages": self.frozen_stages,
        }
        return with_dtype(fill_open(backbone, conventions), dtype)

    def neck(self, neck: Neck | None, dtype: Dtype) -> Neck:
        """Returns the given neck, or the library's FPN."""
        return FPN(norm=self.head_norm, dtype=dtype) if neck is None else with_dtype(neck, dtype)

    def rpn_head(self, dtype: Dtype) -> RPNHead:
        """Creates the RPN head."""
        return RPNHead(num_convs=self.rpn_convs, dtype=dtype)

    def box_head(self, num_classes: int, dtype: Dtype) -> BoxHead:
        """Creates the box head: two fully connected layers, or convolutions and one such layer."""
        return BoxHead(
            num_classes,
            num_convs=self.box_convs,
            num_fcs=1 if self.box_convs else 2,
            norm=self.head_norm,
            dtype=dtype,
        )

    def mask_branch(self, num_classes: int, dtype: Dtype) -> RoIMaskBranch:
        """Creates the mask branch of Mask R-CNN."""
        return RoIMaskBranch(
            pooler=self.mask_pooler,
            head=MaskHead(num_classes, norm=self.head_norm, dtype=dtype),
            targets=self.mask_targets,
            padded=self.paste_padded,
        )


def fill_open(backbone: B, conventions: dict[str, Any]) -> B:
    """Returns a copy of a backbone with its None fields filled in.

    Args:
      backbone: linen module.
      conventions: values by field name; names that are not fields of the backbone are ignored.
    """
    module: Any = backbone
    names = {field.name for field in dataclasses.fields(module)} & conventions.keys()
    still_open = {name: conventions[name] for name in names if vars(module)[name] is None}
    return module.clone(**still_open) if still_open else backbone


TORCHVISION = Flavour(
    preprocess=Preprocess(
        mean=(0.485 * 255, 0.456 * 255, 0.406 * 255), std=(0.229 * 255, 0.224 * 255, 0.225 * 255)
    ),
    # The released v1 weights were trained with frozen norms of epsilon 0.
    backbone_norm=NormSpec("frozen", epsilon=0.0),
    rpn=RPN(
        round_anchors=True,
        stride_from_shape=True,
        post_nms_topk=(2000, 1000),
        min_size=1e-3,
        min_size_inclusive=True,
        box_loss=SmoothL1(1 / 9),
    ),
    box_pooler=RoIPooler(7, sampling_ratio=2, aligned=False, levels="torchvision"),
    mask_pooler=RoIPooler(14, sampling_ratio=2, aligned=False, levels="torchvision"),
    sampler=RoISampler(),
    detections=DetectionFilter(min_size=1e-2),
    mask_targets=MaskTargets(aligned=False, threshold=None),
    box_loss=SmoothL1(1 / 9),
    paste_padded=True,
)

TORCHVISION_V2 = dataclasses.replace(
    TORCHVISION,
    backbone_norm=NormSpec("batch"),
    head_norm=NormSpec("batch"),
    frozen_stages=0,
    rpn_convs=2,
    box_convs=4,
)

# MSRA's weights expect BGR, and their first convolution has absorbed the standard deviation.
DETECTRON2 = Flavour(
    preprocess=Preprocess(mean=(103.53, 116.28, 123.675), std=(1.0, 1.0, 1.0), bgr=True),
    backbone_norm=NormSpec("frozen"),
    rpn=RPN(loss_count="fixed"),
    box_pooler=RoIPooler(7),
    mask_pooler=RoIPooler(14),
    sampler=RoISampler(),
    stride_in_1x1=True,
)

MMDET = Flavour(
    preprocess=Preprocess(),
    backbone_norm=NormSpec("batch_eval"),
    rpn=RPN(
        coder=DeltaCoder(symmetric_clamp=True),
        matcher=Matcher(0.7, 0.3, "overwrite", min_low_quality_iou=0.3),
        ranked_by="probabilities",
    ),
    box_pooler=RoIPooler(7, levels="mmdet"),
    mask_pooler=RoIPooler(14, levels="mmdet"),
    sampler=RoISampler(
        matcher=Matcher(0.5, 0.5, "overwrite", min_low_quality_iou=0.5),
        append_gt="after_matching",
    ),
    box_coder=DeltaCoder(weights=(10.0, 10.0, 5.0, 5.0), symmetric_clamp=True),
    sampler_without_masks=RoISampler(append_gt="after_matching"),
)

# Detectron2's ResNeXt comes from Caffe2 and has its strides in the 3x3 convolutions.
DETECTRON2_X101_32X8D = dataclasses.replace(
    DETECTRON2,
    preprocess=dataclasses.replace(DETECTRON2.preprocess, std=(57.375, 57.12, 58.395)),
    stride_in_1x1=False,
)

# mmdet's "caffe" backbones are Detectron2's, with completely frozen norms.
MMDET_CAFFE = dataclasses.replace(
    MMDET,
    preprocess=DETECTRON2.preprocess,
    backbone_norm=NormSpec("frozen"),
    stride_in_1x1=True,
)

FLAVOURS = {
    "torchvision": TORCHVISION,
    "torchvision_v2": TORCHVISION_V2,
    "detectron2": DETECTRON2,
    "mmdet": MMDET,
}


def find_flavour(name: Flavour | str) -> Flavour:
    """Returns the flavour with the given name, or the given flavour itself.

    Raises:
      ValueError: if the name is not in `FLAVOURS`.
    """
    if isinstance(name, Flavour):
        return name
    if name not in FLAVOURS:
        raise ValueError(f"flavour is {name!r}; it must be a Flavour or one of {sorted(FLAVOURS)}")
    return FLAVOURS[name]
