"""The semantic loss against a loop over cells in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.losses.semantic import IGNORE, SemanticLoss
from segjax.ops.resize import resize_bilinear

SHAPE, CLASSES = (2, 3, 4), 6
IMAGES = jnp.array([[20, 30], [32, 40]], jnp.int32)  # padded to 32 x 32 and 32 x 64


def semantic_loss(logits, labels, averaged_over="labelled"):
    """Returns the cross-entropy term alone."""
    return SemanticLoss(averaged_over=averaged_over)(logits, labels, IMAGES, 32)["loss_semantic"]


@pytest.fixture(scope="module")
def logits():
    random = np.random.default_rng(0)
    return jnp.asarray(3 * random.normal(size=(*SHAPE, CLASSES)), jnp.float32)


def draw_labels(stride: int, ignored: float = 0.3) -> np.ndarray:
    """Labels that differ from pixel to pixel, so that the choice of pixel matters."""
    random = np.random.default_rng(stride)
    images, height, width = SHAPE
    shape = (images, stride * height, stride * width)
    labels = random.integers(0, CLASSES, shape).astype(np.uint8)
    labels[random.random(shape) < ignored] = IGNORE
    return labels


def oracle(logits: np.ndarray, labels: np.ndarray) -> tuple[float, int, np.ndarray]:
    """Returns the sum of cross entropies, the number of labelled cells and the sum's gradient."""
    logits = logits.astype(np.float64)
    total, counted, grads = 0.0, 0, np.zeros(logits.shape)
    scale_y, scale_x = labels.shape[1] / SHAPE[1], labels.shape[2] / SHAPE[2]
    for b, i, j in np.ndindex(*SHAPE):
        # torch's nearest picks the first of the cell's pixels, not the middle one.
        label = labels[b, math.floor(i * scale_y), math.floor(j * scale_x)]
        if label == IGNORE:
            continue
        exps = np.exp(logits[b, i, j])
        total += np.log(exps.sum()) - logits[b, i, j, label]
        counted += 1
        grads[b, i, j] = exps / exps.sum() - np.eye(CLASSES)[label]
    return total, counted, grads


@pytest.mark.parametrize("stride", [1, 3, 8])
def test_loss_and_gradient_are_the_oracles(logits, stride):
    labels = draw_labels(stride)
    term = semantic_loss(logits, jnp.asarray(labels))
    total, counted, grads = oracle(np.asarray(logits), labels)
    assert 0 < counted < math.prod(SHAPE)
    np.testing.assert_allclose(term.sum, total, rtol=1e-5)
    assert float(term.count) == counted
    np.testing.assert_allclose(term.mean(), total / counted, rtol=1e-5)
    pulled = jax.grad(lambda x: semantic_loss(x, jnp.asarray(labels)).mean())(logits)
    np.testing.assert_allclose(pulled, grads / counted, atol=1e-6)


def test_loss_over_all_cells_is_weaker_where_some_are_ignored(logits):
    # mmdet omits ignored cells from the sum, but counts them in the divisor: all cells of each
    # image padded to its own multiple of 32, here 4 x 4 and 4 x 8 at stride 8.
    labels = draw_labels(8)
    term = semantic_loss(logits, jnp.asarray(labels), "all")
    total, counted, _ = oracle(np.asarray(logits), labels)
    assert counted < math.prod(SHAPE) < float(term.count) == 4 * 4 + 4 * 8
    np.testing.assert_allclose(term.mean(), total / 48, rtol=1e-5)


def test_ignored_cells_get_no_gradient_however_wrong_they_are(logits):
    labels = draw_labels(8)
    ignored = labels[:, ::8, ::8] == IGNORE
    assert ignored.any()
    wild = jnp.where(jnp.asarray(ignored)[..., None], 1e30 * jnp.sign(logits), logits)
    value, pulled = jax.value_and_grad(lambda x: semantic_loss(x, jnp.asarray(labels)).mean())(wild)
    np.testing.assert_allclose(value, semantic_loss(logits, jnp.asarray(labels)).mean(), rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(pulled)[ignored], 0)
    assert (np.abs(np.asarray(pulled)[~ignored]).max(-1) > 0).all()


def test_labels_that_are_ignored_everywhere_give_zero(logits):
    labels = jnp.asarray(draw_labels(8, ignored=1.1))
    value, pulled = jax.value_and_grad(lambda x: semantic_loss(x, labels).mean())(logits)
    assert float(value) == 0
    np.testing.assert_array_equal(pulled, 0)


def test_every_pixel_but_a_cells_first_is_left_out(logits):
    labels = draw_labels(8)
    others = (labels + 1) % CLASSES
    others[:, ::8, ::8] = labels[:, ::8, ::8]
    wanted, got = (semantic_loss(logits, jnp.asarray(x)) for x in (labels, others))
    assert (float(got.sum), float(got.count)) == (float(wanted.sum), float(wanted.count))


