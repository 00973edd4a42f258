"""Hybrid Task Cascade (1901.07518)."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32, Key, UInt8

from segjax.models.cascade import BoxCascade, fold_keys
from segjax.models.cascade_flavours import HTC_FLAVOURS, CascadeFlavour, cascade_flavour
from segjax.models.rois import MaskTargets, RoIPooler, RoISamples
from segjax.models.semantic import SemanticLoss
from segjax.nn.conv import Conv
from segjax.nn.heads.mask import MaskHead
from segjax.nn.heads.semantic import FusedSemanticHead
from segjax.types import Batch, Detections, Dtype, LossTerm

Features = Sequence[Float[Array, "B _ _ C"]]
# Of the semantic branch, for models that have it.
SemanticFeature = Float[Array, "B _h _w C"] | None


class HybridTaskCascade(BoxCascade, kw_only=True):  # pyright: ignore[reportCallIssue]
    """A cascade whose box and mask branches take turns, with a semantic branch beside them.

    Attributes, besides those of `BoxCascade`:
      mask_pooler: RoIAlign for the mask heads.
      mask_heads: one for each stage.
      mask_targets: how the mask heads are trained.
      interleaved: in training, a stage's mask head sees the boxes that the stage's
        box head has just refined, matched and drawn anew (section 3.1, figure 2b),
        rather than those which that box head saw.
      mask_information_flow: each mask head but the first adds the features of the
        one before it, through a 1x1 convolution, to its own (figure 2c).
      semantic_head: gives a feature of the whole image that is added to the region
        features of both branches (figure 2d); None for HTC without semantic.
      semantic_pooler: RoIAlign of that feature.
      semantic_loss: how the semantic branch is trained.
      mask_stages: what a predicted mask is made of: the "mean" of all stages'
        probabilities (the paper, and mmdet up to 2), or the "last" alone, which
        mmdet 3 does inadvertently.
    """

    mask_pooler: RoIPooler
    mask_heads: tuple[MaskHead, ...]
    mask_targets: MaskTargets
    interleaved: bool = True
    mask_information_flow: bool = True
    semantic_head: FusedSemanticHead | None = None
    semantic_pooler: RoIPooler = RoIPooler(14, strides=(8,))
    semantic_loss: SemanticLoss = SemanticLoss(weight=0.2, averaged_over="all")
    mask_stages: Literal["mean", "last"] = "mean"

    has_masks = True
    paste_padded = False

    def setup(self) -> None:
        """Makes the convolutions through which mask information flows."""
        super().setup()
        self.check_classes(self.mask_heads)
        self._check_parts()
        self.mask_flows = [
            Conv(self.fpn.features, dtype=head.dtype, name=f"mask_flow{t + 1}")
            for t, head in enumerate(self.mask_heads[:-1])
            if self.mask_information_flow
        ]

    def _check_parts(self) -> None:
        if len(self.mask_heads) != len(self.stages):
            raise ValueError(
                f"{len(self.mask_heads)} mask_heads for {len(self.stages)} stages: give one each"
            )
        if self.semantic_head is None:
            return
        if self.semantic_head.features != self.fpn.features:
            raise ValueError(
                f"the semantic head gives {self.semantic_head.features} channels, which are added"
                f" to region features of {self.fpn.features}: set its features to that"
            )
        stride = self.rpn.strides[self.semantic_head.fusion_level]
        if self.semantic_pooler.strides != (stride,):
            raise ValueError(
                f"semantic_pooler reads strides {self.semantic_pooler.strides}, the semantic"
                f" feature is at stride {stride}: set its strides to ({stride},)"
            )
        size = self.semantic_pooler.output_size
        for pooler in (self.box_pooler, self.mask_pooler):
            if size % pooler.output_size:
                raise ValueError(
                    f"semantic_pooler gives {size} cells a side, which are no multiple of"
                    f" {pooler.output_size}, as the box or mask pooler gives"
                )

    @property
    def semantic_classes(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Classes of pixels, 0 until the data decide; None without semantic branch."""
        return None if self.semantic_head is None else self.semantic_head.num_classes

    def with_num_classes(self, num_classes: int) -> "HybridTaskCascade":
        """The same model for another number of object classes."""
        return self.clone(
            box_heads=tuple(head.clone(num_classes=num_classes) for head in self.box_heads),
            mask_heads=tuple(head.clone(num_classes=num_classes) for head in self.mask_heads),
        )

    def with_semantic_classes(self, num_classes: int) -> "HybridTaskCascade":
        """The same model for another number of classes of pixels."""
        if self.semantic_head is None:
            raise ValueError("this model has no semantic branch: give it a semantic_head")
        return self.clone(semantic_head=self.semantic_head.clone(num_classes=num_classes))

    # ---- Region features ----------------------------------------------------------------

    def semantic(
        self, features: Features, image_sizes: Int32[Array, "B 2"]
    ) -> tuple[Float32[Array, "B _h _w K"] | None, SemanticFeature]:
        """Logits and feature of the semantic branch; (None, None) without one."""
        if self.semantic_head is None:
            return None, None
        return self.semantic_head(features, image_sizes)

    def box_features(
        self, features: Features, semantic: SemanticFeature, boxes: Float32[Array, "B R 4"]
    ) -> Float[Array, "N S S C"]:
        """What the box heads see of regions."""
        return self._add_semantic(self.box_pooler(features, boxes), semantic, boxes)

    def mask_features(
        self, features: Features, semantic: SemanticFeature, boxes: Float32[Array, "B R 4"]
    ) -> Float[Array, "N S S C"]:
        """What the first mask head sees of regions."""
        return self._add_semantic(self.mask_pooler(features, boxes), semantic, boxes)

    def _add_semantic(self, x: Array, semantic: SemanticFeature, boxes: Array) -> Array:
        if semantic is None:
            return x
        pooled = self.semantic_pooler([semantic], boxes)
        cells = pooled.shape[1] // x.shape[1]
        if cells > 1:
            pooled = nn.avg_pool(pooled, (cells, cells), (cells, cells))
        return x + pooled

    # ---- Masks --------------------------------------------------------------------------

    def mask_outputs(
        self,
        mask_features: Float[Array, "N S S C"],
        stages: Sequence[int],
        classes: Int32[Array, "B R"] | None = None,
        valid: Bool[Array, "B R"] | None = None,
        train: bool = False,
    ) -> list[Float32[Array, "N M M *K"]]:
        """Mask logits of several stages' heads, fed by the heads before them.

        Args:
          mask_features: of B * R regions.
          stages: which heads' logits, counted from 0, ascending.
          classes: one for each region, whose mask alone is computed; None for all.
          valid: keeps padding rows out of batch norm's statistics.
          train: lets batch norm use batch statistics.

        Returns:
          [N, M, M] for given classes, [N, M, M, K] for all, a stage each.
        """
        if classes is not None:
            classes = jnp.minimum(classes.reshape(-1), self.num_classes - 1)
        rows = None if valid is None else valid.reshape(-1)
        logits, previous = [], None
        for t, head in enumerate(self.mask_heads[: stages[-1] + 1]):
            x = mask_features
            if self.mask_information_flow:
                if previous is not None:
                    x = x + nn.relu(self.mask_flows[t - 1](previous))
            elif t not in stages:
                continue
            previous = head.trunk(x, train, rows)
            if t in stages:
                logits.append(head.logits(previous, classes))
        return logits

    def mask_probabilities(
        self, logits: Sequence[Float32[Array, "N M M"]]
    ) -> Float32[Array, "N M M"]:
        """Probabilities 0..1 of predicted masks from the stages' logits, as `mask_stages` says."""
        used = logits if self.mask_stages == "mean" else logits[-1:]
        return jax.nn.sigmoid(jnp.stack(used)).mean(0)

    # ---- Prediction and training --------------------------------------------------------

    def predict(
        self, images: UInt8[Array, "B H W 3"], image_sizes: Int32[Array, "B 2"]
    ) -> Detections:
        """Final detections [B, D] with masks over their boxes, in padded-input pixels."""
        return self.detect(self.features(images, image_sizes), image_sizes)

    __call__ = predict

    def detect(self, features: Features, image_sizes: Int32[Array, "B 2"]) -> Detections:
        """What `predict` does with P2..P6."""
        _, semantic = self.semantic(features, image_sizes)
        proposals, _, _ = self.region_proposals(features, image_sizes)
        found = self.find_boxes(
            lambda boxes: self.box_features(features, semantic, boxes), proposals, image_sizes
        )
        mask_features = self.mask_features(features, semantic, found.boxes)
        logits = self.mask_outputs(mask_features, range(len(self.mask_heads)), found.classes)
        masks = self.mask_probabilities(logits)
        masks = masks.reshape(*found.scores.shape, *masks.shape[1:])  # [B, D, M, M]
        return dataclasses.replace(found, mask_probs=masks)

    def losses(
        self, batch: Batch, keys: Key[Array, " B"]
    ) -> tuple[dict[str, LossTerm], dict[str, Float[Array, ""]]]:
        """Loss terms of a batch, with one random key for each image, and counts."""
        features = self.features(batch.images, batch.image_sizes, train=True)
        return self.detection_losses(features, batch, keys)

    def detection_losses(
        self, features: Features, batch: Batch, keys: Key[Array, " B"]
    ) -> tuple[dict[str, LossTerm], dict[str, Float[Array, ""]]]:
        """What `losses` does with P2..P6."""
        semantic_logits, semantic = self.semantic(features, batch.image_sizes)
        regions, terms, counts = self.rpn_losses(features, batch, fold_keys(keys, 0))
        if semantic_logits is not None:
            terms |= self.semantic_loss(semantic_logits, batch.gt_semantic, batch.image_sizes)
        dropped = jnp.float32(0)
        for t, stage in enumerate(self.stages):
            samples = stage.sampler(fold_keys(keys, 2 * t + 1), regions, batch, self.num_classes)
            box_features = self.box_features(features, semantic, samples.boxes)
            box_terms, regions = self.train_boxes(t, box_features, samples, batch)
            counts[f"positive_rois_stage{t + 1}"] = samples.positive.sum().astype(jnp.float32)
            if self.interleaved:
                key = fold_keys(keys, 2 * t + 2)
                samples = stage.sampler(key, regions, batch, self.num_classes)
            mask_term, shown = self._train_masks(t, features, semantic, samples, batch)
            terms |= box_terms | self.of_stage(t, {"loss_mask": mask_term})
            dropped += samples.positive.sum() - shown
        counts["mask_rois_dropped"] = dropped
        return terms, counts

    def _train_masks(
        self,
        stage: int,
        features: Features,
        semantic: SemanticFeature,
        samples: RoISamples,
        batch: Batch,
    ) -> tuple[LossTerm, Int32[Array, ""]]:
        """The mask loss of one stage, and how many regions entered it."""
        slots = self.stages[stage].sampler.max_positives(samples.boxes.shape[1])
        shown = self.mask_targets.select(samples, slots)
        mask_features = self.mask_features(features, semantic, shown.boxes)
        (logits,) = self.mask_outputs(
            mask_features, [stage], shown.classes, shown.positive, train=True
        )
        return self.mask_targets.loss(logits, shown, batch), shown.positive.sum()


