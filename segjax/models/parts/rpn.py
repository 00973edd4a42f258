"""Region proposal network without its head: anchors, proposals and losses (1506.01497)."""

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
    """Parts of the region proposal network that have no parameters.

    Attributes:
      anchor_sizes: side in pixels of the square anchor of each level.
      aspect_ratios: heights of the anchors over their widths.
      strides: pixels per cell of each level.
      round_anchors: True rounds base anchors to whole pixels (torchvision).
      stride_from_shape: True computes strides as padded size // cells (torchvision).
      coder: scale of the box deltas.
      pre_nms_topk: candidates per level in (training, test).
      post_nms_topk: proposals per image in (training, test).
      ranked_by: objectness "logits" (torchvision, Detectron2) or "probabilities" (mmdet).
        They differ where float32 probabilities tie, as they all do above a logit of 16.6.
      nms_threshold: IoU with a better proposal of the same level above which one is suppressed.
      min_size: size in pixels that both sides of a proposal must exceed.
      min_size_inclusive: True also accepts sides equal to `min_size`.
      matcher: rule that labels anchors as objects or background.
      allowed_border: maximum distance in pixels by which a training anchor may extend beyond the
        image; None for no limit (mmdet's Cascade and HTC use 0).
      num_samples: number of anchors per image that enter the loss.
      positive_fraction: maximum fraction of positive anchors.
      loss_count: divisor of the losses: "sampled", the number of sampled anchors (torchvision,
        mmdet), or "fixed", `num_samples` for each image (Detectron2).
      objectness_loss: loss of the objectness of sampled anchors.
      box_loss: loss of the deltas of positive anchors.
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
        """Returns the anchors of every level, [h * w * A, 4] in (H, W, A) order."""
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
        """Selects the best boxes [B, R] of all levels after NMS, without gradient.

        On each level, this decodes the `pre_nms_topk` best anchors, clips them to the image, drops
        empty ones, and applies NMS. It then takes the `post_nms_topk` best over all levels.
        Ties are broken by position, as in a stable sort: lower levels first, and (H, W, A) order
        within a level. (mmdet breaks ties in the order of `torch.sort`, which is stable on CUDA,
        but not on x86 CPUs with torch 2.14.)
        """
        pre, post = (pair[0 if train else 1] for pair in (self.pre_nms_topk, self.post_nms_topk))
        levels = [
            self._level_candidates(logits, deltas, boxes, image_sizes, pre)
            for logits, deltas, boxes in zip(
                output.objectness_logits, output.box_deltas, anchors, strict=True
            )
        ]
        # Stack the levels, padded to the same number of candidates. NMS is then batched over
        # [B, L], instead of a longer one over all levels together.
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
        """Returns boxes [B, n, 4], scores [B, n], valid [B, n] of a level's `topk` best anchors."""
        scores = jax.lax.stop_gradient(logits)
        if self.ranked_by == "probabilities":
            scores = jax.nn.sigmoid(scores)
        scores, index = jax.lax.top_k(scores, min(topk, logits.shape[1]))
        best = jnp.take_along_axis(jax.lax.stop_gradient(deltas), index[..., None], axis=1)
        boxes = clip_boxes(self.coder.decode(best, anchors[index]), image_sizes)
        valid = nonempty(boxes, self.min_size, inclusive=self.min_size_inclusive)
        # Like Detectron2, drop proposals that are not finite.
        return boxes, scores, valid & jnp.isfinite(scores) & jnp.isfinite(boxes).all(-1)

    def losses(
        self,
        output: RPNOutput,
        anchors: Sequence[Float32[Array, "_ 4"]],
        batch: Batch,
        keys: Key[Array, " B"],
    ) -> tuple[dict[str, LossTerm], dict[str, Float[Array, ""]]]:
        """Computes objectness and box losses of sampled anchors, and counts the positives."""
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
        """Returns sampled positives, sampled negatives and matched ground truth of one image."""
        inside = None
        if self.allowed_border is not None:
            # Reversed, because sizes are (height, width) and boxes are (x, y).
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
    """Selects the `count` best kept boxes of each image, best first, padded with zeros."""
    best, index = jax.lax.top_k(jnp.where(keep, scores, -jnp.inf), count)
    valid = jnp.take_along_axis(keep, index, axis=1)
    boxes = jnp.take_along_axis(boxes, index[..., None], axis=1)
    return Proposals(
        boxes=jnp.where(valid[..., None], boxes, 0.0),
        scores=jnp.where(valid, best, 0.0),
        valid=valid,
    )


def _pad_to(x: Array, width: int) -> Array:
    """Pads axis 1 to `width` with zeros (False)."""
    return jnp.pad(x, [(0, 0), (0, width - x.shape[1])] + [(0, 0)] * (x.ndim - 2))
