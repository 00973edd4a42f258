"""Normalisation layers of the peers, behind one module and one description."""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segjax.types import Dtype


@dataclasses.dataclass(frozen=True)
class NormSpec:
    """Which normalisation a network uses.

    Attributes:
      kind: "frozen": statistics and affine parameters are constants
        (torchvision's and Detectron2's FrozenBatchNorm); "batch": batch
        normalisation; "batch_eval": running statistics are constants but scale
        and bias are trained (mmdet's norm_eval); "group": group normalisation.
      epsilon: added to the variance. torchvision's v1 detection weights need 0.
      momentum: how much of the running statistics a training step keeps.
      groups: number of groups for "group".
      axis_name: mesh axis over which "batch" pools its statistics
        (synchronised batch norm), or None for each device its own.
    """

    kind: Literal["frozen", "batch", "batch_eval", "group"] = "frozen"
    epsilon: float = 1e-5
    momentum: float = 0.9
    groups: int = 32
    axis_name: str | None = None


class Norm(nn.Module):
    """The normalisation that `spec` describes, over the last axis.

    Parameters are `scale` and `bias` [C]; statistics are `mean` and `var` [C].
    "frozen" keeps all four in the `batch_stats` collection, so that nothing of
    it is ever seen by the optimiser.
    """

    spec: NormSpec
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "*b C"], train: bool = False) -> Float[Array, "*b C"]:
        """Normalises `x` [..., C]; `train` lets "batch" use and update batch statistics."""
        if self.spec.kind == "group":
            return self._group(x)
        affine, stats = self._variables(x.shape[-1])
        mean, var = stats[0].value, stats[1].value
        if self.spec.kind == "batch" and train and not self.is_initializing():
            mean, var = self._batch_statistics(x)
            keep = self.spec.momentum
            # The running variance is unbiased, as in PyTorch.
            n = x.size / x.shape[-1]
            if self.spec.axis_name is not None:
                n = n * jax.lax.axis_size(self.spec.axis_name)
            stats[0].value = keep * stats[0].value + (1 - keep) * mean
            stats[1].value = keep * stats[1].value + (1 - keep) * var * (n / max(n - 1, 1))
        scale = affine[0] * jax.lax.rsqrt(var + self.spec.epsilon)
        bias = affine[1] - mean * scale
        return x * _to(scale, x) + _to(bias, x)

    def _variables(self, channels: int) -> tuple[tuple[Array, Array], tuple[nn.Variable, ...]]:
        ones, zeros = jnp.ones, jnp.zeros
        stats = (
            self.variable("batch_stats", "mean", zeros, (channels,)),
            self.variable("batch_stats", "var", ones, (channels,)),
        )
        if self.spec.kind == "frozen":
            scale = self.variable("batch_stats", "scale", ones, (channels,)).value
            bias = self.variable("batch_stats", "bias", zeros, (channels,)).value
        else:
            scale = self.param("scale", nn.initializers.ones, (channels,))
            bias = self.param("bias", nn.initializers.zeros, (channels,))
        return (scale, bias), stats

    def _batch_statistics(self, x: Array) -> tuple[Array, Array]:
        axes = tuple(range(x.ndim - 1))
        wide = x.astype(jnp.float32)
        mean = wide.mean(axes)
        if self.spec.axis_name is None:
            return mean, wide.var(axes)
        # Pool first and second moments: a mean of variances would miss the
        # differences between the devices' means.
        moments = jax.lax.pmean(jnp.stack([mean, (wide**2).mean(axes)]), self.spec.axis_name)
        return moments[0], jnp.maximum(moments[1] - moments[0] ** 2, 0.0)

    def _group(self, x: Array) -> Array:
        channels = x.shape[-1]
        groups = min(self.spec.groups, channels)
        norm = nn.GroupNorm(num_groups=groups, epsilon=self.spec.epsilon, name="group")
        return norm(x.astype(jnp.float32)).astype(x.dtype)


def _to(vector: Array, like: Array) -> Array:
    """[C] -> [1, ..., 1, C] in the dtype of `like`."""
    return vector.astype(like.dtype).reshape((1,) * (like.ndim - 1) + (-1,))
