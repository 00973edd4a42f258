"""Optimised layers against plain JAX, and norms against their definition."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.nn.backbones.resnet import resnet
from segjax.nn.conv import (
    Conv,
    Deconv2x2,
    Dense,
    _conv3x3,
    conv3x3,
    grouped_conv3x3,
    subsample,
)
from segjax.nn.necks.fpn import FPN
from segjax.nn.norm import Norm, NormSpec

X = jax.random.normal(jax.random.key(0), (2, 6, 8, 4))


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
def test_conv_and_its_gradient_equal_a_plain_convolution(kernel, stride):
    ours = Conv(5, kernel, stride=stride)
    pad = kernel // 2
    plain = nn.Conv(5, (kernel, kernel), stride, padding=((pad, pad), (pad, pad)))
    variables = ours.init(jax.random.key(1), X)

    def total(module, variables, x):
        return (module.apply(variables, x) ** 2).sum()

    for argument in (1, 2):
        got, wanted = (
            jax.grad(total, argnums=argument)(module, variables, X) for module in (ours, plain)
        )
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("height", "width", "stride"), [(6, 8, 2), (5, 7, 2), (1, 3, 2), (7, 8, 3)]
)
def test_subsample_is_a_slice_that_skips_cells(height, width, stride):
    x = jax.random.normal(jax.random.key(0), (2, height, width, 3))
    np.testing.assert_array_equal(subsample(x, stride), x[:, ::stride, ::stride])
    seen = jax.grad(lambda x: subsample(x, stride).sum())(x)
    np.testing.assert_array_equal(seen, jnp.zeros_like(x).at[:, ::stride, ::stride].set(1.0))


@pytest.mark.parametrize("channels", [4, 192])
def test_conv3x3_and_its_gradients_equal_a_plain_convolution(channels):
    # With 192 channels on 8192 cells, a CPU computes the kernel's gradient as nine products.
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, 32, 128, channels))
    kernel = jax.random.normal(keys[1], (3, 3, channels, channels)) / channels**0.5
    grad = jax.random.normal(keys[2], (2, 32, 128, channels))
    got, wanted = (jax.jit(lambda *a, f=f: jax.vjp(f, *a)[1](grad)) for f in (conv3x3, _conv3x3))
    for a, b in zip(got(x, kernel), wanted(x, kernel), strict=True):
        scale = np.abs(b).max()
        np.testing.assert_allclose(np.asarray(a) / scale, np.asarray(b) / scale, atol=2e-5)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("groups", "channels", "features"), [(2, 8, 4), (32, 64, 128)])
@pytest.mark.parametrize("size", [(7, 10), (8, 9)])
def test_grouped_conv3x3_and_its_gradients_equal_a_plain_convolution(
    stride, groups, channels, features, size
):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, *size, channels))
    kernel = jax.random.normal(keys[1], (3, 3, channels // groups, features))
    plain, ours = (partial(f, groups=groups, stride=stride) for f in (_conv3x3, grouped_conv3x3))
    wanted, wanted_grads = jax.vjp(plain, x, kernel)
    got, got_grads = jax.vjp(ours, x, kernel)
    np.testing.assert_array_equal(got, wanted)
    grad = jax.random.normal(keys[2], wanted.shape)
    for a, b in zip(got_grads(grad), wanted_grads(grad), strict=True):
        scale = np.abs(b).max()
        np.testing.assert_allclose(np.asarray(a) / scale, np.asarray(b) / scale, atol=1e-6)


def test_deconv_equals_a_transposed_convolution():
    ours = Deconv2x2(5)
    variables = ours.init(jax.random.key(1), X)
    plain = nn.ConvTranspose(5, (2, 2), (2, 2), transpose_kernel=False)
    # Flax correlates without flipping the kernel; flip it to match torch's convention.
    flipped = jax.tree.map(lambda k: k[::-1, ::-1] if k.ndim == 4 else k, variables)
    np.testing.assert_allclose(
        ours.apply(variables, X), plain.apply(flipped, X), rtol=1e-5, atol=1e-5
    )


def test_dense_is_a_matrix_product():
    dense = Dense(3)
    variables = dense.init(jax.random.key(1), X)
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"] + 1
    got = dense.apply({"params": {"kernel": kernel, "bias": bias}}, X)
    np.testing.assert_allclose(got, np.asarray(X) @ np.asarray(kernel) + 1, rtol=1e-5, atol=1e-6)


def test_frozen_norm_is_the_affine_map_of_its_constants():
    norm = Norm(NormSpec("frozen", epsilon=0.5))
    stats = {"mean": jnp.arange(4.0), "var": jnp.full(4, 3.5), "scale": jnp.full(4, 3.0)}
    stats["bias"] = jnp.full(4, 0.25)
    got = norm.apply({"batch_stats": stats}, X, train=True)
    wanted = (np.asarray(X) - np.arange(4)) / 2 * 3 + 0.25
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    assert "params" not in norm.init(jax.random.key(0), X)


def test_batch_norm_normalises_and_keeps_running_statistics():
    norm = Norm(NormSpec("batch", momentum=0.75))
    variables = norm.init(jax.random.key(0), X)
    got, updated = norm.apply(variables, X, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(np.asarray(got).mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(np.asarray(got).std((0, 1, 2)), 1, atol=1e-4)
    stats = updated["batch_stats"]
    x = np.asarray(X).reshape(-1, 4)
    np.testing.assert_allclose(stats["mean"], 0.25 * x.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stats["var"], 0.75 + 0.25 * x.var(0, ddof=1), rtol=1e-5)


def test_batch_norm_leaves_padding_rows_out_of_its_statistics():
    norm = Norm(NormSpec("batch"))
    variables = norm.init(jax.random.key(0), X)

    def apply(x, valid):
        return norm.apply(variables, x, True, valid, mutable=["batch_stats"])

    wanted, stats = apply(X[:1], None)
    got, padded_stats = apply(X.at[1].mul(100.0), jnp.array([True, False]))
    np.testing.assert_allclose(got[:1], wanted, rtol=1e-5, atol=1e-6)
    for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(padded_stats), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_synchronised_norm_over_shards_equals_norm_over_the_whole():
    whole = Norm(NormSpec("batch"))
    synced = Norm(NormSpec("batch", axis_name="data"))
    variables = whole.init(jax.random.key(0), X)

    def apply(norm):
        return lambda x: norm.apply(variables, x, train=True, mutable=["batch_stats"])

    wanted, stats = apply(whole)(X)
    got, shard_stats = jax.vmap(apply(synced), axis_name="data")(X[:, None])
    np.testing.assert_allclose(got[:, 0], wanted, rtol=1e-4, atol=1e-5)
    for name in ("mean", "var"):
        for shard in range(2):
            np.testing.assert_allclose(
                shard_stats["batch_stats"][name][shard], stats["batch_stats"][name], rtol=1e-5
            )


@pytest.mark.parametrize("depth", [18, 50])
def test_resnet_strides_and_channels(depth):
    net = resnet(depth, features=8, norm=NormSpec("group", groups=4))
    shapes, _ = jax.eval_shape(
        lambda: net.init_with_output(jax.random.key(0), jnp.zeros((1, 64, 96, 3)))
    )
    widths = [8, 16, 32, 64] if depth == 18 else [32, 64, 128, 256]
    assert [s.shape for s in shapes] == [
        (1, 64 // s, 96 // s, c) for s, c in zip((4, 8, 16, 32), widths, strict=True)
    ]


@pytest.mark.parametrize(
    ("depth", "groups", "width", "millions"),
    [
        (18, 1, 64, 11.2),
        (34, 1, 64, 21.3),
        (50, 1, 64, 23.5),
        (101, 1, 64, 42.5),
        (152, 1, 64, 58.1),
        (101, 32, 8, 86.7),
        (101, 32, 4, 42.1),
    ],
)
def test_resnet_has_the_published_number_of_parameters(depth, groups, width, millions):
    # torchvision's counts without the classifier
    net = resnet(depth, groups=groups, group_width=width, norm=NormSpec("batch"))
    variables = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert count / 1e6 == pytest.approx(millions, abs=0.06)


def test_an_impossible_depth_is_named():
    with pytest.raises(ValueError, match="resnet depth is 51"):
        resnet(51)


def test_fpn_names_sizes_that_are_not_padded():
    stages = [jnp.zeros((1, s, s, 4)) for s in (17, 8, 4, 2)]
    with pytest.raises(ValueError, match="multiples of the coarsest map's stride"):
        FPN(4).init(jax.random.key(0), stages)
