"""Conventions of Detectron2's and MMDetection's cascades, one value per library.

Like a `Flavour`, a `CascadeFlavour` only supplies constructor arguments to a factory.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from segjax.losses.boxes import SmoothL1
from segjax.models.flavours.libraries import DETECTRON2, MMDET, MMDET_CAFFE, Flavour
from segjax.models.parts.box_cascade import Stage
from segjax.models.parts.masks import RoIMaskBranch
from segjax.models.parts.rois import DetectionFilter, RoISampler
from segjax.nn.heads.box import BoxHead
from segjax.ops.boxes import DeltaCoder
from segjax.ops.matching import Matcher
from segjax.types import Dtype


@dataclasses.dataclass(frozen=True)
class CascadeFlavour:
    """Conventions of one library's cascade; `BoxCascade` documents the other fields.

    Attributes:
      library: conventions that the cascade shares with the library's Mask R-CNN.
      num_mask_heads: number of mask heads; the first stages have one each.
    """

    library: Flavour
    stages: tuple[Stage, ...]
    averaged: Literal["logits", "probabilities"]
    passes_gt: bool
    passes_empty: bool
    feature_gradient: float
    num_mask_heads: int

    def box_heads(self, num_classes: int, dtype: Dtype) -> tuple[BoxHead, ...]:
        """Creates a class-agnostic box head for each stage."""
        head = self.library.box_head(num_classes, dtype)
        return tuple(head.clone(class_agnostic=True) for _ in self.stages)

    def mask_branches(self, num_classes: int, dtype: Dtype) -> tuple[RoIMaskBranch, ...]:
        """Creates the mask branches of Cascade Mask R-CNN."""
        # Do not clone one branch: the clones would share its head, and with it the parameters.
        number = range(self.num_mask_heads)
        return tuple(self.library.mask_branch(num_classes, dtype) for _ in number)


def _iou(threshold: float) -> Matcher:
    return Matcher(threshold, threshold, "none")


def _kept(matcher: Matcher) -> RoISampler:
    """Returns a sampler that labels and keeps all regions of the previous stage."""
    return RoISampler(matcher, num_samples=None, positive_fraction=1.0, append_gt="never")


DETECTRON2_CASCADE = CascadeFlavour(
    # Its cascade configs raise POST_NMS_TOPK_TRAIN from 1000 to 2000.
    library=dataclasses.replace(
        DETECTRON2, rpn=dataclasses.replace(DETECTRON2.rpn, post_nms_topk=(2000, 1000))
    ),
    stages=(
        Stage(RoISampler(_iou(0.5)), DeltaCoder((10.0, 10.0, 5.0, 5.0))),
        Stage(_kept(_iou(0.6)), DeltaCoder((20.0, 20.0, 10.0, 10.0))),
        Stage(_kept(_iou(0.7)), DeltaCoder((30.0, 30.0, 15.0, 15.0))),
    ),
    averaged="probabilities",
    passes_gt=True,
    passes_empty=False,
    feature_gradient=1 / 3,
    num_mask_heads=1,
)


def _mmdet_stage(
    iou: float, xy: float, wh: float, weight: float, low_quality: Literal["none", "overwrite"]
) -> Stage:
    # Boxes below the threshold stay negative even with low-quality matching. It can only move a
    # positive box to another object.
    matcher = Matcher(iou, iou, low_quality, iou if low_quality == "overwrite" else 0.0)
    coder = DeltaCoder((1 / xy, 1 / xy, 1 / wh, 1 / wh), symmetric_clamp=True)
    return Stage(RoISampler(matcher, append_gt="after_matching"), coder, weight)


def _mmdet_stages(low_quality: Literal["none", "overwrite"]) -> tuple[Stage, ...]:
    # mmdet's configs contain standard deviations, and round one third of 0.1 and 0.2.
    return (
        _mmdet_stage(0.5, 0.1, 0.2, 1.0, low_quality),
        _mmdet_stage(0.6, 0.05, 0.1, 0.5, low_quality),
        _mmdet_stage(0.7, 0.033, 0.067, 0.25, low_quality),
    )


_MMDET_LIBRARY = dataclasses.replace(
    MMDET,
    rpn=dataclasses.replace(
        MMDET.rpn, post_nms_topk=(2000, 1000), allowed_border=0.0, box_loss=SmoothL1(1 / 9)
    ),
    box_loss=SmoothL1(1.0),
)

MMDET_CASCADE = CascadeFlavour(
    library=_MMDET_LIBRARY,
    stages=_mmdet_stages("none"),
    averaged="logits",
    passes_gt=False,
    passes_empty=True,
    feature_gradient=1.0,
    num_mask_heads=3,
)

MMDET_CASCADE_CAFFE = dataclasses.replace(
    MMDET_CASCADE,
    library=dataclasses.replace(
        _MMDET_LIBRARY,
        preprocess=MMDET_CAFFE.preprocess,
        backbone_norm=MMDET_CAFFE.backbone_norm,
        stride_in_1x1=MMDET_CAFFE.stride_in_1x1,
    ),
)

# mmdet's HTC configs omit the flag that disables low-quality matches.
MMDET_HTC = dataclasses.replace(
    MMDET_CASCADE,
    library=dataclasses.replace(
        _MMDET_LIBRARY,
        # At such a low threshold most (region, class) pairs pass, so NMS needs more candidates.
        detections=DetectionFilter(score_threshold=0.001, num_candidates=16_384),
    ),
    stages=_mmdet_stages("overwrite"),
)

CASCADE_FLAVOURS = {"detectron2": DETECTRON2_CASCADE, "mmdet": MMDET_CASCADE}
HTC_FLAVOURS = {"mmdet": MMDET_HTC}


def find_cascade_flavour(
    name: CascadeFlavour | str, flavours: Mapping[str, CascadeFlavour] = CASCADE_FLAVOURS
) -> CascadeFlavour:
    """Returns the flavour with the given name, or the given flavour itself.

    Raises:
      ValueError: if the name is not in `flavours`.
    """
    if isinstance(name, CascadeFlavour):
        return name
    if name not in flavours:
        raise ValueError(
            f"flavour is {name!r}; it must be a CascadeFlavour or one of {sorted(flavours)}"
        )
    return flavours[name]
