"""Normalisation layers of the peers, as one module with one specification."""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from segjax.types import Dtype


@dataclasses.dataclass(frozen=True)
class NormSpec:
    """Specification of the normalisation layers of a network.

    Attributes:
      kind: "frozen" has constant statistics and affine parameters (torchvision's and Detectron2's
        FrozenBatchNorm); "batch" is batch normalisation; "batch_eval" has constant statistics, but
        trains scale and bias (mmdet's norm_eval); "group" is group normalisation.
      epsilon: constant added to the variance. torchvision's v1 detection weights need 0.
      momentum: fraction of the running statistics that a training step keeps.
      groups: number of groups for "group".
      axis_name: mesh axis over which "batch" pools its statistics (synchronised batch norm); None
        for separate statistics on each device.
    """

    kind: Literal["frozen", "batch", "batch_eval", "group"] = "frozen"
    epsilon: float = 1e-5
    momentum: float = 0.9
    groups: int = 32
    axis_name: str | None = None


class Norm(nn.Module):
    """Normalisation of the last axis according to `spec`.

    Parameters are `scale` and `bias` [C]; statistics are `mean` and `var` [C]. "frozen" stores
    all four in the `batch_stats` collection, so that the optimiser never sees them.
    """

    spec: NormSpec
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "N *b C"],
        train: bool = False,
        valid: Bool[Array, " N"] | None = None,
    ) -> Float[Array, "N *b C"]:
        """Normalises `x` [N, ..., C].

        Args:
          x: features.
          train: lets "batch" use and update batch statistics.
          valid: True for rows that enter batch statistics; None for all.

        Returns:
          Features of the same shape and dtype.
        """
        if self.spec.kind == "group":
            return self._group(x)
        affine, stats = self._variables(x.shape[-1])
        mean, var = stats[0].value, stats[1].value
        if self.spec.kind == "batch" and train and not self.is_initializing():
            mean, var, count = self._batch_statistics(x, valid)
            keep = self.spec.momentum
            # The running variance is unbiased, as in PyTorch.
            unbiased = var * (count / jnp.maximum(count - 1, 1))
            stats[0].value = keep * stats[0].value + (1 - keep) * mean
            stats[1].value = keep * stats[1].value + (1 - keep) * unbiased
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

    def _batch_statistics(
        self, x: Array, valid: Array | None
    ) -> tuple[Float[Array, " C"], Float[Array, " C"], Float[Array, ""]]:
        """Returns mean and biased variance of each channel, and the number of values in one."""
        wide = x.astype(jnp.float32).reshape(x.shape[0], -1, x.shape[-1])
        rows = jnp.ones(x.shape[0]) if valid is None else valid.astype(jnp.float32)
        weights = rows[:, None, None]
        count = self._pool(rows.sum() * wide.shape[1])
        total = jnp.maximum(count, 1.0)  # there may be no valid rows at all
        mean = self._pool((wide * weights).sum((0, 1))) / total
        deviations = (wide - mean[None, None]) ** 2
        return mean, self._pool((deviations * weights).sum((0, 1))) / total, count

    def _pool(self, x: Array) -> Array:
        """Sums over the devices if statistics are synchronised."""
        return x if self.spec.axis_name is None else jax.lax.psum(x, self.spec.axis_name)

    def _group(self, x: Array) -> Array:
        channels = x.shape[-1]
        groups = min(self.spec.groups, channels)
        norm = nn.GroupNorm(num_groups=groups, epsilon=self.spec.epsilon, name="group")
        return norm(x.astype(jnp.float32)).astype(x.dtype)


def _to(vector: Array, like: Array) -> Array:
    """Reshapes [C] to [1, ..., 1, C], in the dtype of `like`."""
    return vector.astype(like.dtype).reshape((1,) * (like.ndim - 1) + (-1,))
