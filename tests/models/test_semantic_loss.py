"""The semantic loss against a loop over cells in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models.semantic import IGNORE, semantic_loss

SHAPE, CLASSES = (2, 3, 4), 6


@pytest.fixture(scope="module")
def logits():
    random = np.random.default_rng(0)
    return jnp.asarray(3 * random.normal(size=(*SHAPE, CLASSES)), jnp.float32)


def draw_labels(stride: int, ignored: float = 0.3) -> np.ndarray:
    """Labels that differ from pixel to pixel, so that it matters which is taken."""
    random = np.random.default_rng(stride)
    images, height, width = SHAPE
    shape = (images, stride * height, stride * width)
    labels = random.integers(0, CLASSES, shape).astype(np.uint8)
    labels[random.random(shape) < ignored] = IGNORE
    return labels


def oracle(logits: np.ndarray, labels: np.ndarray) -> tuple[float, int, np.ndarray]:
    """Sum of the cross entropies, how many count, and the sum's gradient."""
    logits = logits.astype(np.float64)
    total, counted, grads = 0.0, 0, np.zeros(logits.shape)
    scale_y, scale_x = labels.shape[1] / SHAPE[1], labels.shape[2] / SHAPE[2]
    for b, i, j in np.ndindex(*SHAPE):
        # torch's nearest: not the middle of the cell's pixels, but the first.
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
    # mmdet leaves ignored cells out of the sum, but not of the number it divides by.
    labels = draw_labels(8)
    term = semantic_loss(logits, jnp.asarray(labels), "all")
    total, counted, _ = oracle(np.asarray(logits), labels)
    assert float(term.count) == math.prod(SHAPE) > counted
    np.testing.assert_allclose(term.mean(), total / math.prod(SHAPE), rtol=1e-5)
    full = jnp.asarray(draw_labels(8, ignored=-1))
    np.testing.assert_array_equal(
        semantic_loss(logits, full, "all").mean(), semantic_loss(logits, full).mean()
    )


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
    ways = r'no gt_semantic: .*semantic="stuffthingmaps", "panoptic" or "instances"'
    with pytest.raises(ValueError, match=ways):
        semantic_loss(logits, None)


@pytest.mark.parametrize("size", [(24, 30), (25, 32), (24, 16), (2, 4), (1, 1)])
def test_labels_that_do_not_fit_are_named(logits, size):
    labels = jnp.zeros((SHAPE[0], *size), jnp.uint8)
    words = rf"labels of \({size[0]}, {size[1]}\) pixels are no multiple of .* \(3, 4\) cells: pad"
    with pytest.raises(ValueError, match=words):
        semantic_loss(logits, labels)
