"""RoIAlign on a flattened pyramid: one function, its gradient, and the form for each platform.

The forms compute the same sums and differ in how they loop:

- A fused gather of all samples is slow everywhere. Reading tap by tap, each a gather of whole
  rows of channels, and adding up is several times faster on a CPU and one kernel on a GPU.
- XLA's scatter-add on a CPU handles one number at a time. A loop that reads, adds and writes
  a few whole rows of channels is ten times faster there; on accelerators the loop would
  launch a kernel a row, and the scatter is the fast form.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segjax.ops import roi_align_adaptive as adaptive
from segjax.ops import roi_align_fixed as fixed
from segjax.ops.roi_align_taps import Regions, zeros_varying

# Regions that share the bounds of a loop over taps. Few keep the sums in a CPU's cache and
# stop one elongated region from slowing many; an accelerator wants larger kernels.
CPU_CHUNK = 16
ACCELERATOR_CHUNK = 256


# Neighbouring cells of a row to update at once on a CPU: most bins of a region on its own
# level read at most four.
ROW_BLOCK = 4


def pool(
    sampling_ratio: int, min_width: int, flat: Float[Array, "P C"], regions: Regions
) -> Float[Array, "N S S C"]:
    """RoIAlign of regions placed in a flattened pyramid.

    Args:
      sampling_ratio: samples along each axis of a bin, 0 for adaptive.
      min_width: the least number of columns of a map.
      flat: all cells of all levels and images.
      regions: where the regions lie in it; they get no gradient.

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
    # Of the features the gradient needs only shape and dtype.
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
