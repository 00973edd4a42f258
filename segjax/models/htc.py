"""Hybrid Task Cascade (1901.07518)."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32, Key, UInt8

from segjax.losses.masks import MaskCrossEntropy
from segjax.losses.semantic import SemanticLoss
from segjax.models.cascade_rcnn import add_counts
from segjax.models.flavours.cascades import (
    HTC_FLAVOURS,
    CascadeFlavour,
    find_cascade_flavour,
)
from segjax.models.parts.box_cascade import BoxCascade
from segjax.models.parts.keys import fold_keys
from segjax.models.parts.masks import (
    MaskTargets,
    dropped,
    mask_loss,
    own_classes,
    with_box_masks,
)
from segjax.models.parts.rois import RoIPooler
from segjax.nn.conv import Conv
from segjax.nn.heads.mask import MaskHead
from segjax.nn.heads.semantic import FusedSemanticHead
from segjax.protocols import Backbone, ClassCounts, Counts, Features, Neck, Task, Terms
from segjax.types import Batch, Detections, Dtype, RoISamples


class FusedFeatures(NamedTuple):
    """Pyramid, and feature of the whole image from the semantic branch.

    Attributes:
      levels: levels P2..P6 of the pyramid.
      semantic: semantic feature [B, h, w, C]; None for a model without the branch.
    """

    levels: Features
    semantic: Float[Array, "B _h _w C"] | None


class HTCMaskBranch(nn.Module):
    """Mask heads of all stages, each of which also receives the features of the previous one.

    It has the two methods of `segjax.protocols.MaskBranch`, but they take fused features, and
    `losses` also takes a stage.

    Attributes:
      pooler: RoIAlign for the mask heads.
      semantic_pooler: RoIAlign for the semantic feature.
      mask_heads: mask head of each stage.
      features: number of channels of the pooled features.
      targets: rules for the ground truth of regions.
      loss: loss of each head.
      information_flow: True adds the features of the previous mask head, through a 1x1
        convolution, to the input of each mask head except the first (figure 2c).
      averaged: combination of the stages in prediction: "mean" of all probabilities (the paper,
        and mmdet up to version 2), or "last" stage only (mmdet 3, inadvertently).
    """

    pooler: RoIPooler
    semantic_pooler: RoIPooler
    mask_heads: tuple[MaskHead, ...]
    features: int = 256
    targets: MaskTargets = MaskTargets()
    loss: MaskCrossEntropy = MaskCrossEntropy()
    information_flow: bool = True
    averaged: Literal["mean", "last"] = "mean"

    def setup(self) -> None:
        """Creates the convolutions between the mask heads."""
        self.mask_flows = [
            Conv(self.features, dtype=head.dtype, name=f"mask_flow{t + 1}")
            for t, head in enumerate(self.mask_heads[:-1])
            if self.information_flow
        ]

    @property
    def num_classes(self) -> int:
        """Number of classes K, without background."""
        return self.mask_heads[0].num_classes

    def with_classes(self, num_classes: int) -> "HTCMaskBranch":
        """Returns the same branch with another number of classes."""
        heads = tuple(head.clone(num_classes=num_classes) for head in self.mask_heads)
        return self.clone(mask_heads=heads)

    def pool(self, features: FusedFeatures, boxes: Float32[Array, "B R 4"]) -> Array:
        """Pools the input of the first mask head, [B * R, S, S, C]."""
        return pool_fused(self.pooler, self.semantic_pooler, features, boxes)

    def logits(
        self,
        x: Float[Array, "N S S C"],
        stages: Sequence[int],
        classes: Int32[Array, "B R"] | None = None,
        valid: Bool[Array, "B R"] | None = None,
        train: bool = False,
    ) -> list[Float32[Array, "N M M *K"]]:
        """Predicts mask logits with the heads of several stages.

        Args:
          x: pooled features of B * R regions.
          stages: indices of the heads whose logits to return, from 0, ascending.
          classes: class of each region, to compute only its mask; None for all classes.
          valid: False for padding rows, which batch norm excludes from its statistics.
          train: lets batch norm use batch statistics.

        Returns:
          One array per stage: [N, M, M] for given classes, [N, M, M, K] for all.
        """
        classes = own_classes(classes, self.num_classes)
        rows = None if valid is None else valid.reshape(-1)
        logits, previous = [], None
        for t, head in enumerate(self.mask_heads[: stages[-1] + 1]):
            given = x
            if self.information_flow:
                if previous is not None:
                    given = x + nn.relu(self.mask_flows[t - 1](previous))
            elif t not in stages:
                continue  # no later head depends on this one
            previous = head.trunk(given, train, rows)
            if t in stages:
                logits.append(head.logits(previous, classes))
        return logits

    def losses(
        self,
        features: FusedFeatures,
        samples: RoISamples,
        batch: Batch,
        keys: Key[Array, " B"],
        stage: int,
    ) -> tuple[Terms, Counts]:
        """Computes one stage's "loss_mask" over positive regions; counts "mask_rois_dropped"."""
        del keys
        shown = self.targets.select(samples)
        pooled = self.pool(features, shown.boxes)
        (logits,) = self.logits(pooled, [stage], shown.classes, shown.positive, train=True)
        term = mask_loss(self.targets, self.loss, logits, shown, batch)
        return {"loss_mask": term}, {"mask_rois_dropped": dropped(samples, shown)}

    def predict(self, features: FusedFeatures, found: Detections) -> Detections:
        """Adds masks [B, D, M, M] over their boxes to detections."""
        assert found.boxes is not None
        pooled = self.pool(features, found.boxes)
        logits = self.logits(pooled, range(len(self.mask_heads)), found.classes)
        return with_box_masks(found, self.probabilities(logits), padded=False)

    def probabilities(self, logits: Sequence[Float32[Array, "N M M"]]) -> Float32[Array, "N M M"]:
        """Combines the stages' logits into mask probabilities 0..1, according to `averaged`."""
        used = logits if self.averaged == "mean" else logits[-1:]
        return jax.nn.sigmoid(jnp.stack(used)).mean(0)


