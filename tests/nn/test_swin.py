"""Swin Transformer against torchvision's numbers and its definition."""

import functools
import json
from pathlib import Path

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models import mask_rcnn
from segjax.nn.backbones.swin import SwinBlock, SwinTransformer, swin
from segjax.zoo.bounded import bounded_shapes
from segjax.zoo.convert import RULES, convert, export, unread
from segjax.zoo.fit import check_same_inputs
from segjax.zoo.hub import Pretrained
from segjax.zoo.table import ENTRIES
from tests.support import golden_recipe as recipe

TABLE = RULES["torchvision_swin"]
DEPTHS = {"tiny": (2, 2, 6, 2), "small": (2, 2, 18, 2), "base": (2, 2, 18, 2)}
CHANNELS = {
    "tiny": (96, 192, 384, 768),
    "small": (96, 192, 384, 768),
    "base": (128, 256, 512, 1024),
}


def _shapes(net, size=(64, 96)):
    return jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), jnp.zeros((1, *size, 3))))


@functools.cache
def _file():
    path = Path(__file__).parents[1] / "goldens" / "backbones" / "tv_swin_t.npz"
    arrays = dict(np.load(path))
    return json.loads(str(arrays.pop("meta"))), arrays


# ---- The peer's numbers ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def peers_variables():
    meta, _ = _file()
    state = recipe.state_dict(meta["manifest"], meta["seed"])
    shapes = _shapes(swin(output_norms=False))[1]
    return jax.tree.map(jnp.asarray, convert(state, TABLE, shapes))


