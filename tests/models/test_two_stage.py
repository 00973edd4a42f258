"""Contracts of Faster and Mask R-CNN, on models that compile in seconds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models.flavours import FLAVOURS, flavour
from segjax.nn.norm import NormSpec
from tests import tiny

MODELS = {
    "faster_rcnn": tiny.faster_rcnn,
    "mask_rcnn": tiny.mask_rcnn,
}


class Run:
    """A model with its variables and compiled methods."""

    def __init__(self, model):
        self.model = model
        self.variables = tiny.init(model)
        self.predict = jax.jit(model.apply)
        self._grad = jax.jit(jax.value_and_grad(self._total, has_aux=True))

    def _total(self, params, batch, keys):
        variables = {**self.variables, "params": params}
        terms, counts = self.model.apply(variables, batch, keys, method="losses")
        means = {name: term.mean() for name, term in terms.items()}
        return sum(means.values()), (means, counts)

    def losses(self, batch, keys):
        (total, (terms, counts)), grads = self._grad(self.variables["params"], batch, keys)
        return total, terms, counts, grads


@pytest.fixture(scope="module", params=MODELS)
def run(request):
    return Run(MODELS[request.param]())


def assert_finite(tree):
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        assert np.isfinite(np.asarray(leaf, np.float32)).all(), path


def test_detections_have_fixed_shapes(run):
    batch = tiny.batch()
    found = run.predict(run.variables, batch.images, batch.image_sizes)
    assert found.boxes.shape == (2, 8, 4)
    assert (found.mask_probs is not None) == run.model.has_masks
    if found.mask_probs is not None:
        assert found.mask_probs.shape == (2, 8, 8, 8)
    assert (found.scores[~found.valid] == 0).all()
    assert_finite(found)


def test_losses_and_gradients_are_finite_and_reach_every_parameter(run):
    total, terms, counts, grads = run.losses(tiny.batch(), tiny.keys())
    assert_finite((total, terms, grads))
    assert counts["positive_anchors"] > 0
    assert counts["positive_rois"] > 0  # ground truth is among the regions
    still = [
        jax.tree_util.keystr(path)
        for path, grad in jax.tree_util.tree_flatten_with_path(grads)[0]
        if not np.asarray(grad).any()
    ]
    assert not still, f"no gradient reaches {still}"


def test_images_without_objects_train_only_the_background(run):
    _, terms, counts, grads = run.losses(tiny.batch(objects=0), tiny.keys())
    assert_finite((terms, grads))
    assert counts["positive_anchors"] == counts["positive_rois"] == 0
    assert terms["loss_rpn_box"] == terms["loss_box"] == 0
    assert terms["loss_cls"] > 0
    if run.model.has_masks:
        assert terms["loss_mask"] == 0


def test_crowds_are_no_targets(run):
    batch = tiny.batch()
    crowd = dataclasses.replace(batch, gt_is_crowd=batch.gt_valid)
    none = dataclasses.replace(batch, gt_valid=jnp.zeros_like(batch.gt_valid))
    for a, b in zip(
        jax.tree.leaves(run.losses(crowd, tiny.keys())[:2]),
        jax.tree.leaves(run.losses(none, tiny.keys())[:2]),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_padding_rows_of_ground_truth_change_nothing(run):
    batch = tiny.batch()
    invalid = ~batch.gt_valid[..., None]
    junk = dataclasses.replace(
        batch,
        gt_boxes=jnp.where(invalid, jnp.array([5.0, 5.0, 60.0, 60.0])[None, None], batch.gt_boxes),
        gt_classes=jnp.where(batch.gt_valid, batch.gt_classes, 2),
    )
    clean, dirty = (run.losses(b, tiny.keys())[:2] for b in (batch, junk))
    for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(dirty), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_order_of_images_does_not_matter(run):
    batch = tiny.batch()
    swapped = jax.tree.map(lambda x: x[::-1], batch)
    found = run.predict(run.variables, batch.images, batch.image_sizes)
    other = run.predict(run.variables, swapped.images, swapped.image_sizes)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, np.asarray(b)[::-1], rtol=1e-5, atol=1e-5)
    total, *_ = run.losses(batch, tiny.keys())
    again, *_ = run.losses(swapped, tiny.keys()[::-1])
    np.testing.assert_allclose(total, again, rtol=1e-5)


def test_the_same_key_gives_the_same_loss_and_another_key_another(run):
    batch = tiny.batch()
    one, same, other = (run.losses(batch, tiny.keys(seed=seed))[0] for seed in (0, 0, 1))
    assert one == same
    assert one != other


def test_what_lies_in_the_padding_changes_nothing(run):
    batch = tiny.batch(canvas=96)
    pixels = np.asarray(batch.images).copy()
    pixels[:, tiny.SIZE :], pixels[:, :, tiny.SIZE :] = 255, 99
    clean = run.predict(run.variables, batch.images, batch.image_sizes)
    dirty = run.predict(run.variables, jnp.asarray(pixels), batch.image_sizes)
    assert clean.valid.any()
    assert (clean.boxes <= tiny.SIZE).all()
    for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(dirty), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("style", FLAVOURS)
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


def test_bfloat16_computes_in_it_and_keeps_float32_parameters():
    def run_of(dtype):
        model = tiny.mask_rcnn(dtype=dtype)
        # Every anchor enters the loss: no sample hangs on the last bits of a score.
        return Run(model.clone(rpn=dataclasses.replace(model.rpn, num_samples=10**5)))

    half, full = run_of("bfloat16"), run_of("float32")
    assert {leaf.dtype for leaf in jax.tree.leaves(half.variables)} == {jnp.dtype("float32")}
    batch = tiny.batch()
    levels, exact = (
        jax.jit(lambda v, *a, r=r: r.model.apply(v, *a, method="features"))(
            r.variables, batch.images, batch.image_sizes
        )
        for r in (half, full)
    )
    assert {level.dtype for level in levels} == {jnp.dtype("bfloat16")}
    for level, wanted in zip(levels, exact, strict=True):
        error = np.asarray(level, np.float32) - np.asarray(wanted)
        assert np.sqrt((error**2).mean() / (np.asarray(wanted) ** 2).mean()) < 2e-2
    _, terms, _, grads = half.losses(batch, tiny.keys())
    _, wanted, _, _ = full.losses(batch, tiny.keys())
    assert_finite(grads)
    for name in ("loss_rpn_cls", "loss_rpn_box"):
        np.testing.assert_allclose(terms[name], wanted[name], rtol=2e-2)


def test_classes_can_be_left_to_the_data():
    model = tiny.mask_rcnn(num_classes=0)
    assert model.num_classes == 0
    grown = model.with_num_classes(7)
    assert grown.num_classes == grown.mask_head.num_classes == 7
    logits = jax.eval_shape(lambda: tiny.init(grown))["params"]["box_head"]["class_logits"]
    assert logits["bias"].shape == (8,)


def test_frozen_stages_get_no_gradient():
    model = tiny.mask_rcnn()
    model = model.clone(backbone=model.backbone.clone(frozen_stages=2))
    _, _, _, grads = Run(model).losses(tiny.batch(), tiny.keys())
    frozen = [name.removeprefix("backbone/") for name in model.frozen_paths()]
    assert frozen == ["stem_conv", "stem_norm", "layer1_0", "layer1_1"]
    for name, grad in grads["backbone"].items():
        moved = any(np.asarray(leaf).any() for leaf in jax.tree.leaves(grad))
        assert moved == (name not in frozen), name


def test_an_unknown_style_is_named():
    with pytest.raises(ValueError, match="style is 'caffe'; it must be a Flavour or one of"):
        flavour("caffe")
