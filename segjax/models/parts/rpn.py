"""The region proposal network around its head: anchors, proposals, losses (1506.01497)."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32, Key

from segjax.losses.boxes import SigmoidCrossEntropy, SmoothL1
from segjax.nn.heads.rpn import RPNOutput
from segjax.ops.anchors import base_anchors, level_anchors, level_stride
from segjax.ops.boxes import DeltaCoder, clip_boxes, nonempty
from segjax.ops.matching import Matcher
from segjax.ops.nms import nms
from segjax.ops.sampling import sample_labels
from segjax.protocols import BoxLoss
from segjax.types import Batch, LossTerm, Proposals


@dataclasses.dataclass(frozen=True)
class RPN:
    """Everything of the region proposal network that has no parameters.

    Attributes:
      anchor_sizes: side of the square anchor of each level, pixels.
      aspect_ratios: height over width.
      strides: pixels per cell of each level.
      round_anchors: round base anchors to whole pixels (torchvision).
      stride_from_shape: take the stride as padded size // cells (torchvision).
      coder: box deltas.
      pre_nms_topk: candidates per level, (training, test).
      post_nms_topk: proposals per image, (training, test).
      ranked_by: objectness "logits" (torchvision, Detectron2) or "probabilities" (mmdet).
        They differ where float32 probabilities tie, as all do above a logit of 16.6.
      nms_threshold: IoU above which a worse proposal of the same level goes.
      min_size: both sides of a proposal must exceed this, in pixels (or reach
        it, with `min_size_inclusive`).
      matcher: which anchors are objects.
      allowed_border: how far, in pixels, a training anchor may reach beyond the
        image; None for any (mmdet's Cascade and HTC use 0).
      num_samples: anchors per image that enter the loss.
      positive_fraction: at most this part of them positive.
      loss_count: what the losses are divided by: "sampled", the number of
        sampled anchors (torchvision, mmdet), or "fixed", num_samples for each
        image (Detectron2).
      objectness_loss: loss of sampled anchors' objectness.
      box_loss: loss of positive anchors' deltas.
    """

    anchor_sizes: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    strides: tuple[int, ...] = (4, 8, 16, 32, 64)
    round_anchors: bool = False
    stride_from_shape: bool = False
    coder: DeltaCoder = DeltaCoder()
    pre_nms_topk: tuple[int, int] = (2000, 1000)
    post_nms_topk: tuple[int, int] = (1000, 1000)
    ranked_by: Literal["logits", "probabilities"] = "logits"
    nms_threshold: float = 0.7
    min_size: float = 0.0
    min_size_inclusive: bool = False
    matcher: Matcher = Matcher(0.7, 0.3, "keep_argmax")
    allowed_border: float | None = None
    num_samples: int = 256
    positive_fraction: float = 0.5
    loss_count: Literal["sampled", "fixed"] = "sampled"
    objectness_loss: SigmoidCrossEntropy = SigmoidCrossEntropy()
    box_loss: BoxLoss = SmoothL1()

    def anchors(
        self, feature_shapes: Sequence[tuple[int, int]], padded_size: tuple[int, int]
    ) -> list[Float32[Array, "_ 4"]]:
        """Anchors of every level, [h * w * A, 4] in order (H, W, A)."""
        levels = []
        for size, stride, shape in zip(
            self.anchor_sizes, self.strides, feature_shapes, strict=True
        ):
            base = base_anchors((size,), self.aspect_ratios, rounded=self.round_anchors)
            step = level_stride(padded_size, shape, stride, self.stride_from_shape)
            levels.append(level_anchors(base, shape, step))
        return levels

    def proposals(
        self,
        output: RPNOutput,
        anchors: Sequence[Float32[Array, "_ 4"]],
        image_sizes: Int32[Array, "B 2"],
        *,
        train: bool,
    ) -> Proposals:
        """The best boxes of every level after NMS, [B, R]; no gradient passes.

        Per level: the `pre_nms_topk` best anchors, decoded, clipped to the image,
        empty ones dropped, NMS; then the `post_nms_topk` best over all levels.
        Ties go by position: lower levels first, within a level in order (H, W, A), as a
        stable sort leaves them. (mmdet's own order of ties is that of `torch.sort`, which is
        stable on CUDA; that of torch 2.14 on x86 CPUs is not.)
        """
        pre, post = (pair[0 if train else 1] for pair in (self.pre_nms_topk, self.post_nms_topk))
        levels = [
            self._level_candidates(logits, deltas, boxes, image_sizes, pre)
            for logits, deltas, boxes in zip(
                output.objectness_logits, output.box_deltas, anchors, strict=True
            )
        ]
        # Stack the levels, padded to the same number of candidates: one batched
        # NMS over [B, L] instead of a longer one over all levels together.
        width = max(level[1].shape[1] for level in levels)
        boxes, scores, valid = (
            jnp.stack([_pad_to(level[i], width) for level in levels], axis=1) for i in range(3)
        )
        keep = jax.vmap(jax.vmap(lambda b, s, v: nms(b, s, v, self.nms_threshold)))(
            boxes, scores, valid
        )
        boxes, scores, keep = (
            x.reshape(x.shape[0], -1, *x.shape[3:]) for x in (boxes, scores, keep)
        )
        return best_proposals(boxes, scores, keep, min(post, keep.shape[1]))

    def _level_candidates(
        self, logits: Array, deltas: Array, anchors: Array, image_sizes: Array, topk: int
    ) -> tuple[Array, Array, Array]:
        """Boxes [B, n, 4], scores [B, n], valid [B, n] of a level's `topk` best anchors."""
        scores = jax.lax.stop_gradient(logits)
        if self.ranked_by == "probabilities":
            scores = jax.nn.sigmoid(scores)
        scores, index = jax.lax.top_k(scores, min(topk, logits.shape[1]))
        best = jnp.take_along_axis(jax.lax.stop_gradient(deltas), index[..., None], axis=1)
        boxes = clip_boxes(self.coder.decode(best, anchors[index]), image_sizes)
        valid = nonempty(boxes, self.min_size, inclusive=self.min_size_inclusive)
        return boxes, scores, valid & jnp.isfinite(scores) & jnp.isfinite(boxes).all(-1)

    def losses(
        self,
        output: RPNOutput,
        anchors: Sequence[Float32[Array, "_ 4"]],
        batch: Batch,
        keys: Key[Array, " B"],
    ) -> tuple[dict[str, LossTerm], dict[str, Float[Array, ""]]]:
        """Objectness and box loss over sampled anchors, and how many were positive."""
        all_anchors = jnp.concatenate(anchors)
        logits = jnp.concatenate(output.objectness_logits, axis=1)
        deltas = jnp.concatenate(output.box_deltas, axis=1)
        positive, negative, matched = jax.vmap(self._targets, in_axes=(None, 0, 0, 0, 0))(
            all_anchors,
            batch.image_sizes,
            batch.gt_boxes,
            batch.gt_valid & ~batch.gt_is_crowd,
            keys,
        )
        sampled = positive | negative
        count = (
            sampled.sum().astype(jnp.float32)
            if self.loss_count == "sampled"
            else jnp.float32(self.num_samples * logits.shape[0])
        )
        regions = jnp.broadcast_to(all_anchors[None], matched.shape)
        terms = {
            "loss_rpn_cls": self.objectness_loss(logits, positive, sampled, count),
            "loss_rpn_box": self.box_loss(deltas, regions, matched, self.coder, positive, count),
        }
        return terms, {"positive_anchors": positive.sum().astype(jnp.float32)}

    def _targets(
        self,
        anchors: Float32[Array, "N 4"],
        image_size: Int32[Array, " 2"],
        gt_boxes: Float32[Array, "G 4"],
        gt_valid: Bool[Array, " G"],
        key: Key[Array, ""],
    ) -> tuple[Bool[Array, " N"], Bool[Array, " N"], Float32[Array, "N 4"]]:
        """Sampled positives, sampled negatives and matched ground truth of one image."""
        inside = None
        if self.allowed_border is not None:
            limit = image_size[::-1].astype(jnp.float32) + self.allowed_border
            inside = (anchors[:, :2] >= -self.allowed_border).all(-1)
            inside &= (anchors[:, 2:] < limit[None]).all(-1)
        matches = self.matcher.match(anchors, inside, gt_boxes, gt_valid)
        positive, negative = sample_labels(
            key, matches.label, self.num_samples, self.positive_fraction
        )
        return positive, negative, gt_boxes[matches.gt_index]


def best_proposals(
    boxes: Float32[Array, "B N 4"],
    scores: Float32[Array, "B N"],
    keep: Bool[Array, "B N"],
    count: int,
) -> Proposals:
    """The `count` best kept boxes of each image, best first, padded with zeros."""
    best, index = jax.lax.top_k(jnp.where(keep, scores, -jnp.inf), count)
    valid = jnp.take_along_axis(keep, index, axis=1)
    boxes = jnp.take_along_axis(boxes, index[..., None], axis=1)
    return Proposals(
        boxes=jnp.where(valid[..., None], boxes, 0.0),
        scores=jnp.where(valid, best, 0.0),
        valid=valid,
    )


def _pad_to(x: Array, width: int) -> Array:
    """Pads axis 1 with zeros (False) to `width`."""
    return jnp.pad(x, [(0, 0), (0, width - x.shape[1])] + [(0, 0)] * (x.ndim - 2))
