"""Depthwise convolution, computed on CPUs as a sum of shifted images.

XLA:CPU runs a convolution with as many groups as channels at a few GFLOP/s, and its gradients
even slower. A 5x5 kernel with 1152 channels on 8 x 8 cells takes 20 ms forward and 700 ms for the
kernel gradient. Sums of shifted products take 1 and 2 ms.
"""

import functools
from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segjax.types import Dtype

# TensorFlow initialises these layers by fan-out. A filter sees only its own channel, so this is
# the number of taps, which is the fan-in of a kernel [k, k, 1, C].
depthwise_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class DepthwiseConv(nn.Module):
    """One k x k filter per channel, with TensorFlow's "SAME" padding and without bias.

    Attributes:
      kernel_size: side of the square kernel.
      stride: step in both directions, at most `kernel_size`.
      dtype: compute dtype; the parameter `kernel` [k, k, 1, C] is float32.
    """

    kernel_size: int
    stride: int = 1
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
        """[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), C]."""
        shape = (self.kernel_size, self.kernel_size, 1, x.shape[-1])
        kernel = self.param("kernel", depthwise_normal, shape)
        return depthwise_conv(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise_conv(
    x: Float[Array, "B H W C"], kernel: Float[Array, "k k 1 C"], stride: int
) -> Float[Array, "B h w C"]:
    """Depthwise convolution with TensorFlow's "SAME" padding.

    This is the least zero padding for ceil(size / stride) cells, with the odd cell at the end.
    For stride 2, it depends on whether the size is even.

    Args:
      x: features.
      kernel: filter of each channel.
      stride: step in both directions, at most k.
    """
    taps = functools.partial(_conv_by_taps, stride=stride)
    plain = functools.partial(_conv, stride=stride)
    return jax.lax.platform_dependent(x, kernel, cpu=taps, default=plain)


def _forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return depthwise_conv(x, kernel, stride), (x, kernel)


def _backward(stride: int, saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    taps = functools.partial(_grads_by_taps, stride=stride)
    plain = functools.partial(_grads, stride=stride)
    return jax.lax.platform_dependent(*saved, grad, cpu=taps, default=plain)


depthwise_conv.defvjp(_forward, _backward)


def _conv(x: Array, kernel: Array, stride: int) -> Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _grads(x: Array, kernel: Array, grad: Array, stride: int) -> tuple[Array, Array]:
    return jax.vjp(functools.partial(_conv, stride=stride), x, kernel)[1](grad)


def _grads_by_taps(x: Array, kernel: Array, grad: Array, stride: int) -> tuple[Array, Array]:
    x_grad = _x_grad_by_taps(kernel, grad, stride, (x.shape[1], x.shape[2]))
    return x_grad, _kernel_grad_by_taps(x, kernel, grad, stride)


def same_padding(size: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """Returns TensorFlow's "SAME" padding before and after an axis of `size`."""
    cells = -(-size // stride)
    total = max((cells - 1) * stride + kernel_size - size, 0)
    return total // 2, total - total // 2


def _padded(x: Array, side: int, stride: int) -> Array:
    rows, columns = (same_padding(size, side, stride) for size in x.shape[1:3])
    return jnp.pad(x, ((0, 0), rows, columns, (0, 0)))


def _taps(side: int) -> Iterator[tuple[int, int]]:
    """Iterates over the rows and columns of a kernel."""
    return ((row, column) for row in range(side) for column in range(side))


def _conv_by_taps(x: Array, kernel: Array, stride: int) -> Array:
    height, width = (-(-size // stride) for size in x.shape[1:3])
    padded = _padded(x, len(kernel), stride)
    total = jnp.zeros((1, 1, 1, 1), jnp.float32)
    for row, column in _taps(len(kernel)):
        rows = slice(row, row + (height - 1) * stride + 1, stride)
        columns = slice(column, column + (width - 1) * stride + 1, stride)
        total = total + _product(padded[:, rows, columns], kernel[row, column])
    return total.astype(x.dtype)


def _product(x: Array, tap: Array) -> Array:
    """Multiplies [..., C] by a tap [1, C] in float32, the dtype in which products are summed."""
    return x.astype(jnp.float32) * tap.astype(jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,))


def _x_grad_by_taps(kernel: Array, grad: Array, stride: int, size: tuple[int, int]) -> Array:
    """Computes the gradient with respect to x [B, *size, C].

    Input cell `stride * q + r`, counted from the edge of the padding, contributes to output cell
    q - m through tap r + stride * m. So each remainder r is a separate convolution of `grad`.
    """
    side, (_, height, width, _) = len(kernel), grad.shape
    reach = (side - 1) // stride  # the largest m
    padded = jnp.pad(grad, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    cells = (height + reach, width + reach)  # numbers of q

    def phase(row: int, column: int) -> Array:
        total = jnp.zeros((1, 1, 1, 1), jnp.float32)
        for m in range(-(-(side - row) // stride)):
            for n in range(-(-(side - column) // stride)):
                rows = slice(reach - m, reach - m + cells[0])
                columns = slice(reach - n, reach - n + cells[1])
                tap = kernel[row + stride * m, column + stride * n]
                total = total + _product(padded[:, rows, columns], tap)
        return total.astype(grad.dtype)

    phases = [
        jnp.stack([phase(row, column) for column in range(stride)], 3) for row in range(stride)
    ]
    whole = jnp.stack(phases, 2)  # [B, q, stride, q, stride, C]
    whole = whole.reshape(len(grad), cells[0] * stride, cells[1] * stride, -1)
    top, left = (same_padding(n, side, stride)[0] for n in size)
    return whole[:, top : top + size[0], left : left + size[1]]


def _kernel_grad_by_taps(x: Array, kernel: Array, grad: Array, stride: int) -> Array:
    """Computes the gradient with respect to the kernel, accumulated row by row of each image.

    There is one sum [k, w, C] for each column of the kernel. These stay in the cache, and their
    cells are only added up at the end. XLA:CPU is ten times slower at summing whole images.
    """
    side, (batch, height, width, channels) = len(kernel), grad.shape
    padded = _padded(x, side, stride)

    def add_row(i: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        image, row = i // height, i % height
        size = (1, side, padded.shape[2], channels)
        near = jax.lax.dynamic_slice(padded, (image, row * stride, 0, 0), size)[0]
        line = jax.lax.dynamic_slice(grad, (image, row, 0, 0), (1, 1, width, channels))[0]
        near, line = near.astype(jnp.float32), line.astype(jnp.float32)
        return tuple(
            total + near[:, column : column + (width - 1) * stride + 1 : stride] * line
            for column, total in enumerate(sums)
        )

    zeros = tuple(jnp.zeros((side, width, channels), jnp.float32) for _ in range(side))
    sums = jax.lax.fori_loop(0, batch * height, add_row, zeros)
    return jnp.stack(sums, 1).sum(2).reshape(kernel.shape).astype(kernel.dtype)
