import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from segjax.config import OptimConfig, TrainConfig
from segjax.data.config import DataConfig
from segjax.optim import SGD, AdamW, Constant, Cosine, LayerDecay, ParamRule, Steps, Warmup
from segjax.train.optim import (
    backbone_layers,
    frozen_mask,
    learning_rate,
    make_optimizer,
    path_name,
    rate_factors,
    weight_decays,
)
from segjax.train.resolve import with_auto_lr
from tests.support import tiny
from tests.support.fakes import FakeModel
from tests.support.toy import Toy

PARAMS = {
    "stem": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)},
    "norm": {"scale": jnp.ones(3), "bias": jnp.full(3, 0.5)},
    "head": {"kernel": jnp.full((3, 2), 2.0), "bias": jnp.full(2, -1.0)},
}


def rates(config, steps, at):
    return [float(learning_rate(config, steps)(jnp.int32(step))) for step in at]


def test_step_schedule_with_detectron2_warmup():
    config = OptimConfig(
        learning_rate=0.02, schedule=Steps((60_000, 80_000)), warmup=Warmup(1000, 0.001)
    )
    at = (0, 500, 1000, 59_999, 60_000, 79_999, 80_000)
    half = 0.02 * (0.001 * 0.5 + 0.5)
    expected = [0.02 * 0.001, half, 0.02, 0.02, 0.002, 0.002, 0.0002]
    np.testing.assert_allclose(rates(config, 90_000, at), expected, rtol=1e-6)


def test_mmdet_warmup_is_full_one_step_earlier():
    config = OptimConfig(learning_rate=0.02, warmup=Warmup(500, 0.001, "mmdet"))
    expected = [0.02 * (0.001 + 0.999 * t / 499) for t in (0, 1, 250, 499)] + [0.02]
    np.testing.assert_allclose(rates(config, 1000, (0, 1, 250, 499, 500)), expected, rtol=1e-6)


def test_cosine_ends_at_zero():
    config = OptimConfig(learning_rate=1.0, schedule=Cosine())
    expected = [0.5 * (1 + math.cos(math.pi * t / 200)) for t in (0, 50, 100, 200)]
    np.testing.assert_allclose(rates(config, 200, (0, 50, 100, 200)), expected, atol=1e-6)


def test_constant():
    assert rates(OptimConfig(learning_rate=0.5, schedule=Constant()), 10, (0, 9)) == [0.5, 0.5]


def random_like(params, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)


def torch_sgd(params, steps, config):
    """torch.optim.SGD in numpy: d = g + wd * p; buf = m * buf + d; p -= lr * buf."""
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    buffers = jax.tree.map(np.zeros_like, params)
    for step in range(steps):
        rate = rates(config, 100, (step,))[0]
        grads = random_like(params, step)
        buffers = jax.tree.map(
            lambda b, g, p: config.optimizer.momentum * b + np.asarray(g) + config.weight_decay * p,
            buffers,
            grads,
            params,
        )
        params = jax.tree.map(lambda p, b, rate=rate: p - rate * b, params, buffers)
    return params


