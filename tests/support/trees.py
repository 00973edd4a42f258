"""Small trees as hierarchies, with brute-force solutions."""

import itertools

import jax.numpy as jnp
import numpy as np

from segjax.figure_ground.hierarchy import Hierarchy


def tree(level_sizes, parent, size=None, saliency=None, leaf=None):
    """Returns the hierarchy of a tree; finest segments are single pixels unless `leaf` is given."""
    number = sum(level_sizes)
    sizes = np.ones(number) if size is None else size
    zeros = jnp.zeros(number)
    return Hierarchy(
        leaf=jnp.arange(level_sizes[0], dtype=jnp.int32)[None] if leaf is None else leaf,
        parent=jnp.asarray(parent, jnp.int32),
        level=jnp.asarray(np.repeat(np.arange(len(level_sizes)), level_sizes), jnp.int32),
        valid=jnp.asarray(sizes, jnp.float32) > 0,
        size=jnp.asarray(sizes, jnp.float32),
        mean_colour=jnp.zeros((number, 3)),
        texture=jnp.zeros((number, 9)),
        boundary=zeros,
        saliency=zeros if saliency is None else jnp.asarray(saliency, jnp.float32),
        dropped=jnp.zeros((), jnp.int32),
        level_sizes=tuple(level_sizes),
    )


# Each shape needs a compilation, so there are few: one level to four, and one segment up to the
# limit of brute force.
LEVEL_SIZES = ((5, 3, 2, 1), (5, 5, 1), (4, 1), (3, 3, 3), (1,), (5,))


def random_tree(rng):
    """Returns level sizes and parents of a random forest of at most eleven segments."""
    sizes = list(LEVEL_SIZES[rng.integers(len(LEVEL_SIZES))])
    starts = np.cumsum([0, *sizes])
    parent = [
        rng.integers(starts[i + 1], starts[i + 1] + sizes[i + 1], size)
        for i, size in enumerate(sizes[:-1])
    ]
    return tuple(sizes), np.concatenate([*parent, np.arange(starts[-2], starts[-1])])


def costs_of_all_labellings(parent, gain, coupling):
    """Returns every labelling [2**N, N] and its cost by definition."""
    labels = np.array(list(itertools.product([False, True], repeat=len(parent))))
    disagrees = labels != labels[:, parent]
    return labels, disagrees @ coupling - labels @ gain