# Measured: at most 8e-6 of the map's rms, and 1e-7 of it for the mean; 5e-5 if the norms' epsilon
# were 1e-6.
@pytest.mark.parametrize("size", [(64, 128), (61, 83)])
def test_maps_are_torchvisions(peers_variables, size):
    meta, arrays = _file()
    assert list(size) in meta["sizes"]
    image = np.random.RandomState(meta["seed"] + size[0]).standard_normal((*size, 3))
    net = swin(output_norms=False)
    maps = jax.jit(net.apply)(peers_variables, jnp.asarray(image, jnp.float32)[None])
    for stage, ours in enumerate(maps):
        wanted = {k: arrays[f"{size[0]}x{size[1]}/{stage}/{k}"] for k in ("shape", "rms", "sum")}
        assert ours.shape == (1, *wanted["shape"])
        values = arrays[f"{size[0]}x{size[1]}/{stage}/values"]
        step = max(1, ours.size // 400) | 1  # the step used by the script that wrote the file
        sampled = np.asarray(ours).ravel()[::step]
        assert np.abs(sampled - values).max() < 3e-5 * wanted["rms"]
        difference = np.asarray(ours, np.float64).sum() - wanted["sum"]
        assert abs(difference) / ours.size < 1e-6 * wanted["rms"]


# ---- Sizes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", DEPTHS)
def test_strides_channels_and_blocks(variant):
    net = swin(variant)
    assert (net.strides, net.channels, net.size_divisor) == (
        (4, 8, 16, 32),
        CHANNELS[variant],
        32,
    )
    outputs, variables = _shapes(net)
    assert [s.shape for s in outputs] == [
        (1, 64 // s, 96 // s, c) for s, c in zip(net.strides, net.channels, strict=True)
    ]
    blocks = {f"stage{s}_block{i}" for s, n in enumerate(DEPTHS[variant]) for i in range(n)}
    others = {
        "patch_embed",
        *(f"stage{s}_merge" for s in range(3)),
        *(f"norm{s}" for s in range(4)),
    }
    assert set(variables["params"]) == blocks | others


@pytest.mark.parametrize("variant", DEPTHS)
def test_has_the_published_number_of_parameters(variant):
    # torchvision's `num_params`, which include the classifier.
    published = {"tiny": 28288354, "small": 49606258, "base": 87768224}[variant]
    _, variables = _shapes(swin(variant, output_norms=False))
    width = CHANNELS[variant][-1]
    classifier = 2 * width + (width + 1) * 1000
    body = sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert body + classifier == published


def test_odd_sizes_are_rounded_up():
    outputs, _ = _shapes(swin(), (75, 101))
    assert [s.shape[1:3] for s in outputs] == [(19, 26), (10, 13), (5, 7), (3, 4)]


def test_an_impossible_variant_is_named():
    with pytest.raises(ValueError, match=r"swin variant is 'large'.*'base', 'small', 'tiny'"):
        swin("large")


# ---- Training -------------------------------------------------------------------------------

SMALL = SwinTransformer(8, (2, 1, 2, 1), (1, 2, 4, 8), 4, drop_path_rate=0.0)
# These sizes yield windows along one axis only, shifted and not, and padded windows.
IMAGES = jax.random.normal(jax.random.key(1), (2, 62, 95, 3))


@pytest.fixture(scope="module")
def variables():
    return jax.jit(SMALL.init)(jax.random.key(0), IMAGES)


@pytest.mark.parametrize("frozen", [0, 3, pytest.param(5, marks=pytest.mark.slow)])
def test_gradients_reach_what_is_not_frozen(variables, frozen):
    net = SMALL.clone(frozen_stages=frozen)

    @jax.jit
    @jax.grad
    def compute(params):
        return sum(jnp.sin(y + 1).mean() for y in net.apply({"params": params}, IMAGES, train=True))

    grads = compute(variables["params"])
    still = {name for name, g in grads.items() if not any(g.any() for g in jax.tree.leaves(g))}
    assert still == set(net.frozen_paths())
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    stages = {0: 0, 3: 1 + (2 + 1) + (1 + 1), 5: len(grads) - 4}
    assert len(still) == stages[frozen]


@pytest.fixture(scope="module")
def maps(variables):
    return jax.jit(SMALL.apply)(variables, IMAGES)


def test_depth_is_stochastic_in_training_alone(variables, maps):
    net = SMALL.clone(drop_path_rate=0.5)
    for ours, whole in zip(jax.jit(net.apply)(variables, IMAGES), maps, strict=True):
        np.testing.assert_array_equal(ours, whole)

    @jax.jit
    def train(key):
        return net.apply(variables, IMAGES, train=True, rngs={"drop_path": key})[-1]

    first, again, other = (train(jax.random.key(seed)) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any() and (first != maps[-1]).any()
    with pytest.raises(flax.errors.InvalidRngError, match="drop_path"):
        jax.eval_shape(lambda: net.apply(variables, IMAGES, train=True))


@pytest.mark.parametrize("frozen", [0, 3])
def test_rate_grows_linearly_over_the_blocks(variables, frozen):
    rates, silent = [], []

    def watch(call, args, kwargs, context):
        if isinstance(context.module, nn.Dropout):
            rates.append(context.module.rate)
            silent.append(kwargs["deterministic"])
        return call(*args, **kwargs)

    net = SMALL.clone(drop_path_rate=0.5, frozen_stages=frozen)
    rngs = {"drop_path": jax.random.key(0)}
    with nn.intercept_methods(watch):
        jax.eval_shape(lambda: net.apply(variables, IMAGES, train=True, rngs=rngs))
    np.testing.assert_allclose(rates, np.linspace(0, 0.5, 6).repeat(2))
    assert silent == [True] * (6 if frozen else 0) + [False] * (6 if frozen else 12)


def test_a_dropped_path_is_made_up_for_by_the_others():
    block = SwinBlock(2, 4, 2, 4.0, 0.25, "float32")
    count = 2000
    image = jax.random.normal(jax.random.key(0), (1, 4, 8, 6))
    variables = block.init(jax.random.key(1), image, False)
    # Without the second branch, the output is linear in the random mask.
    variables["params"]["fc2"] = jax.tree.map(jnp.zeros_like, variables["params"]["fc2"])
    apply = jax.jit(block.apply, static_argnums=2)
    kept = apply(variables, image, False) - image
    rows = apply(variables, image.repeat(count, 0), True, rngs={"drop_path": jax.random.key(2)})
    factors = ((rows - image) * kept).sum((1, 2, 3)) / (kept**2).sum()
    np.testing.assert_allclose(factors, np.where(factors > 0.5, 1 / 0.75, 0), atol=1e-4)
    # Five standard deviations.
    assert abs(factors.mean() - 1) < 5 * np.sqrt(0.25 / 0.75 / count)


def test_bfloat16_is_near(variables, maps):
    got = jax.jit(SMALL.clone(dtype="bfloat16").apply)(variables, IMAGES)
    for ours, whole in zip(got, maps, strict=True):
        assert (ours.dtype, whole.dtype) == (jnp.bfloat16, jnp.float32)
        error = np.sqrt(np.square(ours.astype(jnp.float32) - whole).mean())
        assert error < 0.02 * np.sqrt(np.square(whole).mean())  # measured: at most 0.009
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_layers_follow_the_depth():
    net = swin("tiny")
    _, variables = _shapes(net)
    paths = ["/".join(path) for path in flax.traverse_util.flatten_dict(variables["params"])]
    order = ["patch_embed"]
    for stage, depth in enumerate(DEPTHS["tiny"]):
        order += [*(f"stage{stage}_block{i}" for i in range(depth)), f"stage{stage}_merge"]
    order[-1:] = [f"norm{stage}" for stage in range(4)]
    of_child = {
        child: {net.layer_of(p) for p in paths if p.split("/")[0] == child} for child in order
    }
    assert set(of_child) == set(variables["params"])
    assert all(len(found) == 1 for found in of_child.values())
    layers = [next(iter(of_child[child])) for child in order]
    assert layers == sorted(layers)
    assert set(layers) == set(range(net.num_layers)) and net.num_layers == 13
    # As in SimMIM, a patch merging has the layer index of the block before it.
    assert [net.layer_of(f"stage{s}_merge/norm/scale") for s in range(3)] == [2, 4, 10]
    assert net.layer_of("stage2_block0/attn/qkv/kernel") == 5
    for path in ("stage0_block2/fc1/kernel", "stage3_merge/norm/scale", "backbone/patch_embed"):
        with pytest.raises(ValueError, match=f"'{path}' is no parameter here"):
            net.layer_of(path)


# ---- Weights --------------------------------------------------------------------------------


def _peers(depths):
    """Returns the names in torchvision's module without its classifier."""
    names = {f"features.0.{part}.{leaf}" for part in (0, 2) for leaf in ("weight", "bias")}
    for stage, depth in enumerate(depths):
        for i in range(depth):
            block = f"features.{2 * stage + 1}.{i}"
            parts = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.0", "mlp.3")
            names |= {f"{block}.{part}.{leaf}" for part in parts for leaf in ("weight", "bias")}
            names |= {f"{block}.attn.relative_position_{leaf}" for leaf in ("bias_table", "index")}
        if stage < 3:
            leaves = ("norm.weight", "norm.bias", "reduction.weight")
            names |= {f"features.{2 * stage + 2}.{leaf}" for leaf in leaves}
    return names


CLASSIFIER = {"norm.weight", "norm.bias", "head.weight", "head.bias"}


@pytest.mark.parametrize("variant", DEPTHS)
def test_weights_go_out_under_the_peers_names(variant):
    _, shapes = _shapes(swin(variant, output_norms=False))
    ours = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), shapes)
    state = export(ours, TABLE)
    names = _peers(DEPTHS[variant])
    assert set(state) == {name for name in names if not name.endswith("_index")}
    if variant == "tiny":
        manifest = _file()[0]["manifest"]
        assert names | CLASSIFIER == set(manifest)
        assert {n: list(x.shape) for n, x in state.items()} == {n: manifest[n] for n in state}


def test_weights_come_back_and_the_classifier_is_left_out():
    meta, _ = _file()
    state = recipe.state_dict(meta["manifest"], meta["seed"])
    _, shapes = _shapes(swin(output_norms=False))
    back = export(convert(state, TABLE, shapes), TABLE)
    assert all(np.array_equal(array, state[name]) for name, array in back.items())
    left = unread(state, TABLE)
    assert set(back) | set(left) == set(state)
    assert {name for name in left if not name.endswith("_index")} == CLASSIFIER
    with pytest.raises(ValueError, match=r"no rule for features\.1\.0\.attn\.logit_scale"):
        convert(state | {"features.1.0.attn.logit_scale": np.zeros((3, 1, 1))}, TABLE, shapes)


def test_a_classifiers_weights_fit_a_detectors_body():
    entry = ENTRIES["swin_t.tv_in1k_v1"]
    found = Pretrained(entry.make(), {}, preprocess=entry.preprocess)
    model = mask_rcnn(swin("tiny", drop_path_rate=0.1, frozen_stages=2))
    check_same_inputs(found, model)
    with pytest.raises(ValueError, match=r"backbone.depths is \(2, 2, 18, 2\)"):
        check_same_inputs(found, mask_rcnn(swin("small")))


def test_a_file_cannot_ask_for_endless_blocks():
    depths = (10**9, 1, 1, 1)
    with pytest.raises(ValueError, match="far more layers"):
        bounded_shapes(SMALL.clone(depths=depths), {"depths": list(depths)}, 100)
    assert bounded_shapes(SMALL, {"depths": list(SMALL.depths)}, 100)
