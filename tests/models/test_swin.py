"""Mask R-CNN trains on Swin-T; the backbone is an ordinary argument."""

import dataclasses

import jax
import numpy as np
import pytest

from segjax.config import OptimConfig
from segjax.models import mask_rcnn, swin
from segjax.optim import AdamW, LayerDecay, ParamRule
from segjax.train.optim import backbone_layers, learning_rate, make_optimizer
from segjax.train.state import init_state
from segjax.train.step import make_step
from tests.support import tiny

OPTIM = OptimConfig(
    AdamW(),
    learning_rate=1e-4,
    weight_decay=0.05,
    rules=(ParamRule("norm|relative_position_bias", decay=0.0), LayerDecay(0.9)),
)


@pytest.mark.slow  # takes minutes: compiles a transformer of 12 blocks twice
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_moves_every_part(dtype):
    model = mask_rcnn(swin("tiny"), num_classes=tiny.CLASSES, flavour="mmdet", dtype=dtype)
    model = model.clone(
        rpn=dataclasses.replace(model.rpn, pre_nms_topk=(64, 64), post_nms_topk=(32, 32)),
        sampler=dataclasses.replace(model.sampler, num_samples=32),
    )
    optimizer = make_optimizer(OPTIM, 10, model.frozen_paths(), *backbone_layers(model))
    state = init_state(tiny.init(model), optimizer)
    take_step = make_step(model, optimizer, learning_rate(OPTIM, 10))
    before = jax.device_get(state.params)
    state, metrics = jax.jit(lambda s, b, k: take_step(s, b, k, None))(
        state, tiny.batch(), jax.random.key(0)
    )
    assert bool(metrics["finite"]) and float(metrics["loss"]) > 0
    moved = jax.tree.map(
        lambda a, b: bool(np.abs(np.asarray(a) - b).max() > 0), state.params, before
    )
    still = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, changed in jax.tree_util.tree_leaves_with_path(moved)
        if not changed
    }
    assert still == set()
