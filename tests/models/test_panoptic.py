"""Panoptic FPN with every detector that predicts masks, and semantic FPN alone."""

import dataclasses

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from segjax.losses.semantic import SemanticLoss
from segjax.models import (
    PanopticFPN,
    PanopticMerge,
    SemanticFPN,
    panoptic_fpn,
    resnet,
    semantic_fpn,
)
from segjax.models.panoptic_fpn import panoptic_map
from segjax.nn.heads.semantic import FCNHead, SemanticFPNHead
from segjax.ops.masks import paste_masks
from segjax.ops.panoptic import merge_panoptic
from segjax.ops.soft_masks import BoxMasks
from segjax.results import postprocess
from segjax.results.classes import Classes
from segjax.types import Detections
from tests.support import tiny
from tests.support.run import Run, assert_finite, shared

HEAD = SemanticFPNHead(tiny.CLASSES + 1, features=8, norm=tiny.NORM)


def panoptic(detector, head=HEAD):
    merge = PanopticMerge(score_threshold=0.0, stuff_area=1, things=None)
    return PanopticFPN(detector=detector, semantic_head=head, merge=merge)


@pytest.fixture(scope="module")
def run():
    return Run(panoptic(tiny.mask_rcnn())).compiled()


@pytest.fixture(scope="module")
def alone():
    """Returns the detector of `run` on its own."""
    return shared("mask_rcnn")


def test_it_is_its_detector_with_a_semantic_branch(run, alone):
    batch, keys = tiny.batch(), tiny.keys()
    variables = {k: v["detector"] for k, v in run.variables.items() if "detector" in v}
    assert run.model.detector == alone.model

    @jax.jit  # a single program compiles the common parts only once
    def both(*variables):
        return [
            r.model.apply(v, batch.images, batch.image_sizes)
            for r, v in zip((run, alone), variables, strict=True)
        ]

    found, same = both(run.variables, variables)
    assert found.semantic_logits.shape == (2, 16, 16, tiny.CLASSES + 1)
    for a, b in zip(
        jax.tree.leaves(dataclasses.replace(found, semantic_logits=None)),
        jax.tree.leaves(same),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    ours, theirs = run.jacobian[0], alone.terms(batch, keys, variables)
    assert set(ours) == {*theirs, "loss_semantic"}
    for name, term in theirs.items():
        np.testing.assert_allclose(ours[name], term, rtol=1e-5)


def test_the_semantic_loss_reaches_branch_and_pyramid(run):
    assert_finite(run.jacobian)
    reached = run.reach["loss_semantic"]
    assert {path.split("/")[0] for path in reached} == {"detector", "semantic_head"}
    assert {path.split("/")[1] for path in reached if path.startswith("detector")} == {
        "backbone",
        "fpn",
    }
    assert not any(path.startswith("semantic_head") for path in run.reach["loss_mask"])


def test_every_pixel_of_the_image_has_a_segment_and_none_of_the_padding(run):
    batch = tiny.batch(canvas=96)
    found = jax.jit(lambda v, *a: run.model.apply(v, *a, method="panoptic"))(
        run.variables, batch.images, batch.image_sizes
    )
    ids = np.asarray(found.ids)
    assert (ids[:, : tiny.SIZE, : tiny.SIZE] > 0).all()
    assert not ids[:, tiny.SIZE :].any() and not ids[:, :, tiny.SIZE :].any()
    for picture, segments in zip(ids, np.asarray(found.segment_ids), strict=True):
        assert set(np.unique(picture)) - {0} == set(segments[segments > 0])


@pytest.mark.parametrize("detector", [tiny.cascade_mask_rcnn(), tiny.htc(), tiny.htc(False)])
def test_any_detector_with_masks_carries_the_branch(detector):
    model = panoptic(detector).with_classes(things=7).with_classes(pixels=9)
    assert (model.classes.things, model.classes.pixels) == (7, 9)
    assert model.detector.classes.pixels in (None, 9)
    variables = jax.eval_shape(lambda: tiny.init(model))
    terms, _ = jax.eval_shape(
        lambda v: model.apply(v, tiny.batch(), tiny.keys(), method="losses"), variables
    )
    assert "loss_semantic" in terms
    assert ("loss_semantic_htc" in terms) == (detector.classes.pixels is not None)
    found = jax.eval_shape(
        lambda v, b: model.apply(v, b.images, b.image_sizes), variables, tiny.batch()
    )
    assert found.semantic_logits.shape[-1] == 9 and found.masks is not None


def merged_things(batch, things):
    """Returns the batch with two semantic classes: `things` for all things, and the ground."""
    labels = np.asarray(batch.gt_semantic)
    merged = np.where(labels < tiny.CLASSES, things, 1 - things)
    merged[labels == 255] = 255
    return dataclasses.replace(batch, gt_semantic=jnp.asarray(merged, jnp.uint8))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("style", "detector"),
    [
        ("detectron2", tiny.mask_rcnn()),
        ("mmdet", tiny.mask_rcnn("mmdet")),
        ("detectron2", tiny.cascade_mask_rcnn()),
        ("mmdet", tiny.htc()),
    ],
)
def test_every_detector_learns_and_merges_in_both_flavours(style, detector):
    whole = panoptic_fpn(resnet(50), flavour=style)
    things = whole.merge.things % 2
    merge = dataclasses.replace(whole.merge, stuff_area=1, score_threshold=0.0)
    model = whole.clone(detector=detector, semantic_head=HEAD, merge=merge).with_classes(pixels=2)
    run, batch, keys = Run(model), merged_things(tiny.batch(canvas=96), things), tiny.keys()
    params, before = run.variables["params"], run.terms(batch, keys)
    for _ in range(5):
        run.variables = {**run.variables, "params": params}
        _, _, _, grads = run.losses(batch, keys)
        assert_finite(grads)
        params = jax.tree.map(lambda p, g: p - 0.02 * g, params, grads)
    variables = {**run.variables, "params": params}
    after = run.terms(batch, keys, variables)
    assert sum(after.values()) < sum(before.values())
    assert after["loss_semantic"] < before["loss_semantic"]
    found = jax.jit(lambda v, *a: model.apply(v, *a, method="panoptic"))(
        variables, batch.images, batch.image_sizes
    )
    ids, rows = np.asarray(found.ids), np.asarray(found.segment_ids)
    assert found.is_thing.shape[1] == detector.detections.max_detections + 2
    assert not rows[:, detector.detections.max_detections + things].any()  # things are not stuff
    for picture, segments in zip(ids, rows, strict=True):
        assert set(np.unique(picture)) - {0} == set(segments[segments > 0])
        assert not picture[tiny.SIZE :].any() and not picture[:, tiny.SIZE :].any()
    assert rows[:, : detector.detections.max_detections].any()


