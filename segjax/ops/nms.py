"""Exact greedy non-maximum suppression with static shapes, by three methods.

All methods return the result of the sequential algorithm: in descending order of score
(lower index first for equal scores), a box is kept unless an earlier kept box of the same
group overlaps it with an IoU strictly above the threshold.

- "loop": the algorithm itself, one row of overlaps per box. O(N) memory; fastest on CPUs.
- "fixpoint": on a GPU, a serial loop costs one kernel launch per box. This method iterates
  `keep <- not any(keep_i and i suppresses j)` on all boxes at once. A box whose longest
  chain of suppressors has length t is correct after t rounds and stays so. The fixed point
  is therefore unique and equals the greedy result. Real images need four to six rounds.
- "blocked": "fixpoint" within tiles of boxes, one tile after another (Google's TPU Mask
  R-CNN in MLPerf). O(tile * N) memory, for very many boxes.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, UInt32

from segjax.ops.boxes import iou_of_sides, sides_of

Method = Literal["auto", "loop", "fixpoint", "blocked"]

# A data-dependent while loop synchronises with the host before every round. Nearly all inputs
# converge within this many unrolled rounds, so that they synchronise once instead of eight times.
_UNROLLED_ROUNDS = 8

_TILE = 256
_WORD = 32


@jax.named_scope("nms")
def nms(
    boxes: Float[Array, "N 4"],
    scores: Float[Array, "N"],
    valid: Bool[Array, "N"],
    iou_threshold: float | int | Float[Array, ""],
    groups: Int32[Array, "N"] | None = None,
    *,
    method: Method = "auto",
) -> Bool[Array, "N"]:
    """Marks the boxes that survive suppression; use `jax.vmap` for a batch.

    Args:
      boxes: boxes in pixels.
      scores: scores to sort by, descending; equal scores are sorted by index, NaN comes last.
      valid: False for padding, which neither survives nor suppresses other boxes.
      iou_threshold: IoU above which, but not at which, a box is suppressed.
      groups: class or pyramid level of each box; only boxes of the same group suppress each
        other. Grouping does not shift coordinates, so it costs no precision.
      method: "auto" is "loop" on CPUs and "fixpoint" elsewhere. The result is always the same.

    Returns:
      True where the box is kept, in the order of the input.

    Raises:
      ValueError: if the method is unknown.
    """
    order = _descending(scores, valid)
    keep = _keep_in_order(_Problem(boxes, groups, iou_threshold, order), valid[order], method)
    return jnp.zeros(valid.shape, bool).at[order].set(keep, unique_indices=True)


@jax.named_scope("nms")
def nms_topk(
    boxes: Float[Array, "N 4"],
    scores: Float[Array, "N"],
    valid: Bool[Array, "N"],
    iou_threshold: float | int | Float[Array, ""],
    k: int,
    groups: Int32[Array, "N"] | None = None,
    *,
    method: Method = "auto",
) -> tuple[Int32[Array, "k"], Bool[Array, "k"]]:
    """The k best boxes that survive `nms`, in descending score.

    Args:
      boxes: boxes in pixels.
      scores: scores to sort by, descending; equal scores are sorted by index, NaN comes last.
      valid: False for padding, which is never returned.
      iou_threshold: as in `nms`.
      k: number of rows to return; it may exceed N.
      groups: as in `nms`.
      method: as in `nms`.

    Returns:
      Positions in the input and their validity. If fewer than k boxes survive, the remaining
      rows have position 0 and are False.
    """
    order = _descending(scores, valid)
    keep = _keep_in_order(_Problem(boxes, groups, iou_threshold, order), valid[order], method)
    # Survivors go to the row of their rank, the others out of range, where they are dropped.
    place = jnp.where(keep, jnp.cumsum(keep, dtype=jnp.int32) - 1, k)
    index = jnp.zeros(k, jnp.int32).at[place].set(order, mode="drop")
    return index, jnp.arange(k, dtype=jnp.int32) < keep.sum(dtype=jnp.int32)


def _descending(scores: Float[Array, "N"], valid: Bool[Array, "N"]) -> Int32[Array, "N"]:
    """Stable order by descending score, with padding last."""
    key = jnp.where(valid, -jax.lax.stop_gradient(scores), jnp.inf)
    return jnp.argsort(key, stable=True).astype(jnp.int32)


def _keep_in_order(
    problem: "_Problem", valid: Bool[Array, "N"], method: Method
) -> Bool[Array, "N"]:
    """Suppresses boxes in descending order of score; the result is in the same order."""
    if problem.size == 0:
        return valid
    # Inside shard_map, the carry of a loop must vary over the mesh from the start, even if
    # `valid` is a constant and only the boxes differ between devices. This compiles to nothing.
    first_row = problem.suppresses(jnp.zeros(1, jnp.int32))[0]
    valid &= jnp.full_like(first_row, True)
    match method:
        case "loop":
            return _loop(problem, valid)
        case "fixpoint":
            return _fixpoint(problem, valid)
        case "blocked":
            return _blocked(problem, valid)
        case "auto":
            return jax.lax.platform_dependent(
                valid,
                cpu=lambda v: _loop(problem, v),
                default=lambda v: _fixpoint(problem, v),
            )
    raise ValueError(f'method is {method!r}: give "auto", "loop", "fixpoint" or "blocked"')


class _Problem:
    """Boxes in descending order of score, with precomputed areas and coordinates."""

    def __init__(
        self,
        boxes: Float[Array, "N 4"],
        groups: Int32[Array, "N"] | None,
        threshold: float | int | Float[Array, ""],
        order: Int32[Array, "N"],
    ) -> None:
        # Suppression is not differentiable.
        boxes = jax.lax.stop_gradient(boxes)[order]
        self.size = boxes.shape[0]
        self.sides = sides_of(boxes)
        self.groups = None if groups is None else groups[order]
        self.threshold = threshold

    def suppresses(self, rows: Int32[Array, "R"]) -> Bool[Array, "R N"]:
        """Returns True where box i of `rows`, if it is kept, suppresses a later box j."""
        iou = iou_of_sides(self.sides.at(rows).at((slice(None), None)), self.sides.at(None))
        later = rows[:, None] < jnp.arange(self.size, dtype=jnp.int32)[None]
        suppresses = (iou > self.threshold) & later
        if self.groups is not None:
            suppresses &= self.groups[rows][:, None] == self.groups[None]
        return suppresses


def _loop(problem: _Problem, valid: Bool[Array, "N"]) -> Bool[Array, "N"]:
    def step(i: Int32[Array, ""], keep: Bool[Array, "N"]) -> Bool[Array, "N"]:
        return keep & ~(problem.suppresses(i[None])[0] & keep[i])

    return jax.lax.fori_loop(0, problem.size, step, valid)


def _fixpoint(problem: _Problem, valid: Bool[Array, "N"]) -> Bool[Array, "N"]:
    matrix = problem.suppresses(jnp.arange(problem.size, dtype=jnp.int32))
    return _iterate(_pack(matrix), valid)


def _pack(matrix: Bool[Array, "R N"]) -> UInt32[Array, "W N"]:
    """Packs 32 rows into a word. Rounds are memory-bound, and this cuts their reads to 1/8."""
    rows = matrix.shape[0]
    matrix = jnp.pad(matrix, ((0, -rows % _WORD), (0, 0)))
    words = matrix.reshape(-1, _WORD, matrix.shape[1]).astype(jnp.uint32)
    shifts = jnp.arange(_WORD, dtype=jnp.uint32)[None, :, None]
    return (words << shifts).sum(axis=1, dtype=jnp.uint32)


def _iterate(packed: UInt32[Array, "W N"], candidates: Bool[Array, "N"]) -> Bool[Array, "N"]:
    """Computes the fixed point of `keep <- candidates and not suppressed by keep`."""

    def round_(keep: Bool[Array, "N"]) -> Bool[Array, "N"]:
        return candidates & ~_suppressed(packed, keep)

    def again(state: tuple[Bool[Array, "N"], Bool[Array, "N"]]):
        return jnp.any(state[0] != state[1])

    before, keep = candidates, candidates
    for _ in range(_UNROLLED_ROUNDS):
        before, keep = keep, round_(keep)
    return jax.lax.while_loop(again, lambda s: (s[1], round_(s[1])), (before, keep))[1]


def _suppressed(packed: UInt32[Array, "W N"], keep: Bool[Array, "R"]) -> Bool[Array, "N"]:
    return jnp.any((packed & _pack(keep[:, None])) != 0, axis=0)


def _blocked(problem: _Problem, valid: Bool[Array, "N"]) -> Bool[Array, "N"]:
    tile = min(_TILE, problem.size)

    def step(t: Int32[Array, ""], keep: Bool[Array, "N"]) -> Bool[Array, "N"]:
        # The last tile is shifted back to end at N. Boxes that it shares with the previous
        # tile are already final, and the fixed point does not change them.
        first = jnp.minimum(t * tile, problem.size - tile)
        rows = first + jnp.arange(tile, dtype=jnp.int32)
        packed = _pack(problem.suppresses(rows))
        inside = jax.lax.dynamic_slice_in_dim(packed, first, tile, axis=1)
        kept = _iterate(inside, jax.lax.dynamic_slice_in_dim(keep, first, tile))
        # Boxes only suppress later ones, so boxes before the tile do not change.
        keep = jax.lax.dynamic_update_slice_in_dim(keep, kept, first, axis=0)
        return keep & ~_suppressed(packed, kept)

    return jax.lax.fori_loop(0, -(-problem.size // tile), step, valid)
