"""Faster and Mask R-CNN: flavours, dtypes and frozen stages."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models.flavours.libraries import FLAVOURS, find_flavour
from segjax.nn.norm import NormSpec
from tests.support import tiny
from tests.support.run import Run, assert_finite, loss_terms, shared


# test_contracts has detectron2; the goldens train all of them.
@pytest.mark.parametrize(
    "style",
    [
        pytest.param(name, marks=() if name == "mmdet" else pytest.mark.slow)
        for name in sorted(set(FLAVOURS) - {"detectron2"})
    ],
)
def test_every_flavour_trains(style):
    norm = NormSpec("batch") if style == "torchvision_v2" else tiny.NORM
    model = tiny.mask_rcnn(style=style, norm=norm)
    variables = tiny.init(model)

    def total(params, batch, keys):
        (terms, _), updated = model.apply(
            {**variables, "params": params}, batch, keys, method="losses", mutable=["batch_stats"]
        )
        return sum(term.mean() for term in terms.values()), updated

    grads, updated = jax.jit(jax.grad(total, has_aux=True))(
        variables["params"], tiny.batch(), tiny.keys()
    )
    assert_finite(grads)
    if style == "torchvision_v2":
        before, after = variables["batch_stats"], updated["batch_stats"]
        moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, after)
        assert all(jax.tree.leaves(moved["backbone"]))


@pytest.fixture(scope="module")
def precisions():
    """Returns variables, pyramid levels and loss terms in bfloat16 and in float32."""
    batch, keys = tiny.batch(), tiny.keys()

    def compute(dtype):
        model = tiny.mask_rcnn(dtype=dtype)
        # Every anchor enters the loss, so that no sample depends on the last bits of a score.
        model = model.clone(rpn=dataclasses.replace(model.rpn, num_samples=10**5))

        @jax.jit
        def both(variables):
            levels = model.apply(variables, batch.images, batch.image_sizes, method="features")
            return levels, loss_terms(model, variables, batch, keys)

        variables = tiny.init(model)
        return variables, *both(variables)

    return compute("bfloat16"), compute("float32")


def test_bfloat16_computes_in_it_and_keeps_float32_parameters(precisions):
    (variables, levels, terms), (_, exact, wanted) = precisions
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert {level.dtype for level in levels} == {jnp.dtype("bfloat16")}
    for level, wanted_level in zip(levels, exact, strict=True):
        error = np.asarray(level, np.float32) - np.asarray(wanted_level)
        assert np.sqrt((error**2).mean() / (np.asarray(wanted_level) ** 2).mean()) < 2e-2
    for name in ("loss_rpn_cls", "loss_rpn_box"):
        np.testing.assert_allclose(terms[name], wanted[name], rtol=2e-2)


@pytest.mark.slow  # compiling bfloat16 for a CPU takes long
def test_bfloat16_has_finite_gradients():
    _, terms, _, grads = Run(tiny.mask_rcnn(dtype="bfloat16")).losses(tiny.batch(), tiny.keys())
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
    assert_finite((terms, grads))


def test_classes_can_be_left_to_the_data():
    model = tiny.mask_rcnn(num_classes=0)
    assert model.num_classes == 0
    grown = model.with_classes(things=7)
    assert grown.num_classes == grown.mask_head.num_classes == 7
    logits = jax.eval_shape(lambda: tiny.init(grown))["params"]["box_head"]["class_logits"]
    assert logits["bias"].shape == (8,)


def test_frozen_stages_get_no_gradient():
    model = tiny.mask_rcnn()
    model = model.clone(backbone=model.backbone.clone(frozen_stages=2))
    variables, batch = tiny.init(model), tiny.batch()

    @jax.jit
    @jax.grad
    def pull(params):  # the losses reach the backbone only through its feature maps
        levels = model.apply(
            {**variables, "params": params}, batch.images, batch.image_sizes, method="features"
        )
        return sum((level**2).sum() for level in levels)

    grads = pull(variables["params"])
    frozen = [name.removeprefix("backbone/") for name in model.frozen_paths()]
    assert frozen == ["stem_conv", "stem_norm", "layer1_0", "layer1_1"]
    for name, grad in grads["backbone"].items():
        moved = any(np.asarray(leaf).any() for leaf in jax.tree.leaves(grad))
        assert moved == (name not in frozen), name


@pytest.fixture(scope="module")
def masks():
    """Returns the model with masks, the reference for Faster R-CNN."""
    return shared("mask_rcnn")


def test_faster_rcnn_is_mask_rcnn_without_masks(masks):
    # Results for the boxes of Mask R-CNN therefore hold for Faster R-CNN as well.
    boxes = tiny.faster_rcnn()
    params = {n: v for n, v in masks.variables["params"].items() if n != "mask_head"}
    batch, keys = tiny.batch(), tiny.keys()

    @jax.jit
    def compute(variables):
        found = boxes.apply(variables, batch.images, batch.image_sizes)
        return found, loss_terms(boxes, variables, batch, keys)

    found, terms = compute({**masks.variables, "params": params})
    same = masks.predict(masks.variables, batch.images, batch.image_sizes)
    same = dataclasses.replace(same, masks=None)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(same), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    wanted = masks.terms(batch, keys)
    assert set(terms) == set(wanted) - {"loss_mask"}
    for name, term in terms.items():
        np.testing.assert_allclose(term, wanted[name], rtol=1e-5)


def test_an_unknown_style_is_named():
    with pytest.raises(ValueError, match="flavour is 'caffe'; it must be a Flavour or one of"):
        find_flavour("caffe")
