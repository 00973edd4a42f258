"""Converted weights export name by name and bit for bit, and so do weights trained here."""

import json
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models import (
    CascadeMaskRCNN,
    FasterRCNN,
    HybridTaskCascade,
    MaskRCNN,
    cascade_mask_rcnn,
    faster_rcnn,
    htc,
    mask_rcnn,
    panoptic_fpn,
)
from segjax.nn.backbones.resnet import resnet
from segjax.nn.norm import NormSpec
from segjax.zoo.convert import RULES, Rule, convert, export, unread, with_unread
from segjax.zoo.convert.rules import conv_rules, norm_rules, under
from tests.support.golden_models import find

FOLDER = Path(__file__).parents[1] / "goldens"
FILES = sorted(FOLDER.glob("*.npz"))


def detector_shapes(model):
    images, sizes = jnp.zeros((1, 64, 64, 3), jnp.uint8), jnp.full((1, 2), 64)
    return jax.eval_shape(lambda: model.init(jax.random.key(0), images, sizes))


def backbone_shapes(model):
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))


def numbers(name, shape):
    return np.random.default_rng(zlib.crc32(name.encode())).random(shape, np.float32)


def drawn(shapes):
    """Returns variables of the given shapes with distinct values."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
    values = [numbers(jax.tree_util.keystr(path), leaf.shape) for path, leaf in leaves]
    return jax.tree.unflatten(structure, values)


def assert_same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b)


def assert_same_state(ours, theirs):
    assert set(ours) == set(theirs)
    for name, array in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (array.dtype, array.shape), name
        assert np.array_equal(ours[name], array), name


# ---- Names in the peers' own modules --------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_peers_names_shapes_and_arrays_come_back(file):
    meta = json.loads(str(np.load(file)["meta"]))
    peer, model = find(meta)
    state = {
        name: np.array(7330, np.int64) if name.endswith("tracked") else numbers(name, tuple(shape))
        for name, shape in meta["manifest"].items()
    }
    variables = convert(state, peer.rules, detector_shapes(model))
    kept = unread(state, peer.rules)
    assert_same_state(with_unread(export(variables, peer.rules), peer.rules, kept), state)
    # Without the unread tensors, only these differ: they are zeros.
    bare = export(variables, peer.rules)
    assert set(bare) == set(state)
    for name, array in state.items():
        if name.endswith("tracked"):
            assert bare[name] == 0
            continue
        rows = len(kept.get(name, ()))  # rows of the background
        assert np.array_equal(bare[name][rows:], array[rows:]), name
        assert not bare[name][:rows].any(), name
    rows = {name.split(".")[2]: len(rest) for name, rest in kept.items() if rest.ndim}
    assert rows == ({"bbox_pred": 4, "mask_fcn_logits": 1} if "tv_" in file.stem else {})


def test_there_are_manifests_of_all_libraries():
    assert {file.name[:2] for file in FILES} == {"tv", "d2", "mm"}


# ---- Ours -----------------------------------------------------------------------------------


def thin(model):
    """Returns a model with the same layers and names, but few channels."""
    parts = {"backbone": thin_body(model.backbone), "fpn": model.fpn.clone(features=16)}
    box = {"fc_features": 8, "conv_features": 8}
    if isinstance(model, MaskRCNN | FasterRCNN):
        parts["box_head"] = model.box_head.clone(**box)
    else:
        parts["box_heads"] = tuple(head.clone(**box) for head in model.box_heads)
    if isinstance(model, MaskRCNN):
        parts["mask_head"] = thin_masks(model.mask_head)
    elif isinstance(model, CascadeMaskRCNN):
        parts["mask_heads"] = tuple(thin_masks(branch) for branch in model.mask_heads)
    elif isinstance(model, HybridTaskCascade):
        heads = tuple(head.clone(features=8) for head in model.mask_head.mask_heads)
        parts["mask_head"] = model.mask_head.clone(mask_heads=heads, features=16)
        if model.semantic_head is not None:
            parts["semantic_head"] = model.semantic_head.clone(features=16)
    return model.clone(**parts)


def thin_masks(branch):
    return branch.clone(head=branch.head.clone(features=8))


def thin_body(body):
    return body.clone(features=16)


def thin_panoptic(style):
    model = panoptic_fpn(resnet(50), num_classes=5, semantic_classes=7, flavour=style)
    head = model.semantic_head.clone(features=32)
    return model.clone(detector=thin(model.detector), semantic_head=head)


DETECTORS = {
    "torchvision": lambda: thin(mask_rcnn(resnet(50), num_classes=5, flavour="torchvision")),
    "torchvision, no masks": lambda: thin(
        faster_rcnn(resnet(50), num_classes=5, flavour="torchvision")
    ),
    "torchvision, v2 without masks": lambda: thin(
        faster_rcnn(resnet(50), num_classes=5, flavour="torchvision_v2")
    ),
    "torchvision, basic blocks": lambda: thin(
        mask_rcnn(resnet(18), num_classes=5, flavour="torchvision_v2")
    ),
    "detectron2": lambda: thin(mask_rcnn(resnet(50), num_classes=5, flavour="detectron2")),
    "detectron2, no masks": lambda: thin(
        faster_rcnn(resnet(50), num_classes=5, flavour="detectron2")
    ),
    "detectron2_cascade": lambda: thin(
        cascade_mask_rcnn(resnet(50), num_classes=5, flavour="detectron2")
    ),
    "detectron2_panoptic": lambda: thin_panoptic("detectron2"),
    "mmdet": lambda: thin(
        mask_rcnn(resnet(50, groups=32, group_width=4), num_classes=5, flavour="mmdet")
    ),
    "mmdet, no masks": lambda: thin(faster_rcnn(resnet(50), num_classes=5, flavour="mmdet")),
    "mmdet, cascade": lambda: thin(cascade_mask_rcnn(resnet(50), num_classes=5, flavour="mmdet")),
    "mmdet, HTC": lambda: thin(htc(resnet(50), num_classes=5, semantic=True, semantic_classes=7)),
    "mmdet, HTC alone": lambda: thin(htc(resnet(50), num_classes=5, semantic=False)),
    "mmdet_panoptic": lambda: thin_panoptic("mmdet"),
}


@pytest.mark.parametrize("which", DETECTORS)
def test_ours_goes_out_and_comes_back(which):
    rules, shapes = RULES[which.split(",")[0]], detector_shapes(DETECTORS[which]())
    variables = drawn(shapes)
    assert_same(convert(export(variables, rules), rules, shapes), variables)


BATCH = NormSpec("batch")
BACKBONES = {
    "torchvision_backbone": resnet(50, norm=BATCH),
    "torchvision_backbone, X101-32x8d": resnet(101, groups=32, group_width=8, norm=BATCH),
    "torchvision_backbone, basic blocks": resnet(18, norm=BATCH),
    "detectron2_backbone": resnet(50),
    "caffe2_backbone": resnet(50, stride_in_1x1=True),
    "caffe2_backbone, X101-32x8d": resnet(101, groups=32, group_width=8),
    "caffe2_folded_backbone": resnet(50, stride_in_1x1=True),
}


@pytest.mark.parametrize("which", BACKBONES)
def test_backbones_go_out_and_come_back(which):
    rules, shapes = RULES[which.split(",")[0]], backbone_shapes(thin_body(BACKBONES[which]))
    variables = drawn(shapes)
    if which == "caffe2_folded_backbone":
        variables = jax.tree_util.tree_map_with_path(folded, variables)
    assert_same(convert(export(variables, rules), rules, shapes), variables)


def folded(path, leaf):
    constants = {"mean": 0.0, "var": 1 - 1e-5}
    name = path[-1].key
    return np.full_like(leaf, constants[name]) if name in constants else leaf


def test_folded_norms_cannot_hold_statistics():
    variables = drawn(backbone_shapes(resnet(18)))
    with pytest.raises(ValueError, match="the peer has no place for stem_norm/mean, unless it is"):
        export(variables, RULES["caffe2_folded_backbone"])


def test_batch_norms_count_and_frozen_ones_do_not():
    rules = norm_rules("bn#", "norm#")
    four = {name: np.ones(3, np.float32) for name in ("scale", "bias", "mean", "var")}
    affine, statistics = (
        {k: four[k] for k in pair} for pair in (("scale", "bias"), ("mean", "var"))
    )
    trained = {"params": {"norm1": affine}, "batch_stats": {"norm1": statistics}}
    found = export(trained, rules)
    assert found["bn1.num_batches_tracked"] == 0
    assert found["bn1.num_batches_tracked"].dtype == np.int64
    assert set(export({"batch_stats": {"norm1": four}}, rules)) == {
        "bn1.weight",
        "bn1.bias",
        "bn1.running_mean",
        "bn1.running_var",
    }


@pytest.mark.parametrize("prefix", ["", "detector/"])
def test_where_the_peer_has_no_frozen_norm_all_count(prefix):
    rules = norm_rules("bn#", "norm#", frozen=False)
    four = {name: np.ones(3, np.float32) for name in ("scale", "bias", "mean", "var")}
    tree = {"norm1": four}
    if prefix:
        rules, tree = under("detector", rules), {"detector": tree}
    assert "bn1.num_batches_tracked" in export({"batch_stats": tree}, rules)


def test_a_variable_without_a_name_is_named():
    variables = {"params": {"a": {"kernel": np.ones((1, 1, 2, 3))}, "b": {"bias": np.ones(3)}}}
    with pytest.raises(ValueError, match=r"1 mismatches:\n  no rule writes b/bias \(3,\)"):
        export(variables, conv_rules("a", "a", bias=True))


def test_old_names_are_not_written():
    rules = [*conv_rules("old", "a", bias=True, old=True), *conv_rules("a", "a", bias=True)]
    variables = {"params": {"a": {"kernel": np.ones((1, 1, 2, 3)), "bias": np.ones(3)}}}
    assert set(export(variables, rules)) == {"a.weight", "a.bias"}


def test_a_rule_beside_another_layer_is_for_models_that_have_it():
    rules = [Rule("v2.#", "fc#", beside="params/conv#"), Rule("v1.#", "fc#")]
    assert set(export({"params": {"fc3": np.ones(1)}}, rules)) == {"v1.3"}
    both = {"params": {"fc3": np.ones(1), "conv3": np.ones(1)}}
    assert set(export(both, [*rules, Rule("conv.#", "conv#")])) == {"v2.3", "conv.3"}


# ---- Tensors that nothing here reads --------------------------------------------------------


def test_a_classifier_goes_back_to_its_backbone():
    rules, shapes = RULES["torchvision_backbone"], backbone_shapes(thin_body(resnet(18)))
    state = export(drawn(shapes), rules)
    state |= {"fc.weight": numbers("fc", (10, 128)), "bn1.num_batches_tracked": np.array(5)}
    kept = unread(state, rules)
    assert {"fc.weight", "layer1.0.bn2.num_batches_tracked"} < set(kept)
    assert_same_state(with_unread(export(convert(state, rules, shapes), rules), rules, kept), state)


def test_what_another_library_needs_is_not_written():
    kept = {"roi_heads.box_predictor.bbox_pred.bias": np.ones(4, np.float32), "fc.bias": np.ones(1)}
    state = {"roi_heads.box_predictor.bbox_pred.bias": np.zeros(20, np.float32)}
    assert_same_state(with_unread(state, RULES["detectron2"], kept), state)
    whole = with_unread(state, RULES["torchvision"], kept)
    assert whole.keys() == state.keys()
    np.testing.assert_array_equal(*whole.values(), [1] * 4 + [0] * 16)


def test_background_of_another_shape_is_named():
    name = "roi_heads.mask_predictor.mask_fcn_logits.bias"
    with pytest.raises(
        ValueError, match=rf"{name}: the background's rows are \(2,\), wanted \(1,\)"
    ):
        with_unread({name: np.zeros(5)}, RULES["torchvision"], {name: np.ones(2)})