def test_missing_labels_are_named_with_the_ways_to_get_them(logits):
    ways = r'no gt_semantic: .*semantic="stuffthingmaps", "panoptic", "folder" or "instances"'
    with pytest.raises(ValueError, match=ways):
        semantic_loss(logits, None)


@pytest.mark.parametrize("size", [(24, 30), (25, 32), (24, 16), (2, 4), (1, 1)])
def test_labels_that_do_not_fit_are_named(logits, size):
    labels = jnp.zeros((SHAPE[0], *size), jnp.uint8)
    words = rf"labels of \({size[0]}, {size[1]}\) pixels are no multiple of .* \(3, 4\) cells: pad"
    with pytest.raises(ValueError, match=words):
        semantic_loss(logits, labels)


# ---- Options, each against a float64 computation --------------------------------------------


def cells(logits, labels):
    """Returns cross entropy, labelled mask and class of each cell, for labels at logits' stride."""
    wide = np.asarray(logits, np.float64)
    log_probs = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    known = labels != IGNORE
    own = np.where(known, labels, 0).astype(int)
    return -np.take_along_axis(log_probs, own[..., None], -1)[..., 0], known, own


def test_class_weights_weigh_sum_and_count(logits):
    labels = draw_labels(1)
    weights = (0.5, 2.0, 1.0, 0.0, 3.0, 1.5)
    term = SemanticLoss(weight=2.0, class_weights=weights)(logits, jnp.asarray(labels), IMAGES, 32)[
        "loss_semantic"
    ]
    loss, known, own = cells(logits, labels)
    w = np.array(weights)[own] * known
    np.testing.assert_allclose(term.mean(), 2 * (loss * w).sum() / w.sum(), rtol=1e-5)
    with pytest.raises(ValueError, match="2 class_weights for 6 classes"):
        SemanticLoss(class_weights=(1.0, 2.0))(logits, jnp.asarray(labels), IMAGES, 32)


def test_focal_loss_weakens_what_is_sure(logits):
    labels = draw_labels(1)
    term = SemanticLoss(focal_gamma=2.0)(logits, jnp.asarray(labels), IMAGES, 32)["loss_semantic"]
    loss, known, _ = cells(logits, labels)
    wanted = (loss * (1 - np.exp(-loss)) ** 2)[known].mean()
    np.testing.assert_allclose(term.mean(), wanted, rtol=1e-4)