# ---- The merge of synthetic detections ------------------------------------------------------

SIZE = (61, 67)


def made_up(seed, num_classes=7, labels=9, count=12, padded=False):
    """Overlapping detections of two images: some outside, with low scores or invalid."""
    random = np.random.default_rng(seed)
    corner = random.uniform(-15, 60, (2, count, 2))
    boxes = np.concatenate([corner, corner + random.uniform(1, 45, (2, count, 2))], -1)
    boxes[:, 0] = -30, 0, -10, 20  # no pixel of the image
    boxes[:, 1], boxes[:, 2] = (10, 10, 40, 45), (12, 10, 38, 44)  # the second mostly covered
    smooth = random.random((2, count, 1, 1)) * 0.4 + random.random((2, count, 14, 14)) * 0.6
    smooth[:, 1:3] = np.maximum(smooth[:, 1:3], 0.6)
    scores = np.sort(random.choice([0.2, 0.5, 0.55, 0.7, 0.9], (2, count)))[:, ::-1]
    boxes = jnp.asarray(boxes, jnp.float32)
    return Detections(
        boxes=boxes,
        scores=jnp.asarray(scores, jnp.float32),
        classes=jnp.asarray(random.integers(0, num_classes, (2, count)), jnp.int32),
        valid=jnp.asarray((random.random((2, count)) < 0.8) | (np.arange(count) < 3)[None]),
        masks=BoxMasks(jnp.asarray(smooth, jnp.float32), boxes, padded),
        semantic_logits=jnp.asarray(random.normal(size=(2, 16, 16, labels)), jnp.float32),
    )


@pytest.mark.parametrize("padded", [False, True])
def test_pasting_one_at_a_time_is_pasting_all(padded):
    merge = PanopticMerge(stuff_area=30)

    def all_at_once(found, semantic):
        soft = paste_masks(found.masks.probs, found.boxes, *semantic.shape, padded=padded)
        return merge_panoptic(
            (soft > 0.5 if padded else soft >= 0.5) & (semantic >= 0)[None],
            found.scores,
            found.classes,
            found.valid,
            semantic,
            num_semantic=9,
            things=0,
            stuff_area=30,
        )

    @jax.jit
    def both(found, semantic):
        return panoptic_map(found, semantic, merge), all_at_once(found, semantic)

    segments = 0
    for seed in range(6):
        semantic = np.random.default_rng(seed).integers(0, 9, (8, 8)).repeat(8, 0).repeat(9, 1)
        semantic[SIZE[0] :] = semantic[:, SIZE[1] :] = -1
        found = jax.tree.map(lambda x: x[0], made_up(seed, padded=padded))
        ours, whole = both(found, semantic.astype(np.int32))
        jax.tree.map(np.testing.assert_array_equal, ours, whole)
        segments += int((ours.segment_ids[:12] > 0).sum())
    assert segments > 12  # kept instances


DETECTORS = {
    "mask_rcnn": tiny.mask_rcnn(),
    "mask_rcnn_torchvision": tiny.mask_rcnn("torchvision"),
    "cascade": tiny.cascade_mask_rcnn(),
    "htc": tiny.htc(),
}


