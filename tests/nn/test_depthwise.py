"""Depthwise convolution as sums of shifted images, against XLA's grouped convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.nn.conv import Conv
from segjax.nn.depthwise import DepthwiseConv, _conv, depthwise_conv, same_padding

CHANNELS = 3


def _values(*shapes):
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


def _with_gradients(conv, stride):
    """Compiles (x, kernel, grad) -> the convolution and its two gradients."""

    @jax.jit
    def compute(x, kernel, grad):
        out, pull = jax.vjp(lambda x, kernel: conv(x, kernel, stride), x, kernel)
        return out, *pull(grad)

    return compute


# Odd and even sides, sides smaller than the kernel, and a single cell.
@pytest.mark.parametrize("size", [(7, 10), (4, 3), (1, 2)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [3, 5])
def test_equals_a_grouped_convolution_in_value_and_gradient(side, stride, size):
    cells = tuple(-(-n // stride) for n in size)
    shapes = (2, *size, CHANNELS), (side, side, 1, CHANNELS), (2, *cells, CHANNELS)
    _assert_equal_convolutions(_values(*shapes), stride)


def test_a_stride_of_three_and_a_kernel_without_centre():
    shapes = (1, 8, 10, CHANNELS), (4, 4, 1, CHANNELS), (1, 3, 4, CHANNELS)
    _assert_equal_convolutions(_values(*shapes), 3)


def _assert_equal_convolutions(values, stride):
    got, wanted = (_with_gradients(conv, stride)(*values) for conv in (depthwise_conv, _conv))
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_bfloat16_adds_up_in_float32():
    shapes = (2, 16, 16, CHANNELS), (5, 5, 1, CHANNELS), (2, 16, 16, CHANNELS)
    half = [a.astype(jnp.bfloat16) for a in _values(*shapes)]
    compute = _with_gradients(depthwise_conv, 1)
    exact = compute(*[a.astype(jnp.float32) for a in half])
    for got, wanted in zip(compute(*half), exact, strict=True):
        assert got.dtype == jnp.bfloat16
        # Within bfloat16's 8 bits, regardless of the number of terms.
        np.testing.assert_array_equal(got, wanted.astype(jnp.bfloat16))


def test_padding_is_tensorflows():
    # (total padding, padding before), as `tf.nn.conv2d` documents "SAME".
    assert same_padding(224, 3, 2) == (0, 1)
    assert same_padding(15, 3, 2) == (1, 1)
    assert same_padding(112, 5, 2) == (1, 2)
    assert same_padding(15, 5, 2) == (2, 2)
    assert same_padding(7, 5, 1) == (2, 2)
    assert same_padding(8, 2, 2) == (0, 0)


@pytest.mark.parametrize("size", [7, 8])
def test_conv_pads_the_same(size):
    (x,) = _values((1, size, size, 2))
    conv = Conv(4, 3, stride=2, padding="same", use_bias=False)
    kernel = conv.init(jax.random.key(0), x)["params"]["kernel"]
    pads = [(0, 0), *[same_padding(size, 3, 2)] * 2, (0, 0)]
    padded = np.pad(np.asarray(x), pads)
    wanted = np.stack(
        [
            [np.tensordot(padded[0, i : i + 3, j : j + 3], kernel, 3) for j in range(0, size, 2)]
            for i in range(0, size, 2)
        ]
    )
    np.testing.assert_allclose(conv.apply({"params": {"kernel": kernel}}, x)[0], wanted, atol=1e-5)


def test_draws_by_the_number_of_taps():
    conv = DepthwiseConv(5)
    kernel = conv.init(jax.random.key(0), jnp.zeros((1, 8, 8, 2048)))["params"]["kernel"]
    assert kernel.shape == (5, 5, 1, 2048)
    assert float(kernel.std()) == pytest.approx((2 / 25) ** 0.5, rel=0.02)
