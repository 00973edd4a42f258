"""RoIAlign on a flattened pyramid, its gradient, and the choice of a form for each platform.

The forms compute the same sums with different loops:

- A single gather of all samples is slow everywhere. Gathering whole rows of channels tap by
  tap and summing them is several times faster on a CPU, and is one kernel on a GPU.
- XLA's scatter-add processes one number at a time on a CPU. A loop that reads, updates and
  writes a few whole rows of channels is ten times faster there. On accelerators, such a loop
  would launch a kernel per row, and the scatter is faster.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segjax.ops import roi_align_adaptive as adaptive
from segjax.ops import roi_align_fixed as fixed
from segjax.ops.roi_align_taps import Regions, zeros_varying

# Number of regions that share the bounds of a loop over taps. On a CPU, small chunks keep the
# sums in cache and keep one elongated region from slowing down many others. Accelerators need
# larger kernels.
CPU_CHUNK = 16
ACCELERATOR_CHUNK = 256


# Number of neighbouring cells of a row to update at once on a CPU. Most bins of regions on
# their assigned level read at most four.
ROW_BLOCK = 4


def pool(
    sampling_ratio: int, min_width: int, flat: Float[Array, "P C"], regions: Regions
) -> Float[Array, "N S S C"]:
    """Applies RoIAlign to regions placed in a flattened pyramid.

    Args:
      sampling_ratio: samples along each axis of a bin, 0 for adaptive.
      min_width: number of columns of the narrowest map.
      flat: all cells of all levels and images.
      regions: positions of the regions in `flat`; they get no gradient.

    Returns:
      Pooled bins in the dtype of `flat`, accumulated in float32.
    """
    return _pool(sampling_ratio, min_width, flat, regions)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _pool(
    sampling_ratio: int, min_width: int, flat: Float[Array, "P C"], regions: Regions
) -> Float[Array, "N S S C"]:
    del min_width  # only the gradient needs it
    if regions.offset.shape[0] == 0:
        bins = regions.y.start.shape[1]
        return jnp.zeros((0, bins, bins, flat.shape[1]), flat.dtype)
    if sampling_ratio:
        return fixed.forward(flat, regions, sampling_ratio).astype(flat.dtype)
    return jax.lax.platform_dependent(
        flat,
        regions,
        cpu=functools.partial(adaptive.forward, chunk=CPU_CHUNK),
        default=functools.partial(adaptive.forward, chunk=ACCELERATOR_CHUNK),
    ).astype(flat.dtype)


def _pool_fwd(
    sampling_ratio: int, min_width: int, flat: Float[Array, "P C"], regions: Regions
) -> tuple[Float[Array, "N S S C"], tuple[Any, ...]]:
    # The gradient only needs the shape and dtype of the features, so save no copy of them.
    out = pool(sampling_ratio, min_width, flat, regions)
    return out, (jnp.empty((len(flat), 0), flat.dtype), regions)


def _pool_bwd(
    sampling_ratio: int, min_width: int, saved: tuple[Any, ...], grad: Float[Array, "N S S C"]
) -> tuple[Float[Array, "P C"], None]:
    like, regions = saved
    zeros = zeros_varying((like.shape[0], grad.shape[-1]), grad, regions.y.start)
    if grad.shape[0] == 0:
        return zeros.astype(like.dtype), None
    if sampling_ratio:
        forms = (
            functools.partial(fixed.backward_rows, samples=sampling_ratio),
            functools.partial(fixed.backward_scatter, samples=sampling_ratio),
        )
    else:
        forms = (
            functools.partial(adaptive.backward_rows, row_block=min(ROW_BLOCK, min_width)),
            functools.partial(adaptive.backward_scatter, chunk=ACCELERATOR_CHUNK),
        )
    total = jax.lax.platform_dependent(
        zeros, regions, grad.astype(jnp.float32), cpu=forms[0], default=forms[1]
    )
    return total.astype(like.dtype), None


_pool.defvjp(_pool_fwd, _pool_bwd)
