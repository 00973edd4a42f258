"""The fused semantic head and the FCN head against their definitions, as loops in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.nn.heads.semantic import FCNHead, FusedSemanticHead
from segjax.nn.norm import NormSpec
from tests.oracles.oracle_resize import oracle as resize

BATCH, CHANNELS, FEATURES, CLASSES = 2, 3, 4, 5
# P2..P6 of a canvas of 32 x 64 pixels.
SIZES = [(8, 16), (4, 8), (2, 4), (1, 2), (1, 1)]
PLACE = {"stride": 4, "size_divisor": 32}
IMAGES = jnp.array([[32, 64], [30, 40]], jnp.int32)


@pytest.fixture(scope="module")
def levels():
    random = np.random.default_rng(0)
    return [jnp.asarray(random.normal(size=(BATCH, *s, CHANNELS)), jnp.float32) for s in SIZES]


def head(**changes) -> FusedSemanticHead:
    return FusedSemanticHead(CLASSES, **{"num_convs": 2, "features": FEATURES} | changes)


@pytest.fixture(scope="module")
def variables(levels):
    shapes = jax.eval_shape(
        functools.partial(head().init, **PLACE), jax.random.key(0), levels, IMAGES
    )
    random = np.random.default_rng(1)

    def draw(leaf):
        # Biases and logits at the scale of the features; fresh parameters would hide errors.
        fan_in = int(np.prod(leaf.shape[:-1]))
        values = random.normal(size=leaf.shape) * (2 / fan_in) ** 0.5
        return jnp.asarray(values if leaf.ndim > 1 else 0.3 * values, jnp.float32)

    return jax.tree.map(draw, shapes)


def apply(variables, levels, **changes):
    return jax.jit(functools.partial(head(**changes).apply, **PLACE))(variables, levels, IMAGES)


def relu(x):
    return np.maximum(x, 0)


def conv(x, layer):
    """A zero-padded convolution, one tap at a time; the bias is optional."""
    kernel = np.asarray(layer["kernel"], np.float64)
    _, height, width, _ = x.shape
    pad = kernel.shape[0] // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    out = np.zeros((*x.shape[:3], kernel.shape[3])) + np.asarray(layer.get("bias", 0.0), np.float64)
    for i, j in np.ndindex(*kernel.shape[:2]):
        out += padded[:, i : i + height, j : j + width] @ kernel[i, j]
    return out


def naive(layers, levels, fusion_level):
    size = SIZES[fusion_level]
    x = np.zeros((BATCH, *size, FEATURES))
    for i, level in enumerate(levels):
        x += relu(conv(resize(np.asarray(level), size, True), layers[f"lateral{i + 1}"]))
    for i in range(2):
        x = relu(conv(x, layers[f"conv{i + 1}"]))
    return conv(x, layers["logits"]), relu(conv(x, layers["embedding"]))


# At P2's size no level is shrunk; at P4's size some levels shrink and some grow.
@pytest.mark.parametrize("fusion_level", [0, 1, 2])
def test_head_is_its_definition(variables, levels, fusion_level):
    logits, feature = apply(variables, levels, fusion_level=fusion_level)
    wanted = naive(variables["params"], levels, fusion_level)
    assert logits.shape == (BATCH, *SIZES[fusion_level], CLASSES)
    assert feature.shape == (BATCH, *SIZES[fusion_level], FEATURES)
    assert (logits.dtype, feature.dtype) == (jnp.float32, jnp.float32)
    for got, want in zip((logits, feature), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert (feature == 0).any(), "a ReLU ends the feature"
    assert (feature > 0).any()
    assert (logits < 0).any(), "none ends the logits"


def test_a_larger_canvas_changes_nothing(variables, levels):
    random = np.random.default_rng(2)
    canvas = [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    wide = []
    for level, size in zip(levels, canvas, strict=True):
        junk = random.normal(size=(BATCH, *size, CHANNELS)).astype(np.float32)
        junk[:, : level.shape[1], : level.shape[2]] = level
        wide.append(jnp.asarray(junk))
    found = jax.jit(functools.partial(head().apply, **PLACE))(variables, wide, IMAGES)
    rows, columns = SIZES[1]
    for got, want in zip(found, apply(variables, levels), strict=True):
        np.testing.assert_allclose(got[:, :rows, :columns], want, rtol=1e-4, atol=1e-5)
    assert not np.asarray(found[1][:, rows:]).any()
    assert not np.asarray(found[1][:, :, columns:]).any()


def test_every_level_counts(variables, levels):
    run = jax.jit(functools.partial(head().apply, **PLACE))
    logits, _ = run(variables, levels, IMAGES)
    for i in range(len(SIZES)):
        without = [level * (j != i) for j, level in enumerate(levels)]
        assert np.abs(run(variables, without, IMAGES)[0] - logits).max() > 1e-2


def test_every_parameter_gets_a_gradient_from_what_it_serves(variables, levels):
    def total(params, output):
        # Squared, because a kernel may not change the plain sum of a class's logits over pixels.
        return (head().apply({"params": params}, levels, IMAGES, **PLACE)[output] ** 2).sum()

    pull = jax.jit(jax.grad(total), static_argnums=1)
    shared = {f"lateral{i + 1}" for i in range(5)} | {"conv1", "conv2"}
    assert set(variables["params"]) == shared | {"logits", "embedding"}
    for output, own in ((0, "logits"), (1, "embedding")):
        grads = pull(variables["params"], output)
        for layer, leaves in grads.items():
            for name, grad in leaves.items():
                assert np.isfinite(grad).all()
                moved = float(np.abs(grad).max()) > 0
                assert moved == (layer in shared | {own}), (own, layer, name)


def test_published_head_has_the_published_parameters():
    levels = [jnp.zeros((1, *s, 256)) for s in SIZES]
    shapes = jax.eval_shape(
        functools.partial(FusedSemanticHead().init, **PLACE), jax.random.key(0), levels, IMAGES[:1]
    )["params"]
    # mmdet's: 5 laterals, 4 convolutions, the embedding, 183 classes.
    ones, threes = 256 * 256 + 256, 9 * 256 * 256 + 256
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count == 6 * ones + 4 * threes + 256 * 183 + 183


def test_bfloat16_computes_in_bfloat16_and_gives_float32_logits(variables, levels):
    logits, feature = apply(variables, levels, dtype="bfloat16")
    assert (logits.dtype, feature.dtype) == (jnp.float32, jnp.bfloat16)
    fresh = jax.eval_shape(
        functools.partial(head(dtype="bfloat16").init, **PLACE), jax.random.key(1), levels, IMAGES
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {jnp.dtype("float32")}
    for got, want in zip((logits, feature), apply(variables, levels), strict=True):
        error = np.abs(np.asarray(got, np.float32) - want).max() / np.abs(want).max()
        assert 0 < error < 0.03


# ---- FCN head -------------------------------------------------------------------------------


def group_norm(x, layer, groups, epsilon=1e-5):
    """Normalises channel groups of each image to mean 0, variance 1; applies scale and bias."""
    out = np.zeros(x.shape)
    size = x.shape[-1] // groups
    for b, g in np.ndindex(len(x), groups):
        part = x[b, ..., g * size : (g + 1) * size]
        out[b, ..., g * size : (g + 1) * size] = (part - part.mean()) / np.sqrt(
            part.var() + epsilon
        )
    return out * np.asarray(layer["scale"]) + np.asarray(layer["bias"])


def naive_fcn(layers, given, groups):
    """Blocks of convolution, norm and ReLU; the last block also sees the input of the first."""
    x = np.asarray(given, np.float64)
    blocks = ["1", "2", *(["_cat"] if "conv_cat" in layers else [])]
    for block in blocks:
        if block == "_cat":
            x = np.concatenate([np.asarray(given, np.float64), x], -1)
        x = conv(x, layers[f"conv{block}"])
        x = relu(group_norm(x, layers[f"norm{block}"]["group"], groups) if groups else x)
    return conv(x, layers["logits"])


@pytest.mark.parametrize("concat", [False, True])
@pytest.mark.parametrize(("level", "groups"), [(0, 2), (2, None)])
def test_fcn_head_is_its_definition(levels, level, groups, concat):
    norm = None if groups is None else NormSpec("group", groups=groups)
    head = FCNHead(CLASSES, level=level, features=FEATURES, concat_input=concat, norm=norm)
    random = np.random.default_rng(3)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(size=leaf.shape) * 0.4, jnp.float32),
        jax.eval_shape(head.init, jax.random.key(0), levels),
    )
    logits = jax.jit(head.apply)(params, levels)
    assert logits.shape == (BATCH, *SIZES[level], CLASSES)
    wanted = naive_fcn(params["params"], levels[level], groups)
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-5)
    inputs = CHANNELS + FEATURES if concat else FEATURES
    last = params["params"]["conv_cat" if concat else "conv2"]["kernel"]
    assert last.shape == (3, 3, inputs, FEATURES)
