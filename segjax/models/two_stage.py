"""What Faster R-CNN and Mask R-CNN share, from regions to boxes."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, Key

from segjax.models.pyramid_rpn import PyramidRPN
from segjax.models.rois import (
    DetectionFilter,
    RoIPooler,
    RoISampler,
    RoISamples,
    box_losses,
    class_probabilities,
)
from segjax.nn.heads.box import BoxHead
from segjax.ops.boxes import DeltaCoder
from segjax.types import Batch, Detections, LossTerm


class TwoStage(PyramidRPN):
    """`PyramidRPN`, RoIAlign and box head; nothing here is meant to be overridden.

    Attributes, besides those of `PyramidRPN`:
      box_pooler: RoIAlign for the box head.
      box_head: class logits and deltas of regions; its `num_classes` is the
        model's, 0 until the data decide.
      box_coder: box deltas of the box head.
      sampler: regions drawn for training.
      detections: what becomes a final detection.
      box_smooth_l1_beta: of the box head's loss; 0 is L1.
    """

    box_pooler: RoIPooler
    box_head: BoxHead
    box_coder: DeltaCoder
    sampler: RoISampler
    detections: DetectionFilter
    box_smooth_l1_beta: float = 0.0

    semantic_classes = None

    @property
    def num_classes(self) -> int:
        """K, without background; 0 until `with_num_classes` was called."""
        return self.box_head.num_classes

    def box_outputs(
        self,
        features: Sequence[Float[Array, "B _ _ C"]],
        boxes: Float[Array, "B R 4"],
        valid: Bool[Array, "B R"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "N K1"], Float[Array, "N Kb 4"]]:
        """Class logits [B * R, K + 1], background last, and deltas of regions.

        `valid` keeps padding rows out of batch norm's statistics.
        """
        rows = None if valid is None else valid.reshape(-1)
        return self.box_head(self.box_pooler(features, boxes), train, rows)

    def find_boxes(
        self, features: Sequence[Float[Array, "B _ _ C"]], image_sizes: Int32[Array, "B 2"]
    ) -> Detections:
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
        features: Sequence[Float[Array, "B _ _ C"]],
        batch: Batch,
        keys: Key[Array, " B"],
    ) -> tuple[RoISamples, dict[str, LossTerm], dict[str, Float[Array, ""]]]:
        """Samples regions; their box losses, the RPN's losses, and counts."""
        rpn_keys, roi_keys = split_keys(keys)
        proposals, terms, counts = self.rpn_losses(features, batch, rpn_keys)
        samples = self.sampler(roi_keys, proposals, batch, self.num_classes)
        logits, deltas = self.box_outputs(features, samples.boxes, samples.valid, train=True)
        terms |= box_losses(
            logits, deltas, samples, batch.gt_boxes, self.box_coder, self.box_smooth_l1_beta
        )
        counts["positive_rois"] = samples.positive.sum().astype(jnp.float32)
        return samples, terms, counts


def split_keys(keys: Key[Array, " B"]) -> tuple[Key[Array, " B"], Key[Array, " B"]]:
    """Two independent keys from each image's key."""
    pairs = jax.vmap(lambda key: jax.random.split(key, 2))(keys)
    return pairs[:, 0], pairs[:, 1]
