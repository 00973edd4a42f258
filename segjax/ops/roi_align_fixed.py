"""RoIAlign with a fixed number of samples per bin (torchvision: 2 x 2)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from segjax.ops.roi_align_taps import Regions, fixed_taps


def forward(flat: Float[Array, "P C"], regions: Regions, samples: int) -> Float32[Array, "N S S C"]:
    """Sums the `2 * samples` by `2 * samples` taps of every bin, with one gather per tap."""
    rows, row_weights = fixed_taps(regions.y, samples)
    cols, col_weights = fixed_taps(regions.x, samples)
    bins = rows.shape[1]
    total = jnp.zeros((len(rows), bins, bins, flat.shape[1]), jnp.float32)
    for i in range(2 * samples):
        for j in range(2 * samples):
            # `fixed_taps` clips to the map, so gathers do not need bounds checks.
            cells = regions.cells(rows[..., i], cols[..., j])
            taken = flat.at[cells].get(mode="promise_in_bounds").astype(jnp.float32)
            total += taken * (row_weights[:, :, None, i] * col_weights[:, None, :, j])[..., None]
    return total


def backward_scatter(
    total: Float32[Array, "P C"],
    regions: Regions,
    grad: Float32[Array, "N S S C"],
    samples: int,
) -> Float32[Array, "P C"]:
    """Adds the gradients of bins to the cells they read, by one scatter-add per tap."""
    rows, row_weights = fixed_taps(regions.y, samples)
    cols, col_weights = fixed_taps(regions.x, samples)
    for i in range(2 * samples):
        for j in range(2 * samples):
            cells = regions.cells(rows[..., i], cols[..., j])
            weights = row_weights[:, :, None, i] * col_weights[:, None, :, j]
            total = total.at[cells].add(grad * weights[..., None], mode="promise_in_bounds")
    return total


def backward_rows(
    total: Float32[Array, "P C"],
    regions: Regions,
    grad: Float32[Array, "N S S C"],
    samples: int,
) -> Float32[Array, "P C"]:
    """Like `backward_scatter`, but updates whole rows of channels in place, one by one."""
    rows, row_weights = fixed_taps(regions.y, samples)
    cols, col_weights = fixed_taps(regions.x, samples)
    count, bins, _, channels = grad.shape
    bin_grads = grad.reshape(-1, channels)

    def add_bin(index: Array, total: Float32[Array, "P C"]) -> Float32[Array, "P C"]:
        n, bin_index = index // bins**2, index % bins**2
        s, t = bin_index // bins, bin_index % bins
        bin_grad = jax.lax.dynamic_slice(bin_grads, (index, 0), (1, channels))
        first = regions.offset[n]
        width = regions.x.size[n]
        for i in range(2 * samples):
            for j in range(2 * samples):
                at = (first + rows[n, s, i] * width + cols[n, t, j], 0)
                old = jax.lax.dynamic_slice(total, at, (1, channels))
                new = old + bin_grad * (row_weights[n, s, i] * col_weights[n, t, j])
                total = jax.lax.dynamic_update_slice(total, new, at)
        return total

    return jax.lax.fori_loop(0, count * bins**2, add_bin, total)
