"""Mask R-CNN with FPN (1703.06870)."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Key, UInt8

from segjax.models.faster_rcnn import padded_size, split_keys
from segjax.models.flavours import Flavour, flavour
from segjax.models.preprocess import Preprocess
from segjax.models.rois import (
    DetectionFilter,
    MaskTargets,
    RoIPooler,
    RoISampler,
    box_losses,
)
from segjax.models.rpn import RPN
from segjax.nn.box_head import BoxHead
from segjax.nn.fpn import FPN
from segjax.nn.mask_head import MaskHead
from segjax.nn.resnet import ResNet
from segjax.nn.rpn import RPNHead, RPNOutput
from segjax.ops.boxes import DeltaCoder
from segjax.types import Batch, Detections, Dtype, LossTerm, Proposals


class MaskRCNN(nn.Module):
    """Faster R-CNN with a mask branch beside the box branch.

    Every method is usable alone under jit: `model.apply(variables, ...,
    method="features")`. Images are uint8 RGB [B, H, W, 3] padded to multiples
    of 32, `image_sizes` [B, 2] the (height, width) inside the padding.

    Attributes:
      preprocess: channel order and normalisation.
      backbone: gives C2..C5.
      fpn: gives P2..P6.
      rpn_head: objectness and deltas of the anchors.
      rpn: anchors, proposals and losses of the RPN.
      box_pooler: RoIAlign for the box head.
      box_head: class logits and deltas of regions; its `num_classes` is the
        model's, 0 until the data decide.
      box_coder: box deltas of the box head.
      sampler: regions drawn for training.
      detections: what becomes a final detection.
      mask_pooler: RoIAlign for the mask head.
      mask_head: mask logits of regions.
      mask_targets: how the mask head is trained.
      box_smooth_l1_beta: of the box head's loss; 0 is L1.
      paste_padded: how masks are pasted into images: torchvision's padded form,
        or Detectron2's and mmdet's grid.
    """

    preprocess: Preprocess
    backbone: ResNet
    fpn: FPN
    rpn_head: RPNHead
    rpn: RPN
    box_pooler: RoIPooler
    box_head: BoxHead
    box_coder: DeltaCoder
    sampler: RoISampler
    detections: DetectionFilter
    mask_pooler: RoIPooler
    mask_head: MaskHead
    mask_targets: MaskTargets
    box_smooth_l1_beta: float = 0.0
    paste_padded: bool = False

    has_masks = True
    size_divisor = 32

    @property
    def num_classes(self) -> int:
        """K, without background; 0 until `with_num_classes` was called."""
        return self.box_head.num_classes

    def with_num_classes(self, num_classes: int) -> "MaskRCNN":
        """The same model for another number of classes."""
        return self.clone(
            box_head=self.box_head.clone(num_classes=num_classes),
            mask_head=self.mask_head.clone(num_classes=num_classes),
        )

    def frozen_paths(self) -> tuple[str, ...]:
        """Prefixes, with "/", of parameters that are not trained."""
        return tuple(f"backbone/{name}" for name in self.backbone.frozen_paths())

    def features(
        self,
        images: UInt8[Array, "B H W 3"],
        image_sizes: Int32[Array, "B 2"],
        train: bool = False,
    ) -> tuple[Float[Array, "B _ _ C"], ...]:
        """P2..P6, each [B, H / stride, W / stride, C]."""
        return self.fpn(self.backbone(self.preprocess(images, image_sizes), train), train)

    def region_proposals(
        self,
        features: Sequence[Float[Array, "B _ _ C"]],
        image_sizes: Int32[Array, "B 2"],
        train: bool = False,
    ) -> tuple[Proposals, RPNOutput, list[Float[Array, "_ 4"]]]:
        """Proposals [B, R] with the RPN's output and the anchors they come from."""
        output = self.rpn_head(features)
        anchors = self.rpn.anchors(
            [(f.shape[1], f.shape[2]) for f in features], padded_size(features)
        )
        return self.rpn.proposals(output, anchors, image_sizes, train=train), output, anchors

    def box_outputs(
        self,
        features: Sequence[Float[Array, "B _ _ C"]],
        boxes: Float[Array, "B R 4"],
        train: bool = False,
    ) -> tuple[Float[Array, "N K1"], Float[Array, "N Kb 4"]]:
        """Class logits [B * R, K + 1], background last, and deltas of regions."""
        return self.box_head(self.box_pooler(features, boxes), train)

    def mask_outputs(
        self,
        features: Sequence[Float[Array, "B _ _ C"]],
        boxes: Float[Array, "B R 4"],
        classes: Int32[Array, "B R"] | None = None,
        train: bool = False,
    ) -> Float[Array, "N M M *K"]:
        """Mask logits [B * R, M, M] of the given classes, or [B * R, M, M, K] of all."""
        if classes is not None:
            classes = jnp.minimum(classes.reshape(-1), self.num_classes - 1)
        return self.mask_head(self.mask_pooler(features, boxes), classes, train)

    def predict(
        self, images: UInt8[Array, "B H W 3"], image_sizes: Int32[Array, "B 2"]
    ) -> Detections:
        """Final detections [B, D] with masks over their boxes, in padded-input pixels."""
        features = self.features(images, image_sizes)
        proposals, _, _ = self.region_proposals(features, image_sizes)
        logits, deltas = self.box_outputs(features, proposals.boxes)
        batch = proposals.boxes.shape[0]
        found = self.detections(
            logits.reshape(batch, -1, logits.shape[-1]),
            deltas.reshape(batch, -1, *deltas.shape[1:]),
            proposals,
            image_sizes,
            self.box_coder,
        )
        masks = jax.nn.sigmoid(self.mask_outputs(features, found.boxes, found.classes))
        masks = masks.reshape(batch, -1, *masks.shape[1:])
        return Detections(found.boxes, found.scores, found.classes, found.valid, masks)

    __call__ = predict

    def losses(
        self, batch: Batch, keys: Key[Array, " B"]
    ) -> tuple[dict[str, LossTerm], dict[str, Float[Array, ""]]]:
        """Loss terms of a batch, with one random key for each image, and counts."""
        rpn_keys, roi_keys = split_keys(keys)
        features = self.features(batch.images, batch.image_sizes, train=True)
        proposals, output, anchors = self.region_proposals(features, batch.image_sizes, train=True)
        terms, counts = self.rpn.losses(output, anchors, batch, rpn_keys)

        samples = self.sampler(roi_keys, proposals, batch, self.num_classes)
        logits, deltas = self.box_outputs(features, samples.boxes, train=True)
        terms |= box_losses(
            logits, deltas, samples, batch.gt_boxes, self.box_coder, self.box_smooth_l1_beta
        )

        slots = self.sampler.max_positives(samples.boxes.shape[1])
        shown = self.mask_targets.select(samples, slots)
        mask_logits = self.mask_outputs(features, shown.boxes, shown.classes, train=True)
        terms["loss_mask"] = self.mask_targets.loss(mask_logits, shown, batch)

        positives = samples.positive.sum().astype(jnp.float32)
        counts["positive_rois"] = positives
        counts["mask_rois_dropped"] = positives - shown.positive.sum()
        return terms, counts


