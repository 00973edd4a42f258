"""Convolutions in forms that XLA compiles well on every platform.

XLA lowers the weight gradient of a 1x1 convolution to a convolution with the image as a giant
filter, and a transposed convolution to one over a dilated input. Both are equivalent to a matrix
product, which is many times faster on a CPU (and, for the second, on a GPU). So this module
writes both as products.
"""

import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segjax.types import Dtype

# torch.nn.init.kaiming_normal_(mode="fan_out", nonlinearity="relu"), as in ResNets trained from
# scratch and in the mask heads of all three peers.
kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# Detectron2's c2_xavier_fill and torchvision's kaiming_uniform_(a=1), for FPN and box head.
kaiming_uniform = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


class Conv(nn.Module):
    """Convolution with zero padding and ceil(size / stride) output cells.

    Attributes:
      features: number of output channels.
      kernel_size: side of the square kernel, odd.
      stride: step in both directions.
      groups: number of groups (ResNeXt's cardinality).
      padding: "symmetric" adds `kernel_size // 2` cells on every side, like PyTorch's models;
        "same" is TensorFlow's, no more than needed, with the odd cell at the end.
      use_bias: True adds a bias [features].
      kernel_init: initialiser of the kernel [k, k, C / groups, features].
      dtype: compute dtype; parameters are float32.
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    groups: int = 1
    padding: Literal["symmetric", "same"] = "symmetric"
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = kaiming_normal
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w F"]:
        """[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), features]."""
        k = self.kernel_size
        shape = (k, k, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape).astype(self.dtype)
        x = x.astype(self.dtype)
        y: Array
        if k == 1 and self.groups == 1:
            y = pointwise(subsample(x, self.stride), kernel[0, 0])
        elif k == 3 and self.groups == 1 and self.stride == 1:
            y = conv3x3(x, kernel)
        elif k == 3 and self.groups > 1 and self.padding == "symmetric":
            y = grouped_conv3x3(x, kernel, self.groups, self.stride)
        else:
            y = jax.lax.conv_general_dilated(
                x,
                kernel,
                window_strides=(self.stride, self.stride),
                padding="SAME" if self.padding == "same" else ((k // 2, k // 2),) * 2,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=self.groups,
            )
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = y + bias.astype(self.dtype)[None, None, None]
        return y


def pointwise(x: Float[Array, "*b C"], kernel: Float[Array, "C F"]) -> Float[Array, "*b F"]:
    """Computes a 1x1 convolution as a 2-D product: [..., C] @ [C, F] -> [..., F].

    The reshape to two axes matters: on XLA:CPU, the gradient of the 4-D contraction is three
    times slower.
    """
    flat = x.reshape(-1, x.shape[-1]) @ kernel
    return flat.reshape(*x.shape[:-1], kernel.shape[-1])


def subsample(x: Float[Array, "B H W C"], stride: int) -> Float[Array, "B h w C"]:
    """Takes every `stride`-th cell of both axes: `x[:, ::stride, ::stride]`.

    This is not a strided slice, because XLA of jaxlib 0.10 may fuse that into the product that
    reads it on NVIDIA GPUs, miscounts the cells there, and aborts the process
    (openxla/xla#47381). Taking the first cell of each block costs the same on a CPU.
    """
    if stride == 1:
        return x
    batch, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (0, -height % stride), (0, -width % stride), (0, 0)))
    blocks = x.reshape(batch, -(-height // stride), stride, -(-width // stride), stride, channels)
    return blocks[:, :, 0, :, 0]


@jax.custom_vjp
def conv3x3(x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C F"]) -> Float[Array, "B H W F"]:
    """3x3 convolution of stride 1 and padding 1, with a kernel gradient that is fast on CPUs.

    XLA:CPU computes the kernel gradient as a convolution with the whole image as the window. For
    256 channels at 200 x 336, it runs at 20 GFLOP/s on two cores, and the convolution itself at
    180. Nine matrix products, one for each tap, run at 100.
    """
    return _conv3x3(x, kernel)


def _conv3x3(x: Array, kernel: Array, groups: int = 1, stride: int = 1) -> Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _conv3x3_fwd(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _conv3x3(x, kernel), (x, kernel)


def _conv3x3_bwd(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    x, kernel = saved
    x_grad = jax.vjp(lambda x: _conv3x3(x, kernel), x)[1](grad)[0]
    cells = x.shape[0] * x.shape[1] * x.shape[2]
    # With few channels or cells, the products are too small to make up for their copies.
    if min(kernel.shape[2:]) < TAPS_CHANNELS or cells < TAPS_CELLS:
        return x_grad, _kernel_grad(x, kernel, grad)
    kernel_grad = jax.lax.platform_dependent(
        x, kernel, grad, cpu=_kernel_grad_by_taps, default=_kernel_grad
    )
    return x_grad, kernel_grad


# Minimum sizes at which the products are faster, measured on two cores of an AMD EPYC.
TAPS_CHANNELS, TAPS_CELLS = 192, 8192


def _kernel_grad(x: Array, kernel: Array, grad: Array, groups: int = 1, stride: int = 1) -> Array:
    return jax.vjp(lambda kernel: _conv3x3(x, kernel, groups, stride), kernel)[1](grad)[0]


def _kernel_grad_by_taps(x: Array, kernel: Array, grad: Array) -> Array:
    _, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    flat = grad.reshape(-1, grad.shape[-1])
    taps = [
        padded[:, y : y + height, x0 : x0 + width].reshape(-1, channels).T @ flat
        for y in range(3)
        for x0 in range(3)
    ]
    return jnp.stack(taps).reshape(kernel.shape)


conv3x3.defvjp(_conv3x3_fwd, _conv3x3_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def grouped_conv3x3(
    x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 c F"], groups: int, stride: int
) -> Float[Array, "B h w F"]:
    """Grouped 3x3 convolution with padding 1 (ResNeXt) and a kernel gradient that is fast on CPUs.

    XLA:CPU computes the gradient between all pairs of groups and discards most of it, which takes
    26 s for 1024 channels in 32 groups at 50 x 84 on two cores. Nine products for each group, one
    for each tap, take one second.
    """
    return _conv3x3(x, kernel, groups, stride)


def _grouped_conv3x3_fwd(
    x: Array, kernel: Array, groups: int, stride: int
) -> tuple[Array, tuple[Array, Array]]:
    return _conv3x3(x, kernel, groups, stride), (x, kernel)


def _grouped_conv3x3_bwd(
    groups: int, stride: int, saved: tuple[Array, Array], grad: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    x_grad = jax.vjp(lambda x: _conv3x3(x, kernel, groups, stride), x)[1](grad)[0]
    kernel_grad = jax.lax.platform_dependent(
        x,
        kernel,
        grad,
        cpu=functools.partial(_grouped_kernel_grad_by_taps, stride=stride),
        default=functools.partial(_kernel_grad, groups=groups, stride=stride),
    )
    return x_grad, kernel_grad


def _grouped_kernel_grad_by_taps(x: Array, kernel: Array, grad: Array, *, stride: int) -> Array:
    height, width = ((n - 1) * stride + 1 for n in grad.shape[1:3])
    per_group = kernel.shape[2]
    groups = x.shape[-1] // per_group
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    flat = grad.reshape(-1, groups, grad.shape[-1] // groups)

    def tap(y: int, x0: int) -> Array:
        seen = padded[:, y : y + height : stride, x0 : x0 + width : stride]
        product = jnp.einsum("ngi,ngo->igo", seen.reshape(-1, groups, per_group), flat)
        return product.reshape(per_group, -1)

    return jnp.stack([tap(y, x0) for y in range(3) for x0 in range(3)]).reshape(kernel.shape)


grouped_conv3x3.defvjp(_grouped_conv3x3_fwd, _grouped_conv3x3_bwd)


class Dense(nn.Module):
    """`x @ kernel + bias` on the last axis, with float32 parameters, computed in `dtype`."""

    features: int
    kernel_init: nn.initializers.Initializer = kaiming_uniform
    dtype: Dtype = "float32"
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*b C"]) -> Float[Array, "*b F"]:
        """[..., C] -> [..., features]."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        y = pointwise(x.astype(self.dtype), kernel.astype(self.dtype))
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return y + bias.astype(self.dtype).reshape((1,) * (y.ndim - 1) + (-1,))


class Deconv2x2(nn.Module):
    """Transposed convolution of kernel 2 and stride 2, which turns every cell into a 2x2 block.

    The blocks do not overlap, so this is one matrix product and a reshuffle (depth to space).
    The kernel [2, 2, C, F] has torch's values W[c, f, y, x] at [y, x, c, f].
    """

    features: int
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 F"]:
        """[B, H, W, C] -> [B, 2 H, 2 W, features]."""
        batch, height, width, channels = x.shape
        # The fan-in of an output value is C, because only one tap reaches it.
        init = nn.initializers.variance_scaling(2.0, "fan_in", "normal", in_axis=2, out_axis=3)
        kernel = self.param("kernel", init, (2, 2, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        matrix = kernel.astype(self.dtype).transpose(2, 0, 1, 3).reshape(channels, -1)
        y = pointwise(x.astype(self.dtype), matrix)  # [B, H, W, 2 * 2 * F]
        y = y.reshape(batch, height, width, 2, 2, self.features).transpose(0, 1, 3, 2, 4, 5)
        y = y.reshape(batch, 2 * height, 2 * width, self.features)
        return y + bias.astype(self.dtype)[None, None, None]
