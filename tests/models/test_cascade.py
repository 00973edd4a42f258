"""The cascade's stages: training targets, regions passed on, and averaging of scores."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models import cascade_mask_rcnn, resnet
from segjax.models.flavours.cascades import CASCADE_FLAVOURS, find_cascade_flavour
from segjax.models.parts.rois import RoISamples
from segjax.types import LossTerm, Proposals
from tests.support import tiny
from tests.support.run import Run, all_names, assert_finite, loss_terms, shared


@pytest.fixture(scope="module", params=sorted(CASCADE_FLAVOURS))
def flavoured(request):
    """Cascade Mask R-CNN in each library's conventions."""
    return shared(f"cascade_mask_rcnn_{request.param}")


def test_losses_have_the_stages_names_and_weights(flavoured):
    assert_finite(flavoured.jacobian)
    masks = range(1, 1 + len(flavoured.model.mask_heads))
    assert set(flavoured.jacobian[0]) == {
        "loss_rpn_cls",
        "loss_rpn_box",
        *(f"loss_{kind}_stage{t}" for kind in ("cls", "box") for t in (1, 2, 3)),
        *(f"loss_mask_stage{t}" for t in masks),
    }
    stages = tuple(
        dataclasses.replace(stage, loss_weight=weight)
        for stage, weight in zip(flavoured.model.stages, (1.0, 0.5, 0.25), strict=True)
    )
    weighted = flavoured.model.clone(stages=stages).of_stage(
        2, {"loss_box": LossTerm(jnp.float32(8), jnp.float32(4))}
    )
    assert set(weighted) == {"loss_box_stage3"}
    assert weighted["loss_box_stage3"].mean() == 0.5


def test_the_libraries_weights():
    heads = {s: len(tiny.cascade_mask_rcnn(style=s).mask_heads) for s in CASCADE_FLAVOURS}
    assert heads == {"detectron2": 1, "mmdet": 3}
    weights = {s: [st.loss_weight for st in f.stages] for s, f in CASCADE_FLAVOURS.items()}
    assert weights == {"detectron2": [1.0, 1.0, 1.0], "mmdet": [1.0, 0.5, 0.25]}


def test_each_loss_reaches_its_own_stage_and_what_lies_below(flavoured):
    for name, reached in flavoured.reach.items():
        parts = {path.split("/")[0] for path in reached}
        below = {"backbone", "fpn"}
        if name.startswith("loss_rpn"):
            assert parts == below | {"rpn_head"}
        else:
            kind = "mask_heads" if name.startswith("loss_mask") else "box_heads"
            assert parts == below | {f"{kind}_{int(name[-1]) - 1}"}
    every = all_names(flavoured.variables["params"])
    assert set().union(*flavoured.reach.values()) == every


def test_box_heads_send_a_part_of_their_gradient_into_the_features():
    assert find_cascade_flavour("detectron2").feature_gradient == pytest.approx(1 / 3)
    model = tiny.cascade_rcnn()
    variables = tiny.init(model)
    x = jax.random.normal(jax.random.key(0), (4, 3, 3, 16))

    def gradients(factor):
        def loss(variables, x):
            scaled = model.clone(feature_gradient=factor)
            return scaled.apply(variables, 1, x, (2, 2), method="box_stage")[0][..., 0].sum()

        return jax.jit(jax.grad(loss, (0, 1)))(variables, x)

    (params, features), (params3, features3) = gradients(1.0), gradients(1 / 3)
    np.testing.assert_allclose(features3, features / 3, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(params3), strict=True):
        np.testing.assert_array_equal(a, b)


# ---- Regions passed from stage to stage -----------------------------------------------------


def handed_on(model, is_gt, boxes):
    """Returns the regions that `train_boxes` passes on for one image; the last input is invalid."""
    count = len(boxes)
    samples = RoISamples(
        boxes=jnp.asarray(boxes, jnp.float32)[None],
        valid=jnp.ones((1, count), bool).at[0, -1].set(False),
        positive=jnp.zeros((1, count), bool),
        classes=jnp.full((1, count), tiny.CLASSES, jnp.int32),
        gt_index=jnp.zeros((1, count), jnp.int32),
        is_gt=jnp.asarray([is_gt]),
        max_positives=count,
    )
    variables = tiny.init(model)

    def compute(bound):
        features = jnp.ones((count, 3, 3, 16))
        return bound.train_boxes(0, features, samples, tiny.batch(images=1))

    return jax.jit(lambda v: model.apply(v, method=compute))(variables)[1]


