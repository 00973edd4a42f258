"""Semantic heads: pyramid levels to a class for every pixel."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from segjax.nn.conv import Conv
from segjax.ops.resize import resize_bilinear
from segjax.types import Dtype


class FusedSemanticHead(nn.Module):
    """The semantic branch of Hybrid Task Cascade (1901.07518, figure 4).

    All levels are brought to the size of one of them, embedded by 1x1 convolutions,
    and added; 3x3 convolutions follow, then a 1x1 convolution to the classes and
    another to the feature that the box and mask branches take in. A ReLU follows
    every convolution but the classes' (mmdet's `FusedSemanticHead`).

    Attributes:
      num_classes: of pixels; 0 until the data decide.
      fusion_level: index of the level whose size the others are brought to; 1 is
        P3, at stride 8.
      num_convs: 3x3 convolutions.
      features: channels throughout.
      dtype: of the computation; logits are float32.
    """

    num_classes: int = 183
    fusion_level: int = 1
    num_convs: int = 4
    features: int = 256
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self, levels: Sequence[Float[Array, "B _ _ C"]]
    ) -> tuple[Float[Array, "B h w K"], Float[Array, "B h w F"]]:
        """P2..P6 -> logits [B, h, w, K], feature [B, h, w, F], at the fusion level's size."""
        _, height, width, _ = levels[self.fusion_level].shape
        embedded = []
        for i, level in enumerate(levels):
            resized = resize_bilinear(level.astype(self.dtype), (height, width), align_corners=True)
            embedded.append(nn.relu(self._conv(1, f"lateral{i + 1}")(resized)))
        x = functools.reduce(jnp.add, embedded)
        for i in range(self.num_convs):
            x = nn.relu(self._conv(3, f"conv{i + 1}")(x))
        logits = Conv(
            self.num_classes,
            kernel_init=nn.initializers.normal(0.01),
            dtype=self.dtype,
            name="logits",
        )(x)
        embedding = nn.relu(self._conv(1, "embedding")(x))
        return logits.astype(jnp.float32), embedding

    def _conv(self, kernel: int, name: str) -> Conv:
        return Conv(self.features, kernel, dtype=self.dtype, name=name)
