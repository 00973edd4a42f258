"""Greedy non-maximum suppression with static shapes, exact, in three forms.

All forms compute the one answer of the sequential algorithm: in descending order of
score (equal scores: lower index first) a box is kept unless a kept box before it, of the
same group, overlaps it with an IoU strictly above the threshold.

- "loop": the algorithm itself, one row of overlaps a box. O(N) memory; quickest on CPUs.
- "fixpoint": on a GPU a serial loop costs a kernel launch a box. Instead iterate
  `keep <- not any(keep_i and i suppresses j)` on all boxes at once. A box whose longest
  chain of suppressors has length t is right after t rounds and stays so, hence the fixed
  point is unique and is the greedy answer. Real pictures need four to six rounds.
- "blocked": the same within tiles of boxes, tile after tile (Google's TPU Mask R-CNN in
  MLPerf): O(tile * N) memory for very many boxes.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, UInt32

from segjax.ops.boxes import iou_of_sides, sides_of

Method = Literal["auto", "loop", "fixpoint", "blocked"]

# A data-dependent while loop asks the host before every round. Nearly all inputs are done
# after this many rounds, and pay for one question instead of eight.
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
    """Marks the boxes that survive suppression; a batch goes by vmap.

    Args:
      boxes: boxes in pixels.
      scores: higher comes first; equal scores by index; NaN last.
      valid: False for padding, which neither survives nor suppresses.
      iou_threshold: a box is suppressed by IoU > threshold, never by equality.
      groups: only boxes of equal group (class or pyramid level) suppress each other. No
        coordinates are shifted for it, so grouping costs no precision.
      method: "auto" is "loop" on CPUs and "fixpoint" elsewhere. All give the same answer.

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
      scores: higher comes first; equal scores by index; NaN last.
      valid: False for padding, which never appears.
      iou_threshold: as in `nms`.
      k: how many to return; it may exceed N.
      groups: as in `nms`.
      method: as in `nms`.

    Returns:
      Positions in the input, and False where fewer than k survive (position 0 there).
    """
    order = _descending(scores, valid)
    keep = _keep_in_order(_Problem(boxes, groups, iou_threshold, order), valid[order], method)
    # The rank of each survivor is its place; the rest goes out of range and is dropped.
    place = jnp.where(keep, jnp.cumsum(keep, dtype=jnp.int32) - 1, k)
    index = jnp.zeros(k, jnp.int32).at[place].set(order, mode="drop")
    return index, jnp.arange(k, dtype=jnp.int32) < keep.sum(dtype=jnp.int32)


def _descending(scores: Float[Array, "N"], valid: Bool[Array, "N"]) -> Int32[Array, "N"]:
    """Positions by descending score, stable, padding last."""
    key = jnp.where(valid, -jax.lax.stop_gradient(scores), jnp.inf)
    return jnp.argsort(key, stable=True).astype(jnp.int32)


def _keep_in_order(
    problem: "_Problem", valid: Bool[Array, "N"], method: Method
) -> Bool[Array, "N"]:
    """Suppression among boxes in descending score; the answer is in that order too."""
    if problem.size == 0:
        return valid
    # Inside shard_map a loop's carry must vary over the mesh from the start on, also where
    # `valid` is a constant and only the boxes differ between devices. No code comes of it.
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
    """Boxes in descending score with what the overlap of any two needs, computed once."""

    def __init__(
        self,
        boxes: Float[Array, "N 4"],
        groups: Int32[Array, "N"] | None,
        threshold: float | int | Float[Array, ""],
        order: Int32[Array, "N"],
    ) -> None:
        # Which boxes survive is not differentiable.
        boxes = jax.lax.stop_gradient(boxes)[order]
        self.size = boxes.shape[0]
        self.sides = sides_of(boxes)
        self.groups = None if groups is None else groups[order]
        self.threshold = threshold

    def suppresses(self, rows: Int32[Array, "R"]) -> Bool[Array, "R N"]:
        """True where box i of `rows`, if it is kept, suppresses a later box j."""
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
    """Packs 32 rows into a word: the rounds are bound by memory, and read 1/8 of it."""
    rows = matrix.shape[0]
    matrix = jnp.pad(matrix, ((0, -rows % _WORD), (0, 0)))
    words = matrix.reshape(-1, _WORD, matrix.shape[1]).astype(jnp.uint32)
    shifts = jnp.arange(_WORD, dtype=jnp.uint32)[None, :, None]
    return (words << shifts).sum(axis=1, dtype=jnp.uint32)


def _iterate(packed: UInt32[Array, "W N"], candidates: Bool[Array, "N"]) -> Bool[Array, "N"]:
    """The fixed point of `keep <- candidates and not suppressed by keep`."""

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
        # The last tile is shifted back to end at N. Boxes that it shares with the tile
        # before are final already, and the fixed point leaves them as they are.
        first = jnp.minimum(t * tile, problem.size - tile)
        rows = first + jnp.arange(tile, dtype=jnp.int32)
        packed = _pack(problem.suppresses(rows))
        inside = jax.lax.dynamic_slice_in_dim(packed, first, tile, axis=1)
        kept = _iterate(inside, jax.lax.dynamic_slice_in_dim(keep, first, tile))
        # Overlaps look only forward, so boxes before the tile are not touched.
        keep = jax.lax.dynamic_update_slice_in_dim(keep, kept, first, axis=0)
        return keep & ~_suppressed(packed, kept)

    return jax.lax.fori_loop(0, -(-problem.size // tile), step, valid)
