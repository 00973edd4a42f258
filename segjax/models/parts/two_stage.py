"""The box branch that Faster R-CNN and Mask R-CNN share, from regions to boxes."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, Key

from segjax.losses.boxes import SmoothL1, SoftmaxCrossEntropy
from segjax.models.parts.keys import split_keys
from segjax.models.parts.pyramid_rpn import PyramidRPN
from segjax.models.parts.rois import (
    DetectionFilter,
    RoIPooler,
    RoISampler,
    box_losses,
    class_probabilities,
)
from segjax.nn.heads.box import BoxHead
from segjax.ops.boxes import DeltaCoder
from segjax.protocols import BoxLoss, ClassCounts, Counts, Features, Terms
from segjax.types import Batch, Detections, RoISamples


class TwoStage(PyramidRPN):
    """`PyramidRPN`, RoIAlign and box head; nothing here is meant to be overridden.

    Attributes, besides those of `PyramidRPN`:
      box_pooler: RoIAlign for the box head.
      box_head: class logits and deltas of regions; its `num_classes` is the
        model's, 0 until the data decide.
      box_coder: scale of the box head's deltas.
      sampler: regions drawn for training.
      detections: rule by which regions become final detections.
      class_loss: loss of the box head's classes.
      box_loss: loss of its deltas.
    """

    box_pooler: RoIPooler
    box_head: BoxHead
    box_coder: DeltaCoder
    sampler: RoISampler
    detections: DetectionFilter
    class_loss: SoftmaxCrossEntropy = SoftmaxCrossEntropy()
    box_loss: BoxLoss = SmoothL1()

    @property
    def classes(self) -> ClassCounts:
        """Objects alone."""
        return ClassCounts(things=self.num_classes)

    @property
    def num_classes(self) -> int:
        """K, without background; 0 until the data decide."""
        return self.box_head.num_classes

    def box_outputs(
        self,
        features: Features,
        boxes: Float[Array, "B R 4"],
        valid: Bool[Array, "B R"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "N K1"], Float[Array, "N Kb 4"]]:
        """Class logits [B * R, K + 1], background last, and deltas of regions.

        `valid` keeps padding rows out of batch norm's statistics.
        """
        rows = None if valid is None else valid.reshape(-1)
        return self.box_head(self.box_pooler(features, boxes), train, rows)

    def find_boxes(self, features: Features, image_sizes: Int32[Array, "B 2"]) -> Detections:
        """Final boxes [B, D], without masks, in pixels of the padded input."""
        proposals, _, _ = self.region_proposals(features, image_sizes)
        logits, deltas = self.box_outputs(features, proposals.boxes)
        batch = proposals.boxes.shape[0]
        return self.detections(
            class_probabilities(logits.reshape(batch, -1, logits.shape[-1])),
            deltas.reshape(batch, -1, *deltas.shape[1:]),
            proposals,
            image_sizes,
            self.box_coder,
        )

    def rpn_and_box_losses(
        self,
        features: Features,
        batch: Batch,
        keys: Key[Array, " B"],
    ) -> tuple[RoISamples, Terms, Counts]:
        """Samples regions; their box losses, the RPN's losses, and counts."""
        rpn_keys, roi_keys = split_keys(keys)
        proposals, terms, counts = self.rpn_losses(features, batch, rpn_keys)
        samples = self.sampler(roi_keys, proposals, batch, self.num_classes)
        logits, deltas = self.box_outputs(features, samples.boxes, samples.valid, train=True)
        terms |= box_losses(
            logits,
            deltas,
            samples,
            batch.gt_boxes,
            self.box_coder,
            self.class_loss,
            self.box_loss,
        )
        counts["positive_rois"] = samples.positive.sum().astype(jnp.float32)
        return samples, terms, counts


def check_no_pixels(pixels: int | None) -> None:
    """Raises a ValueError if a model without semantic branch is given classes of pixels."""
    if pixels is not None:
        raise ValueError(f"{pixels} classes of pixels, for a model without a semantic branch")
