"""HTC's three ideas, each tested by its effect on the computation (1901.07518, section 3)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.losses.semantic import SemanticLoss
from segjax.models import htc, resnet
from segjax.models.parts.rois import RoIPooler
from tests.support import tiny
from tests.support.run import Run, all_regions, loss_terms, shared

BELOW = {"backbone", "fpn"}


def parts(paths):
    return {path.split("/")[0] for path in paths}


@pytest.fixture(scope="module")
def whole():
    """The model with all three ideas."""
    return shared("htc")


@pytest.fixture(scope="module")
def plain(whole):
    """The same weights without any of the ideas; refined ground truth is passed on."""
    model = tiny.htc(semantic=False)
    masks = model.mask_head.clone(information_flow=False)
    model = model.clone(interleaved=False, mask_head=masks)
    params = without(whole, "semantic_head", "mask_flow")
    model = all_regions(model).clone(passes_gt=True)
    return Run(model, {**whole.variables, "params": params}).compiled()


def without(run, *prefixes):
    params = run.variables["params"]
    return {name: value for name, value in params.items() if not name.startswith(prefixes)}


def shifted(run, head):
    """Returns the variables with shifted box deltas in one box head."""
    params = dict(run.variables["params"])
    params[head] = jax.tree.map(lambda x: x, params[head])
    params[head]["box_deltas"] = {
        "kernel": params[head]["box_deltas"]["kernel"],
        "bias": params[head]["box_deltas"]["bias"] + jnp.array([0.5, -0.5, 0.3, 0.2]),
    }
    return {**run.variables, "params": params}


# ---- Interleaved execution ------------------------------------------------------------------


@pytest.mark.parametrize("interleaved", [True, False])
def test_masks_see_the_boxes_before_or_after_the_stage_s_own_refinement(plain, interleaved):
    # Refined ground truth is passed on, so that every stage has positives despite random weights.
    batch, keys = tiny.batch(), tiny.keys()
    terms = functools.partial(plain.terms, batch, keys)
    if interleaved:
        model = plain.model.clone(interleaved=True)
        terms = jax.jit(lambda variables: loss_terms(model, variables, batch, keys))
    before = terms(plain.variables)
    for stage in (1, 2, 3):
        after = terms(shifted(plain, f"box_heads_{stage - 1}"))
        changed = {name for name in after if after[name] != before[name]}
        first_mask = stage if interleaved else stage + 1
        assert changed == {
            f"loss_box_stage{stage}",  # its deltas were shifted
            *(f"loss_mask_stage{t}" for t in range(first_mask, 4)),
            *(f"loss_{kind}_stage{t}" for kind in ("cls", "box") for t in range(stage + 1, 4)),
        }


def test_interleaved_masks_are_trained_on_refined_boxes_and_ground_truth(whole):
    """Checks the exact regions, recorded from the inputs of the mask pooler."""
    asked = {"box": [], "mask": []}

    @dataclasses.dataclass(frozen=True)
    class Recording(RoIPooler):
        kind: str = ""

        def __call__(self, features, boxes):
            asked[self.kind].append(boxes)
            return super().__call__(features, boxes)

    def recording(pooler, kind):
        return Recording(**dataclasses.asdict(pooler), kind=kind)

    model = tiny.htc(semantic=False)
    model = model.clone(
        box_pooler=recording(model.box_pooler, "box"),
        mask_head=model.mask_head.clone(pooler=recording(model.mask_head.pooler, "mask")),
    )
    variables = {**whole.variables, "params": without(whole, "semantic_head")}
    batch = tiny.batch()

    def compute(variables):
        asked["box"].clear(), asked["mask"].clear()
        model.apply(variables, batch, tiny.keys(), method="losses")
        return dict(asked)

    seen = jax.jit(compute)(variables)
    assert len(seen["box"]) == len(seen["mask"]) == 3
    for t in range(3):
        boxes, masks = np.asarray(seen["box"][t]), np.asarray(seen["mask"][t])
        shared = (np.abs(boxes[:, :, None] - masks[:, None]).max(-1) == 0).any((1, 2))
        assert shared.all()  # the ground truth, appended to both
        refined = ~(np.abs(boxes[:, :, None] - masks[:, None]).max(-1) == 0).any(1)
        assert (refined & (masks[..., 2] > masks[..., 0])).any()  # unseen by the box head


# ---- Mask information flow ------------------------------------------------------------------


def test_mask_information_flow_trains_the_mask_heads_before(plain, whole):
    for t in (1, 2, 3):
        alone = parts(plain.reach[f"loss_mask_stage{t}"])
        assert alone == BELOW | {f"mask_heads_{t - 1}"}
        chained = whole.reach[f"loss_mask_stage{t}"]
        heads = {f"mask_heads_{i}" for i in range(t)}
        flows = {f"mask_flow{i}" for i in range(1, t)}
        assert parts(chained) - {"semantic_head"} == BELOW | heads | flows
        # Only convolutions of earlier heads get gradients; their masks have a loss of their own.
        for i in range(t - 1):
            names = {path.split("/")[1] for path in chained if path.startswith(f"mask_heads_{i}/")}
            assert names == {"conv1"}
        for run in (plain, whole):
            boxes = parts(run.reach[f"loss_box_stage{t}"]) - {"semantic_head"}
            assert boxes == BELOW | {f"box_heads_{t - 1}"}


def test_each_mask_head_adds_the_features_of_the_one_before(whole):
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(3, 4, 4, 16)), jnp.float32)

    def compute(model):
        model.check_strides()  # calling any method runs setup
        branch = model.mask_head
        m1 = branch.mask_heads[0].trunk(x)
        m2 = branch.mask_heads[1].trunk(x + jax.nn.relu(branch.mask_flows[0](m1)))
        m3 = branch.mask_heads[2].trunk(x + jax.nn.relu(branch.mask_flows[1](m2)))
        by_hand = [head.logits(m) for head, m in zip(branch.mask_heads, (m1, m2, m3), strict=True)]
        return by_hand, branch.logits(x, range(3)), branch.logits(x, [1])

    wanted, found, second = jax.jit(lambda v: whole.model.apply(v, method=compute))(whole.variables)
    for a, b in zip(wanted, found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(second[0], wanted[1], rtol=1e-5, atol=1e-6)


# ---- Semantic branch ------------------------------------------------------------------------


def test_the_semantic_feature_reaches_both_branches(whole, plain):
    reach = whole.reach
    trained = {path for path in reach["loss_semantic"] if path.startswith("semantic_head")}
    assert parts(reach["loss_semantic"]) == BELOW | {"semantic_head"}
    assert {path.split("/")[1] for path in trained} == {
        *(f"lateral{i}" for i in range(1, 6)),
        "conv1",
        "logits",
    }
    for name in (f"loss_{kind}_stage{t}" for kind in ("cls", "mask") for t in (1, 2, 3)):
        semantic = {p.split("/")[1] for p in reach[name] if p.startswith("semantic_head")}
        assert "embedding" in semantic and "logits" not in semantic, name
        assert "semantic_head" not in parts(plain.reach[name])
    assert "semantic_head" not in parts(reach["loss_rpn_cls"])
    assert "loss_semantic" not in plain.reach


def test_the_semantic_feature_is_pooled_from_the_same_regions_and_added(whole):
    batch = tiny.batch(images=1)
    rois = jnp.array([[[4.0, 6.0, 40.0, 50.0], [20.0, 10.0, 60.0, 30.0]]])

    def compute(model):
        features = model.features(batch.images, batch.image_sizes)
        _, fused = model.semantic(features, batch.image_sizes)
        plain = fused._replace(semantic=None)
        return {
            "semantic": fused.semantic,
            "box": model.box_features(fused, rois),
            "box_plain": model.box_features(plain, rois),
            "mask": model.mask_head.pool(fused, rois),
            "mask_plain": model.mask_head.pool(plain, rois),
            "pooled": model.mask_head.semantic_pooler([fused.semantic], rois),
        }

    got = jax.jit(lambda v: whole.model.apply(v, method=compute))(whole.variables)
    assert got["semantic"].shape == (1, tiny.SIZE // 8, tiny.SIZE // 8, 16)
    pooled = np.asarray(got["pooled"], np.float64)  # [2, 12, 12, C]
    for kind, cells in (("box", 4), ("mask", 3)):
        side = 12 // cells
        means = pooled.reshape(2, side, cells, side, cells, -1).mean((2, 4))
        np.testing.assert_allclose(got[kind] - got[f"{kind}_plain"], means, rtol=1e-3, atol=1e-5)


def test_the_semantic_loss_is_a_fifth_of_the_mean_over_all_cells(whole):
    batch = tiny.batch()

    def compute(model):
        features = model.features(batch.images, batch.image_sizes, train=True)
        return model.semantic(features, batch.image_sizes)[0]

    logits = jax.jit(lambda v: whole.model.apply(v, method=compute))(whole.variables)
    loss = SemanticLoss(weight=0.2, averaged_over="all")
    wanted = loss(logits, batch.gt_semantic, batch.image_sizes, 32)["loss_semantic"].mean()
    np.testing.assert_allclose(whole.jacobian[0]["loss_semantic"], wanted, rtol=1e-5)


def test_a_batch_without_semantic_labels_names_the_ways(whole):
    batch = dataclasses.replace(tiny.batch(), gt_semantic=None)
    with pytest.raises(ValueError, match='"panoptic", "folder" or "instances"'):
        whole.terms(batch, tiny.keys())


# ---- Complete model -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cascade():
    """Cascade Mask R-CNN in the conventions of the library that has HTC."""
    return shared("cascade_mask_rcnn_mmdet")


def test_without_its_ideas_it_is_cascade_mask_rcnn(plain, cascade):
    ours = plain.jacobian[0]
    theirs = cascade.terms(tiny.batch(), tiny.keys(), plain.variables)
    assert set(ours) == set(theirs)
    for name, term in ours.items():
        np.testing.assert_allclose(term, theirs[name], rtol=1e-5)


def test_predicted_masks_are_the_mean_of_the_stages_or_the_last():
    random = np.random.default_rng(0)
    logits = [random.normal(size=(2, 4, 4)).astype(np.float32) for _ in range(3)]
    probs = [1 / (1 + np.exp(-x.astype(np.float64))) for x in logits]
    for averaged, wanted in (("mean", np.mean(probs, 0)), ("last", probs[-1])):
        branch = tiny.htc(semantic=False).mask_head.clone(averaged=averaged)
        found = branch.apply({}, [jnp.asarray(x) for x in logits], method="probabilities")
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert htc(resnet(50)).mask_head.averaged == "mean"


def test_both_predictions_have_the_same_parameters(whole):
    last = jax.eval_shape(
        lambda: tiny.init(whole.model.clone(mask_head=whole.model.mask_head.clone(averaged="last")))
    )
    assert jax.tree.structure(last) == jax.tree.structure(whole.variables)


def test_classes_can_be_left_to_the_data():
    model = htc(resnet(50))
    assert (model.classes.things, model.classes.pixels) == (0, 0)
    model = model.with_classes(things=4).with_classes(pixels=5)
    assert (model.classes.things, model.classes.pixels) == (4, 5)
    bare = htc(resnet(50), semantic=False)
    assert bare.classes.pixels is None
    with pytest.raises(ValueError, match="no semantic branch"):
        bare.with_classes(pixels=5)


def test_parts_that_do_not_fit_are_named():
    model = tiny.htc()
    with pytest.raises(ValueError, match="2 mask_heads for 3 stages"):
        masks = model.mask_head.clone(mask_heads=model.mask_head.mask_heads[:2])
        tiny.init(model.clone(mask_head=masks))
    with pytest.raises(ValueError, match="semantic head gives 8 channels"):
        tiny.init(model.clone(semantic_head=model.semantic_head.clone(features=8)))
    with pytest.raises(ValueError, match=r"reads strides \(8,\), the semantic feature is at"):
        tiny.init(model.clone(semantic_head=model.semantic_head.clone(fusion_level=0)))
    with pytest.raises(ValueError, match="flavour is 'detectron2'; it must be a CascadeFlavour or"):
        htc(resnet(50), num_classes=3, flavour="detectron2")
    with pytest.raises(ValueError, match="10 cells a side, not a multiple of 3"):
        pooler = dataclasses.replace(model.mask_head.semantic_pooler, output_size=10)
        tiny.init(model.clone(mask_head=model.mask_head.clone(semantic_pooler=pooler)))
