"""Panoptic Feature Pyramid Networks (1901.02446): a detector and a semantic branch."""

import dataclasses
import math

import flax.linen as nn
import jax
from jaxtyping import Array, Bool, Float, Int32, Key, UInt8

from segjax.models.cascade_rcnn import CascadeMaskRCNN
from segjax.models.htc import HybridTaskCascade
from segjax.models.mask_rcnn import MaskRCNN, mask_rcnn_resnet_fpn
from segjax.models.rpn import RPN
from segjax.models.semantic import SemanticLoss
from segjax.nn.heads.semantic import FCNHead, SemanticFPNHead
from segjax.ops.masks import paste_masks
from segjax.ops.panoptic import PanopticSegments, merge_panoptic, semantic_labels
from segjax.types import Batch, Detections, Dtype, LossTerm


@dataclasses.dataclass(frozen=True)
class PanopticMerge:
    """How instances and stuff become one map; see `segjax.ops.panoptic.merge_panoptic`.

    Attributes:
      score_threshold: an instance must score at least this.
      overlap: an instance is left out if more of it is taken already.
      stuff_area: pixels that a semantic class must have left.
      things: the semantic class of all instances: 0 (Detectron2), -1 (mmdet's last); None
        where all semantic classes are stuff.

    Raises:
      ValueError: for a threshold, overlap or area that is no finite number, or an overlap or area
        below 0.
    """

    score_threshold: float = 0.5
    overlap: float = 0.5
    stuff_area: int = 4096
    things: int | None = 0

    def __post_init__(self) -> None:
        for name, least in (("score_threshold", -math.inf), ("overlap", 0), ("stuff_area", 0)):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= least):
                bound = "" if least else ", 0 or more"
                raise ValueError(f"{name} is {value}: wanted a finite number{bound}")


class PanopticFPN(nn.Module):
    """Any detector with masks of ours, and a semantic branch on the same pyramid.

    Attributes:
      detector: Mask R-CNN, a cascade with masks, or HTC.
      semantic_head: gives the class of every pixel.
      semantic_loss: how it is trained.
      merge: how instances and stuff become one map.
    """

    detector: MaskRCNN | CascadeMaskRCNN | HybridTaskCascade
    semantic_head: SemanticFPNHead | FCNHead
    semantic_loss: SemanticLoss = SemanticLoss(weight=0.5)
    merge: PanopticMerge = PanopticMerge()

    size_divisor = 32

    def __post_init__(self) -> None:
        if not getattr(self.detector, "has_masks", False):
            raise ValueError(
                f"the detector is a {type(self.detector).__name__}, which gives no masks: wanted a"
                " MaskRCNN, a CascadeMaskRCNN or a HybridTaskCascade"
            )
        super().__post_init__()

    @property
    def has_masks(self) -> bool:
        """Whether objects have masks; those of the detector do."""
        return self.detector.has_masks

    @property
    def num_classes(self) -> int:
        """Of things, without background; 0 until `with_num_classes` was called."""
        return self.detector.num_classes

    @property
    def semantic_classes(self) -> int:
        """Classes of pixels; 0 until the data decide."""
        return self.semantic_head.num_classes

    @property
    def paste_padded(self) -> bool:
        """How masks are pasted into images."""
        return self.detector.paste_padded

    @property
    def rpn(self) -> RPN:
        """The detector's."""
        return self.detector.rpn

    def with_num_classes(self, num_classes: int) -> "PanopticFPN":
        """The same model for another number of things."""
        return self.clone(detector=self.detector.with_num_classes(num_classes))

    def with_semantic_classes(self, num_classes: int) -> "PanopticFPN":
        """The same model for another number of classes of pixels."""
        detector = self.detector
        if detector.semantic_classes is not None:  # HTC's own branch learns the same labels
            detector = detector.with_semantic_classes(num_classes)
        head = self.semantic_head.clone(num_classes=num_classes)
        return self.clone(detector=detector, semantic_head=head)

    def frozen_paths(self) -> tuple[str, ...]:
        """Prefixes, with "/", of parameters that are not trained."""
        return tuple(f"detector/{path}" for path in self.detector.frozen_paths())

    def predict(
        self, images: UInt8[Array, "B H W 3"], image_sizes: Int32[Array, "B 2"]
    ) -> Detections:
        """Final detections [B, D] with masks, and logits of every cell's class."""
        features = self.detector.features(images, image_sizes)
        found = self.detector.detect(features, image_sizes)
        return dataclasses.replace(found, semantic_logits=self.semantic_head(features))

    __call__ = predict

    def panoptic(
        self, images: UInt8[Array, "B H W 3"], image_sizes: Int32[Array, "B 2"]
    ) -> PanopticSegments:
        """Panoptic maps of a batch at the padded input's size; the padding is no segment."""
        padded_size = (images.shape[1], images.shape[2])

        def one(row: tuple[Detections, Array]) -> PanopticSegments:
            found, size = row
            assert found.semantic_logits is not None
            labels = semantic_labels(
                found.semantic_logits, size, size, padded_size=padded_size, canvas=padded_size
            )
            return panoptic_map(found, labels, self.merge, self.paste_padded)

        # One image after the other, so that memory does not grow with the batch.
        return jax.lax.map(one, (self.predict(images, image_sizes), image_sizes))

    def losses(
        self, batch: Batch, keys: Key[Array, " B"]
    ) -> tuple[dict[str, LossTerm], dict[str, Float[Array, ""]]]:
        """Loss terms of a batch, with one random key for each image, and counts."""
        features = self.detector.features(batch.images, batch.image_sizes, train=True)
        terms, counts = self.detector.detection_losses(features, batch, keys)
        logits = self.semantic_head(features, train=True)
        own = self.semantic_loss(logits, batch.gt_semantic, batch.image_sizes)
        # HTC's own semantic branch has a loss of the same name.
        terms = {f"{name}_htc" if name in own else name: term for name, term in terms.items()}
        return terms | own, counts