class HybridTaskCascade(BoxCascade, kw_only=True):  # pyright: ignore[reportCallIssue]
    """Cascade with interleaved box and mask branches, and with a semantic branch.

    Attributes, in addition to those of `BoxCascade`:
      mask_head: mask branch of all stages. Its parameters are stored among the model's own.
      interleaved: True trains the mask head of a stage on the boxes that the box head of the same
        stage has just refined, after matching and sampling them again (section 3.1, figure 2b).
        False trains it on the input boxes of that box head.
      semantic_head: branch whose feature of the whole image is added to the region features of
        both other branches (figure 2d); None for HTC without semantic branch.
      semantic_loss: loss of the semantic branch.
    """

    mask_head: HTCMaskBranch
    interleaved: bool = True
    semantic_head: FusedSemanticHead | None = None
    semantic_loss: SemanticLoss = SemanticLoss(weight=0.2, averaged_over="all")

    @property
    def tasks(self) -> frozenset[Task]:
        """Bounding boxes and masks of objects; the semantic branch only supports these."""
        return frozenset({"boxes", "masks"})

    @property
    def classes(self) -> ClassCounts:
        """Classes of objects, and of pixels if there is a semantic branch."""
        head = self.semantic_head
        return ClassCounts(self.num_classes, None if head is None else head.num_classes)

    def setup(self) -> None:
        """Checks that the parts fit together.

        Raises:
          ValueError: if two parts do not match.
        """
        super().setup()
        nn.share_scope(self, self.mask_head)
        self.check_classes(self.mask_head.mask_heads)
        self._check_masks()
        if self.semantic_head is not None:
            self._check_semantic(self.semantic_head)

    def _check_masks(self) -> None:
        if len(self.mask_head.mask_heads) != len(self.stages):
            raise ValueError(
                f"{len(self.mask_head.mask_heads)} mask_heads for {len(self.stages)} stages: give"
                " one each"
            )
        if self.mask_head.features != self.fpn.features:
            raise ValueError(
                f"mask_head is for {self.mask_head.features} channels, the pyramid has"
                f" {self.fpn.features}: set mask_head.features to that"
            )

    def _check_semantic(self, head: FusedSemanticHead) -> None:
        if head.features != self.fpn.features:
            raise ValueError(
                f"the semantic head gives {head.features} channels, which are added"
                f" to region features of {self.fpn.features}: set its features to that"
            )
        stride, pooler = self.rpn.strides[head.fusion_level], self.mask_head.semantic_pooler
        if pooler.strides != (stride,):
            raise ValueError(
                f"semantic_pooler reads strides {pooler.strides}, the semantic"
                f" feature is at stride {stride}: set its strides to ({stride},)"
            )
        for other in (self.box_pooler, self.mask_head.pooler):
            if pooler.output_size % other.output_size:
                raise ValueError(
                    f"semantic_pooler gives {pooler.output_size} cells a side, not a multiple of"
                    f" {other.output_size}, as the box or mask pooler gives"
                )

    def with_classes(
        self, things: int | None = None, pixels: int | None = None
    ) -> "HybridTaskCascade":
        """Returns the same model with other numbers of classes."""
        model = self
        if things is not None:
            model = model.clone(
                box_heads=self.with_box_classes(things),
                mask_head=self.mask_head.with_classes(things),
            )
        if pixels is None:
            return model
        if self.semantic_head is None:
            raise ValueError("this model has no semantic branch: give it a semantic_head")
        return model.clone(semantic_head=self.semantic_head.clone(num_classes=pixels))

    # ---- Region features ----------------------------------------------------------------

    def semantic(
        self, features: Features, image_sizes: Int32[Array, "B 2"]
    ) -> tuple[Float32[Array, "B _h _w K"] | None, FusedFeatures]:
        """Returns logits of the semantic branch, None without one, and fused features."""
        if self.semantic_head is None:
            return None, FusedFeatures(features, None)
        logits, feature = self.semantic_head(
            features,
            image_sizes,
            stride=self.rpn.strides[0],
            size_divisor=self.padding.divisor,
        )
        return logits, FusedFeatures(features, feature)

    def box_features(
        self, features: FusedFeatures, boxes: Float32[Array, "B R 4"]
    ) -> Float[Array, "N S S C"]:
        """Pools the input of the box heads."""
        return pool_fused(self.box_pooler, self.mask_head.semantic_pooler, features, boxes)

    # ---- Prediction and training --------------------------------------------------------

    def predict(
        self, images: UInt8[Array, "B H W 3"], image_sizes: Int32[Array, "B 2"]
    ) -> Detections:
        """Predicts final detections [B, D] with masks, in pixels of the padded input."""
        return self.detect(self.features(images, image_sizes), image_sizes)

    __call__ = predict

    def detect(self, features: Features, image_sizes: Int32[Array, "B 2"]) -> Detections:
        """Predicts detections from pyramid features P2..P6, as in `predict`."""
        _, fused = self.semantic(features, image_sizes)
        proposals, _, _ = self.region_proposals(features, image_sizes)
        found = self.find_boxes(
            lambda boxes: self.box_features(fused, boxes), proposals, image_sizes
        )
        return self.mask_head.predict(fused, found)

    def losses(self, batch: Batch, keys: Key[Array, " B"]) -> tuple[Terms, Counts]:
        """Computes loss terms and counts of a batch, with one random key per image."""
        features = self.features(batch.images, batch.image_sizes, train=True)
        return self.detection_losses(features, batch, keys)

    def detection_losses(
        self, features: Features, batch: Batch, keys: Key[Array, " B"]
    ) -> tuple[Terms, Counts]:
        """Computes loss terms from pyramid features P2..P6, as in `losses`."""
        logits, fused = self.semantic(features, batch.image_sizes)
        regions, terms, counts = self.rpn_losses(features, batch, fold_keys(keys, 0))
        if logits is not None:
            terms |= self.semantic_loss(
                logits, batch.gt_semantic, batch.image_sizes, self.padding.divisor
            )
        for t, stage in enumerate(self.stages):
            samples = stage.sampler(fold_keys(keys, 2 * t + 1), regions, batch, self.num_classes)
            box_features = self.box_features(fused, samples.boxes)
            box_terms, regions = self.train_boxes(t, box_features, samples, batch)
            counts[f"positive_rois_stage{t + 1}"] = samples.positive.sum().astype(jnp.float32)
            stage_keys = fold_keys(keys, 2 * t + 2)
            if self.interleaved:
                samples = stage.sampler(stage_keys, regions, batch, self.num_classes)
            found = self.mask_head.losses(fused, samples, batch, fold_keys(stage_keys, 1), t)
            terms |= box_terms | self.of_stage(t, found[0])
            counts = add_counts(counts, found[1])
        return terms, counts


