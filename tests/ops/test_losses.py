"""Elementwise losses against their formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops.losses import softmax_cross_entropy


@pytest.mark.parametrize("shape", [(5, 1), (7, 3), (2, 4, 81)])
def test_softmax_cross_entropy_and_its_gradient_are_the_formulas(shape):
    random = np.random.default_rng(0)
    logits = random.normal(scale=4.0, size=shape).astype(np.float32)
    labels = random.integers(0, shape[-1], shape[:-1]).astype(np.int32)
    exact = logits.astype(np.float64)
    log_probs = exact - np.log(np.exp(exact).sum(-1, keepdims=True))
    own = np.eye(shape[-1])[labels]
    got = softmax_cross_entropy(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(got, -(log_probs * own).sum(-1), rtol=1e-5, atol=1e-6)
    grad = jax.grad(lambda x: softmax_cross_entropy(x, jnp.asarray(labels)).sum())(logits)
    np.testing.assert_allclose(grad, np.exp(log_probs) - own, rtol=1e-5, atol=1e-6)


def test_an_impossible_class_costs_nothing_unless_it_is_the_label():
    logits = jnp.array([[0.0, -jnp.inf, 0.0]])
    found = [float(softmax_cross_entropy(logits, jnp.array([label]))[0]) for label in (0, 1)]
    np.testing.assert_allclose(found, [np.log(2), np.inf], rtol=1e-6)
