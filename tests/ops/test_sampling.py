import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segjax.ops.sampling import sample_indices, sample_labels

SEEDS = st.integers(0, 2**32 - 1)
SIZE = 40
SIZES = [(16, 0.5), (16, 0.25), (64, 0.25), (7, 0.0), (7, 1.0)]  # 64 exceeds SIZE

jit_labels = jax.jit(sample_labels, static_argnums=(2, 3))
jit_indices = jax.jit(sample_indices, static_argnums=(2, 3))


def draw(seed: int) -> np.ndarray:
    """Labels -1, 0 and 1 in random proportions; a kind may be absent."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet([0.4, 0.4, 0.4])
    return rng.choice([-1, 0, 1], SIZE, p=shares).astype(np.int32)


def oracle_counts(labels: np.ndarray, num: int, fraction: float) -> tuple[int, int]:
    """Detectron2's subsample_labels."""
    num_positive = min(int((labels == 1).sum()), int(num * fraction))
    return num_positive, min(int((labels == 0).sum()), num - num_positive)


@pytest.mark.parametrize(("num", "fraction"), SIZES)
@given(SEEDS)
def test_masks_have_the_exact_counts(num, fraction, seed):
    labels = draw(seed)
    key = jax.random.key(seed)
    positive, negative = map(np.asarray, jit_labels(key, jnp.asarray(labels), num, fraction))
    assert (positive.sum(), negative.sum()) == oracle_counts(labels, num, fraction)
    assert (labels[positive] == 1).all() and (labels[negative] == 0).all()


@pytest.mark.parametrize(("num", "fraction"), SIZES)
@given(SEEDS)
def test_indices_are_positives_then_negatives_then_padding(num, fraction, seed):
    labels = draw(seed)
    got = jit_indices(jax.random.key(seed), jnp.asarray(labels), num, fraction)
    index, label, valid = map(np.asarray, (got.index, got.label, got.valid))
    positives, negatives = oracle_counts(labels, num, fraction)
    want = [1] * positives + [0] * negatives + [-1] * (num - positives - negatives)
    np.testing.assert_array_equal(label, want)
    np.testing.assert_array_equal(valid, label >= 0)
    np.testing.assert_array_equal(labels[index[valid]], label[valid])
    assert not index[~valid].any()
    for kind in (0, 1):  # ascending, so no index occurs twice
        assert (np.diff(index[label == kind]) > 0).all()


@given(SEEDS)
def test_both_forms_draw_the_same(seed):
    labels, key = jnp.asarray(draw(seed)), jax.random.key(seed)
    positive, negative = jit_labels(key, labels, 16, 0.5)
    got = jit_indices(key, labels, 16, 0.5)
    np.testing.assert_array_equal(np.flatnonzero(positive), got.index[got.label == 1])
    np.testing.assert_array_equal(np.flatnonzero(negative), got.index[got.label == 0])


@given(SEEDS, SEEDS)
def test_what_fits_is_taken_whatever_the_key(seed, other):
    labels = draw(seed)
    num = 4 * SIZE
    got = jit_indices(jax.random.key(seed), jnp.asarray(labels), num, 0.25)
    again = jit_indices(jax.random.key(other), jnp.asarray(labels), num, 0.25)
    np.testing.assert_array_equal(got.index, again.index)
    order = np.concatenate([np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)])
    np.testing.assert_array_equal(got.index[: len(order)], order)


def test_draws_are_uniform_and_pairs_independent():
    # 12 positives and 20 negatives; 4 and 8 are drawn, 20,000 times.
    labels = jnp.asarray(([1] * 3 + [0] * 5 + [-1] * 2) * 4)
    keys = jax.random.split(jax.random.key(0), 20_000)
    draws = jax.jit(jax.vmap(lambda key: sample_labels(key, labels, 12, 1 / 3)))(keys)
    for drawn, kind, count in zip(draws, (1, 0), (4, 8), strict=True):
        members = np.asarray(drawn, float)[:, np.asarray(labels) == kind]
        size = members.shape[1]
        share = count / size
        # Five standard errors: the chance of a false failure is about one in a million per member.
        error = 5 * np.sqrt(share * (1 - share) / len(keys))
        np.testing.assert_allclose(members.mean(0), share, atol=error)
        pairs = members.T @ members / len(keys)
        together = count * (count - 1) / (size * (size - 1))
        np.testing.assert_allclose(pairs[~np.eye(size, dtype=bool)], together, atol=0.02)


def test_old_style_keys_and_batches():
    labels = jnp.asarray(np.stack([draw(1), draw(2)]))
    keys = jax.random.split(jax.random.PRNGKey(0), 2)
    batch = jax.jit(jax.vmap(lambda k, lab: sample_indices(k, lab, 16, 0.5)))(keys, labels)
    alone = jit_indices(keys[1], labels[1], 16, 0.5)
    np.testing.assert_array_equal(batch.index[1], alone.index)


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="num is 0"):
        sample_labels(jax.random.key(0), jnp.zeros(4, jnp.int32), 0, 0.5)
    with pytest.raises(ValueError, match=r"positive_fraction 1.5"):
        sample_indices(jax.random.key(0), jnp.zeros(4, jnp.int32), 8, 1.5)
