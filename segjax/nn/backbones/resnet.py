"""ResNet and ResNeXt (1512.03385, 1611.05431), returning the four stages C2..C5."""

from typing import Literal

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from segjax.nn.conv import Conv
from segjax.nn.norm import Norm, NormSpec
from segjax.types import Dtype


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 with a shortcut; either the 3x3 or the first 1x1 has the stride."""

    features: int
    width: int
    stride: int
    groups: int
    stride_in_1x1: bool
    norm: NormSpec
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w F"]:
        """[B, H, W, C] -> [B, H / stride, W / stride, features]."""
        first, second = (self.stride, 1) if self.stride_in_1x1 else (1, self.stride)
        y = self._conv_norm(x, self.width, 1, first, 1, "1", train)
        y = self._conv_norm(nn.relu(y), self.width, 3, second, self.groups, "2", train)
        y = self._conv_norm(nn.relu(y), self.features, 1, 1, 1, "3", train)
        if x.shape[-1] != self.features or self.stride != 1:
            x = self._conv_norm(x, self.features, 1, self.stride, 1, "_shortcut", train)
        return nn.relu(x + y)

    def _conv_norm(
        self, x: Array, features: int, kernel: int, stride: int, groups: int, n: str, train: bool
    ) -> Array:
        conv = Conv(
            features,
            kernel,
            stride=stride,
            groups=groups,
            use_bias=False,
            dtype=self.dtype,
            name=f"conv{n}",
        )
        return Norm(self.norm, dtype=self.dtype, name=f"norm{n}")(conv(x), train)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (ResNet-18 and -34)."""

    features: int
    stride: int
    norm: NormSpec
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w F"]:
        """[B, H, W, C] -> [B, H / stride, W / stride, features]."""
        y = self._conv_norm(x, 3, self.stride, "1", train)
        y = self._conv_norm(nn.relu(y), 3, 1, "2", train)
        if x.shape[-1] != self.features or self.stride != 1:
            x = self._conv_norm(x, 1, self.stride, "_shortcut", train)
        return nn.relu(x + y)

    def _conv_norm(self, x: Array, kernel: int, stride: int, n: str, train: bool) -> Array:
        conv = Conv(
            self.features,
            kernel,
            stride=stride,
            use_bias=False,
            dtype=self.dtype,
            name=f"conv{n}",
        )
        return Norm(self.norm, dtype=self.dtype, name=f"norm{n}")(conv(x), train)


