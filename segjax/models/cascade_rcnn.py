"""Cascade R-CNN and Cascade Mask R-CNN with FPN (1712.00726; 1906.09756)."""

import functools

import jax.numpy as jnp
from jaxtyping import Array, Int32, Key, UInt8

from segjax.models.flavours.cascades import CascadeFlavour, find_cascade_flavour
from segjax.models.parts.box_cascade import BoxCascade
from segjax.models.parts.keys import fold_keys
from segjax.models.parts.masks import average_masks
from segjax.models.parts.two_stage import check_no_pixels
from segjax.protocols import Backbone, Counts, Features, MaskBranch, Neck, Task, Terms
from segjax.types import Batch, Detections, Dtype


class CascadeRCNN(BoxCascade):
    """Chain of box heads, each trained on the boxes of the previous one, at a higher IoU threshold.

    `BoxCascade` documents the fields.
    """

    @property
    def tasks(self) -> frozenset[Task]:
        """Bounding boxes of objects."""
        return frozenset({"boxes"})

    def with_classes(self, things: int | None = None, pixels: int | None = None) -> "CascadeRCNN":
        """Returns the same model with another number of classes."""
        check_no_pixels(pixels)
        return self if things is None else self.clone(box_heads=self.with_box_classes(things))

    def predict(
        self, images: UInt8[Array, "B H W 3"], image_sizes: Int32[Array, "B 2"]
    ) -> Detections:
        """Predicts the final detections [B, D] in pixels of the padded input."""
        features = self.features(images, image_sizes)
        proposals, _, _ = self.region_proposals(features, image_sizes)
        pool = functools.partial(self.box_pooler, features)
        return self.find_boxes(pool, proposals, image_sizes)

    __call__ = predict

    def losses(self, batch: Batch, keys: Key[Array, " B"]) -> tuple[Terms, Counts]:
        """Computes loss terms and counts of a batch, with one random key per image."""
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
    """Cascade R-CNN with mask branches in addition to its box heads.

    Attributes, in addition to those of `BoxCascade`:
      mask_heads: mask branches of all stages (mmdet) or of the first ones (Detectron2 has one),
        each trained on its stage's regions. In prediction, all of them run on the final boxes,
        and their probabilities are averaged.
    """

    mask_heads: tuple[MaskBranch, ...]

    @property
    def tasks(self) -> frozenset[Task]:
        """Bounding boxes and masks of objects."""
        return frozenset({"boxes", "masks"})

    def setup(self) -> None:
        """Checks that heads and stages fit together.

        Raises:
          ValueError: if there are no mask heads, more of them than stages, or their classes differ.
        """
        super().setup()
        self.check_classes(self.mask_heads)
        if not 1 <= len(self.mask_heads) <= len(self.stages):
            raise ValueError(
                f"{len(self.mask_heads)} mask_heads for {len(self.stages)} stages: give one for"
                " each stage, or for the first ones"
            )

    def with_classes(
        self, things: int | None = None, pixels: int | None = None
    ) -> "CascadeMaskRCNN":
        """Returns the same model with another number of classes."""
        check_no_pixels(pixels)
        if things is None:
            return self
        return self.clone(
            box_heads=self.with_box_classes(things),
            mask_heads=tuple(head.with_classes(things) for head in self.mask_heads),
        )

    def predict(
        self, images: UInt8[Array, "B H W 3"], image_sizes: Int32[Array, "B 2"]
    ) -> Detections:
        """Predicts final detections [B, D] with masks, in pixels of the padded input."""
        return self.detect(self.features(images, image_sizes), image_sizes)

    __call__ = predict

    def detect(self, features: Features, image_sizes: Int32[Array, "B 2"]) -> Detections:
        """Predicts detections from pyramid features P2..P6, as in `predict`."""
        proposals, _, _ = self.region_proposals(features, image_sizes)
        pool = functools.partial(self.box_pooler, features)
        found = self.find_boxes(pool, proposals, image_sizes)
        return average_masks([head.predict(features, found) for head in self.mask_heads])

    def losses(self, batch: Batch, keys: Key[Array, " B"]) -> tuple[Terms, Counts]:
        """Computes loss terms and counts of a batch, with one random key per image."""
        features = self.features(batch.images, batch.image_sizes, train=True)
        return self.detection_losses(features, batch, keys)

    def detection_losses(
        self, features: Features, batch: Batch, keys: Key[Array, " B"]
    ) -> tuple[Terms, Counts]:
        """Computes loss terms from pyramid features P2..P6, as in `losses`."""
        regions, terms, counts = self.rpn_losses(features, batch, fold_keys(keys, 0))
        for t, stage in enumerate(self.stages):
            stage_keys = fold_keys(keys, t + 1)
            samples = stage.sampler(stage_keys, regions, batch, self.num_classes)
            box_features = self.box_pooler(features, samples.boxes)
            box_terms, regions = self.train_boxes(t, box_features, samples, batch)
            terms |= box_terms
            counts[f"positive_rois_stage{t + 1}"] = samples.positive.sum().astype(jnp.float32)
            if t < len(self.mask_heads):
                mask_keys = fold_keys(stage_keys, 1)
                found = self.mask_heads[t].losses(features, samples, batch, mask_keys)
                terms |= self.of_stage(t, found[0])
                counts = add_counts(counts, found[1])
        return terms, counts