def mask_rcnn_resnet_fpn(
    num_classes: int = 0,
    *,
    depth: int = 50,
    groups: int = 1,
    group_width: int = 64,
    style: Flavour | str = "detectron2",
    dtype: Dtype = "float32",
) -> MaskRCNN:
    """Mask R-CNN on a ResNet or ResNeXt with FPN.

    Args:
      num_classes: K, without background; 0 lets the data decide.
      depth: of the ResNet.
      groups: cardinality of a ResNeXt.
      group_width: width per group of a ResNeXt.
      style: whose conventions: "torchvision", "torchvision_v2", "detectron2",
        "mmdet", or a `Flavour`.
      dtype: of the computation; parameters stay float32.
    """
    f = flavour(style)
    return MaskRCNN(
        preprocess=f.preprocess,
        backbone=f.backbone(depth, groups, group_width, dtype),
        fpn=FPN(norm=f.head_norm, dtype=dtype),
        rpn_head=RPNHead(num_convs=f.rpn_convs, dtype=dtype),
        rpn=f.rpn,
        box_pooler=f.box_pooler,
        box_head=f.box_head(num_classes, dtype),
        box_coder=f.box_coder,
        sampler=f.sampler,
        detections=f.detections,
        mask_pooler=f.mask_pooler,
        mask_head=MaskHead(num_classes, norm=f.head_norm, dtype=dtype),
        mask_targets=f.mask_targets,
        box_smooth_l1_beta=f.box_smooth_l1_beta,
        paste_padded=f.paste_padded,
    )
