"""Swin Transformer (2103.14030), returning the feature maps of its four stages.

Follows torchvision's `swin_t`, `swin_s` and `swin_b`. As in the authors' code and mmdet, stages,
blocks and output norms are numbered from 0.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int32

from segjax.nn.conv import Dense, pointwise
from segjax.ops.preprocess import Preprocess
from segjax.types import Dtype

PATCH = 4
# torch's trunc_normal_(std=0.02) truncates at -2 and 2, which is a hundred deviations away.
_normal = nn.initializers.normal(0.02)
# torch's default for convolutions, which the peers use for the patch embedding.
_conv_default = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class PatchEmbed(nn.Module):
    """Turns patches of 4x4 pixels into tokens, with a convolution of stride 4 and a LayerNorm."""

    features: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B h w C"]:
        """[B, H, W, 3] -> [B, ceil(H / 4), ceil(W / 4), features]."""
        shape = (PATCH, PATCH, x.shape[-1], self.features)
        kernel = self.param("kernel", _conv_default, shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        blocks = _blocks(_padded(x.astype(self.dtype), PATCH), PATCH)
        # Patches do not overlap, so the convolution is one product (see segjax.nn.conv).
        patches = blocks.reshape(*blocks.shape[:3], -1)
        y = pointwise(patches, kernel.reshape(-1, self.features)) + bias[None, None, None]
        return _layer_norm("norm", self.dtype)(y)


class PatchMerging(nn.Module):
    """Merges 2x2 cells into one with twice the channels; pads odd sides with zeros at the end."""

    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        """[B, H, W, C] -> [B, ceil(H / 2), ceil(W / 2), 2 C]."""
        channels = x.shape[-1]
        blocks = _blocks(_padded(x, 2), 2)  # [B, h, w, row, column, C]
        # As in torchvision's weights, the channels of a cell's left column come first.
        cells = blocks.swapaxes(3, 4).reshape(*blocks.shape[:3], 4 * channels)
        reduction = Dense(
            2 * channels, kernel_init=_normal, use_bias=False, dtype=self.dtype, name="reduction"
        )
        return reduction(_layer_norm("norm", self.dtype)(cells))


class WindowAttention(nn.Module):
    """Self-attention within each window, with a learned relative position bias.

    Maps are padded with zeros to whole windows at the bottom and right. As in the peers, the
    padding takes part in the attention. As in torchvision, a side covered by one window is not
    shifted; mmdet shifts it, too.

    Attributes:
      num_heads: number of heads, a divisor of the number of channels.
      window_size: side of a window, in cells.
      shift: cyclic shift of the windows to the bottom and right, in cells.
      dtype: compute dtype; the softmax is float32.
    """

    num_heads: int
    window_size: int
    shift: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """[B, H, W, C] -> the same shape."""
        height, width, channels = x.shape[1:]
        side = self.window_size
        x = _padded(x, side)
        padded = x.shape
        down, right = (self.shift if n > side else 0 for n in padded[1:3])
        windows = _blocks(jnp.roll(x, (-down, -right), (1, 2)), side)
        tokens = windows.reshape(*windows.shape[:3], side * side, channels)
        qkv = self._dense(3 * channels, "qkv")(tokens)
        tokens = self._dense(channels, "proj")(self._attend(qkv, down, right))
        x = tokens.reshape(windows.shape).swapaxes(2, 3).reshape(padded)
        return jnp.roll(x, (down, right), (1, 2))[:, :height, :width]

    def _dense(self, features: int, name: str) -> Dense:
        return Dense(features, kernel_init=_normal, dtype=self.dtype, name=name)

    def _attend(
        self, qkv: Float[Array, "B ny nx N C3"], down: int, right: int
    ) -> Float[Array, "B ny nx N C"]:
        """Attends within windows, given the concatenated queries, keys and values of the tokens."""
        rows, columns, tokens, channels = qkv.shape[1:]
        heads = qkv.reshape(*qkv.shape[:-1], 3, self.num_heads, channels // 3 // self.num_heads)
        q, k, v = (heads[..., i, :, :] for i in range(3))
        logits = jnp.einsum(
            "byxnhd,byxmhd->byxhnm",
            q * q.shape[-1] ** -0.5,
            k,
            preferred_element_type=jnp.float32,
        )
        logits = logits + self._position_bias()[None, None, None]
        if down or right:
            # Combine the axes in XLA. In NumPy, they would become one large constant.
            apart = jnp.logical_or(
                _apart(rows, self.window_size, down, axis=0)[None, :, None, None],
                _apart(columns, self.window_size, right, axis=1)[None, None, :, None],
            )
            logits = jnp.where(apart, logits - 100.0, logits)  # the peers' substitute for -inf
        weights = jax.nn.softmax(logits, -1).astype(self.dtype)
        values = jnp.einsum("byxhnm,byxmhd->byxnhd", weights, v)
        return values.reshape(*qkv.shape[:3], tokens, channels // 3)

    def _position_bias(self) -> Float32[Array, "h N N"]:
        """Returns the bias of each head for every query and key, which depends on their offset."""
        shape = ((2 * self.window_size - 1) ** 2, self.num_heads)
        table = self.param("relative_position_bias_table", _normal, shape)
        return table[_relative_positions(self.window_size)].transpose(2, 0, 1)


class SwinBlock(nn.Module):
    """Windowed attention and a two-layer perceptron, both pre-norm with a skip connection.

    Attributes:
      num_heads: number of attention heads.
      window_size: side of the attention windows, in cells.
      shift: cyclic shift of the windows, in cells.
      mlp_ratio: width of the perceptron as a multiple of the number of channels.
      drop_path_rate: probability, 0..1, that training drops a branch for an image.
      dtype: compute dtype.
    """

    num_heads: int
    window_size: int
    shift: int
    mlp_ratio: float
    drop_path_rate: float
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W C"]:
        """[B, H, W, C] -> the same shape."""
        channels = x.shape[-1]
        dense = functools.partial(Dense, kernel_init=_normal, dtype=self.dtype)
        attention = WindowAttention(
            self.num_heads, self.window_size, self.shift, self.dtype, name="attn"
        )
        y = attention(_layer_norm("norm1", self.dtype)(x))
        x = x + self._drop_path(y, train)
        y = _layer_norm("norm2", self.dtype)(x)
        y = dense(int(self.mlp_ratio * channels), name="fc1")(y)
        y = dense(channels, name="fc2")(nn.gelu(y, approximate=False))
        return x + self._drop_path(y, train)

    def _drop_path(self, x: Array, train: bool) -> Array:
        """Applies stochastic depth (1603.09382), drawn for each image."""
        drop = nn.Dropout(self.drop_path_rate, broadcast_dims=(1, 2, 3), rng_collection="drop_path")
        return drop(x, deterministic=not train)


class SwinTransformer(nn.Module):
    """Body of a Swin Transformer: `segjax.protocols.Backbone`.

    Images whose sides are not multiples of 4 are padded with zeros at the bottom and right, as in
    mmdet; torchvision drops the last pixels. As in both, odd maps are padded the same way before
    they are halved, so that a map at stride s has ceil(side / s) cells.

    Attributes:
      embed_dim: number of channels in the first stage; it doubles with every further stage.
      depths: number of blocks in each of the four stages; every second block shifts its windows by
        half their side.
      num_heads: number of heads in each stage.
      window_size: side of the windows, in cells.
      mlp_ratio: width of the perceptrons as a multiple of the number of channels.
      drop_path_rate: stochastic depth rate of the last block, 0..1; it grows linearly from 0 in
        the first block. Training with a rate above 0 needs the random stream "drop_path".
      output_norms: True applies LayerNorms `norm0` to `norm3` to the maps, as in detectors;
        without them, the maps are those inside torchvision's classifiers.
      frozen_stages: number of frozen parts, 0..5, counted as patch embedding, stage 0, stage 1,
        ...; as in mmdet, a stage ends with its patch merging. The output norms are always trained,
        because ImageNet weights lack them.
      dtype: compute dtype and the maps. Parameters, softmax and LayerNorm statistics
        are float32.
    """

    embed_dim: int = 96
    depths: tuple[int, int, int, int] = (2, 2, 6, 2)
    num_heads: tuple[int, int, int, int] = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: float = 4.0
    drop_path_rate: float = 0.2
    output_norms: bool = True
    frozen_stages: int = 0
    dtype: Dtype = "float32"

    strides = (4, 8, 16, 32)
    size_divisor = 32

    @property
    def preprocess(self) -> Preprocess:
        """Input normalisation that the released weights were trained with: ImageNet's, RGB."""
        return Preprocess()

    @property
    def channels(self) -> tuple[int, ...]:
        """Number of channels of each map."""
        return tuple(self.embed_dim * 2**stage for stage in range(4))

    @property
    def num_layers(self) -> int:
        """Number of layers: the patch embedding and each block."""
        return 1 + sum(self.depths)

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W 3"], train: bool = False
    ) -> tuple[Float[Array, "B _ _ _"], ...]:
        """Normalised images [B, H, W, 3] -> maps of `channels` at strides 4, 8, 16, 32."""
        x = self._cut(PatchEmbed(self.embed_dim, self.dtype, name="patch_embed")(x), 1)
        maps = []
        for stage, depth in enumerate(self.depths):
            if stage > 0:
                x = PatchMerging(self.dtype, name=f"stage{stage - 1}_merge")(x)
                x = self._cut(x, stage + 1)
            for i in range(depth):
                # Frozen parts run as in evaluation, without stochastic depth.
                x = self._block(stage, i)(x, train and self.frozen_stages < stage + 2)
            x = self._cut(x, stage + 2)
            maps.append(_layer_norm(f"norm{stage}", self.dtype)(x) if self.output_norms else x)
        return tuple(maps)

    def _block(self, stage: int, i: int) -> SwinBlock:
        index, last = sum(self.depths[:stage]) + i, sum(self.depths) - 1
        return SwinBlock(
            self.num_heads[stage],
            self.window_size,
            self.window_size // 2 if i % 2 else 0,
            self.mlp_ratio,
            self.drop_path_rate * index / max(last, 1),
            self.dtype,
            name=f"stage{stage}_block{i}",
        )

    def _cut(self, x: Array, frozen: int) -> Array:
        """Stops the gradient before frozen parts, so that XLA does not compute it there."""
        return jax.lax.stop_gradient(x) if self.frozen_stages >= frozen else x

    def _stage_names(self, stage: int) -> list[str]:
        """Returns the names of a stage's children, with its patch merging last."""
        blocks = [f"stage{stage}_block{i}" for i in range(self.depths[stage])]
        return blocks if stage == 3 else [*blocks, f"stage{stage}_merge"]

    def frozen_paths(self) -> tuple[str, ...]:
        """Returns the names of this module's frozen children."""
        if self.frozen_stages == 0:
            return ()
        stages = range(self.frozen_stages - 1)
        return ("patch_embed", *(name for stage in stages for name in self._stage_names(stage)))

    def layer_of(self, path: str) -> int:
        """Returns the layer of a parameter, for layer-wise learning rates.

        Layer 0 is the patch embedding, and every block is a layer. As in SimMIM and mmpretrain, a
        patch merging belongs to the block before it. The output norms belong to the last block,
        whereas those two count them among the heads.

        Args:
          path: "/"-joined names below the backbone, such as "stage2_block3/attn/qkv/kernel".

        Returns:
          0..num_layers - 1.

        Raises:
          ValueError: if the path does not begin with a child of this module.
        """
        layers = {"patch_embed": 0, **{f"norm{stage}": self.num_layers - 1 for stage in range(4)}}
        for stage, depth in enumerate(self.depths):
            before = sum(self.depths[:stage])
            layers |= {
                name: before + min(i + 1, depth) for i, name in enumerate(self._stage_names(stage))
            }
        child = path.partition("/")[0]
        if child not in layers:
            raise ValueError(f"{path!r} is no parameter here; the children are {sorted(layers)}")
        return layers[child]