@pytest.mark.parametrize("style", sorted(CASCADE_FLAVOURS))
def test_what_goes_on_to_the_next_stage(style):
    outside = [200.0, 200.0, 220.0, 220.0]  # empty after clipping
    boxes = [[4.0, 4.0, 30.0, 30.0], [10.0, 8.0, 40.0, 50.0], outside, [1.0, 1.0, 9.0, 9.0]]
    passed = handed_on(tiny.cascade_rcnn(style=style), [False, True, False, False], boxes)
    assert isinstance(passed, Proposals)
    expected = {"detectron2": [True, True, False, False], "mmdet": [True, False, True, False]}
    np.testing.assert_array_equal(passed.valid[0], expected[style])
    assert (passed.boxes[0] >= 0).all() and (passed.boxes[0] <= tiny.SIZE).all()


def test_detectron2_draws_once_and_mmdet_at_every_stage():
    for style, appended in (("detectron2", "never"), ("mmdet", "after_matching")):
        first, *later = find_cascade_flavour(style).stages
        assert first.sampler.append_gt != "never"
        assert {stage.sampler.append_gt for stage in later} == {appended}
        assert [stage.sampler.matcher.high for stage in (first, *later)] == [0.5, 0.6, 0.7]
    # A later Detectron2 stage keeps all regions, even if all of them are positive.
    stage = find_cascade_flavour("detectron2").stages[1]
    batch = tiny.batch(images=1, objects=1)
    regions = Proposals(
        boxes=jnp.tile(batch.gt_boxes[:, :1], (1, 512, 1)),
        scores=jnp.zeros((1, 512)),
        valid=jnp.ones((1, 512), bool),
    )
    samples = stage.sampler(tiny.keys(1), regions, batch, tiny.CLASSES)
    assert samples.positive.all()
    # mmdet still limits the share of positives, and the ground truth is among them.
    stage = find_cascade_flavour("mmdet").stages[1]
    samples = stage.sampler(tiny.keys(1), regions, batch, tiny.CLASSES)
    assert samples.boxes.shape[1] == 512 and samples.positive.sum() == 128
    assert samples.valid.sum() == 128  # no negatives there


def test_class_specific_boxes_are_those_of_the_object_or_of_the_best_class():
    model = tiny.class_specific(tiny.cascade_rcnn(style="mmdet"))
    boxes = jnp.array([[[10.0, 10.0, 30.0, 30.0]] * 3])
    logits = jnp.array([[[0.0, 3.0, 1.0, 9.0]] * 3])  # the background scores highest
    deltas = jnp.zeros((1, 3, tiny.CLASSES, 4)).at[0, :, :, 0].set(jnp.array([1.0, 2.0, 3.0])[None])
    classes = jnp.array([[0, 2, tiny.CLASSES]], jnp.int32)
    sizes = jnp.array([[64, 64]], jnp.int32)
    refined = model.apply({}, 0, boxes, classes, logits, deltas, sizes, method="refine")
    shift = 20 * np.array([1.0, 3.0, 2.0]) / model.stages[0].coder.weights[0]
    np.testing.assert_allclose(refined[0, :, 0], 10 + shift, rtol=1e-6)
    np.testing.assert_allclose(refined[0, :, 2], 30 + shift, rtol=1e-6)


# ---- Prediction -----------------------------------------------------------------------------


@pytest.mark.parametrize("averaged", ["logits", "probabilities"])
def test_scores_are_averaged_over_the_stages(averaged):
    model = tiny.cascade_rcnn().clone(averaged=averaged)
    random = np.random.default_rng(0)
    votes = [random.normal(size=(1, 5, 4)).astype(np.float32) * 3 for _ in range(3)]

    def softmax(x):
        x = np.exp(x.astype(np.float64))
        return x / x.sum(-1, keepdims=True)

    wanted = (
        softmax(np.mean(votes, 0)) if averaged == "logits" else np.mean(softmax(np.array(votes)), 0)
    )
    found = model.apply({}, [jnp.asarray(v) for v in votes], method="_scores")
    np.testing.assert_allclose(found, wanted[..., :-1], rtol=1e-5)


