import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segjax.figure_ground.combined import (
    CombineConfig,
    combine,
    combine_leaves,
    log_odds_at,
    min_sum,
    sum_product,
    terms,
)
from tests.support.trees import costs_of_all_labellings, random_tree, tree

SEEDS = st.integers(0, 2**32 - 1)


def problem(seed, scale=3.0, whole=True):
    """A random tree with random terms, integers if `whole`, so that costs are exact."""
    rng = np.random.default_rng(seed)
    sizes, parent = random_tree(rng)
    gain = rng.normal(0, scale, len(parent))
    coupling = rng.exponential(scale, len(parent)) * (rng.random(len(parent)) < 0.8)
    if whole:
        gain, coupling = np.round(gain), np.round(coupling)
    return tree(sizes, parent), parent, gain.astype(np.float32), coupling.astype(np.float32)


@given(SEEDS)
def test_min_sum_is_the_cheapest_of_all_labellings(seed):
    hierarchy, parent, gain, coupling = problem(seed)
    figure = np.asarray(min_sum(hierarchy, jnp.asarray(gain), jnp.asarray(coupling)))
    labels, costs = costs_of_all_labellings(parent, gain, coupling)
    ours = costs[(labels == figure[None]).all(1)]
    assert ours.shape == (1,)
    assert ours[0] == costs.min()


@given(SEEDS)
def test_sum_product_gives_the_marginals_of_all_labellings(seed):
    hierarchy, parent, gain, coupling = problem(seed, 1.0, whole=False)
    odds = sum_product(hierarchy, jnp.asarray(gain), jnp.asarray(coupling))
    labels, costs = costs_of_all_labellings(parent, gain.astype(float), coupling.astype(float))
    weight = np.exp(-(costs - costs.min()))
    expected = (weight[:, None] * labels).sum(0) / weight.sum()
    np.testing.assert_allclose(jax.nn.sigmoid(odds), expected, rtol=2e-5, atol=1e-6)


@given(SEEDS)
def test_cold_probabilities_are_the_cheapest_labelling(seed):
    hierarchy, parent, gain, coupling = problem(seed, whole=False)
    _, costs = costs_of_all_labellings(parent, gain.astype(float), coupling.astype(float))
    best, second = np.sort(costs)[:2]
    if second - best < 0.01:  # two labellings are equally good
        return
    figure = min_sum(hierarchy, jnp.asarray(gain), jnp.asarray(coupling))
    odds = sum_product(hierarchy, jnp.asarray(gain) * 3000, jnp.asarray(coupling) * 3000)
    np.testing.assert_array_equal(odds > 0, figure)


def test_maps_side_by_side_are_maps_one_by_one():
    hierarchy, _, gain, coupling = problem(5, whole=False)
    gains = jnp.asarray(np.stack([gain, -gain, 2 * gain[::-1]], 1))
    for solve in (min_sum, sum_product):
        together = solve(hierarchy, gains, jnp.asarray(coupling))
        apart = [solve(hierarchy, gains[:, i], jnp.asarray(coupling)) for i in range(3)]
        np.testing.assert_array_equal(together, jnp.stack(apart, 1))


