"""Cascade R-CNN and Cascade Mask R-CNN with FPN (1712.00726; 1906.09756)."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, Key, UInt8

from segjax.models.cascade import BoxCascade, fold_keys
from segjax.models.cascade_flavours import CascadeFlavour, cascade_flavour
from segjax.models.rois import MaskTargets, RoIPooler
from segjax.nn.heads.mask import MaskHead
from segjax.types import Batch, Detections, Dtype, LossTerm


class CascadeRCNN(BoxCascade):
    """Box heads in a chain, each trained on the boxes of the one before, at a higher IoU.

    `BoxCascade` has the fields.
    """

    has_masks = False
    paste_padded = False

    def with_num_classes(self, num_classes: int) -> "CascadeRCNN":
        """The same model for another number of classes."""
        heads = tuple(head.clone(num_classes=num_classes) for head in self.box_heads)
        return self.clone(box_heads=heads)

    def predict(
        self, images: UInt8[Array, "B H W 3"], image_sizes: Int32[Array, "B 2"]
    ) -> Detections:
        """Final detections [B, D] in pixels of the padded input."""
        features = self.features(images, image_sizes)
        proposals, _, _ = self.region_proposals(features, image_sizes)
        pool = functools.partial(self.box_pooler, features)
        return self.find_boxes(pool, proposals, image_sizes)

    __call__ = predict

    def losses(
        self, batch: Batch, keys: Key[Array, " B"]
    ) -> tuple[dict[str, LossTerm], dict[str, Float[Array, ""]]]:
        """Loss terms of a batch, with one random key for each image, and counts."""
        features = self.features(batch.images, batch.image_sizes, train=True)
        regions, terms, counts = self.rpn_losses(features, batch, fold_keys(keys, 0))
        for t, stage in enumerate(self.stages):
            samples = stage.sampler(fold_keys(keys, t + 1), regions, batch, self.num_classes)
            box_features = self.box_pooler(features, samples.boxes)
            box_terms, regions = self.train_boxes(t, box_features, samples, batch)
            terms |= box_terms
            counts[f"positive_rois_stage{t + 1}"] = samples.positive.sum().astype(jnp.float32)
        return terms, counts


class CascadeMaskRCNN(BoxCascade, kw_only=True):  # pyright: ignore[reportCallIssue]
    """Cascade R-CNN with mask heads beside its box heads.

    Attributes, besides those of `BoxCascade`:
      mask_pooler: RoIAlign for the mask heads.
      mask_heads: one for each stage, trained on that stage's regions (mmdet), or
        fewer, for the first stages: Detectron2 has a single one. In prediction
        all run on the final boxes, and their probabilities are averaged.
      mask_targets: how the mask heads are trained.
    """

    mask_pooler: RoIPooler
    mask_heads: tuple[MaskHead, ...]
    mask_targets: MaskTargets

    has_masks = True
    paste_padded = False

    def setup(self) -> None:
        """Checks that heads and stages fit together.

        Raises:
          ValueError: if there are more mask heads than stages, or none, or their classes differ.
        """
        super().setup()
        self.check_classes(self.mask_heads)
        if not 1 <= len(self.mask_heads) <= len(self.stages):
            raise ValueError(
                f"{len(self.mask_heads)} mask_heads for {len(self.stages)} stages: give one for"
                " each stage, or for the first ones"
            )

    def with_num_classes(self, num_classes: int) -> "CascadeMaskRCNN":
        """The same model for another number of classes."""
        return self.clone(
            box_heads=tuple(head.clone(num_classes=num_classes) for head in self.box_heads),
            mask_heads=tuple(head.clone(num_classes=num_classes) for head in self.mask_heads),
        )

    def mask_outputs(
        self,
        stage: int,
        features: Sequence[Float[Array, "B _ _ C"]],
        boxes: Float[Array, "B R 4"],
        classes: Int32[Array, "B R"] | None = None,
        valid: Bool[Array, "B R"] | None = None,
        train: bool = False,
    ) -> Float[Array, "N M M *K"]:
        """Mask logits [B * R, M, M] of one head for the given classes, or of all, [..., K].

        `valid` keeps padding rows out of batch norm's statistics.
        """
        if classes is not None:
            classes = jnp.minimum(classes.reshape(-1), self.num_classes - 1)
        rows = None if valid is None else valid.reshape(-1)
        return self.mask_heads[stage](self.mask_pooler(features, boxes), classes, train, rows)

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
        proposals, _, _ = self.region_proposals(features, image_sizes)
        pool = functools.partial(self.box_pooler, features)
        found = self.find_boxes(pool, proposals, image_sizes)
        logits = [
            self.mask_outputs(t, features, found.boxes, found.classes)
            for t in range(len(self.mask_heads))
        ]
        masks = jax.nn.sigmoid(jnp.stack(logits)).mean(0)
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
        regions, terms, counts = self.rpn_losses(features, batch, fold_keys(keys, 0))
        dropped = jnp.float32(0)
        for t, stage in enumerate(self.stages):
            samples = stage.sampler(fold_keys(keys, t + 1), regions, batch, self.num_classes)
            box_features = self.box_pooler(features, samples.boxes)
            box_terms, regions = self.train_boxes(t, box_features, samples, batch)
            terms |= box_terms
            counts[f"positive_rois_stage{t + 1}"] = samples.positive.sum().astype(jnp.float32)
            if t < len(self.mask_heads):
                shown = self.mask_targets.select(
                    samples, stage.sampler.max_positives(samples.boxes.shape[1])
                )
                mask_logits = self.mask_outputs(
                    t, features, shown.boxes, shown.classes, shown.positive, train=True
                )
                mask_term = self.mask_targets.loss(mask_logits, shown, batch)
                terms |= self.of_stage(t, {"loss_mask": mask_term})
                dropped += samples.positive.sum() - shown.positive.sum()
        counts["mask_rois_dropped"] = dropped
        return terms, counts


def cascade_rcnn_resnet_fpn(
    num_classes: int = 0,
    *,
    depth: int = 50,
    groups: int = 1,
    group_width: int = 64,
    style: CascadeFlavour | str = "detectron2",
    dtype: Dtype = "float32",
) -> CascadeRCNN:
    """Cascade R-CNN on a ResNet or ResNeXt with FPN.

    Args:
      num_classes: K, without background; 0 lets the data decide.
      depth: of the ResNet.
      groups: cardinality of a ResNeXt.
      group_width: width per group of a ResNeXt.
      style: whose conventions: "detectron2", "mmdet", or a `CascadeFlavour`.
      dtype: of the computation; parameters stay float32.
    """
    f = cascade_flavour(style)
    return CascadeRCNN(**f.box_cascade(num_classes, depth, groups, group_width, dtype))


def cascade_mask_rcnn_resnet_fpn(
    num_classes: int = 0,
    *,
    depth: int = 50,
    groups: int = 1,
    group_width: int = 64,
    style: CascadeFlavour | str = "detectron2",
    dtype: Dtype = "float32",
) -> CascadeMaskRCNN:
    """Cascade Mask R-CNN on a ResNet or ResNeXt with FPN.

    Args:
      num_classes: K, without background; 0 lets the data decide.
      depth: of the ResNet.
      groups: cardinality of a ResNeXt.
      group_width: width per group of a ResNeXt.
      style: whose conventions: "detectron2" (one mask head), "mmdet" (one for
        each stage), or a `CascadeFlavour`.
      dtype: of the computation; parameters stay float32.
    """
    f = cascade_flavour(style)
    return CascadeMaskRCNN(
        **f.box_cascade(num_classes, depth, groups, group_width, dtype),
        mask_pooler=f.library.mask_pooler,
        mask_heads=f.make_mask_heads(num_classes, dtype, f.num_mask_heads),
        mask_targets=f.library.mask_targets,
    )
