"""Steps between proposals and detections, shared by every two-stage and cascaded model.

Each is a frozen dataclass of settings with one method, so that a model's
constructor shows its flavour and its code reads as pool, head, losses.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32, Key

from segjax.ops import losses as loss_ops
from segjax.ops.boxes import DeltaCoder, clip_boxes, nonempty
from segjax.ops.masks import mask_targets
from segjax.ops.matching import Matcher
from segjax.ops.nms import nms_topk
from segjax.ops.roi_align import assign_levels, multilevel_roi_align
from segjax.ops.sampling import sample_indices
from segjax.types import Batch, Detections, LossTerm, Proposals, struct


@struct
class RoISamples:
    """Regions drawn for training; all positives stand before the negatives.

    Attributes:
      boxes: the regions, without gradient.
      valid: False for rows that only fill the fixed shape.
      positive: True where the region shows an object.
      classes: its class 0..K-1, or K for background.
      gt_index: row of the ground truth it is matched to.
      is_gt: True for rows that are ground-truth boxes themselves.
    """

    boxes: Float32[Array, "*B R 4"]
    valid: Bool[Array, "*B R"]
    positive: Bool[Array, "*B R"]
    classes: Int32[Array, "*B R"]
    gt_index: Int32[Array, "*B R"]
    is_gt: Bool[Array, "*B R"]


@dataclasses.dataclass(frozen=True)
class RoIPooler:
    """RoIAlign over the pyramid.

    Attributes:
      output_size: cells per side.
      sampling_ratio: samples per cell and axis; 0 for ceil(cell size).
      aligned: half-pixel shift of He et al.'s later code (Detectron2, mmdet).
      levels: whose rule assigns boxes to levels.
      canonical_size: box side, pixels, that belongs to `canonical_level`.
      canonical_level: see `canonical_size`.
      strides: pixels per cell of the levels that are pooled from, finest first.
    """

    output_size: int
    sampling_ratio: int = 0
    aligned: bool = True
    levels: Literal["torchvision", "detectron2", "mmdet"] = "detectron2"
    canonical_size: float = 224.0
    canonical_level: int = 4
    strides: tuple[int, ...] = (4, 8, 16, 32)

    def __call__(
        self, features: Sequence[Float[Array, "B _ _ C"]], boxes: Float32[Array, "B R 4"]
    ) -> Float[Array, "N S S C"]:
        """Region features [B * R, S, S, C] of boxes [B, R, 4]."""
        level = assign_levels(
            boxes,
            convention=self.levels,
            num_levels=len(self.strides),
            canonical_size=self.canonical_size,
            canonical_level=self.canonical_level,
            min_level=self.strides[0].bit_length() - 1,
        )
        pooled = multilevel_roi_align(
            features[: len(self.strides)],
            boxes,
            level,
            [float(s) for s in self.strides],
            output_size=self.output_size,
            sampling_ratio=self.sampling_ratio,
            aligned=self.aligned,
        )
        return pooled.reshape(-1, *pooled.shape[2:])


@dataclasses.dataclass(frozen=True)
class RoISampler:
    """Matches proposals to ground truth and draws a fixed number of them.

    Attributes:
      matcher: which proposals are objects.
      num_samples: regions per image; None for all that there are.
      positive_fraction: at most this part of them positive.
      append_gt: "before_matching" (torchvision, Detectron2), "after_matching"
        (mmdet: they cannot take part in low-quality matching), or "never".
    """

    matcher: Matcher = Matcher(0.5, 0.5, "none")
    num_samples: int | None = 512
    positive_fraction: float = 0.25
    append_gt: Literal["before_matching", "after_matching", "never"] = "before_matching"

    def max_positives(self, num_samples: int) -> int:
        """How many of `num_samples` rows can be positive."""
        wanted = num_samples if self.num_samples is None else self.num_samples
        return min(num_samples, int(wanted * self.positive_fraction))

    def __call__(
        self, keys: Key[Array, " B"], proposals: Proposals, batch: Batch, num_classes: int
    ) -> RoISamples:
        """Draws [B, min(num_samples, candidates)] regions, one key for each image."""
        sample = jax.vmap(self._sample, in_axes=(0, 0, 0, 0, 0, 0, None))
        return sample(
            keys,
            jax.lax.stop_gradient(proposals.boxes),
            proposals.valid,
            batch.gt_boxes,
            batch.gt_valid & ~batch.gt_is_crowd,
            batch.gt_classes,
            num_classes,
        )

    def _sample(
        self,
        key: Key[Array, ""],
        boxes: Float32[Array, "R 4"],
        valid: Bool[Array, " R"],
        gt_boxes: Float32[Array, "G 4"],
        gt_valid: Bool[Array, " G"],
        gt_classes: Int32[Array, " G"],
        num_classes: int,
    ) -> RoISamples:
        num_proposals = boxes.shape[0]
        if self.append_gt == "before_matching":
            boxes, valid = jnp.concatenate([boxes, gt_boxes]), jnp.concatenate([valid, gt_valid])
        matches = self.matcher.match(boxes, valid, gt_boxes, gt_valid)
        label, gt_index = matches.label, matches.gt_index
        if self.append_gt == "after_matching":
            boxes = jnp.concatenate([boxes, gt_boxes])
            label = jnp.concatenate([label, jnp.where(gt_valid, 1, -1).astype(label.dtype)])
            own = jnp.arange(gt_boxes.shape[0], dtype=gt_index.dtype)
            gt_index = jnp.concatenate([gt_index, own])
        count = min(self.num_samples or boxes.shape[0], boxes.shape[0])
        # The cap on positives belongs to num_samples, also where there are fewer
        # candidates; the half keeps the quotient from rounding one away.
        fraction = min(1.0, (self.max_positives(count) + 0.5) / count)
        chosen = sample_indices(key, label, count, fraction)
        positive = chosen.valid & (chosen.label == 1)
        gt_index = gt_index[chosen.index]
        return RoISamples(
            boxes=jnp.where(chosen.valid[:, None], boxes[chosen.index], 0.0),
            valid=chosen.valid,
            positive=positive,
            classes=jnp.where(positive, gt_classes[gt_index], num_classes),
            gt_index=jnp.where(positive, gt_index, 0),
            is_gt=chosen.valid & (chosen.index >= num_proposals),
        )


def box_losses(
    class_logits: Float32[Array, "N K1"],
    box_deltas: Float32[Array, "N Kb 4"],
    samples: RoISamples,
    gt_boxes: Float32[Array, "B G 4"],
    coder: DeltaCoder,
    smooth_l1_beta: float,
) -> dict[str, LossTerm]:
    """Classification over all sampled regions, box regression over the positive ones.

    Both are divided by the number of sampled regions, background included
    (Fast R-CNN as all three peers write it).
    """
    classes, valid, positive = (
        x.reshape(-1) for x in (samples.classes, samples.valid, samples.positive)
    )
    matched = jnp.take_along_axis(gt_boxes, samples.gt_index[..., None], axis=1)
    targets = coder.encode(matched, samples.boxes).reshape(-1, 4)
    if box_deltas.shape[1] > 1:
        own = jnp.minimum(classes, box_deltas.shape[1] - 1)[:, None, None]
        box_deltas = jnp.take_along_axis(box_deltas, own, axis=1)
    classification = loss_ops.softmax_cross_entropy(class_logits, classes)
    regression = loss_ops.smooth_l1(box_deltas[:, 0], targets, smooth_l1_beta).sum(-1)
    count = valid.sum().astype(jnp.float32)
    return {
        "loss_cls": LossTerm(jnp.where(valid, classification, 0.0).sum(), count),
        "loss_box": LossTerm(jnp.where(positive, regression, 0.0).sum(), count),
    }


def class_probabilities(class_logits: Float32[Array, "*n K1"]) -> Float32[Array, "*n K"]:
    """Softmax over K classes and background, which is last and left out."""
    return jax.nn.softmax(class_logits)[..., :-1]


@dataclasses.dataclass(frozen=True)
class MaskTargets:
    """How the mask head is trained.

    Attributes:
      aligned: RoIAlign's half-pixel shift when ground truth is resampled.
      threshold: targets are 1 where the resampled mask reaches it; None for
        soft targets (torchvision).
      max_rois: the head runs on the first so many positive slots of each image;
        None for all that sampling can fill. What goes beyond is counted.
    """

    aligned: bool = True
    threshold: float | None = 0.5
    max_rois: int | None = None

    def select(self, samples: RoISamples, slots: int) -> RoISamples:
        """The rows of `samples` on which the mask head is trained: [B, slots or fewer]."""
        slots = slots if self.max_rois is None else min(slots, self.max_rois)
        return jax.tree.map(lambda x: x[:, :slots], samples)

    def loss(
        self, mask_logits: Float32[Array, "N M M"], samples: RoISamples, batch: Batch
    ) -> LossTerm:
        """Mean binary cross entropy over the cells of positive regions."""
        index = samples.gt_index[..., None]
        masks = jnp.take_along_axis(batch.gt_masks, index[..., None], axis=1)
        frames = jnp.take_along_axis(batch.gt_mask_frames, index, axis=1)
        size = mask_logits.shape[-1]
        targets = mask_targets(
            masks.reshape(-1, *masks.shape[2:]),
            frames.reshape(-1, 4),
            samples.boxes.reshape(-1, 4),
            size,
            aligned=self.aligned,
            threshold=self.threshold,
        )
        positive = samples.positive.reshape(-1)
        loss = loss_ops.sigmoid_cross_entropy(mask_logits, targets).sum((1, 2))
        count = positive.sum().astype(jnp.float32) * size**2
        return LossTerm(jnp.where(positive, loss, 0.0).sum(), count)


@dataclasses.dataclass(frozen=True)
class DetectionFilter:
    """From class probabilities and boxes to the final detections.

    Attributes:
      score_threshold: a class must score above this.
      nms_threshold: IoU above which a worse box of the same class goes.
      max_detections: D, per image.
      min_size: both sides of a box must reach this, pixels (torchvision 1e-2).
      num_candidates: how many (region, class) pairs, best first, enter NMS. As
        NMS runs best first, the result is exact if these yield
        `max_detections`, or if no more pairs pass the threshold.
      class_agnostic_nms: a better box suppresses worse ones of any class (mmdet's Panoptic
        FPN).
    """

    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_detections: int = 100
    min_size: float = 0.0
    num_candidates: int = 4096
    class_agnostic_nms: bool = False

    def __call__(
        self,
        class_probs: Float32[Array, "B R K"],
        box_deltas: Float32[Array, "B R Kb 4"],
        proposals: Proposals,
        image_sizes: Int32[Array, "B 2"],
        coder: DeltaCoder,
    ) -> Detections:
        """Decode, clip, threshold, NMS within each class, the best D."""
        return jax.vmap(self._filter, in_axes=(0, 0, 0, 0, 0, None))(
            class_probs, box_deltas, proposals.boxes, proposals.valid, image_sizes, coder
        )

    def _filter(
        self,
        probs: Float32[Array, "R K"],
        box_deltas: Float32[Array, "R Kb 4"],
        proposals: Float32[Array, "R 4"],
        proposal_valid: Bool[Array, " R"],
        image_size: Int32[Array, " 2"],
        coder: DeltaCoder,
    ) -> Detections:
        num_classes = probs.shape[1]
        eligible = (probs > self.score_threshold) & proposal_valid[:, None]
        count = min(self.num_candidates, probs.size)
        scores, index = jax.lax.top_k(jnp.where(eligible, probs, -1.0).reshape(-1), count)
        region, classes = index // num_classes, index % num_classes
        deltas = box_deltas[region, jnp.minimum(classes, box_deltas.shape[1] - 1)]
        boxes = clip_boxes(coder.decode(deltas, proposals[region]), image_size)
        valid = (scores > 0) & nonempty(boxes, self.min_size, inclusive=True)
        groups = None if self.class_agnostic_nms else classes
        best, kept = nms_topk(
            boxes, scores, valid, self.nms_threshold, self.max_detections, groups=groups
        )
        return Detections(
            boxes=jnp.where(kept[:, None], boxes[best], 0.0),
            scores=jnp.where(kept, scores[best], 0.0),
            classes=jnp.where(kept, classes[best], 0),
            valid=kept,
        )