def htc_resnet_fpn(
    num_classes: int = 0,
    *,
    semantic: bool = True,
    semantic_classes: int = 0,
    depth: int = 50,
    groups: int = 1,
    group_width: int = 64,
    style: CascadeFlavour | str = "mmdet",
    dtype: Dtype = "float32",
) -> HybridTaskCascade:
    """Hybrid Task Cascade on a ResNet or ResNeXt with FPN, in mmdet's conventions.

    Args:
      num_classes: K, without background; 0 lets the data decide.
      semantic: whether there is a semantic branch.
      semantic_classes: of pixels; 183 for COCO-stuff, 0 lets the data decide.
      depth: of the ResNet.
      groups: cardinality of a ResNeXt.
      group_width: width per group of a ResNeXt.
      style: whose conventions: "mmdet", the only published ones, or a `CascadeFlavour`.
      dtype: of the computation; parameters stay float32.
    """
    f = cascade_flavour(style, HTC_FLAVOURS)
    return HybridTaskCascade(
        **f.box_cascade(num_classes, depth, groups, group_width, dtype),
        mask_pooler=f.library.mask_pooler,
        mask_heads=f.make_mask_heads(num_classes, dtype, len(f.stages)),
        mask_targets=f.library.mask_targets,
        semantic_head=FusedSemanticHead(semantic_classes, dtype=dtype) if semantic else None,
    )