def pool_fused(
    pooler: RoIPooler,
    semantic_pooler: RoIPooler,
    features: FusedFeatures,
    boxes: Float32[Array, "B R 4"],
) -> Float[Array, "N S S C"]:
    """Pools region features and adds the semantic feature of each region (figure 2d)."""
    x = pooler(features.levels, boxes)
    if features.semantic is None:
        return x
    pooled = semantic_pooler([features.semantic], boxes)
    cells = pooled.shape[1] // x.shape[1]
    # The semantic grid can be finer: in mmdet, 14 x 14 cells for the 7 x 7 of the box heads.
    if cells > 1:
        pooled = nn.avg_pool(pooled, (cells, cells), (cells, cells))
    return x + pooled


def htc(
    backbone: Backbone,
    *,
    num_classes: int = 0,
    semantic: bool = True,
    semantic_classes: int = 0,
    flavour: CascadeFlavour | str = "mmdet",
    neck: Neck | None = None,
    dtype: Dtype = "float32",
) -> HybridTaskCascade:
    """Builds Hybrid Task Cascade with FPN, in mmdet's conventions.

    Args:
      backbone: backbone such as `resnet(50)`; its None fields follow the flavour.
      num_classes: number of classes K, without background; 0 lets the data determine it.
      semantic: True adds a semantic branch.
      semantic_classes: number of pixel classes; 183 for COCO-stuff, 0 lets the data determine it.
      flavour: conventions of "mmdet", the only published ones, or a `CascadeFlavour`.
      neck: neck that builds the pyramid; None for the flavour's FPN.
      dtype: compute dtype of all parts; parameters stay float32.
    """
    f = find_cascade_flavour(flavour, HTC_FLAVOURS)
    pyramid = f.library.neck(neck, dtype)
    width = pyramid.features
    head = FusedSemanticHead(semantic_classes, features=width, dtype=dtype) if semantic else None
    mask = f.library.mask_branch(num_classes, dtype)
    return HybridTaskCascade(
        preprocess=f.library.preprocess_of(backbone),
        backbone=f.library.backbone(backbone, dtype),
        fpn=pyramid,
        rpn_head=f.library.rpn_head(dtype),
        rpn=f.library.rpn,
        box_pooler=f.library.box_pooler,
        box_heads=f.box_heads(num_classes, dtype),
        stages=f.stages,
        detections=f.library.detections,
        box_loss=f.library.box_loss,
        averaged=f.averaged,
        passes_gt=f.passes_gt,
        passes_empty=f.passes_empty,
        feature_gradient=f.feature_gradient,
        mask_head=HTCMaskBranch(
            pooler=mask.pooler,
            semantic_pooler=RoIPooler(14, strides=(8,)),
            # Copies, as one module in three places would share its parameters.
            mask_heads=tuple(mask.head.clone() for _ in f.stages),
            features=width,
            targets=mask.targets,
        ),
        semantic_head=head,
    )
