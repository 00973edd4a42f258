"""Rules that every detector follows, on models that compile in seconds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import tiny
from tests.support.run import (
    Run,
    all_names,
    assert_finite,
    loss_terms,
    moved,
    shared,
    with_anchors_over_the_border,
)

MODELS = {
    "faster_rcnn": tiny.faster_rcnn,
    "class_specific_cascade_rcnn": lambda: with_anchors_over_the_border(
        tiny.class_specific(tiny.cascade_rcnn("mmdet"))
    ),
    "cascade_mask_rcnn": lambda: with_anchors_over_the_border(tiny.cascade_mask_rcnn("mmdet")),
}
# These two contain every part of the other models. test_two_stage, test_cascade and test_htc show
# that each other model is one of these without a part.
ALWAYS = ("mask_rcnn", "htc")


SIZE = 48  # image size; the rest of the canvas shared by all modules is padding


def batch_of(**kind):
    return tiny.batch(size=SIZE, canvas=tiny.SIZE, **kind)


@pytest.fixture(
    scope="module", params=[*ALWAYS, *(pytest.param(n, marks=pytest.mark.slow) for n in MODELS)]
)
def run(request):
    return shared(request.param) if request.param in ALWAYS else Run(MODELS[request.param]())


@pytest.mark.parametrize("name", MODELS)
def test_every_detector_has_detections_and_losses_of_its_shapes(name):
    model, batch = MODELS[name](), batch_of()
    variables = jax.eval_shape(lambda: tiny.init(model))
    found = jax.eval_shape(lambda v: model.apply(v, batch.images, batch.image_sizes), variables)
    assert found.boxes.shape == (2, 8, 4)
    assert (found.masks is not None) == ("masks" in model.tasks)
    if found.masks is not None:
        assert found.masks.probs.shape == (2, 8, 8, 8)
    terms = jax.eval_shape(lambda v: loss_terms(model, v, batch, tiny.keys()), variables)
    assert ("loss_mask" in {name.partition("_stage")[0] for name in terms}) == (
        "masks" in model.tasks
    )
    assert {term.shape for term in terms.values()} == {()}


def test_detections_have_fixed_shapes(run):
    batch = batch_of()
    found = run.predict(run.variables, batch.images, batch.image_sizes)
    assert found.boxes.shape == (2, 8, 4)
    assert (found.masks is not None) == ("masks" in run.model.tasks)
    if found.masks is not None:
        assert found.masks.probs.shape == (2, 8, 8, 8)
    assert (found.scores[~found.valid] == 0).all()
    assert_finite(found)


def test_losses_and_gradients_are_finite_and_reach_every_parameter(run):
    total, terms, counts, grads = run.losses(batch_of(), tiny.keys())
    assert_finite((total, terms, grads))
    # The first stage's regions include the ground truth.
    assert counts["positive_anchors"] > 0
    assert next(n for name, n in counts.items() if name.startswith("positive_rois")) > 0
    still = all_names(grads) - moved(grads)
    assert not still, f"no gradient reaches {still}"


def test_images_without_objects_train_only_the_background(run):
    _, terms, counts, grads = run.losses(batch_of(objects=0), tiny.keys())
    assert_finite((terms, grads))
    assert all(n == 0 for name, n in counts.items() if name.startswith("positive"))
    for name, term in terms.items():
        background = name.startswith(("loss_cls", "loss_rpn_cls", "loss_semantic"))
        assert (term > 0) == background, name


def test_crowds_are_no_targets(run):
    batch = batch_of()
    crowd = dataclasses.replace(batch, gt_is_crowd=batch.gt_valid)
    none = dataclasses.replace(batch, gt_valid=jnp.zeros_like(batch.gt_valid))
    for a, b in zip(
        jax.tree.leaves(run.losses(crowd, tiny.keys())[:2]),
        jax.tree.leaves(run.losses(none, tiny.keys())[:2]),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_padding_rows_of_ground_truth_change_nothing(run):
    batch = batch_of()
    invalid = ~batch.gt_valid[..., None]
    junk = dataclasses.replace(
        batch,
        gt_boxes=jnp.where(invalid, jnp.array([5.0, 5.0, 45.0, 45.0])[None, None], batch.gt_boxes),
        gt_classes=jnp.where(batch.gt_valid, batch.gt_classes, 2),
        gt_is_crowd=batch.gt_is_crowd | ~batch.gt_valid,
        gt_masks=jnp.where(invalid[..., None], 1, batch.gt_masks).astype(jnp.uint8),
        gt_mask_frames=jnp.where(invalid, -3.0, batch.gt_mask_frames),
    )
    clean, dirty = (run.losses(b, tiny.keys())[:2] for b in (batch, junk))
    for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(dirty), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_order_of_images_does_not_matter(run):
    batch = batch_of()
    swapped = jax.tree.map(lambda x: x[::-1], batch)
    found = run.predict(run.variables, batch.images, batch.image_sizes)
    other = run.predict(run.variables, swapped.images, swapped.image_sizes)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, np.asarray(b)[::-1], rtol=1e-5, atol=1e-5)
    total, *_ = run.losses(batch, tiny.keys())
    again, *_ = run.losses(swapped, tiny.keys()[::-1])
    np.testing.assert_allclose(total, again, rtol=1e-5)


def test_every_image_has_its_own_size_and_its_own_part_of_the_losses(run):
    batch = batch_of()
    sizes = jnp.array([[48, 64], [64, 48]], jnp.int32)
    batch = dataclasses.replace(batch, image_sizes=sizes)
    keys = tiny.keys()

    def sums(order):
        index = jnp.array(order)
        return run.sums(jax.tree.map(lambda x: x[index], batch), keys[index])

    both, first, second = sums([0, 1]), sums([0, 0]), sums([1, 1])
    for name, term in both.items():
        for part in ("sum", "count"):
            a, b, c = (np.float64(getattr(t, part)) for t in (term, first[name], second[name]))
            np.testing.assert_allclose(a, (b + c) / 2, rtol=2e-5, atol=1e-6)


def test_the_same_key_gives_the_same_loss_and_another_key_another(run):
    batch = batch_of()
    one, same, other = (run.losses(batch, tiny.keys(seed=seed))[0] for seed in (0, 0, 1))
    assert one == same
    assert one != other


def test_what_lies_in_the_padding_changes_nothing(run):
    batch = batch_of()
    pixels = np.asarray(batch.images).copy()
    pixels[:, SIZE:], pixels[:, :, SIZE:] = 255, 99
    clean = run.predict(run.variables, batch.images, batch.image_sizes)
    dirty = run.predict(run.variables, jnp.asarray(pixels), batch.image_sizes)
    assert clean.valid.any()
    assert (clean.boxes <= SIZE).all()
    for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(dirty), strict=True):
        np.testing.assert_array_equal(a, b)
