"""What torchvision, Detectron2 and MMDetection do differently, as one value each.

A flavour is only the source of a factory's constructor arguments: a model holds
none of it. Versions read: torchvision 0.29, Detectron2 of 2026-06, mmdet 3.3.
"""

import dataclasses
from typing import Any

from segjax.models.preprocess import Preprocess
from segjax.models.rois import DetectionFilter, MaskTargets, RoIPooler, RoISampler
from segjax.models.rpn import RPN
from segjax.nn.backbones.resnet import resnet
from segjax.nn.heads.box import BoxHead
from segjax.nn.heads.rpn import RPNHead
from segjax.nn.necks.fpn import FPN
from segjax.nn.norm import NormSpec
from segjax.ops.boxes import DeltaCoder
from segjax.ops.matching import Matcher
from segjax.types import Dtype


@dataclasses.dataclass(frozen=True)
class Flavour:
    """Conventions of one library; the fields are those of `MaskRCNN` unless said here.

    Attributes:
      backbone_norm: normalisation of the backbone.
      head_norm: of the FPN, the convolutional box head and the mask head.
      stride_in_1x1: see `ResNet`.
      frozen_stages: see `ResNet`.
      rpn_convs: 3x3 convolutions of the RPN head.
      box_convs: 3x3 convolutions of the box head (with them, one fully
        connected layer; without, two).
      sampler_without_masks: of Faster R-CNN, where that differs.
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
    box_smooth_l1_beta: float = 0.0
    paste_padded: bool = False
    sampler_without_masks: RoISampler | None = None

    def pyramid_rpn(
        self, depth: int, groups: int, group_width: int, dtype: Dtype
    ) -> dict[str, Any]:
        """The constructor arguments of every `PyramidRPN`."""
        return {
            "preprocess": self.preprocess,
            "backbone": resnet(
                depth,
                groups=groups,
                group_width=group_width,
                stride_in_1x1=self.stride_in_1x1,
                norm=self.backbone_norm,
                frozen_stages=self.frozen_stages,
                dtype=dtype,
            ),
            "fpn": FPN(norm=self.head_norm, dtype=dtype),
            "rpn_head": RPNHead(num_convs=self.rpn_convs, dtype=dtype),
            "rpn": self.rpn,
        }

    def box_head(self, num_classes: int, dtype: Dtype) -> BoxHead:
        """The box head: two fully connected layers, or convolutions and one."""
        return BoxHead(
            num_classes,
            num_convs=self.box_convs,
            num_fcs=1 if self.box_convs else 2,
            norm=self.head_norm,
            dtype=dtype,
        )


# EfficientNet-Lite's, with whichever library's conventions for the rest.
LITE_PREPROCESS = Preprocess(mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))

TORCHVISION = Flavour(
    preprocess=Preprocess(
        mean=(0.485 * 255, 0.456 * 255, 0.406 * 255), std=(0.229 * 255, 0.224 * 255, 0.225 * 255)
    ),
    # The released v1 weights were trained with frozen norm of eps 0.
    backbone_norm=NormSpec("frozen", epsilon=0.0),
    rpn=RPN(
        round_anchors=True,
        stride_from_shape=True,
        post_nms_topk=(2000, 1000),
        min_size=1e-3,
        min_size_inclusive=True,
        smooth_l1_beta=1 / 9,
    ),
    box_pooler=RoIPooler(7, sampling_ratio=2, aligned=False, levels="torchvision"),
    mask_pooler=RoIPooler(14, sampling_ratio=2, aligned=False, levels="torchvision"),
    sampler=RoISampler(),
    detections=DetectionFilter(min_size=1e-2),
    mask_targets=MaskTargets(aligned=False, threshold=None),
    box_smooth_l1_beta=1 / 9,
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

# Its ResNeXt comes from Caffe2 and has the stride in the 3x3.
DETECTRON2_X101_32X8D = dataclasses.replace(
    DETECTRON2,
    preprocess=dataclasses.replace(DETECTRON2.preprocess, std=(57.375, 57.12, 58.395)),
    stride_in_1x1=False,
)

# The backbones that mmdet calls "caffe" are Detectron2's, their norms frozen altogether.
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


def flavour(style: Flavour | str) -> Flavour:
    """The flavour of that name, or the one given.

    Raises:
      ValueError: for a name that is not in `FLAVOURS`.
    """
    if isinstance(style, Flavour):
        return style
    if style not in FLAVOURS:
        raise ValueError(f"style is {style!r}; it must be a Flavour or one of {sorted(FLAVOURS)}")
    return FLAVOURS[style]
