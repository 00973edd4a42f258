"""Matches boxes (anchors or proposals) with ground truth by overlap.

Every training step compares N boxes with G objects: 27 million pairs for the anchors of one
image. A scan goes through the objects in blocks of a few rows, each with one entry per box.
Rows vectorise, and memory is limited to a few of them. An object's best overlap is also
compared with the very numbers it was computed from, because the low-quality rule tests for
equality.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from segjax.ops.boxes import Sides, iou_of_sides, sides_of
from segjax.types import struct

# Objects per block: enough to amortise reading and writing the running maxima, few enough
# to stay in the processor's cache. With 268,000 anchors and 100 objects, a two-core machine
# takes 29 ms with blocks of 4, 36 ms with 8 and 123 ms with 16.
_BLOCK = 4


@struct
class Matches:
    """Matched object and label of each box.

    Attributes:
      gt_index: index of the object, always in 0..G-1; only meaningful where `label` is 1.
      label: 1 positive, 0 negative, -1 ignored.
    """

    gt_index: Int32[Array, "N"]
    label: Int32[Array, "N"]


@struct
class _Running:
    """State of the scan over blocks of objects."""

    best: Float[Array, "N"]
    best_index: Int32[Array, "N"]
    forced: Bool[Array, "N"]
    forced_index: Int32[Array, "N"]


@dataclasses.dataclass(frozen=True)
class Matcher:
    """Labels boxes by their overlap with ground truth (Faster R-CNN, section 3.1.2).

    A box is positive if its best IoU is >= `high`, negative if it is < `low`, and ignored in
    between. The low-quality rule makes the best boxes of every object positive, ties included,
    even if their IoU is below `high`:

    - "none": no such rule (the box heads of torchvision and Detectron2).
    - "keep_argmax": the box becomes positive but keeps the object that it overlaps most.
      There is no minimum IoU (torchvision, Detectron2). As in the peers, a valid object that
      overlaps nothing makes every box positive, so exclude empty objects from `gt_valid`.
    - "overwrite": if the object's best IoU is >= `min_low_quality_iou`, the box is assigned
      to that object. Later objects take precedence over earlier ones (mmdet's
      `MaxIoUAssigner`).

    Attributes:
      high: minimum IoU of a positive box.
      low: IoU below which a box is negative; at most `high`.
      low_quality: rule for objects that no box overlaps well, see above.
      min_low_quality_iou: minimum IoU for "overwrite"; the other rules do not use it.
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
        """Matches the boxes of one image; use `jax.vmap` for a batch.

        Args:
          boxes: anchors or proposals in pixels.
          boxes_valid: False for boxes to exclude. They are labelled as ignored and are never
            the best box of an object. None includes all.
          gt_boxes: boxes of the objects in pixels.
          gt_valid: False for padding and for objects that are not targets (crowds).

        Returns:
          Object and label of each box. Without valid objects, all valid boxes are negative.
        """
        # As in all peers, no gradient flows through the targets.
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
            # -1 is below every overlap, so padded objects and excluded boxes are never the
            # best match of anything.
            real = valid if boxes_valid is None else valid & boxes_valid
            return jnp.where(real, iou_of_sides(gt.at(None), box_sides), -1.0)

        def step(state: _Running, xs: tuple[Array, Sides, Array]) -> tuple[_Running, None]:
            first, block_sides, block_valid = xs
            # The barrier materialises the overlaps. Divisions are too expensive to repeat for
            # the maximum and for the comparison with it, and both must see the same number.
            rows = jax.lax.optimization_barrier(
                [overlaps(block_sides.at(k), block_valid[k]) for k in range(block)]
            )
            for k, row in enumerate(rows):
                state = self._add(state, first + k, row, block_valid[k])
            return state, None

        # Inside shard_map, the carry of a loop must vary over the mesh from the start, so derive
        # it from a row instead of using constants. The row itself is never computed.
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
        """Updates the state with the overlaps of one object; call it in ascending order."""
        better = row > state.best  # strict, so that the first of equal objects wins
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