@pytest.mark.parametrize("what", ["detections", "losses"])
def test_one_stage_is_mask_rcnn(what):
    plain = tiny.mask_rcnn(style="mmdet")
    cascade = tiny.cascade_mask_rcnn(style="mmdet")
    one = cascade.clone(
        rpn=plain.rpn,
        box_heads=(plain.box_head.clone(),),
        stages=(dataclasses.replace(cascade.stages[0], sampler=plain.sampler),),
        mask_heads=(plain.mask_head.clone(),),
        box_loss=plain.box_loss,
    )
    # All regions enter the losses, so the two models do not have to sample alike.
    plain = plain.clone(
        rpn=dataclasses.replace(plain.rpn, num_samples=10**5),
        sampler=dataclasses.replace(plain.sampler, num_samples=10**5),
    )
    one = one.clone(rpn=plain.rpn, stages=tiny.with_samples(one.stages, 10**5))
    variables = tiny.init(plain)
    params = dict(variables["params"])
    params |= {"box_heads_0": params.pop("box_head"), "mask_heads_0": params.pop("mask_head")}
    batch = tiny.batch()

    @jax.jit  # a single program compiles the common parts only once
    def both(*variables):
        if what == "detections":
            return [
                model.apply(v, batch.images, batch.image_sizes)
                for model, v in zip((plain, one), variables, strict=True)
            ]
        return [
            loss_terms(model, v, batch, tiny.keys())
            for model, v in zip((plain, one), variables, strict=True)
        ]

    wanted, found = both(variables, {**variables, "params": params})
    if what == "detections":
        for x, y in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)
        return
    for name, term in wanted.items():
        np.testing.assert_allclose(found.get(name, found.get(f"{name}_stage1")), term, rtol=1e-5)


def test_masks_are_the_mean_over_the_heads():
    run, batch = shared("cascade_mask_rcnn_mmdet"), tiny.batch()

    def compute(model):
        found = model.predict(batch.images, batch.image_sizes)
        features = model.features(batch.images, batch.image_sizes)
        heads = [head.logits(features, found.boxes, found.classes) for head in model.mask_heads]
        return found.masks.probs, heads

    masks, heads = jax.jit(lambda v: run.model.apply(v, method=compute))(run.variables)
    wanted = np.mean([1 / (1 + np.exp(-np.asarray(h, np.float64))) for h in heads], 0)
    np.testing.assert_allclose(masks.reshape(wanted.shape), wanted, rtol=1e-5)


# ---- Construction ---------------------------------------------------------------------------


@pytest.mark.parametrize("stages", [1, 2, 5])
def test_any_number_of_stages(stages):
    model = tiny.cascade_mask_rcnn(style="mmdet")
    again = (0, 1, 2, 2, 2)[:stages]
    model = model.clone(
        box_heads=tuple(model.box_heads[t].clone() for t in again),
        stages=tuple(model.stages[t] for t in again),
        mask_heads=tuple(model.mask_heads[t].clone() for t in again),
    )
    variables = jax.eval_shape(lambda: tiny.init(model))
    assert f"box_heads_{stages - 1}" in variables["params"]
    terms, _ = jax.eval_shape(
        lambda v: model.apply(v, tiny.batch(), tiny.keys(), method="losses"), variables
    )
    assert f"loss_mask_stage{stages}" in terms and f"loss_mask_stage{stages + 1}" not in terms


def test_parts_that_do_not_fit_are_named():
    model = tiny.cascade_mask_rcnn(style="mmdet")
    with pytest.raises(ValueError, match="2 box_heads for 3 stages: give one each"):
        tiny.init(model.clone(box_heads=model.box_heads[:2]))
    with pytest.raises(ValueError, match="0 box_heads for 3 stages"):
        tiny.init(model.clone(box_heads=()))
    with pytest.raises(ValueError, match="0 mask_heads for 3 stages"):
        tiny.init(model.clone(mask_heads=()))
    other = model.box_heads[1].clone(num_classes=7)
    with pytest.raises(ValueError, match=r"the heads have \[3, 7, 3\] classes, the model 3"):
        tiny.init(model.clone(box_heads=(model.box_heads[0], other, model.box_heads[2])))
    other = model.mask_heads[1].with_classes(7)
    with pytest.raises(ValueError, match=r"the heads have \[7\] classes, the model 3"):
        tiny.init(model.clone(mask_heads=(other,)))
    with pytest.raises(ValueError, match="flavour is 'torchvision'; it must be a Cascade"):
        cascade_mask_rcnn(resnet(50), num_classes=3, flavour="torchvision")


