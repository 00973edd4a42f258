"""Converters use every tensor and fill every variable, or report the ones they cannot."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.nn.backbones.resnet import resnet
from segjax.nn.norm import Norm, NormSpec
from segjax.zoo.convert import RULES, Rule, convert, path_of
from segjax.zoo.convert.rules import conv, conv_rules, deconv, dense, dense_after_pool

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
        (STATE | {"a.weight": np.ones(5)}, r"a\.weight: \(5,\) cannot become ours/a/kernel"),
    ],
)
def test_what_does_not_fit_is_named(state, message):
    with pytest.raises(ValueError, match=message):
        convert(state, RULES_OF_ONE, MODEL)


def test_a_tensor_without_a_place_is_named():
    rules = [*RULES_OF_ONE, Rule("c", "ours/c")]
    with pytest.raises(ValueError, match="the model has no ours/c"):
        convert(STATE | {"c": np.ones(1)}, rules, MODEL)


@pytest.mark.parametrize(
    "name",
    [
        "roi_heads.box_predictor.cls_score.weight",
        "roi_heads.box_predictor.bbox_pred.bias",
        "roi_heads.mask_predictor.mask_fcn_logits.weight",
        "roi_heads.box_head.fc6.weight",
    ],
)
@pytest.mark.parametrize("shape", [(), (3,), (0, 0), (2, 3, 5)])
def test_tensors_of_any_shape_are_named(name, shape):
    rules = RULES["torchvision"]
    path = path_of(rules, name)[0].split("/")
    wanted = {"params": {path[0]: {path[1]: {path[-1]: np.zeros((7, 7, 7, 7, 7))}}}}
    if len(path) == 2:
        wanted = {"params": {path[0]: {path[1]: np.zeros((7, 7, 7, 7, 7))}}}
    with pytest.raises(ValueError, match=rf"{name}: .* {'/'.join(path)}"):
        convert({name: np.zeros(shape)}, rules, wanted)


def test_two_tensors_for_one_variable_are_named():
    rules = [*RULES_OF_ONE, *conv_rules("old", "ours/a", bias=True, old=True)]
    with pytest.raises(ValueError, match=r"a\.bias and old\.bias both fill ours/a/bias"):
        convert(STATE | {"old.bias": np.ones(4)}, rules, MODEL)


def test_what_does_not_fit_is_not_copied():
    """Many names may share one array; copies would multiply its memory."""
    rules = conv_rules("a#", "a#", bias=False)
    shared = np.zeros((64, 64, 32, 32), np.float32)  # 16 MB
    model = {"params": {f"a{i}": {"kernel": np.zeros((3, 3, 2, 4))} for i in range(50)}}
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="50 mismatches"):
            convert({f"a{i}.weight": shared for i in range(50)}, rules, model)
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()


def test_layouts_compute_the_same():
    random = np.random.default_rng(0)
    x = random.normal(size=(1, 5, 6, 2)).astype(np.float32)
    kernel = random.normal(size=(4, 2, 3, 3)).astype(np.float32)
    got = jax.lax.conv_general_dilated(
        x, conv.ours(kernel), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    windows = np.lib.stride_tricks.sliding_window_view(x[0], (3, 3), axis=(0, 1))  # y x c h w
    wanted = np.einsum("yxchw,fchw->yxf", windows, kernel)
    np.testing.assert_allclose(got[0], wanted, rtol=1e-4, atol=1e-5)

    maps, weight = random.normal(size=(2, 7, 7, 3)), random.normal(size=(5, 3 * 49))
    wanted = maps.transpose(0, 3, 1, 2).reshape(2, -1) @ weight.T
    np.testing.assert_allclose(maps.reshape(2, -1) @ dense_after_pool(7).ours(weight), wanted)
    assert dense.ours(weight).shape == (147, 5)
    assert deconv.ours(np.zeros((6, 4, 2, 2))).shape == (2, 2, 6, 4)


@pytest.mark.parametrize("peer", RULES)
def test_no_name_stands_twice(peer):
    names = [rule.peer for rule in RULES[peer] if rule.peer]
    assert len(names) == len(set(names))
    assert [rule for rule in RULES[peer] if rule.peer is None and rule.path is None] == []


def test_old_torchvision_names_are_known():
    rules = RULES["torchvision"]
    assert path_of(rules, "rpn.head.conv.weight")[0] == "rpn_head/conv1/kernel"
    assert path_of(rules, "backbone.fpn.inner_blocks.2.bias")[0] == "fpn/lateral4/bias"
    assert path_of(rules, "roi_heads.mask_head.mask_fcn3.weight")[0] == "mask_head/conv3/kernel"


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        ("torchvision_backbone", "fc.weight"),
        ("detectron2", "pixel_mean"),
        ("detectron2_panoptic", "proposal_generator.anchor_generator.cell_anchors.4"),
        ("caffe2_backbone", "conv1_b"),
        ("caffe2_backbone", "fc1000_w"),
        ("caffe2_folded_backbone", "res4_22_branch2a_bn_s_momentum"),
        ("mmdet", "backbone.layer2.0.downsample.1.num_batches_tracked"),
    ],
)
def test_what_old_files_hold_besides_is_dropped_by_name(peer, name):
    assert path_of(RULES[peer], name)[0] is None


@pytest.mark.parametrize("peer", ["detectron2", "caffe2_backbone"])
def test_nothing_else_is_dropped(peer):
    for name in ("fc.weight.x", "mask_head", "pixel_means", "proposal_generator.anchors.0"):
        with pytest.raises(KeyError):
            path_of(RULES[peer], name)


def test_torchvisions_background_moves_to_the_end():
    rules = RULES["torchvision"]
    logits = path_of(rules, "roi_heads.box_predictor.cls_score.bias")[1]
    np.testing.assert_array_equal(logits.ours(np.array([9.0, 1, 2])), [1, 2, 9])
    np.testing.assert_array_equal(logits.peers(np.array([1.0, 2, 9])), [9, 1, 2])
    boxes = path_of(rules, "roi_heads.box_predictor.bbox_pred.bias")[1]
    np.testing.assert_array_equal(boxes.ours(np.arange(12.0)), np.arange(4.0, 12))
    np.testing.assert_array_equal(boxes.peers(np.arange(4.0, 12)), [0] * 4 + list(range(4, 12)))
    masks = path_of(rules, "roi_heads.mask_predictor.mask_fcn_logits.weight")[1]
    assert masks.ours(np.ones((5, 3, 1, 1))).shape == (1, 1, 3, 4)
    np.testing.assert_array_equal(masks.peers(np.ones((1, 1, 3, 4)))[:, 0, 0, 0], [0, 1, 1, 1, 1])


# ---- Caffe2's norms -------------------------------------------------------------------------

WHOLE = ("gamma", "beta", "running_mean", "running_var")


def caffe2_names(blocks, norm):
    """Names in an R-50.pkl as written by its producer, listed independently of the table."""
    names = ["conv1_w", *(f"res_conv1_bn_{leaf}" for leaf in norm)]
    for stage, count in zip((2, 3, 4, 5), blocks, strict=True):
        for i in range(count):
            for branch in ("2a", "2b", "2c") + (("1",) if i == 0 else ()):
                stem = f"res{stage}_{i}_branch{branch}"
                names += [f"{stem}_w", *(f"{stem}_bn_{leaf}" for leaf in norm)]
    return names


def resnet50_paths():
    model = resnet(50, stride_in_1x1=True)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    leaves = jax.tree_util.tree_flatten_with_path(shapes)[0]
    return {"/".join(key.key for key in path[1:]) for path, _ in leaves}


@pytest.mark.parametrize("norm", [WHOLE, ("s", "b", "rm", "riv")])
def test_detectron2s_caffe2_files_fill_every_variable(norm):
    rules = RULES["caffe2_backbone"]
    names = [*caffe2_names((3, 4, 6, 3), norm), "conv1_b", "fc1000_w", "fc1000_b"]
    found = [path_of(rules, name)[0] for name in names]
    assert set(found) - {None} == resnet50_paths()
    assert found.count(None) == 3
    assert len(found) - 3 == len(resnet50_paths())
    pairs = {leaf: path_of(rules, f"res2_1_branch2c_bn_{leaf}")[0] for leaf in norm}
    wanted = [f"layer1_1/norm3/{leaf}" for leaf in ("scale", "bias", "mean", "var")]
    assert list(pairs.values()) == wanted


def test_folded_norms_are_no_whole_ones():
    shapes = {
        "batch_stats": {"stem_norm": {k: np.zeros(2) for k in ("scale", "bias", "mean", "var")}}
    }
    with pytest.raises(ValueError, match="nothing in the file fills stem_norm/mean"):
        convert(
            {"res_conv1_bn_s": np.ones(2), "res_conv1_bn_b": np.ones(2)},
            RULES["caffe2_backbone"],
            shapes,
        )


def test_caffe2s_folded_norm_is_scale_and_bias_exactly():
    names = caffe2_names((3, 4, 6, 3), ("s", "b"))
    wanted = {path_of(RULES["caffe2_folded_backbone"], name)[0] for name in names}
    assert wanted == {p for p in resnet50_paths() if not p.endswith(("/mean", "/var"))}

    rules = [rule for rule in RULES["caffe2_folded_backbone"] if "stem_norm" in (rule.path or "")]
    scale, bias = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    norm = Norm(NormSpec())
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 3, 8)), jnp.float32)
    like = {"batch_stats": {"stem_norm": norm.init(jax.random.key(0), x)["batch_stats"]}}
    out = convert({"res_conv1_bn_s": scale, "res_conv1_bn_b": bias}, rules, like)
    stats = jax.tree.map(jnp.asarray, out["batch_stats"]["stem_norm"])
    got = norm.apply({"batch_stats": stats}, x)
    np.testing.assert_array_equal(got, x * scale[None, None, None] + bias[None, None, None])