class ResNet(nn.Module):
    """Body of a ResNet or ResNeXt: `segjax.protocols.Backbone`.

    The factory of a detector replaces fields that are None by its library's conventions.

    Attributes:
      stage_sizes: number of blocks in each of the four stages.
      block: "bottleneck" (50 and deeper) or "basic" (18, 34).
      features: number of channels of the stem; stage i has `features * 2**i`, times 4 for
        bottlenecks.
      groups: number of groups (ResNeXt's cardinality).
      group_width: width per group in the first stage.
      stride_in_1x1: True puts the stride of a stage's first bottleneck in its first 1x1
        (Detectron2's MSRA weights, mmdet "caffe"), False in its 3x3; None is False.
      norm: normalisation; None is `NormSpec()`.
      frozen_stages: number of frozen parts, counted as stem, stage 1, stage 2, ...; None is 0.
      dtype: compute dtype.
    """

    stage_sizes: tuple[int, int, int, int] = (3, 4, 6, 3)
    block: Literal["bottleneck", "basic"] = "bottleneck"
    features: int = 64
    groups: int = 1
    group_width: int = 64
    stride_in_1x1: bool | None = None
    norm: NormSpec | None = None
    frozen_stages: int | None = None
    dtype: Dtype = "float32"

    strides = (4, 8, 16, 32)
    size_divisor = 32
    preprocess = None

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of C2..C5."""
        expansion = 1 if self.block == "basic" else 4
        return tuple(self.features * 2**stage * expansion for stage in range(4))

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W 3"], train: bool = False
    ) -> tuple[Float[Array, "B _ _ _"], ...]:
        """Normalised images [B, H, W, 3] -> (C2, C3, C4, C5) at strides 4, 8, 16, 32."""
        frozen = self.frozen_stages or 0
        stem = Conv(self.features, 7, stride=2, use_bias=False, dtype=self.dtype, name="stem_conv")
        # As in evaluation, frozen parts never use batch statistics.
        x = Norm(self._norm, dtype=self.dtype, name="stem_norm")(stem(x), train and frozen < 1)
        # PyTorch pads both sides. For stride 2 and even sizes, XLA's "SAME" pads only one.
        x = nn.max_pool(nn.relu(x), (3, 3), (2, 2), padding=[(1, 1), (1, 1)])  # pyright: ignore[reportArgumentType]
        x = self._cut(x, 1)
        stages = []
        for stage, blocks in enumerate(self.stage_sizes):
            for i in range(blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                x = self._block(stage, i, stride)(x, train and frozen < stage + 2)
            x = self._cut(x, stage + 2)
            stages.append(x)
        return tuple(stages)

    @property
    def _norm(self) -> NormSpec:
        return NormSpec() if self.norm is None else self.norm

    def _cut(self, x: Array, frozen: int) -> Array:
        """Stops the gradient after the last frozen part, so that XLA does not compute it there."""
        return jax.lax.stop_gradient(x) if self.frozen_stages == frozen else x

    def _block(self, stage: int, i: int, stride: int) -> nn.Module:
        features = self.features * 2**stage
        name = f"layer{stage + 1}_{i}"
        if self.block == "basic":
            return BasicBlock(features, stride, self._norm, self.dtype, name=name)
        width = self.group_width * self.groups * 2**stage * self.features // 64
        return Bottleneck(
            features * 4,
            width,
            stride,
            self.groups,
            bool(self.stride_in_1x1),
            self._norm,
            self.dtype,
            name=name,
        )

    def frozen_paths(self) -> tuple[str, ...]:
        """Returns the names of this module's frozen children."""
        if not self.frozen_stages:
            return ()
        names = ["stem_conv", "stem_norm"]
        for stage in range(self.frozen_stages - 1):
            names += [f"layer{stage + 1}_{i}" for i in range(self.stage_sizes[stage])]
        return tuple(names)

    @property
    def num_layers(self) -> int:
        """Number of layers: the stem and each block."""
        return 1 + sum(self.stage_sizes)

    def layer_of(self, path: str) -> int:
        """Returns the layer of a parameter: 0 for the stem, then one per block.

        Args:
          path: "/"-joined names below the backbone, such as "layer1_0/conv1/kernel".
        """
        child = path.split("/", maxsplit=1)[0]
        if not child.startswith("layer"):
            return 0
        stage, block = (int(part) for part in child.removeprefix("layer").split("_"))
        return 1 + sum(self.stage_sizes[: stage - 1]) + block


STAGE_SIZES = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def resnet(
    depth: int,
    *,
    groups: int = 1,
    group_width: int = 64,
    features: int = 64,
    stride_in_1x1: bool | None = None,
    norm: NormSpec | None = None,
    frozen_stages: int | None = None,
    dtype: Dtype = "float32",
) -> ResNet:
    """Builds ResNet-18/34/50/101/152, or ResNeXt (X101-32x8d has depth 101, 32 groups of width 8).

    `ResNet` documents the arguments. Those that are None follow the conventions of the detector
    that uses the backbone.

    Raises:
      ValueError: if the depth does not exist.
    """
    if depth not in STAGE_SIZES:
        raise ValueError(f"resnet depth is {depth}; it must be one of {sorted(STAGE_SIZES)}")
    return ResNet(
        stage_sizes=STAGE_SIZES[depth],
        block="basic" if depth < 50 else "bottleneck",
        features=features,
        groups=groups,
        group_width=group_width,
        stride_in_1x1=stride_in_1x1,
        norm=norm,
        frozen_stages=frozen_stages,
        dtype=dtype,
    )
