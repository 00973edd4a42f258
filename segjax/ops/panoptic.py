"""Merges instances and stuff into one panoptic map, on the device."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32, PyTree, Shaped

from segjax.ops.resize import image_weights
from segjax.types import struct

# Maximum number of resized logits that exist at a time, to limit memory (8 MiB per array).
BLOCK_VALUES = 2**21


@struct
class PanopticDropped:
    """Counts of what a panoptic map omits, by cause, like `results.panoptic_merge.Dropped`.

    Attributes:
      low_score: instances below the score threshold.
      empty: instances without any pixel.
      overlapping: instances that overlap too much with better ones.
      small_stuff: stuff classes that have free pixels, but too few.
      small_stuff_pixels: pixels of those classes.
      other_pixels: free pixels whose semantic class is not stuff.
    """

    low_score: Int32[Array, ""]
    empty: Int32[Array, ""]
    overlapping: Int32[Array, ""]
    small_stuff: Int32[Array, ""]
    small_stuff_pixels: Int32[Array, ""]
    other_pixels: Int32[Array, ""]


@struct
class PanopticSegments:
    """A panoptic map and the segments on it; S = instances + semantic classes.

    Attributes:
      ids: segment id of every pixel; 0 for pixels without a segment.
      segment_ids: id of each row on the map, from 1 in the order of merging; 0 for rows
        without pixels. Rows are the instances, then the semantic classes.
      classes: class of the instance, or the semantic class.
      is_thing: True for instances.
      scores: score of the instance; 0 for stuff.
      dropped: counts of instances and stuff that were omitted.
    """

    ids: Int32[Array, "H W"]
    segment_ids: Int32[Array, " S"]
    classes: Int32[Array, " S"]
    is_thing: Bool[Array, " S"]
    scores: Float32[Array, " S"]
    dropped: PanopticDropped


def semantic_labels(
    logits: Float32[Array, "h w K"],
    image_size: Int32[Array, "2"],
    output_size: Int32[Array, "2"],
    *,
    padded_size: tuple[int, int],
    canvas: tuple[int, int],
) -> Int32[Array, "H W"]:
    """Predicts the class of every pixel of an image at another size.

    As in Detectron2's `sem_seg_postprocess`, logits are bilinearly upsampled to the padded input,
    cropped to the image and resized to the output. Here, one matrix per axis does both
    interpolations, and logits at the output size only exist for a block of rows at a time.

    Args:
      logits: logits of the cells of the padded input.
      image_size: (height, width) of the image inside the padding.
      output_size: (height, width) of the output, at most `canvas`.
      padded_size: (height, width) of the padded input.
      canvas: (height, width) of the result.

    Returns:
      Classes 0..K-1, and -1 beyond the output size.
    """
    maps, inside = [], []
    for axis in (0, 1):
        pixel = jnp.arange(canvas[axis], dtype=jnp.float32)
        old, new = image_size[axis], output_size[axis]
        maps.append(image_weights(logits.shape[axis], padded_size[axis], old, new, pixel))
        inside.append(pixel < new.astype(jnp.float32))
    if logits.shape[0] < logits.shape[1]:  # resizing the longer axis first multiplies less
        labels = _best_classes(logits.swapaxes(0, 1), maps[1], maps[0]).T
    else:
        labels = _best_classes(logits, maps[0], maps[1])
    return jnp.where(inside[0][:, None] & inside[1][None], labels, -1)


@jax.named_scope("best_classes")
def _best_classes(
    logits: Float32[Array, "h w K"], rows: Float32[Array, "H h"], columns: Float32[Array, "W w"]
) -> Int32[Array, "H W"]:
    """Argmax over classes of logits resized by two matrices, one block of rows at a time."""
    height, values = rows.shape[0], columns.shape[0] * logits.shape[2]
    size = max(1, min(BLOCK_VALUES // values, height))
    number = -(-height // size)
    blocks = jnp.pad(rows, ((0, number * size - height), (0, 0))).reshape(number, size, -1)
    # With the classes in the middle, no product has to transpose its input or output. If one
    # reads a transposed product, XLA of jaxlib 0.10 finds no tiles for it on NVIDIA GPUs.
    by_class = logits.swapaxes(1, 2)

    def best(block: Float32[Array, "n h"]) -> Int32[Array, "n W"]:
        tall = jnp.einsum("nh,hkw->nkw", block, by_class, precision="highest")
        resized = jnp.einsum("nkw,xw->nkx", tall, columns, precision="highest")
        return resized.argmax(1).astype(jnp.int32)

    return jax.lax.map(best, blocks).reshape(number * size, -1)[:height]


def _itself(mask: Bool[Array, "H W"]) -> Bool[Array, "H W"]:
    return mask


def merge_panoptic(
    instances: PyTree[Shaped[Array, "N ..."]],
    scores: Float32[Array, " N"],
    classes: Int32[Array, " N"],
    valid: Bool[Array, " N"],
    semantic: Int32[Array, "H W"],
    *,
    num_semantic: int,
    mask_of: Callable[[Any], Bool[Array, "H W"]] = _itself,
    things: int | None = None,
    score_threshold: float | int = 0.5,
    overlap: float | int = 0.5,
    stuff_area: int = 4096,
) -> PanopticSegments:
    """Merges heuristically as in Panoptic Feature Pyramid Networks (1901.02446, appendix).

    Instances take the pixels that are still free, in the given order. An instance is skipped if
    more than the fraction `overlap` of its area is already taken. The remaining pixels go to the
    semantic classes (Detectron2's `combine_semantic_and_instance_outputs`, mmdet's
    `HeuristicFusionHead`).

    Args:
      instances: masks [N, H, W], or inputs of `mask_of` with N rows. The latter saves memory:
        masks are created one at a time and never exist all together.
      scores: scores of the instances, best first.
      classes: classes of the instances.
      valid: False for padding rows.
      semantic: class of every pixel in 0..num_semantic - 1; -1 beyond the image.
      num_semantic: number of semantic classes.
      mask_of: returns the mask of a row of `instances`. It only runs for valid rows with a
        sufficient score.
      things: semantic class that represents all instances and is not stuff, counted from the
        end if negative; None if all are stuff.
      score_threshold: minimum score of an instance.
      overlap: maximum fraction of an instance's area that may already be taken.
      stuff_area: minimum number of free pixels of a semantic class.

    Returns:
      The map, with rows for all instances and semantic classes.

    Raises:
      ValueError: if `things` is not a semantic class.
    """
    if things is not None and not -num_semantic <= things < num_semantic:
        raise ValueError(
            f"things is {things}, there are {num_semantic} semantic classes: wanted one of them,"
            f" 0..{num_semantic - 1}, or -1 for the last; None if all are stuff"
        )
    good = valid & (scores >= score_threshold)
    taken, instance_ids, instance_areas = _add_instances(
        instances, mask_of, good, semantic, overlap
    )
    ids, stuff_ids, small_areas = _add_stuff(
        taken, instance_ids, semantic, num_semantic, things, stuff_area
    )
    left_out = good & (instance_ids == 0)
    small_pixels = small_areas.sum(dtype=jnp.int32)
    dropped = PanopticDropped(
        low_score=_count(valid & ~good),
        empty=_count(left_out & (instance_areas == 0)),
        overlapping=_count(left_out & (instance_areas > 0)),
        small_stuff=_count(small_areas > 0),
        small_stuff_pixels=small_pixels,
        other_pixels=_count((ids == 0) & (semantic >= 0)) - small_pixels,
    )
    number = scores.shape[0]
    return PanopticSegments(
        ids=ids,
        segment_ids=jnp.concatenate([instance_ids, stuff_ids]),
        classes=jnp.concatenate([classes, jnp.arange(num_semantic, dtype=jnp.int32)]),
        is_thing=jnp.arange(number + num_semantic, dtype=jnp.int32) < number,
        scores=jnp.concatenate([scores, jnp.zeros((num_semantic,), jnp.float32)]),
        dropped=dropped,
    )


def _add_instances(
    instances: PyTree[Shaped[Array, "N ..."]],
    mask_of: Callable[[Any], Bool[Array, "H W"]],
    good: Bool[Array, " N"],
    semantic: Int32[Array, "H W"],
    overlap: float | int,
) -> tuple[Int32[Array, "H W"], Int32[Array, " N"], Int32[Array, " N"]]:
    """Adds instances in order.

    Returns:
      The map; the ids of the instances, 0 if skipped; and their areas, 0 if not `good`.
    """

    def add(carry: tuple[Array, Array], instance: Any) -> tuple[tuple[Array, Array], Any]:
        ids, count = carry
        mask = mask_of(instance)
        area = mask.sum(dtype=jnp.int32)
        taken = (mask & (ids > 0)).sum(dtype=jnp.int32)
        # A division, as on the host: a rounded product could decide ties differently.
        kept = (taken < area) & (taken / jnp.maximum(area, 1) <= overlap)
        count = count + kept
        ids = jnp.where(kept & mask & (ids == 0), count, ids)
        return (ids, count), (jnp.where(kept, count, 0), area)

    def skip(carry: tuple[Array, Array], instance: Any) -> tuple[tuple[Array, Array], Any]:
        return carry, (jnp.zeros_like(carry[1]), jnp.zeros_like(carry[1]))

    def step(carry: tuple[Array, Array], row: tuple[Array, Any]) -> Any:
        return jax.lax.cond(row[0], add, skip, carry, row[1])

    # Derived from an input, because inside shard_map the carry of a loop must vary over the mesh
    # from the start.
    start = (jnp.zeros_like(semantic), jnp.zeros_like(semantic[0, 0]))
    (ids, _), (segment_ids, areas) = jax.lax.scan(step, start, (good, instances))
    return ids, segment_ids, areas


def _add_stuff(
    taken: Int32[Array, "H W"],
    instance_ids: Int32[Array, " N"],
    semantic: Int32[Array, "H W"],
    num_semantic: int,
    things: int | None,
    stuff_area: int,
) -> tuple[Int32[Array, "H W"], Int32[Array, " K"], Int32[Array, " K"]]:
    """Adds stuff where there are no instances.

    Returns:
      The map; the ids of stuff classes, 0 if omitted; and the areas of stuff that is too small.
    """
    labels = jnp.arange(num_semantic, dtype=jnp.int32)
    is_stuff = labels != (num_semantic if things is None else things % num_semantic)
    known = (semantic >= 0) & (semantic < num_semantic)
    free = jnp.where((taken == 0) & known, semantic, num_semantic)
    areas = jnp.bincount(free.reshape(-1), length=num_semantic + 1)[:-1]
    large = is_stuff & (areas >= stuff_area) & (areas > 0)
    stuff_ids = jnp.where(large, instance_ids.max(initial=0) + large.cumsum(dtype=jnp.int32), 0)
    ids = jnp.where(taken > 0, taken, jnp.append(stuff_ids, 0)[free])
    return ids, stuff_ids, jnp.where(is_stuff & ~large, areas, 0)


def _count(which: Bool[Array, "..."]) -> Int32[Array, ""]:
    return which.sum(dtype=jnp.int32)