def _layer_norm(name: str, dtype: Dtype) -> nn.LayerNorm:
    # The fast variance, E[x^2] - E[x]^2, loses digits that the peers keep.
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=dtype, name=name)


def _padded(x: Float[Array, "B H W C"], multiple: int) -> Float[Array, "B h w C"]:
    """Pads with zeros at the bottom and right, to multiples of `multiple` cells."""
    height, width = x.shape[1:3]
    return jnp.pad(x, ((0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0)))


def _blocks(x: Float[Array, "B H W C"], side: int) -> Float[Array, "B h w s s C"]:
    """Splits into squares: [B, H, W, C] -> [B, H / side, W / side, side, side, C]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // side, side, width // side, side, channels)
    return x.swapaxes(2, 3)


@functools.cache
def _relative_positions(side: int) -> Int32[np.ndarray, "N N"]:
    """Returns the row in the bias table for every query and key of a window of side^2 tokens."""
    y, x = (axis.ravel() for axis in np.mgrid[:side, :side].astype(np.int32))
    dy, dx = (n[:, None] - n[None] + side - 1 for n in (y, x))
    return dy * (2 * side - 1) + dx


def _apart(windows: int, side: int, shift: int, *, axis: int) -> Bool[np.ndarray, "n N N"]:
    """Marks pairs of tokens at opposite ends of an axis that the cyclic shift brought together.

    The last of the n = `windows` windows along the axis contains the cells that wrapped around.
    """
    wrapped = np.zeros((windows, side), bool)
    wrapped[-1, side - shift :] = True  # none where the shift is 0
    tokens = wrapped.repeat(side, 1) if axis == 0 else np.tile(wrapped, (1, side))
    return tokens[:, :, None] != tokens[:, None]


# Channels, blocks and heads of the paper's Swin-T, -S and -B.
VARIANTS = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
}


def swin(
    variant: str = "tiny",
    *,
    drop_path_rate: float = 0.2,
    output_norms: bool = True,
    frozen_stages: int = 0,
    dtype: Dtype = "float32",
) -> SwinTransformer:
    """Builds Swin-T, -S or -B with windows of 7 x 7 cells.

    Args:
      variant: "tiny", "small" or "base".
      drop_path_rate: stochastic depth rate of the last block, 0..1.
      output_norms: True applies a LayerNorm to each map, as in detectors.
      frozen_stages: number of frozen parts, 0..5, counted as patch embedding, stage 0, stage 1,
        ...
      dtype: compute dtype.

    Raises:
      ValueError: if the variant does not exist.
    """
    if variant not in VARIANTS:
        raise ValueError(f"swin variant is {variant!r}; it must be one of {sorted(VARIANTS)}")
    embed_dim, depths, num_heads = VARIANTS[variant]
    return SwinTransformer(
        embed_dim,
        depths,
        num_heads,
        drop_path_rate=drop_path_rate,
        output_norms=output_norms,
        frozen_stages=frozen_stages,
        dtype=dtype,
    )