def train(optimizer, params, steps):
    state = optimizer.init(params)
    for step in range(steps):
        updates, state = optimizer.update(random_like(params, step), state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_sgd_is_torchs():
    config = OptimConfig(
        learning_rate=0.1, schedule=Steps((3,)), warmup=Warmup(2, 0.1), weight_decay=0.01
    )
    ours = train(make_optimizer(config, 100), PARAMS, 6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        ours,
        torch_sgd(PARAMS, 6, config),
    )


def test_adamw_is_optaxs():
    config = OptimConfig(
        optimizer=AdamW(b2=0.99), learning_rate=0.01, schedule=Constant(), weight_decay=0.1
    )
    expected = train(optax.adamw(0.01, 0.9, 0.99, weight_decay=0.1), PARAMS, 4)
    ours = train(make_optimizer(config, 100), PARAMS, 4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, expected)


def test_decay_goes_by_the_kind_of_parameter():
    config = OptimConfig(weight_decay=0.3, norm_decay=0.0, bias_decay=0.1)
    assert weight_decays(config, PARAMS) == {
        "stem": {"kernel": 0.3, "bias": 0.1},
        "norm": {"scale": 0.0, "bias": 0.0},
        "head": {"kernel": 0.3, "bias": 0.1},
    }
    everywhere = weight_decays(OptimConfig(weight_decay=0.3), PARAMS)
    assert set(jax.tree.leaves(everywhere)) == {0.3}


def test_decay_knows_the_detectors_norms_and_biases():
    config = OptimConfig(weight_decay=0.3, norm_decay=0.2, bias_decay=0.1)
    shapes = jax.eval_shape(lambda: tiny.init(tiny.mask_rcnn()))["params"]
    leaves = jax.tree_util.tree_leaves_with_path(weight_decays(config, shapes))
    for path, decay in leaves:
        *layer, name = path_name(path).split("/")
        if layer[-1] == "group":
            expected = 0.2
        else:
            expected = {"kernel": 0.3, "logits_kernel": 0.3, "bias": 0.1, "logits_bias": 0.1}[name]
        assert decay == expected, path
    assert {decay for _, decay in leaves} == {0.1, 0.2, 0.3}


def test_the_first_rule_that_matches_wins_over_the_kinds_decay():
    rules = (
        ParamRule("^head/bias$", lr=3.0),
        ParamRule("head", decay=0.0),
        ParamRule("scale", 0.7),
    )
    config = OptimConfig(weight_decay=0.3, norm_decay=0.2, bias_decay=0.1, rules=rules)
    assert weight_decays(config, PARAMS) == {
        "stem": {"kernel": 0.3, "bias": 0.1},
        "norm": {"scale": 0.7, "bias": 0.2},
        "head": {"kernel": 0.0, "bias": 0.1},
    }
    factors = rate_factors(config, PARAMS)
    assert factors["head"] == {"kernel": 1.0, "bias": 3.0}
    assert {factor for name in ("stem", "norm") for factor in factors[name].values()} == {1.0}


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_rules_rate_is_that_of_a_run_with_this_learning_rate(name):
    optimizer = {"sgd": SGD(), "adamw": AdamW()}[name]
    config = OptimConfig(optimizer, 0.1, Constant(), weight_decay=0.01)
    slow = train(make_optimizer(dataclasses.replace(config, learning_rate=0.025), 9), PARAMS, 4)
    plain = train(make_optimizer(config, 9), PARAMS, 4)
    ruled = dataclasses.replace(config, rules=(ParamRule("^head/", lr=0.25),))
    mixed = train(make_optimizer(ruled, 9), PARAMS, 4)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6)
    jax.tree.map(close, mixed["head"], slow["head"])
    for part in ("stem", "norm"):
        jax.tree.map(np.testing.assert_array_equal, mixed[part], plain[part])


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ((ParamRule("haed"),), r"'haed' matches no parameter; the nearest are head/bias, head/k"),
        (
            (ParamRule("head"), ParamRule("head/bias")),
            "'head/bias' holds for no parameter: for all that it matches, an earlier rule does",
        ),
    ],
)
def test_a_rule_for_nothing_is_refused(rules, words):
    optimizer = make_optimizer(OptimConfig(rules=rules), 10, ("stem",))
    with pytest.raises(ValueError, match=words):
        optimizer.init(PARAMS)


def test_a_rule_may_be_for_frozen_parameters_alone():
    config = OptimConfig(rules=(ParamRule("stem", decay=0.0),))
    optimizer = make_optimizer(config, 10, ("stem",))
    updates, _ = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
    assert not updates["stem"]["kernel"].any()
    assert updates["head"]["kernel"].all()


def test_a_pattern_is_a_regular_expression():
    with pytest.raises(ValueError, match=r"'\*norm' of a rule is not a regular expression"):
        ParamRule("*norm")


class Layered:
    strides, channels, size_divisor, preprocess = (4, 8), (2, 2), 8, None

    def init(self, rngs, *args, **kwargs):
        raise NotImplementedError

    apply = __call__ = frozen_paths = init

    """A backbone of two layers above its stem."""

    num_layers = 3

    def layer_of(self, path):
        return {"stem": 0, "layer1": 1, "layer2": 2}[path.split("/")[0]]


class WithBackbone(FakeModel):
    backbone = Layered()

    def apply(self, variables, *args, **kwargs):
        raise NotImplementedError


