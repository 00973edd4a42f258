"""Semantic heads, which turn pyramid levels into class logits of every cell."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from segjax.nn.conv import Conv
from segjax.nn.norm import Norm, NormSpec
from segjax.ops.resize import resize_bilinear, resize_corners_within
from segjax.types import Dtype


class FusedSemanticHead(nn.Module):
    """Semantic branch of Hybrid Task Cascade (1901.07518, figure 4).

    All levels are resized to one of them, embedded by 1x1 convolutions, and added. After further
    3x3 convolutions, one 1x1 convolution predicts the classes. Another one computes the feature
    that the box and mask branches receive. A ReLU follows every convolution except that of the
    classes (mmdet's `FusedSemanticHead`).

    Attributes:
      num_classes: number of pixel classes; 0 until the data determine it.
      fusion_level: index of the level to whose size the others are resized; 1 is P3, at stride 8.
      num_convs: number of 3x3 convolutions.
      features: number of channels of all convolutions except that of the classes.
      dtype: compute dtype; logits are float32.
    """

    num_classes: int = 183
    fusion_level: int = 1
    num_convs: int = 4
    features: int = 256
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self,
        levels: Sequence[Float[Array, "B _ _ C"]],
        image_sizes: Int32[Array, "B 2"],
        *,
        stride: int,
        size_divisor: int,
    ) -> tuple[Float[Array, "B h w K"], Float[Array, "B h w F"]]:
        """P2..P6 -> logits [B, h, w, K], feature [B, h, w, F], at the fusion level's size.

        Corners are aligned as if each image were padded to its own multiples of `size_divisor`,
        as mmdet pads a single image. All maps are zero beyond, so a larger canvas has no effect.

        Args:
          levels: pyramid levels, each with half the cells of the previous one, rounded up.
          image_sizes: (height, width) inside the padding.
          stride: pixels per cell of the finest level.
          size_divisor: number of pixels to whose multiples mmdet pads an image.
        """
        _, height, width, _ = levels[self.fusion_level].shape
        # Numbers of cells of each image, padded on its own, at every level, finest first.
        cells = [(image_sizes + size_divisor - 1) // size_divisor * (size_divisor // stride)]
        for _ in levels[1:]:
            cells.append((cells[-1] + 1) // 2)
        own = cells[self.fusion_level]
        inside = (jnp.arange(height, dtype=jnp.int32)[None] < own[:, :1])[:, :, None, None]
        inside &= (jnp.arange(width, dtype=jnp.int32)[None] < own[:, 1:])[:, None, :, None]
        embedded = []
        for i, level in enumerate(levels):
            x = level.astype(self.dtype)
            if i != self.fusion_level:
                x = resize_corners_within(x, (height, width), cells[i], own)
            embedded.append(nn.relu(self._conv(1, f"lateral{i + 1}")(x)))
        x = jnp.where(inside, functools.reduce(jnp.add, embedded), 0)
        for i in range(self.num_convs):
            x = jnp.where(inside, nn.relu(self._conv(3, f"conv{i + 1}")(x)), 0)
        logits = Conv(
            self.num_classes,
            kernel_init=nn.initializers.normal(0.01),
            dtype=self.dtype,
            name="logits",
        )(x)
        embedding = nn.relu(self._conv(1, "embedding")(x))
        return logits.astype(jnp.float32), jnp.where(inside, embedding, 0)

    def _conv(self, kernel: int, name: str) -> Conv:
        return Conv(self.features, kernel, dtype=self.dtype, name=name)


class SemanticFPNHead(nn.Module):
    """Semantic branch of Panoptic Feature Pyramid Networks (1901.02446, figure 3).

    Each level passes through 3x3 convolutions with norm and ReLU. Each of them is followed by
    bilinear upsampling by two, until the level has the finest stride. The levels are added, and a
    1x1 convolution predicts the classes (Detectron2's `SemSegFPNHead`, mmdet's
    `PanopticFPNHead`).

    Attributes:
      num_classes: number of pixel classes; 0 until the data determine it.
      num_levels: number of levels used, finest first; each has half the cells of the previous one.
      features: number of channels of the 3x3 convolutions.
      norm: normalisation after each 3x3 convolution, which then has no bias; None for none.
      dtype: compute dtype; logits are float32.
    """

    num_classes: int = 54
    num_levels: int = 4
    features: int = 128
    norm: NormSpec | None = NormSpec("group", groups=32)
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self, levels: Sequence[Float[Array, "B _ _ C"]], train: bool = False
    ) -> Float[Array, "B h w K"]:
        """P2..P5 -> logits [B, h, w, K] at the finest level's size."""
        _, height, width, _ = levels[0].shape
        summed = []
        for i, level in enumerate(levels[: self.num_levels]):
            x = level
            for j in range(max(1, i)):
                x = self._block(x, f"level{i + 1}_conv{j + 1}", train)
                if i > 0:
                    size = (2 * x.shape[1], 2 * x.shape[2])
                    x = resize_bilinear(x, size, align_corners=False)
            if x.shape[1:3] != (height, width):
                raise ValueError(
                    f"level {i} of {level.shape[1:3]} cells does not become {(height, width)} by"
                    " doubling: pad the images so that both sides are multiples of the coarsest"
                    " level's stride"
                )
            summed.append(x)
        x = functools.reduce(jnp.add, summed)
        init = nn.initializers.normal(0.01)
        predictor = Conv(self.num_classes, kernel_init=init, dtype=self.dtype, name="logits")
        return predictor(x).astype(jnp.float32)

    def _block(self, x: Array, name: str, train: bool) -> Array:
        x = Conv(self.features, 3, use_bias=self.norm is None, dtype=self.dtype, name=name)(x)
        if self.norm is not None:
            x = Norm(self.norm, dtype=self.dtype, name=f"{name}_norm")(x, train)
        return nn.relu(x)


class FCNHead(nn.Module):
    """Fully convolutional head on one pyramid level (1411.4038).

    With `concat_input`, its convolutions are those of MMSegmentation's `FCNHead`. The latter uses
    batch norm and drops a tenth of the channels before the classes in training. This head has no
    dropout.

    Attributes:
      num_classes: number of pixel classes; 0 until the data determine it.
      level: index of the level; 0 is P2, at stride 4.
      num_convs: number of 3x3 convolutions.
      features: number of channels of the 3x3 convolutions.
      concat_input: True concatenates the level with the output of the convolutions, and applies
        one more 3x3 convolution.
      norm: normalisation after each 3x3 convolution, which then has no bias; None for none.
      dtype: compute dtype; logits are float32.
    """

    num_classes: int = 0
    level: int = 0
    num_convs: int = 2
    features: int = 128
    concat_input: bool = False
    norm: NormSpec | None = NormSpec("group", groups=32)
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self, levels: Sequence[Float[Array, "B _ _ C"]], train: bool = False
    ) -> Float[Array, "B h w K"]:
        """P2..P6 -> logits [B, h, w, K] at the level's size."""
        given = x = levels[self.level].astype(self.dtype)
        for i in range(self.num_convs):
            x = self._block(x, f"conv{i + 1}", f"norm{i + 1}", train)
        if self.concat_input:
            x = self._block(jnp.concatenate([given, x], -1), "conv_cat", "norm_cat", train)
        init = nn.initializers.normal(0.01)
        predictor = Conv(self.num_classes, kernel_init=init, dtype=self.dtype, name="logits")
        return predictor(x).astype(jnp.float32)

    def _block(self, x: Array, name: str, norm: str, train: bool) -> Array:
        x = Conv(self.features, 3, use_bias=self.norm is None, dtype=self.dtype, name=name)(x)
        if self.norm is not None:
            x = Norm(self.norm, dtype=self.dtype, name=norm)(x, train)
        return nn.relu(x)