def test_classes_can_be_left_to_the_data():
    model = tiny.cascade_mask_rcnn(num_classes=0)
    grown = model.with_classes(things=7)
    assert (model.num_classes, grown.num_classes) == (0, 7)
    assert {h.num_classes for h in (*grown.box_heads, *grown.mask_heads)} == {7}
    assert tiny.cascade_rcnn(num_classes=0).with_classes(things=5).box_heads[2].num_classes == 5


def test_later_detectron2_stages_keep_as_many_regions_as_the_first_draws():
    first, *later = find_cascade_flavour("detectron2").stages
    first = dataclasses.replace(first.sampler, num_samples=1024)
    batch = tiny.batch(images=1, objects=1)
    regions = Proposals(
        boxes=jax.random.uniform(jax.random.key(0), (1, 1100, 2)).repeat(2, -1) * 20
        + jnp.array([0.0, 0.0, 20.0, 20.0])[None, None],
        scores=jnp.zeros((1, 1100)),
        valid=jnp.ones((1, 1100), bool),
    )
    drawn = first(tiny.keys(1), regions, batch, tiny.CLASSES)
    assert drawn.boxes.shape[1] == 1024
    again = later[0].sampler(
        tiny.keys(1), Proposals(drawn.boxes, drawn.classes * 0.0, drawn.valid), batch, tiny.CLASSES
    )
    assert again.boxes.shape[1] == 1024 and (again.valid.sum() == drawn.valid.sum())


@pytest.fixture(scope="module")
def masks():
    """Returns the model with masks, the reference for the cascade of boxes."""
    return shared("cascade_mask_rcnn_detectron2")


@pytest.mark.parametrize("what", ["detections", "losses"])
def test_the_box_cascade_is_the_one_with_masks_without_them(masks, what):
    # Parity of Cascade Mask R-CNN with the peers therefore covers the boxes of Cascade R-CNN.
    boxes, batch, keys = tiny.cascade_rcnn(), tiny.batch(), tiny.keys()
    params = {n: v for n, v in masks.variables["params"].items() if not n.startswith("mask")}
    variables = {**masks.variables, "params": params}
    if what == "losses":
        wanted = masks.terms(batch, keys)
        terms = jax.jit(lambda v: loss_terms(boxes, v, batch, keys))(variables)
        for name, term in terms.items():
            np.testing.assert_allclose(term, wanted[name], rtol=1e-5)
        return

    @jax.jit
    def both(*variables):
        return [
            model.apply(v, batch.images, batch.image_sizes)
            for model, v in zip((boxes, masks.model), variables, strict=True)
        ]

    found, same = both(variables, masks.variables)
    same = dataclasses.replace(same, masks=None)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(same), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_all_of_htc_computes_in_bfloat16():
    model, batch = tiny.htc(dtype="bfloat16"), tiny.batch()
    variables = jax.eval_shape(lambda: tiny.init(model))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}

    def parts(model):
        features = model.features(batch.images, batch.image_sizes)
        _, fused = model.semantic(features, batch.image_sizes)
        boxes = model.box_features(fused, batch.gt_boxes)
        masks = model.mask_head.pool(fused, batch.gt_boxes)
        return features, fused.semantic, boxes, masks

    shapes = jax.eval_shape(lambda v: model.apply(v, method=parts), variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("bfloat16")}


@pytest.mark.slow  # compiling bfloat16 for a CPU takes minutes
def test_bfloat16_trains_all_of_htc():
    _, terms, _, grads = Run(tiny.htc(dtype="bfloat16")).losses(tiny.batch(), tiny.keys())
    assert_finite((terms, grads))