LAYERED = {name: {"kernel": jnp.ones(2)} for name in ("stem", "layer1", "layer2")}


@pytest.mark.parametrize("inside", ["", "detector/"])
def test_layer_decay_multiplies_with_rules_and_leaves_heads(inside):
    model = WithBackbone()
    params = {"backbone": LAYERED, "head": {"kernel": jnp.ones(2)}}
    if inside:
        params = {"detector": params}
    rules = (ParamRule("layer2", lr=10.0), LayerDecay(0.5))
    factors = rate_factors(OptimConfig(rules=rules), params, *backbone_layers(model))
    found = {path_name(path): factor for path, factor in jax.tree.leaves_with_path(factors)}
    assert found == {
        f"{inside}backbone/stem/kernel": 0.125,
        f"{inside}backbone/layer1/kernel": 0.25,
        f"{inside}backbone/layer2/kernel": 5.0,
        f"{inside}head/kernel": 1.0,
    }


def test_layer_decay_needs_layers():
    config = OptimConfig(rules=(LayerDecay(),))
    with pytest.raises(ValueError, match="the model's backbone has no layer_of"):
        make_optimizer(config, 10, (), *backbone_layers(Toy()))
    with pytest.raises(ValueError, match=r"of layer 3; the backbone has 0 to 2"):
        rate_factors(config, PARAMS, lambda path: 3, 3)
    with pytest.raises(ValueError, match="several LayerDecays"):
        OptimConfig(rules=(LayerDecay(0.5), LayerDecay(0.6)))


def test_frozen_parameters_see_neither_update_nor_decay_nor_clipping():
    config = OptimConfig(SGD(momentum=0.0), 1.0, weight_decay=0.5, clip_norm=1.0)
    optimizer = make_optimizer(config, 10, ("stem",))
    grads = jax.tree.map(jnp.zeros_like, PARAMS)
    grads["stem"]["kernel"] += 1e6  # would dominate the other gradients if it counted
    grads["head"]["bias"] += 0.1
    updates, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    assert all(not leaf.any() for leaf in jax.tree.leaves(updates["stem"]))
    np.testing.assert_allclose(updates["head"]["bias"], -(0.1 + 0.5 * -1.0), rtol=1e-6)


def test_clipping_scales_to_the_norm():
    config = OptimConfig(SGD(momentum=0.0), 1.0, weight_decay=0.0, clip_norm=2.0)
    optimizer = make_optimizer(config, 10)
    grads = random_like(PARAMS, 0)
    updates, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(optax.tree.norm(updates), 2.0, rtol=1e-5)
    small = jax.tree.map(lambda g: g * 1e-3, grads)
    updates, _ = optimizer.update(small, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(optax.tree.norm(updates), optax.tree.norm(small), rtol=1e-5)


def test_frozen_paths_match_whole_names():
    params = {"layer1": {"kernel": 0.0}, "layer10": {"kernel": 0.0}}
    assert frozen_mask(params, ("layer1",)) == {
        "layer1": {"kernel": True},
        "layer10": {"kernel": False},
    }
    with pytest.raises(ValueError, match=r"'layr1'\] match no parameter.*\['layer1', 'layer10'\]"):
        frozen_mask(params, ("layr1",))


@pytest.mark.parametrize(
    ("optimizer", "batch", "rate"), [(SGD(), 8, 0.2), (AdamW(), 8, 0.1 * 2**0.5), (SGD(), 2, 0.05)]
)
def test_the_learning_rate_follows_the_batch(capsys, optimizer, batch, rate):
    optim = OptimConfig(optimizer=optimizer, learning_rate=0.1)
    recipe = TrainConfig(model=Toy(), data=DataConfig(root="x", batch_size=4), optim=optim)
    larger = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, batch_size=batch))
    assert with_auto_lr(larger, recipe).optim.learning_rate == pytest.approx(rate)
    assert "learning rate 0.1 of 4 images a step, times " in capsys.readouterr().out
    changed = dataclasses.replace(larger, optim=dataclasses.replace(optim, learning_rate=0.3))
    with pytest.raises(ValueError, match="leave out either"):
        with_auto_lr(changed, recipe)