def add_counts(counts: Counts, more: Counts) -> Counts:
    """Adds up counts of the same name, such as those of several stages."""
    return counts | {name: counts[name] + n if name in counts else n for name, n in more.items()}


def cascade_rcnn(
    backbone: Backbone,
    *,
    num_classes: int = 0,
    flavour: CascadeFlavour | str = "detectron2",
    neck: Neck | None = None,
    dtype: Dtype = "float32",
) -> CascadeRCNN:
    """Builds Cascade R-CNN with FPN.

    Args:
      backbone: backbone such as `resnet(50)`; its None fields follow the flavour.
      num_classes: number of classes K, without background; 0 lets the data determine it.
      flavour: conventions of "detectron2" or "mmdet", or a `CascadeFlavour`.
      neck: neck that builds the pyramid; None for the flavour's FPN.
      dtype: compute dtype of all parts; parameters stay float32.
    """
    f = find_cascade_flavour(flavour)
    return CascadeRCNN(
        preprocess=f.library.preprocess_of(backbone),
        backbone=f.library.backbone(backbone, dtype),
        fpn=f.library.neck(neck, dtype),
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
    )


def cascade_mask_rcnn(
    backbone: Backbone,
    *,
    num_classes: int = 0,
    flavour: CascadeFlavour | str = "detectron2",
    neck: Neck | None = None,
    mask_heads: tuple[MaskBranch, ...] | None = None,
    dtype: Dtype = "float32",
) -> CascadeMaskRCNN:
    """Builds Cascade Mask R-CNN with FPN.

    Args:
      backbone: backbone such as `resnet(50)`; its None fields follow the flavour.
      num_classes: number of classes K, without background; 0 lets the data determine it.
      flavour: conventions of "detectron2" (one mask head) or "mmdet" (one for each stage), or a
        `CascadeFlavour`.
      neck: neck that builds the pyramid; None for the flavour's FPN.
      mask_heads: mask branches of the first stages; None for the flavour's.
      dtype: compute dtype of all parts; parameters stay float32.
    """
    f = find_cascade_flavour(flavour)
    return CascadeMaskRCNN(
        preprocess=f.library.preprocess_of(backbone),
        backbone=f.library.backbone(backbone, dtype),
        fpn=f.library.neck(neck, dtype),
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
        mask_heads=f.mask_branches(num_classes, dtype) if mask_heads is None else mask_heads,
    )
