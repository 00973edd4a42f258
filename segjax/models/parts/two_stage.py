"""Box branch shared by Faster R-CNN and Mask R-CNN, which turns regions into boxes."""

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
    """`PyramidRPN`, RoIAlign and box head; its methods are not meant to be overridden.

    Attributes, in addition to those of `PyramidRPN`:
      box_pooler: RoIAlign for the box head.
      box_head: network that predicts class logits and deltas of regions; its `num_classes` is the
        model's, 0 until the data determine it.
      box_coder: scale of the box deltas.
      sampler: sampler of regions for training.
      detections: filter that selects the final detections.
      class_loss: classification loss of the box head.
      box_loss: loss of the box deltas.
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
        """Classes of objects only."""
        return ClassCounts(things=self.num_classes)

    @property
    def num_classes(self) -> int:
        """Number of classes K, without background; 0 until the data determine it."""
        return self.box_head.num_classes

    def box_outputs(
        self,
        features: Features,
        boxes: Float[Array, "B R 4"],
        valid: Bool[Array, "B R"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "N K1"], Float[Array, "N Kb 4"]]:
        """Predicts class logits [B * R, K + 1], background last, and deltas of regions.

        `valid` is False for padding rows, which batch norm excludes from its statistics.
        """
        rows = None if valid is None else valid.reshape(-1)
        return self.box_head(self.box_pooler(features, boxes), train, rows)

    def find_boxes(self, features: Features, image_sizes: Int32[Array, "B 2"]) -> Detections:
        """Predicts the final boxes [B, D], without masks, in pixels of the padded input."""
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
        """Samples regions; returns them, the losses of RPN and box head, and counts."""
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
    """Raises a ValueError if `pixels` is given, for models without a semantic branch."""
    if pixels is not None:
        raise ValueError(f"{pixels} classes of pixels, for a model without a semantic branch")