@given(SEEDS)
def test_probabilities_are_those_of_the_cost_written_out(seed):
    # Two maps at once, compared with the cost of all labellings in float64.
    rng = np.random.default_rng(seed)
    sizes, parent = random_tree(rng)
    pixels = rng.integers(1, 9, sizes[0]).astype(float)
    ends = np.cumsum([0, *sizes])
    size, preference = np.zeros(ends[-1]), rng.uniform(-1, 1, (sizes[0], 2))
    size[: sizes[0]], sums = pixels, np.zeros((ends[-1], 2))
    sums[: sizes[0]] = preference * pixels[:, None]
    for node in range(ends[-2]):
        size[parent[node]] += size[node]
        sums[parent[node]] += sums[node]
    saliency = rng.exponential(0.2, ends[-1])
    salience = 0.1 / (0.1 + saliency)
    weight = np.where(np.arange(ends[-1]) < sizes[0], 1.0, 0.25 * salience)
    coupling = 0.5 * (1 - salience) * size
    hierarchy = tree(sizes, parent, size, saliency)
    made = combine_leaves(hierarchy, jnp.asarray(preference, jnp.float32), CombineConfig())
    for column in (0, 1):
        labels, costs = costs_of_all_labellings(parent, weight * sums[:, column], coupling)
        chosen = (labels == np.asarray(made[0][:, column])[None]).all(1)
        assert costs[chosen][0] == pytest.approx(costs.min(), abs=1e-4)
        likely = np.exp(-(costs - costs.min()) / (0.25 * pixels.mean()))
        expected = (likely[:, None] * labels).sum(0) / likely.sum()
        np.testing.assert_allclose(made[1][:, column], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("seed", [3, 5, 8])
def test_odds_of_some_segments_are_those_of_all(seed):
    hierarchy, _, _, _ = problem(seed)
    number = hierarchy.level_sizes[0]
    preference = jax.random.uniform(jax.random.key(seed), (number, 3), minval=-1.0)
    leaf = jax.random.randint(jax.random.key(1), (3, 4), 0, number)
    odds = log_odds_at(hierarchy, preference, CombineConfig(), leaf)
    _, probability = combine_leaves(hierarchy, preference, CombineConfig())
    expected = np.asarray(probability)[leaf, np.arange(3)[:, None]]
    np.testing.assert_allclose(jax.nn.sigmoid(odds), expected, rtol=1e-5)


def test_a_segment_yields_to_its_surroundings_unless_it_is_salient():
    # Three pixels under one segment; the map is wrong at the last one.
    sizes, parent = (3, 1), [3, 3, 3, 3]
    size = [1.0, 1.0, 1.0, 3.0]
    evidence = jnp.asarray([[0.9, 0.9, 0.4]])
    tied = tree(sizes, parent, size, [9.0, 9.0, 9.0, 0.0])
    salient = tree(sizes, parent, size, [9.0, 9.0, 0.0, 0.0])
    assert combine(tied, evidence).map.tolist() == [[True, True, True]]
    assert combine(salient, evidence).map.tolist() == [[True, True, False]]


def test_pixels_without_confidence_count_nothing():
    hierarchy = tree((2, 1), [2, 2, 2], [1.0, 1.0, 2.0], [9.0, 9.0, 0.0])
    evidence, confidence = jnp.asarray([[0.7, 0.0]]), jnp.asarray([[1.0, 0.0]])
    assert combine(hierarchy, evidence, confidence).map.tolist() == [[True, True]]
    assert combine(hierarchy, evidence).map.tolist() == [[False, False]]


def test_maps_of_another_size_are_refused():
    hierarchy = tree((2, 1), [2, 2, 2], [1.0, 1.0, 2.0])
    with pytest.raises(ValueError, match=r"evidence is \(2, 2\).*image \(1, 2\)"):
        combine(hierarchy, jnp.ones((2, 2)))
    with pytest.raises(ValueError, match=r"confidence is \(1, 1\)"):
        combine(hierarchy, jnp.ones((1, 2)), jnp.ones((1, 1)))


def test_invalid_segments_are_neither_figure_nor_in_the_way():
    # The second finest segment and the second at the top only pad the shape.
    sizes, size = (2, 2), [4.0, 0.0, 4.0, 0.0]
    hierarchy = tree(sizes, [2, 3, 2, 3], size, leaf=jnp.zeros((2, 2), jnp.int32))
    both = combine(hierarchy, jnp.ones((2, 2)))
    assert both.figure.tolist() == [True, False, True, False]
    assert np.isfinite(both.probability).all()
    assert both.probability[0] > 0.9


def test_terms_weigh_by_size_and_salience():
    hierarchy = tree((2, 1), [2, 2, 2], [3.0, 1.0, 4.0], [0.1, 0.0, 0.3])
    config = CombineConfig(coupling=2.0, salience=0.1, salient_parts=0.5)
    gain, coupling = terms(hierarchy, jnp.asarray([1.0, -1.0]), config)
    np.testing.assert_allclose(gain, [3.0, -1.0, 0.5 * 0.25 * 2.0], rtol=1e-6)
    np.testing.assert_allclose(coupling, [3.0, 0.0, 2 * 0.75 * 4], rtol=1e-6)


def test_batches_go_by_vmap():
    one, other = (tree((2, 1), [2, 2, 2], [1.0, 1.0, 2.0], [s, 0.1, 0.0]) for s in (0.0, 9.0))
    evidence = jnp.asarray([[[0.9, 0.2]], [[0.2, 0.9]]])
    batch = jax.tree.map(lambda *a: jnp.stack(a), one, other)
    together = jax.jit(jax.vmap(combine))(batch, evidence)
    for i, hierarchy in enumerate((one, other)):
        apart = combine(hierarchy, evidence[i])
        np.testing.assert_array_equal(together.figure[i], apart.figure)
        np.testing.assert_allclose(together.soft[i], apart.soft, rtol=1e-5)


def test_probabilities_have_finite_gradients():
    hierarchy, _, _, _ = problem(3)
    preference = jnp.linspace(-1, 1, hierarchy.level_sizes[0])

    def total(preference):
        return combine_leaves(hierarchy, preference, CombineConfig())[1].sum()

    gradient = jax.grad(total)(preference)
    assert np.isfinite(gradient).all()
    assert (np.asarray(gradient) > 0).all()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_maps_that_are_sure_have_finite_odds_and_gradients(value):
    hierarchy = tree((3, 1), [3, 3, 3, 3], [1.0, 1.0, 1.0, 3.0], [0.0, 1e-9, 9.0, 1e30])
    evidence = jnp.full((1, 3), value)
    assert combine(hierarchy, evidence).map.tolist() == [[bool(value)] * 3]
    soft, gradient = jax.value_and_grad(lambda e: combine(hierarchy, e).soft.sum())(evidence)
    assert np.isfinite(soft) and np.isfinite(gradient).all() and (gradient > 0).all()


def test_weights_out_of_range_are_refused():
    with pytest.raises(ValueError, match="temperature 0"):
        CombineConfig(temperature=0.0)
    with pytest.raises(ValueError, match="coupling is -1"):
        CombineConfig(coupling=-1.0)
    with pytest.raises(ValueError, match="salience nan"):
        CombineConfig(salience=float("nan"))
