"""Mask R-CNN with FPN (1703.06870)."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, Key, UInt8

from segjax.models.flavours import LITE_PREPROCESS, Flavour, flavour
from segjax.models.rois import MaskTargets, RoIPooler
from segjax.models.two_stage import TwoStage
from segjax.nn.backbones.efficientnet import LITE_NORM, efficientnet_lite
from segjax.nn.heads.mask import MaskHead
from segjax.nn.norm import NormSpec
from segjax.types import Batch, Detections, Dtype, LossTerm


class MaskRCNN(TwoStage, kw_only=True):  # pyright: ignore[reportCallIssue]
    """Faster R-CNN with a mask branch beside the box branch.

    Attributes, besides those of `TwoStage`:
      mask_pooler: RoIAlign for the mask head.
      mask_head: mask logits of regions.
      mask_targets: how the mask head is trained.
      paste_padded: how masks are pasted into images: torchvision's padded form,
        or Detectron2's and mmdet's grid.
    """

    mask_pooler: RoIPooler
    mask_head: MaskHead
    mask_targets: MaskTargets
    paste_padded: bool = False

    has_masks = True

    def with_num_classes(self, num_classes: int) -> "MaskRCNN":
        """The same model for another number of classes."""
        return self.clone(
            box_head=self.box_head.clone(num_classes=num_classes),
            mask_head=self.mask_head.clone(num_classes=num_classes),
        )

    def mask_outputs(
        self,
        features: Sequence[Float[Array, "B _ _ C"]],
        boxes: Float[Array, "B R 4"],
        classes: Int32[Array, "B R"] | None = None,
        valid: Bool[Array, "B R"] | None = None,
        train: bool = False,
    ) -> Float[Array, "N M M *K"]:
        """Mask logits [B * R, M, M] of the given classes, or [B * R, M, M, K] of all.

        `valid` keeps padding rows out of batch norm's statistics.
        """
        if classes is not None:
            classes = jnp.minimum(classes.reshape(-1), self.num_classes - 1)
        rows = None if valid is None else valid.reshape(-1)
        return self.mask_head(self.mask_pooler(features, boxes), classes, train, rows)

    def predict(
        self, images: UInt8[Array, "B H W 3"], image_sizes: Int32[Array, "B 2"]
    ) -> Detections:
        """Final detections [B, D] with masks over their boxes, in padded-input pixels."""
        return self.detect(self.features(images, image_sizes), image_sizes)

    __call__ = predict

    def detect(
        self, features: Sequence[Float[Array, "B _ _ C"]], image_sizes: Int32[Array, "B 2"]
    ) -> Detections:
        """What `predict` does with P2..P6."""
        found = self.find_boxes(features, image_sizes)
        masks = jax.nn.sigmoid(self.mask_outputs(features, found.boxes, found.classes))
        masks = masks.reshape(*found.scores.shape, *masks.shape[1:])  # [B, D, M, M]
        return dataclasses.replace(found, mask_probs=masks)

    def losses(
        self, batch: Batch, keys: Key[Array, " B"]
    ) -> tuple[dict[str, LossTerm], dict[str, Float[Array, ""]]]:
        """Loss terms of a batch, with one random key for each image, and counts."""
        features = self.features(batch.images, batch.image_sizes, train=True)
        return self.detection_losses(features, batch, keys)

    def detection_losses(
        self, features: Sequence[Float[Array, "B _ _ C"]], batch: Batch, keys: Key[Array, " B"]
    ) -> tuple[dict[str, LossTerm], dict[str, Float[Array, ""]]]:
        """What `losses` does with P2..P6."""
        samples, terms, counts = self.rpn_and_box_losses(features, batch, keys)
        slots = self.sampler.max_positives(samples.boxes.shape[1])
        shown = self.mask_targets.select(samples, slots)
        mask_logits = self.mask_outputs(
            features, shown.boxes, shown.classes, shown.positive, train=True
        )
        terms["loss_mask"] = self.mask_targets.loss(mask_logits, shown, batch)
        counts["mask_rois_dropped"] = counts["positive_rois"] - shown.positive.sum()
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
        **f.pyramid_rpn(depth, groups, group_width, dtype),
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


def mask_rcnn_efficientnet_lite_fpn(
    num_classes: int = 0,
    *,
    variant: int = 0,
    norm: NormSpec = LITE_NORM,
    frozen_stages: int = 2,
    style: Flavour | str = "detectron2",
    dtype: Dtype = "float32",
) -> MaskRCNN:
    """Mask R-CNN on an EfficientNet-Lite with FPN.

    Every other detector takes the backbone too: `detector.clone(
    backbone=efficientnet_lite(0), preprocess=LITE_PREPROCESS)`.

    Args:
      num_classes: K, without background; 0 lets the data decide.
      variant: 0 to 4; ImageNet weights are in the zoo for 0, 1 and 2.
      norm: of the backbone. Constants by default, which only trained weights make sense with:
        take `NormSpec("batch", 1e-3)` to train from random ones.
      frozen_stages: how many of the backbone's stem, stage 1, ... are not trained.
      style: whose conventions the rest has; see `mask_rcnn_resnet_fpn`.
      dtype: of the computation; parameters stay float32.
    """
    return mask_rcnn_resnet_fpn(num_classes, style=style, dtype=dtype).clone(
        preprocess=LITE_PREPROCESS,
        backbone=efficientnet_lite(variant, norm=norm, frozen_stages=frozen_stages, dtype=dtype),
    )