def panoptic_map(
    found: Detections, semantic: Int32[Array, "H W"], merge: PanopticMerge, paste_padded: bool
) -> PanopticSegments:
    """The panoptic map of one image, at the size of its semantic map.

    Args:
      found: what the model gives for the image, boxes in pixels of the map.
      semantic: of `semantic_labels`; where it is -1, the panoptic map is 0.
      merge: how.
      paste_padded: paste masks as torchvision does.
    """
    assert found.mask_probs is not None and found.semantic_logits is not None
    height, width = semantic.shape

    def mask_of(row: tuple[Array, Array]) -> Bool[Array, "H W"]:
        probs, box = row
        soft = paste_masks(probs[None], box[None], height, width, padded=paste_padded)[0]
        return (soft > 0.5 if paste_padded else soft >= 0.5) & (semantic >= 0)

    return merge_panoptic(
        (found.mask_probs, found.boxes),
        found.scores,
        found.classes,
        found.valid,
        semantic,
        num_semantic=found.semantic_logits.shape[-1],
        mask_of=mask_of,
        things=merge.things,
        score_threshold=merge.score_threshold,
        overlap=merge.overlap,
        stuff_area=merge.stuff_area,
    )


def panoptic_fpn_resnet(
    num_classes: int = 0,
    semantic_classes: int = 0,
    *,
    depth: int = 50,
    groups: int = 1,
    group_width: int = 64,
    style: str = "detectron2",
    dtype: Dtype = "float32",
) -> PanopticFPN:
    """Panoptic FPN: Mask R-CNN on a ResNet or ResNeXt with FPN, and a semantic branch.

    Args:
      num_classes: of things, without background; 0 lets the data decide.
      semantic_classes: of pixels, 54 for COCO (all things are one); 0 lets the data decide.
      depth: of the ResNet.
      groups: cardinality of a ResNeXt.
      group_width: width per group of a ResNeXt.
      style: "detectron2" (things are semantic class 0, loss at full resolution over labelled
        pixels), "mmdet" (things are the last, loss at stride 4 over all cells, boxes
        suppressed whatever their class).
      dtype: of the computation; parameters stay float32.

    Raises:
      ValueError: for another style.
    """
    if style not in ("detectron2", "mmdet"):
        raise ValueError(f'style is {style!r}; a Panoptic FPN is "detectron2" or "mmdet"')
    detector = mask_rcnn_resnet_fpn(
        num_classes, depth=depth, groups=groups, group_width=group_width, style=style, dtype=dtype
    )
    head = SemanticFPNHead(semantic_classes, dtype=dtype)
    if style == "detectron2":
        loss = SemanticLoss(weight=0.5, full_resolution=True)
        return PanopticFPN(detector=detector, semantic_head=head, semantic_loss=loss)
    # configs/panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py: `nms` is class-agnostic, and
    # `score_thr` 0.6. As suppression runs best first, the map is the same whether boxes below
    # that go before it or, as here, when the map is made; this way they can be evaluated.
    detections = dataclasses.replace(detector.detections, class_agnostic_nms=True)
    return PanopticFPN(
        detector=detector.clone(detections=detections),
        semantic_head=head,
        # models/losses/cross_entropy_loss.py: `avg_non_ignore` is False, so that ignored and
        # padding cells count in the mean.
        semantic_loss=SemanticLoss(weight=0.5, averaged_over="all"),
        merge=PanopticMerge(score_threshold=0.6, things=-1),
    )
