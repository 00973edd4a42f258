"""Feature pyramid network (1612.03144)."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from segjax.nn.conv import Conv, kaiming_uniform
from segjax.nn.norm import Norm, NormSpec
from segjax.types import Dtype


class FPN(nn.Module):
    """Top-down pathway from C2..C5 to P2..P6: `segjax.protocols.Neck`.

    It has lateral 1x1 convolutions, nearest upsampling, sums, 3x3 output convolutions, and no
    activations. P6 is every second cell of P5. torchvision v2 and Detectron2's LSJ models have
    norms.

    Attributes:
      features: number of channels of every level.
      norm: normalisation after each convolution, which then has no bias; None for none.
      dtype: compute dtype.
    """

    features: int = 256
    norm: NormSpec | None = None
    dtype: Dtype = "float32"

    def strides(self, backbone_strides: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the strides of the backbone's maps, and twice the last one for P6."""
        return (*backbone_strides, 2 * backbone_strides[-1])

    @nn.compact
    def __call__(
        self, stages: Sequence[Float[Array, "B _ _ _"]], train: bool = False
    ) -> tuple[Float[Array, "B _ _ F"], ...]:
        """(C2, ..., C5) -> (P2, ..., P6), each [B, h, w, features].

        Raises:
          ValueError: if a stage is not exactly twice the size of the next one. Pad images to
            multiples of the backbone's `size_divisor`.
        """
        levels = range(2, 2 + len(stages))
        top = None
        outputs = []
        for level, stage in reversed(list(zip(levels, stages, strict=True))):
            lateral = self._conv_norm(stage, 1, f"lateral{level}", train)
            top = lateral if top is None else lateral + upsample_to(top, lateral)
            outputs.append(self._conv_norm(top, 3, f"output{level}", train))
        outputs.reverse()
        outputs.append(outputs[-1][:, ::2, ::2])
        return tuple(outputs)

    def _conv_norm(self, x: Array, kernel: int, name: str, train: bool) -> Array:
        conv = Conv(
            self.features,
            kernel,
            use_bias=self.norm is None,
            kernel_init=kaiming_uniform,
            dtype=self.dtype,
            name=name,
        )
        if self.norm is None:
            return conv(x)
        return Norm(self.norm, dtype=self.dtype, name=f"{name}_norm")(conv(x), train)


def upsample_to(
    x: Float[Array, "B h w F"], like: Float[Array, "B H W F"]
) -> Float[Array, "B H W F"]:
    """Upsamples by exactly two, to the size of `like`, with nearest neighbours."""
    batch, height, width, features = x.shape
    if like.shape[1:3] != (2 * height, 2 * width):
        raise ValueError(
            f"pyramid levels of {like.shape[1:3]} and {(height, width)} cells are not a factor "
            "of two apart: pad the images so that both sides are multiples of the coarsest"
            " map's stride"
        )
    wide = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, features))
    return wide.reshape(like.shape)
