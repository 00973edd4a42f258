"""Matching boxes (anchors or proposals) with ground truth by overlap.

The work is N boxes times G objects, 27 million pairs for the anchors of one picture,
in every training step. It runs over objects in blocks of a few rows, each row as long
as there are boxes: rows vectorise, memory stays at a few rows, and the best overlap of
an object and the comparison with it see the very same numbers, which the low-quality
rule needs (it asks for equality).
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from segjax.ops.boxes import Sides, iou_of_sides, sides_of
from segjax.types import struct

# Rows of one block: enough that the running maxima are read and written rarely, few
# enough to stay in a processor's cache. For 268,000 anchors and 100 objects a two-core
# machine took 29 ms with blocks of 4, 36 with 8, 123 with 16.
_BLOCK = 4


@struct
class Matches:
    """Match of each box.

    Attributes:
      gt_index: the object in 0..G-1; meaningful where label is 1, in range everywhere.
      label: 1 positive, 0 negative, -1 ignored.
    """

    gt_index: Int32[Array, "N"]
    label: Int32[Array, "N"]


@struct
class _Running:
    """The state of the scan over blocks of objects."""

    best: Float[Array, "N"]
    best_index: Int32[Array, "N"]
    forced: Bool[Array, "N"]
    forced_index: Int32[Array, "N"]


@dataclasses.dataclass(frozen=True)
class Matcher:
    """Labels boxes by their overlap with ground truth (Faster R-CNN, section 3.1.2).

    A box is positive if its best IoU is >= `high`, negative if it is < `low`, ignored
    between. The low-quality rule gives objects that no box reaches with `high` their
    best boxes nevertheless, ties included:

    - "none": no such rule (the box heads of torchvision and Detectron2).
    - "keep_argmax": the box becomes positive but keeps the object that it overlaps most.
      There is no minimum IoU (torchvision, Detectron2): a valid object that overlaps
      nothing makes every box positive, as it does there, so leave empty objects out of
      `gt_valid`.
    - "overwrite": if the object's best IoU is >= `min_low_quality_iou`, the box is given
      to that object; a later object takes it from an earlier one (mmdet's
      `MaxIoUAssigner`).

    Attributes:
      high: least IoU of a positive.
      low: IoU below which a box is negative; at most `high`.
      low_quality: the rule.
      min_low_quality_iou: for "overwrite" alone.
    """

    high: float | int
    low: float | int
    low_quality: Literal["none", "keep_argmax", "overwrite"]
    min_low_quality_iou: float | int = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise ValueError(f"low is {self.low} and high {self.high}: give 0 < low <= high")
        if self.low_quality not in ("none", "keep_argmax", "overwrite"):
            raise ValueError(
                f'low_quality is {self.low_quality!r}: give "none", "keep_argmax" or "overwrite"'
            )

    @jax.named_scope("match")
    def match(
        self,
        boxes: Float[Array, "N 4"],
        boxes_valid: Bool[Array, "N"] | None,
        gt_boxes: Float[Array, "G 4"],
        gt_valid: Bool[Array, "G"],
    ) -> Matches:
        """Matches the boxes of one picture; a batch goes by vmap.

        Args:
          boxes: anchors or proposals in pixels.
          boxes_valid: False for boxes that take no part: they are ignored, and no object
            counts them as its best. None if all take part.
          gt_boxes: objects in pixels.
          gt_valid: False for padding and for objects that are not targets (crowds).

        Returns:
          One object and label a box. Without valid objects, all valid boxes are negative.
        """
        # Targets are constants of the loss in every peer.
        boxes, gt_boxes = jax.lax.stop_gradient((boxes, gt_boxes))
        final = self._scan(boxes, boxes_valid, gt_boxes, gt_valid)
        positive = (final.best >= self.high) | final.forced
        label = jnp.where(positive, 1, jnp.where(final.best < self.low, 0, -1))
        if boxes_valid is not None:
            label = jnp.where(boxes_valid, label, -1)
        index = final.best_index
        if self.low_quality == "overwrite":
            index = jnp.where(final.forced, final.forced_index, index)
        return Matches(index, label.astype(jnp.int32))

    def _scan(
        self,
        boxes: Float[Array, "N 4"],
        boxes_valid: Bool[Array, "N"] | None,
        gt_boxes: Float[Array, "G 4"],
        gt_valid: Bool[Array, "G"],
    ) -> _Running:
        num_gt = gt_boxes.shape[0]
        block = max(min(_BLOCK, num_gt), 1)
        padding = -num_gt % block if num_gt else block
        box_sides = sides_of(boxes)
        gt_sides = sides_of(jnp.pad(gt_boxes, ((0, padding), (0, 0))))
        gt_valid = jnp.pad(gt_valid, (0, padding))

        def overlaps(gt: Sides, valid: Bool[Array, ""]) -> Float[Array, "N"]:
            # -1 ranks below every overlap: neither a padded object nor a box that takes no
            # part is ever the best of anything.
            real = valid if boxes_valid is None else valid & boxes_valid
            return jnp.where(real, iou_of_sides(gt.at(None), box_sides), -1.0)

        def step(state: _Running, xs: tuple[Array, Sides, Array]) -> tuple[_Running, None]:
            first, block_sides, block_valid = xs
            # Written out once: a division is too dear to be repeated for the maximum and
            # for the comparison with it, and those two must see the same number.
            rows = jax.lax.optimization_barrier(
                [overlaps(block_sides.at(k), block_valid[k]) for k in range(block)]
            )
            for k, row in enumerate(rows):
                state = self._add(state, first + k, row, block_valid[k])
            return state, None

        # Like a row rather than plain constants: inside shard_map a loop's carry must vary
        # over the mesh from the start on. The row itself is not computed.
        like = overlaps(gt_sides.at(0), gt_valid[0])
        start = _Running(
            best=jnp.full_like(like, -1.0),
            best_index=jnp.zeros_like(like, jnp.int32),
            forced=jnp.zeros_like(like, bool),
            forced_index=jnp.zeros_like(like, jnp.int32),
        )
        firsts = jnp.arange(0, num_gt + padding, block, dtype=jnp.int32)
        gt_sides = Sides(*(value.reshape(-1, block) for value in gt_sides))
        xs = (firsts, gt_sides, gt_valid.reshape(-1, block))
        return jax.lax.scan(step, start, xs)[0]

    def _add(
        self,
        state: _Running,
        index: Int32[Array, ""],
        row: Float[Array, "N"],
        valid: Bool[Array, ""],
    ) -> _Running:
        """Takes one object's overlaps into account; objects come in ascending order."""
        better = row > state.best  # strict: the first of equal objects stays the argmax
        best_index = jnp.where(better, index, state.best_index)
        best = jnp.maximum(row, state.best)
        if self.low_quality == "none":
            return _Running(best, best_index, state.forced, state.forced_index)
        top = row.max()
        eligible = valid & (top >= 0)
        if self.low_quality == "overwrite":
            eligible &= top >= self.min_low_quality_iou
        attains = (row == top) & eligible
        forced_index = state.forced_index
        if self.low_quality == "overwrite":
            forced_index = jnp.where(attains, index, forced_index)
        return _Running(best, best_index, state.forced | attains, forced_index)
