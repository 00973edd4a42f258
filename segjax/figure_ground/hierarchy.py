"""Segmentation hierarchy of an image: a forest of segments, in arrays of fixed shape."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from segjax.types import static_field, struct


@struct
class Hierarchy:
    """Segments of one image from fine to coarse; batches have a leading axis on every array.

    Nodes are ordered by level, finest first: level l is the `level_sizes[l]` rows after the levels
    below. N is the sum of all level sizes. F is 9 in `bottom_up`, which has four filters.

    Attributes:
      leaf: finest node that every pixel belongs to.
      parent: parent in the next coarser level; the node itself at the top level. Invalid nodes
        may have any node of the next level as parent.
      level: level of the node, 0 for the finest.
      valid: False for padding rows.
      size: number of pixels; 0 for invalid rows.
      mean_colour: mean RGB of the segment, in 0..1.
      texture: mean filter responses, then their variances, and last the variance of the colour.
      boundary: mean contrast along the border of the segment, in 0..1; 0 without a border.
      saliency: affinity along the border over affinity inside, as in a normalised cut. LOW is
        salient: an isolated segment has 0.
      dropped: number of borders beyond `BottomUp.borders_per_segment`, which are ignored, plus
        segments over the capacity of a level or without a seed, which join its last segment
        wherever that is. If it is not 0, as with strong noise, raise `borders_per_segment`.
      level_sizes: capacity of every level; static.
    """

    leaf: Int32[Array, "*B H W"]
    parent: Int32[Array, "*B N"]
    level: Int32[Array, "*B N"]
    valid: Bool[Array, "*B N"]
    size: Float32[Array, "*B N"]
    mean_colour: Float32[Array, "*B N 3"]
    texture: Float32[Array, "*B N F"]
    boundary: Float32[Array, "*B N"]
    saliency: Float32[Array, "*B N"]
    dropped: Int32[Array, "*B"]
    level_sizes: tuple[int, ...] = static_field()

    def segments(self, level: int) -> Int32[Array, "H W"]:
        """Returns the node of every pixel at a level, for the hierarchy of one image.

        Args:
          level: 0 for the finest; negative levels count from the top.

        Raises:
          IndexError: if there is no such level.
        """
        level = range(len(self.level_sizes))[level]
        node = jnp.arange(self.level_sizes[0], dtype=jnp.int32)
        for _ in range(level):
            node = self.parent[node]
        return node[self.leaf]

    def leaf_means(self, values: Float[Array, "H W"]) -> Float32[Array, " n0"]:
        """Averages a map over the finest segments; 0 for invalid ones.

        Args:
          values: value of every pixel of the image.
        """
        number = self.level_sizes[0]
        sums = jax.ops.segment_sum(
            values.astype(jnp.float32).reshape(-1), self.leaf.reshape(-1), number
        )
        return sums / jnp.maximum(self.size[:number], 1.0)

    def sums_upwards(self, leaves: Float32[Array, "n0 *D"]) -> Float32[Array, "N *D"]:
        """Sums values over the leaves below every node.

        Args:
          leaves: values of every finest segment.
        """
        levels = [leaves]
        for below in range(len(self.level_sizes) - 1):
            levels.append(sum_children(levels[-1], self.parent, self.level_sizes, below))
        return jnp.concatenate(levels)


def level_slices(level_sizes: tuple[int, ...]) -> list[slice]:
    """Returns the rows of every level."""
    slices, start = [], 0
    for size in level_sizes:
        slices.append(slice(start, start + size))
        start += size
    return slices


def sum_children(
    values: Float32[Array, "n *D"],
    parent: Int[Array, " N"],
    level_sizes: tuple[int, ...],
    level: int,
) -> Float32[Array, "m *D"]:
    """Sums the values of one level's nodes over the children of every node above.

    Args:
      values: values of the nodes of `level`.
      parent: parents of all nodes.
      level_sizes: capacities of the levels.
      level: level that the values belong to; not the top level.
    """
    here, above = level_slices(level_sizes)[level : level + 2]
    return jax.ops.segment_sum(values, parent[here] - above.start, above.stop - above.start)