@pytest.mark.parametrize("name", DETECTORS)
def test_the_device_merges_as_the_host_does(name):
    model = panoptic(DETECTORS[name]).with_classes(things=7).with_classes(pixels=9)
    how = PanopticMerge(score_threshold=0.5, stuff_area=200, things=0)
    model = model.clone(merge=how)
    found, dropped = made_up(3, padded=name.endswith("torchvision")), []
    maps = postprocess.maps_original(
        model,
        found,
        np.full((2, 2), 60, np.int32),
        np.array([SIZE] * 2, np.int32),
        padded_size=(64, 64),
        canvas=postprocess.map_canvas(*SIZE),
    )
    classes = Classes().named(model)
    for result in postprocess.collect_results(model, found, maps, [SIZE] * 2, classes):
        ours = result.panoptic
        host = result.to_panoptic(
            ours.categories,
            score_threshold=how.score_threshold,
            overlap_threshold=how.overlap,
            stuff_area=how.stuff_area,
        )
        np.testing.assert_array_equal(ours.ids, host.ids)
        assert ours.dropped == host.dropped
        plain = [dataclasses.replace(s, instance=None) for s in ours.segments]
        assert plain == [dataclasses.replace(s, instance=None) for s in host.segments]
        dropped.append(dataclasses.astuple(ours.dropped))
    assert (np.sum(dropped, axis=0) > 0).all()  # every reason occurs


def test_detectors_without_masks_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside the tests
    wanted = "wanted a MaskRCNN, a CascadeMaskRCNN or a HybridTaskCascade"
    for detector in (tiny.faster_rcnn(), tiny.cascade_rcnn()):
        with pytest.raises(ValueError, match=f"{type(detector).__name__}.*{wanted}"):
            panoptic(detector)
    assert all(("masks" in panoptic(detector).tasks) for detector in DETECTORS.values())


def test_frozen_stages_are_the_detectors():
    model = panoptic_fpn(resnet(50))
    assert model.frozen_paths()[0] == "detector/backbone/stem_conv"
    variables = jax.eval_shape(lambda: tiny.init(panoptic(tiny.mask_rcnn())))
    assert set(variables["params"]) == {"detector", "semantic_head"}


def test_the_two_flavours():
    ours, theirs = (
        panoptic_fpn(resnet(50), flavour="detectron2"),
        panoptic_fpn(resnet(50), flavour="mmdet"),
    )
    assert ours.merge == PanopticMerge(0.5, 0.5, 4096, things=0)
    assert theirs.merge == PanopticMerge(0.6, 0.5, 4096, things=-1)
    assert ours.semantic_loss == SemanticLoss(0.5, full_resolution=True)
    assert theirs.semantic_loss == SemanticLoss(0.5, averaged_over="all")
    assert theirs.detector.detections.class_agnostic_nms
    assert not ours.detector.detections.class_agnostic_nms
    with pytest.raises(ValueError, match="flavour is 'torchvision'; a Panoptic FPN is"):
        panoptic_fpn(resnet(50), flavour="torchvision")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("score_threshold", float("nan"), "nan: wanted a finite number"),
        ("overlap", -0.1, "-0.1: wanted a finite number, 0 or more"),
        ("overlap", float("inf"), "inf: wanted a finite number, 0 or more"),
        ("stuff_area", -1, "-1: wanted a finite number, 0 or more"),
    ],
)
def test_a_merge_of_no_sense_is_refused(field, value, words):
    with pytest.raises(ValueError, match=f"{field} is {words}$"):
        PanopticMerge(**{field: value})
    assert PanopticMerge(1.1, 0.0, 0).score_threshold == 1.1  # then nothing is a thing


# ---- Semantic FPN ---------------------------------------------------------------------------


@pytest.mark.parametrize("head", [HEAD, FCNHead(tiny.CLASSES + 1, features=8, norm=tiny.NORM)])
def test_semantic_fpn_learns_a_batch(head):
    parts = tiny.mask_rcnn()
    model = SemanticFPN(
        preprocess=parts.preprocess, backbone=parts.backbone, fpn=parts.fpn, semantic_head=head
    )
    run, batch, keys = Run(model), tiny.batch(), tiny.keys()

    params, losses = run.variables["params"], []
    for _ in range(30):
        run.variables = {**run.variables, "params": params}
        total, _, _, grads = run.losses(batch, keys)
        params = jax.tree.map(lambda p, g: p - 0.3 * g, params, grads)
        losses.append(float(total))
    assert losses[-1] < 0.5 * losses[0]
    found = run.predict({**run.variables, "params": params}, batch.images, batch.image_sizes)
    assert found.boxes.shape == (2, 0, 4)
    labels = np.asarray(found.semantic_logits.argmax(-1))
    truth = np.asarray(batch.gt_semantic)[:, ::4, ::4]
    assert (labels == truth).mean() > 0.7


def test_semantic_fpn_leaves_its_classes_to_the_data():
    model = semantic_fpn(resnet(50))
    assert model.classes.things is None and model.classes.pixels == 0
    assert model.with_classes(pixels=54).semantic_head.num_classes == 54
    assert "masks" not in model.tasks


def test_a_level_that_does_not_double_is_named():
    levels = [jnp.zeros((1, n, n, 8)) for n in (16, 8, 5, 3)]
    with pytest.raises(ValueError, match=r"level 2 of \(5, 5\) cells does not become \(16, 16\)"):
        HEAD.init(jax.random.key(0), levels)
