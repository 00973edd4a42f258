"""Instances and stuff merged into one panoptic map, on the device."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

from segjax.types import struct


@struct
class PanopticSegments:
    """A panoptic map and the segments on it; S = instances + semantic classes.

    Attributes:
      ids: the segment of every pixel; 0 where there is none.
      segment_ids: the id on the map of each row, 1.. in the order of merging; 0 for rows
        that got no pixels. Rows are the instances, then the semantic classes.
      classes: the instance's class, or the semantic class.
      is_thing: True for instances.
      scores: the instance's score; 0 for stuff.
    """

    ids: Int32[Array, "H W"]
    segment_ids: Int32[Array, " S"]
    classes: Int32[Array, " S"]
    is_thing: Bool[Array, " S"]
    scores: Float32[Array, " S"]


def merge_panoptic(
    masks: Bool[Array, "N H W"],
    scores: Float32[Array, " N"],
    classes: Int32[Array, " N"],
    valid: Bool[Array, " N"],
    semantic: Int32[Array, "H W"],
    *,
    num_semantic: int,
    things: int | None = None,
    score_threshold: float | int = 0.5,
    overlap: float | int = 0.5,
    stuff_area: int = 4096,
) -> PanopticSegments:
    """Heuristic merge of Panoptic Feature Pyramid Networks (1901.02446, appendix).

    Instances in the given order take the pixels that are still free; one whose taken part
    exceeds `overlap` of its area is left out. What remains goes to the semantic classes
    (Detectron2's `combine_semantic_and_instance_outputs`, mmdet's `HeuristicFusionHead`).

    Args:
      masks: of the instances.
      scores: best first.
      classes: of the instances.
      valid: False for rows that only fill the shape.
      semantic: class of every pixel in 0..num_semantic - 1; others are no class.
      num_semantic: semantic classes.
      things: the semantic class that means "some instance", which is no stuff; None if all are
        stuff.
      score_threshold: an instance must score at least this.
      overlap: see above.
      stuff_area: pixels that a semantic class must have left.

    Returns:
      The map, with rows for all instances and semantic classes.
    """
    good = valid & (scores >= score_threshold)

    def add(
        carry: tuple[Array, Array], row: tuple[Array, Array]
    ) -> tuple[tuple[Array, Array], Array]:
        ids, count = carry
        mask, candidate = row
        area = mask.sum(dtype=jnp.int32)
        taken = (mask & (ids > 0)).sum(dtype=jnp.int32)
        kept = candidate & (area > 0) & (taken <= overlap * area)
        count = count + kept
        ids = jnp.where(kept & mask & (ids == 0), count, ids)
        return (ids, count), jnp.where(kept, count, 0)

    # Made of an input: inside shard_map a loop's carry must vary over the mesh from the start.
    start = (jnp.zeros_like(semantic), jnp.zeros_like(semantic[0, 0]))
    (ids, count), instance_ids = jax.lax.scan(add, start, (masks, good))

    labels = jnp.arange(num_semantic, dtype=jnp.int32)
    known = (semantic >= 0) & (semantic < num_semantic)
    free = jnp.where((ids == 0) & known, semantic, num_semantic)
    areas = jnp.bincount(free.reshape(-1), length=num_semantic + 1)[:-1]
    stuff = (areas >= stuff_area) & (areas > 0)
    if things is not None:
        stuff &= labels != things % num_semantic
    stuff_ids = jnp.where(stuff, count + jnp.cumsum(stuff, dtype=jnp.int32), 0)
    ids = jnp.where(ids > 0, ids, jnp.append(stuff_ids, 0)[free])
    number = scores.shape[0]
    return PanopticSegments(
        ids=ids,
        segment_ids=jnp.concatenate([instance_ids, stuff_ids]),
        classes=jnp.concatenate([classes, labels]),
        is_thing=jnp.arange(number + num_semantic, dtype=jnp.int32) < number,
        scores=jnp.concatenate([scores, jnp.zeros((num_semantic,), jnp.float32)]),
    )
