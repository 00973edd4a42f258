"""Steps between proposals and detections, shared by all two-stage and cascaded models.

Each step is a callable frozen dataclass of settings. The constructor of a model thus shows its
conventions, and its code reads as pool, head, losses.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32, Key

from segjax.losses.boxes import SoftmaxCrossEntropy
from segjax.ops.boxes import DeltaCoder, clip_boxes, nonempty
from segjax.ops.matching import Matcher
from segjax.ops.nms import nms_topk
from segjax.ops.roi_align import assign_levels, multilevel_roi_align
from segjax.ops.sampling import sample_indices
from segjax.protocols import BoxLoss
from segjax.types import Batch, Detections, LossTerm, Proposals, RoISamples

M = TypeVar("M")


@dataclasses.dataclass(frozen=True)
class RoIPooler:
    """RoIAlign over the pyramid.

    Attributes:
      output_size: number of cells per side.
      sampling_ratio: samples per cell and axis; 0 for ceil(cell size).
      aligned: True for the half-pixel shift of He et al.'s later code (Detectron2, mmdet).
      levels: library whose rule assigns boxes to levels.
      canonical_size: side in pixels of a box that belongs to `canonical_level`.
      canonical_level: level of a box of `canonical_size`; 4 is P4.
      strides: pixels per cell of the levels to pool from, finest first.
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
        """Pools region features [B * R, S, S, C] of boxes [B, R, 4]."""
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
      matcher: rule that labels proposals as objects or background.
      num_samples: number of regions per image; None for all.
      positive_fraction: maximum fraction of positive regions.
      append_gt: point at which ground-truth boxes join the proposals: "before_matching"
        (torchvision, Detectron2), "after_matching" (mmdet; they cannot take part in low-quality
        matching), or "never".
    """

    matcher: Matcher = Matcher(0.5, 0.5, "none")
    num_samples: int | None = 512
    positive_fraction: float = 0.25
    append_gt: Literal["before_matching", "after_matching", "never"] = "before_matching"

    def max_positives(self, num_samples: int) -> int:
        """Returns how many of `num_samples` rows can be positive."""
        wanted = num_samples if self.num_samples is None else self.num_samples
        return min(num_samples, int(wanted * self.positive_fraction))

    def __call__(
        self, keys: Key[Array, " B"], proposals: Proposals, batch: Batch, num_classes: int
    ) -> RoISamples:
        """Draws [B, min(num_samples, candidates)] regions, with one key per image."""
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
        # Ground truth is appended after the proposals, so that its index identifies it below.
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
        # The limit on positives is a fraction of `num_samples`, even with fewer candidates. Adding
        # one half prevents the division from rounding one positive away.
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
            max_positives=self.max_positives(count),
        )


def box_losses(
    class_logits: Float32[Array, "N K1"],
    box_deltas: Float32[Array, "N Kb 4"],
    samples: RoISamples,
    gt_boxes: Float32[Array, "B G 4"],
    coder: DeltaCoder,
    class_loss: SoftmaxCrossEntropy,
    box_loss: BoxLoss,
) -> dict[str, LossTerm]:
    """Computes the class loss of all sampled regions and the box loss of the positive ones.

    Both are divided by the number of sampled regions, including background, as in all three
    peers' Fast R-CNN.
    """
    classes, valid, positive = (
        x.reshape(-1) for x in (samples.classes, samples.valid, samples.positive)
    )
    matched = jnp.take_along_axis(gt_boxes, samples.gt_index[..., None], axis=1)
    if box_deltas.shape[1] > 1:
        # Background has no deltas. Any valid index will do, as only positives enter the box loss.
        own = jnp.minimum(classes, box_deltas.shape[1] - 1)[:, None, None]
        box_deltas = jnp.take_along_axis(box_deltas, own, axis=1)
    count = valid.sum().astype(jnp.float32)
    regions, targets = samples.boxes.reshape(-1, 4), matched.reshape(-1, 4)
    return {
        "loss_cls": class_loss(class_logits, classes, valid, count),
        "loss_box": box_loss(box_deltas[:, 0], regions, targets, coder, positive, count),
    }


def class_probabilities(class_logits: Float32[Array, "*n K1"]) -> Float32[Array, "*n K"]:
    """Softmax over K classes and background; drops the latter, which is last."""
    return jax.nn.softmax(class_logits)[..., :-1]


@dataclasses.dataclass(frozen=True)
class DetectionFilter:
    """Selects the final detections from class probabilities and boxes.

    Attributes:
      score_threshold: score that detections must exceed.
      nms_threshold: IoU with a better box of the same class above which a box is suppressed.
      max_detections: maximum number D of detections per image.
      min_size: minimum of both sides of a box, in pixels (torchvision 1e-2).
      num_candidates: maximum number of (region, class) pairs that enter NMS, best first. NMS runs
        in descending order of score, so the result is exact if these yield `max_detections`, or
        if no more pairs pass the threshold.
      class_agnostic_nms: True lets a box suppress worse ones of any class (mmdet's Panoptic FPN).
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
        """Thresholds, decodes and clips boxes, applies NMS, and keeps the best D."""
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
        # Decoding only the candidates is cheaper than decoding R * K boxes.
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


def with_max_detections(module: M, number: int) -> M:
    """Returns a model with all its detection filters' limits raised to at least `number`.

    Args:
      module: linen module; filters are also found in modules inside it.
      number: detections per image.
    """
    part: Any = module
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(part):
        value = vars(part).get(field.name)
        if isinstance(value, DetectionFilter) and value.max_detections < number:
            candidates = max(value.num_candidates, number)
            changes[field.name] = dataclasses.replace(
                value, max_detections=number, num_candidates=candidates
            )
        # `parent` is a field of every linen module, but points to the module around it.
        elif isinstance(value, nn.Module) and field.name != "parent":
            inner = with_max_detections(value, number)
            changes |= {} if inner is value else {field.name: inner}
    return part.clone(**changes) if changes else part
