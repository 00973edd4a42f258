"""Panoptic Feature Pyramid Networks (1901.02446): a detector and a semantic branch."""

import dataclasses
import math

import flax.linen as nn
import jax
from jaxtyping import Array, Bool, Int32, Key, UInt8

from segjax.losses.semantic import SemanticLoss
from segjax.models.mask_rcnn import mask_rcnn
from segjax.nn.heads.semantic import SemanticFPNHead
from segjax.ops.panoptic import PanopticSegments, merge_panoptic, semantic_labels
from segjax.ops.preprocess import Preprocess
from segjax.protocols import (
    Backbone,
    ClassCounts,
    Counts,
    Neck,
    Padding,
    PyramidDetector,
    SemanticHead,
    Task,
    Terms,
)
from segjax.types import Batch, Detections, Dtype, Masks


@dataclasses.dataclass(frozen=True)
class PanopticMerge:
    """Settings that merge instances and stuff; see `segjax.ops.panoptic.merge_panoptic`.

    Attributes:
      score_threshold: minimum score of an instance.
      overlap: fraction of an instance that better instances may cover; above it, the instance is
        omitted.
      stuff_area: minimum number of free pixels of a stuff class.
      things: semantic class that represents all instances: 0 (Detectron2) or -1 (mmdet, the last);
        None if all semantic classes are stuff.

    Raises:
      ValueError: if a threshold, overlap or area is not finite, or an overlap or area is below 0.
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
    """Detector with masks and a pyramid, and a semantic branch on the same pyramid.

    Attributes:
      detector: Mask R-CNN, a cascade with masks, HTC, or another `PyramidDetector`.
      semantic_head: head that predicts the class of every pixel.
      semantic_loss: loss of the semantic branch.
      merge: settings for merging instances and stuff into one map.
    """

    detector: PyramidDetector
    semantic_head: SemanticHead
    semantic_loss: SemanticLoss = SemanticLoss(weight=0.5)
    merge: PanopticMerge = PanopticMerge()

    def __post_init__(self) -> None:
        if "masks" not in self.detector.tasks:
            raise ValueError(
                f"the detector is a {type(self.detector).__name__}, which predicts no masks: wanted"
                " a MaskRCNN, a CascadeMaskRCNN or a HybridTaskCascade"
            )
        super().__post_init__()

    @property
    def tasks(self) -> frozenset[Task]:
        """All four tasks."""
        return frozenset({"boxes", "masks", "semantic", "panoptic"})

    @property
    def classes(self) -> ClassCounts:
        """Thing classes of the detector, and pixel classes of the semantic head."""
        pixels = self.semantic_head.num_classes
        return ClassCounts(self.detector.classes.things, pixels, self.merge.things)

    @property
    def padding(self) -> Padding:
        """Input sizes of the detector."""
        return self.detector.padding

    @property
    def preprocess(self) -> Preprocess | None:
        """Image normalisation of the detector."""
        return self.detector.preprocess

    @property
    def backbone(self) -> Backbone | None:
        """Backbone of the detector."""
        return self.detector.backbone

    def with_classes(self, things: int | None = None, pixels: int | None = None) -> "PanopticFPN":
        """Returns the same model with other numbers of thing classes and pixel classes."""
        # HTC's own semantic branch learns the same labels.
        shared = None if self.detector.classes.pixels is None else pixels
        model = self.clone(detector=self.detector.with_classes(things, shared))
        if pixels is None:
            return model
        return model.clone(semantic_head=self.semantic_head.clone(num_classes=pixels))

    def frozen_paths(self) -> tuple[str, ...]:
        """Returns the "/"-joined prefixes of frozen parameters."""
        return tuple(f"detector/{path}" for path in self.detector.frozen_paths())

    def predict(
        self, images: UInt8[Array, "B H W 3"], image_sizes: Int32[Array, "B 2"]
    ) -> Detections:
        """Predicts final detections [B, D] with masks, and class logits of every cell."""
        features = self.detector.features(images, image_sizes)
        found = self.detector.detect(features, image_sizes)
        return dataclasses.replace(found, semantic_logits=self.semantic_head(features))

    __call__ = predict

    def to_panoptic(self, found: Detections, semantic: Int32[Array, "H W"]) -> PanopticSegments:
        """Merges the objects and semantic labels of one image; does not need variables.

        Args:
          found: detections of one image, with boxes and masks in pixels of the map.
          semantic: label of every pixel; where it is -1, the panoptic map is 0.
        """
        return panoptic_map(found, semantic, self.merge)

    def with_score_threshold(self, threshold: float) -> "PanopticFPN":
        """Returns the same model, merging instances with at least this score."""
        return self.clone(merge=dataclasses.replace(self.merge, score_threshold=threshold))

    def panoptic(
        self, images: UInt8[Array, "B H W 3"], image_sizes: Int32[Array, "B 2"]
    ) -> PanopticSegments:
        """Predicts panoptic maps of a batch at the size of the padded input; 0 in the padding."""
        padded_size = (images.shape[1], images.shape[2])

        def one(row: tuple[Detections, Array]) -> PanopticSegments:
            found, size = row
            assert found.semantic_logits is not None
            labels = semantic_labels(
                found.semantic_logits, size, size, padded_size=padded_size, canvas=padded_size
            )
            return self.to_panoptic(found, labels)

        # One image after another, so that memory does not grow with the batch.
        return jax.lax.map(one, (self.predict(images, image_sizes), image_sizes))

    def losses(self, batch: Batch, keys: Key[Array, " B"]) -> tuple[Terms, Counts]:
        """Computes loss terms and counts of a batch, with one random key per image."""
        features = self.detector.features(batch.images, batch.image_sizes, train=True)
        terms, counts = self.detector.detection_losses(features, batch, keys)
        logits = self.semantic_head(features, train=True)
        own = self.semantic_loss(logits, batch.gt_semantic, batch.image_sizes, self.padding.divisor)
        # HTC's own semantic branch has a loss of the same name.
        terms = {f"{name}_htc" if name in own else name: term for name, term in terms.items()}
        return terms | own, counts


def panoptic_map(
    found: Detections, semantic: Int32[Array, "H W"], merge: PanopticMerge
) -> PanopticSegments:
    """Creates the panoptic map of one image, at the size of its semantic map.

    Args:
      found: predictions for the image, with masks in pixels of the map.
      semantic: labels from `semantic_labels`. Where they are -1, the panoptic map is 0.
      merge: settings for merging.
    """
    assert found.masks is not None and found.semantic_logits is not None
    height, width = semantic.shape

    def mask_of(row: Masks) -> Bool[Array, "H W"]:
        one = jax.tree.map(lambda leaf: leaf[None], row)
        return one.paste(height, width)[0] & (semantic >= 0)

    return merge_panoptic(
        found.masks,
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


def panoptic_fpn(
    backbone: Backbone,
    *,
    num_classes: int = 0,
    semantic_classes: int = 0,
    flavour: str = "detectron2",
    neck: Neck | None = None,
    dtype: Dtype = "float32",
) -> PanopticFPN:
    """Builds Panoptic FPN: Mask R-CNN with FPN, and a semantic branch.

    Args:
      backbone: backbone such as `resnet(50)`; its None fields follow the flavour.
      num_classes: number of thing classes, without background; 0 lets the data determine it.
      semantic_classes: number of pixel classes, 54 for COCO (all things are one class); 0 lets
        the data determine it.
      flavour: "detectron2" (things are semantic class 0, loss at full resolution over labelled
        pixels) or "mmdet" (things are the last class, loss at stride 4 over all cells,
        class-agnostic NMS).
      neck: neck that builds the pyramid; None for the flavour's FPN.
      dtype: compute dtype of all parts; parameters stay float32.

    Raises:
      ValueError: if the flavour is unknown.
    """
    if flavour not in ("detectron2", "mmdet"):
        raise ValueError(f'flavour is {flavour!r}; a Panoptic FPN is "detectron2" or "mmdet"')
    detector = mask_rcnn(backbone, num_classes=num_classes, flavour=flavour, neck=neck, dtype=dtype)
    head = SemanticFPNHead(semantic_classes, dtype=dtype)
    if flavour == "detectron2":
        loss = SemanticLoss(weight=0.5, full_resolution=True)
        return PanopticFPN(detector=detector, semantic_head=head, semantic_loss=loss)
    # configs/panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py: `nms` is class-agnostic, and
    # `score_thr` is 0.6. NMS runs in descending order of score, so the map is the same whether
    # boxes below 0.6 are dropped before NMS or, as here, in the merge. This keeps them for
    # evaluation.
    detections = dataclasses.replace(detector.detections, class_agnostic_nms=True)
    return PanopticFPN(
        detector=detector.clone(detections=detections),
        semantic_head=head,
        # models/losses/cross_entropy_loss.py: `avg_non_ignore` is False, so the mean includes
        # ignored and padding cells.
        semantic_loss=SemanticLoss(weight=0.5, averaged_over="all"),
        merge=PanopticMerge(score_threshold=0.6, things=-1),
    )
