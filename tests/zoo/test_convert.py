"""Converters use every tensor and fill every variable, or say which not."""

import jax
import numpy as np
import pytest

from segjax.zoo.convert import RULES, convert
from segjax.zoo.convert.rules import (
    Rule,
    conv,
    conv_rules,
    deconv,
    dense,
    dense_after_pool,
    path_of,
    same,
)

RULES_OF_ONE = conv_rules("a", "ours/a", bias=True)
MODEL = {"params": {"ours": {"a": {"kernel": np.zeros((3, 3, 2, 4)), "bias": np.zeros(4)}}}}
STATE = {"a.weight": np.ones((4, 2, 3, 3)), "a.bias": np.ones(4)}


def test_every_tensor_lands_where_it_belongs():
    state = {"a.weight": np.arange(72.0).reshape(4, 2, 3, 3), "a.bias": np.arange(4.0)}
    out = convert(state, RULES_OF_ONE, MODEL)
    assert out["params"]["ours"]["a"]["kernel"].shape == (3, 3, 2, 4)
    assert out["params"]["ours"]["a"]["kernel"][1, 2, 0, 3] == state["a.weight"][3, 0, 1, 2]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (STATE | {"b.weight": np.ones(3)}, r"no rule for b\.weight \(3,\)"),
        ({"a.weight": STATE["a.weight"]}, "nothing in the file fills ours/a/bias"),
        (STATE | {"a.bias": np.ones(5)}, r"a\.bias: \(5,\) does not fit ours/a/bias \(4,\)"),
    ],
)
def test_what_does_not_fit_is_named(state, message):
    with pytest.raises(ValueError, match=message):
        convert(state, RULES_OF_ONE, MODEL)


def test_a_tensor_without_a_place_is_named():
    rules = [*RULES_OF_ONE, Rule("c", "ours/c", same)]
    with pytest.raises(ValueError, match="the model has no ours/c"):
        convert(STATE | {"c": np.ones(1)}, rules, MODEL)


def test_layouts_compute_the_same():
    random = np.random.default_rng(0)
    x = random.normal(size=(1, 5, 6, 2)).astype(np.float32)
    kernel = random.normal(size=(4, 2, 3, 3)).astype(np.float32)
    got = jax.lax.conv_general_dilated(
        x, conv(kernel), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    windows = np.lib.stride_tricks.sliding_window_view(x[0], (3, 3), axis=(0, 1))  # y x c h w
    wanted = np.einsum("yxchw,fchw->yxf", windows, kernel)
    np.testing.assert_allclose(got[0], wanted, rtol=1e-4, atol=1e-5)

    maps, weight = random.normal(size=(2, 7, 7, 3)), random.normal(size=(5, 3 * 49))
    wanted = maps.transpose(0, 3, 1, 2).reshape(2, -1) @ weight.T
    np.testing.assert_allclose(maps.reshape(2, -1) @ dense_after_pool(7)(weight), wanted)
    assert dense(weight).shape == (147, 5)
    assert deconv(np.zeros((6, 4, 2, 2))).shape == (2, 2, 6, 4)


@pytest.mark.parametrize("peer", RULES)
def test_no_pattern_stands_twice(peer):
    patterns = [rule.pattern for rule in RULES[peer]]
    assert len(patterns) == len(set(patterns))


def test_old_torchvision_names_are_known():
    rules = RULES["torchvision"]
    assert path_of(rules, "rpn.head.conv.weight")[0] == "rpn_head/conv1/kernel"
    assert path_of(rules, "backbone.fpn.inner_blocks.2.bias")[0] == "fpn/lateral4/bias"
    assert path_of(rules, "roi_heads.mask_head.mask_fcn3.weight")[0] == "mask_head/conv3/kernel"


def test_torchvisions_background_moves_to_the_end():
    rules = RULES["torchvision"]
    logits = path_of(rules, "roi_heads.box_predictor.cls_score.bias")[1](np.array([9.0, 1, 2]))
    np.testing.assert_array_equal(logits, [1, 2, 9])
    boxes = path_of(rules, "roi_heads.box_predictor.bbox_pred.bias")[1](np.arange(12.0))
    np.testing.assert_array_equal(boxes, np.arange(4.0, 12))