def test_bootstrapped_cross_entropy_takes_the_hardest_of_each_image(logits):
    labels = draw_labels(1, ignored=0.6)
    labels[1] = IGNORE
    labels[1, 1, 1:] = 2  # 3 cells
    term = SemanticLoss(hardest=0.5)(logits, jnp.asarray(labels), IMAGES, 32)["loss_semantic"]
    loss, known, _ = cells(logits, labels)
    hardest = [np.sort(x[k])[::-1][: -(-k.sum() // 2)] for x, k in zip(loss, known, strict=True)]
    assert [len(x) for x in hardest] == [2, 2]
    assert float(term.count) == 4
    np.testing.assert_allclose(term.mean(), np.concatenate(hardest).mean(), rtol=1e-5)
    with pytest.raises(ValueError, match="hardest is 0"):
        SemanticLoss(hardest=0.0)
    with pytest.raises(ValueError, match="contradict"):
        SemanticLoss(hardest=0.5, averaged_over="all")


def test_cells_of_a_class_without_weight_are_none_of_the_hardest(logits):
    labels = draw_labels(1, ignored=0.0)
    weights = (0.0, 2.0, 1.0, 0.0, 3.0, 0.0)
    term = SemanticLoss(hardest=0.5, class_weights=weights)(logits, jnp.asarray(labels), IMAGES, 32)
    loss, _, own = cells(logits, labels)
    w = np.array(weights)[own]
    total = count = 0.0
    for x, y in zip(loss * w, w, strict=True):
        order = np.argsort(-x[y > 0])[: -(-(y > 0).sum() // 2)]
        total, count = total + x[y > 0][order].sum(), count + y[y > 0][order].sum()
    assert float(term["loss_semantic"].count) == count
    np.testing.assert_allclose(term["loss_semantic"].mean(), total / count, rtol=1e-5)


def test_bootstrapping_hides_no_logits_that_are_not_numbers(logits):
    labels = jnp.asarray(draw_labels(1, ignored=0.0))
    broken = logits.at[0, 1, 1].set(jnp.nan)
    assert np.isnan(SemanticLoss(hardest=0.1)(broken, labels, IMAGES, 32)["loss_semantic"].mean())


OPTIONS = {
    "plain": SemanticLoss(weight=0.5),
    "full resolution": SemanticLoss(full_resolution=True),
    "over all cells": SemanticLoss(averaged_over="all"),
    "class weights": SemanticLoss(class_weights=(0.5, 2.0, 1.0, 0.0, 3.0, 1.5)),
    "focal": SemanticLoss(focal_gamma=1.5),
    "hardest": SemanticLoss(hardest=0.3),
    "dice": SemanticLoss(dice_weight=2.0),
    "together": SemanticLoss(
        full_resolution=True,
        class_weights=(0.5, 2.0, 1.0, 0.0, 3.0, 1.5),
        focal_gamma=0.5,
        hardest=0.3,
        dice_weight=0.5,
    ),
}


@pytest.mark.parametrize("loss", OPTIONS.values(), ids=OPTIONS)
def test_a_larger_canvas_changes_no_loss(loss, logits):
    labels = draw_labels(4)
    # Values in the padding have no effect unless they are interpolated with valid ones.
    mode = "edge" if loss.full_resolution else "reflect"
    wide = jnp.pad(logits, ((0, 0), (0, 5), (0, 4), (0, 0)), mode=mode)
    padded = np.pad(labels, ((0, 0), (0, 20), (0, 16)), constant_values=IGNORE)
    found = loss(wide, jnp.asarray(padded), IMAGES, 32)
    wanted = loss(logits, jnp.asarray(labels), IMAGES, 32)
    assert found.keys() == wanted.keys()
    for name, term in wanted.items():
        np.testing.assert_allclose(found[name].count, term.count, rtol=1e-6)
        np.testing.assert_allclose(found[name].sum, term.sum, rtol=1e-5)
        assert float(term.sum) > 0


@pytest.mark.parametrize("gamma", [0.01, 0.5, 1.0, 2.0, 7.5])
def test_focal_loss_is_finite_at_certainty(gamma):
    # From certainty of the true class, where 1 - p is 0 or tiny, to certainty of another class.
    margins = [200.0, 90.0, 87.5, 20.0, 16.5, 1.0, 0.0, -1.0, -20.0, -200.0, -1e4]
    certain = jnp.zeros((1, 1, len(margins), 3)).at[..., 0].set(jnp.asarray(margins))
    labels = jnp.zeros((1, 1, len(margins)), jnp.uint8)
    sizes = jnp.array([[1, len(margins)]], jnp.int32)
    values, pulled = [], []
    for loss in (SemanticLoss(focal_gamma=gamma), SemanticLoss(focal_gamma=gamma, hardest=0.5)):
        value, grad = jax.value_and_grad(
            lambda x, loss=loss: loss(x, labels, sizes, 32)["loss_semantic"].sum
        )(certain)
        values.append(float(value))
        pulled.append(np.asarray(grad))
    assert np.isfinite(values).all()
    assert all(np.isfinite(grad).all() for grad in pulled)
    wide = np.logaddexp(0.0, np.log(2) - np.array(margins))
    wanted = wide * (-np.expm1(-wide)) ** gamma
    np.testing.assert_allclose(values[0], wanted.sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"focal_gamma": -1.0}, "focal_gamma is -1.0: wanted a finite number, 0 or more"),
        ({"focal_gamma": float("nan")}, "focal_gamma is nan"),
        ({"focal_gamma": float("inf")}, "focal_gamma is inf"),
        ({"weight": -0.5}, "weight is -0.5"),
        ({"weight": float("inf")}, "weight is inf"),
        ({"dice_weight": -1.0}, "dice_weight is -1.0"),
        ({"dice_weight": float("nan")}, "dice_weight is nan"),
        ({"class_weights": (1.0, -1.0)}, r"class_weights are \(1.0, -1.0\): wanted finite"),
        ({"class_weights": (1.0, float("nan"))}, "class_weights are"),
        ({"class_weights": (0.0, 0.0)}, "not all 0"),
        ({"hardest": float("nan")}, "hardest is nan"),
    ],
)
def test_options_that_cannot_train_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SemanticLoss(**options)


def test_dice_loss_is_averaged_over_the_classes_in_each_image(logits):
    labels = draw_labels(1)
    term = SemanticLoss(dice_weight=3.0)(logits, jnp.asarray(labels), IMAGES, 32)[
        "loss_semantic_dice"
    ]
    probs = np.exp(np.asarray(logits, np.float64))
    probs /= probs.sum(-1, keepdims=True)
    dice = []
    for p, own in zip(probs, labels, strict=True):
        for k in range(CLASSES):
            truth, p_k = (own == k)[own != IGNORE], p[..., k][own != IGNORE]
            if truth.any():
                dice.append(1 - 2 * p_k[truth].sum() / ((p_k**2).sum() + truth.sum()))
    np.testing.assert_allclose(term.mean(), 3 * np.mean(dice), rtol=1e-5)


def test_full_resolution_compares_every_pixel(logits):
    labels = draw_labels(4)
    term = SemanticLoss(full_resolution=True)(logits, jnp.asarray(labels), IMAGES, 32)[
        "loss_semantic"
    ]
    wide = resize_bilinear(logits, labels.shape[1:], align_corners=False)
    loss, known, _ = cells(wide, labels)
    assert float(term.count) == known.sum()
    np.testing.assert_allclose(term.mean(), loss[known].mean(), rtol=1e-5)
