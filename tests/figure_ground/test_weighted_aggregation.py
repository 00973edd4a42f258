"""Weighted aggregation against its equations in dense float64, and properties for any image."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segjax.figure_ground.bottom_up import BottomUp, bottom_up
from segjax.figure_ground.bottom_up_levels import finest
from segjax.figure_ground.bottom_up_links import (
    aggregate,
    first_links,
    modulated,
    product,
    strongest,
)
from segjax.figure_ground.bottom_up_seeds import (
    Aggregation,
    Links,
    choose_seeds,
    interpolate,
    ranks,
)
from segjax.figure_ground.hierarchy import level_slices
from segjax.figure_ground.weighted_aggregation import weighted_aggregation
from tests.figure_ground.test_bottom_up import HEIGHT, WIDTH, picture
from tests.oracles import oracle_aggregation as plain
from tests.support.examples import examples

CONFIG = BottomUp(aggregation=Aggregation())
SEEDS = st.integers(0, 2**32 - 1)
NUMBER, ROOM = 12, 30

compiled = jax.jit(weighted_aggregation)


@functools.cache
def grouped(seed=0):
    return compiled(jnp.asarray(picture(seed)))


def graph(seed):
    """Random segments and links. Couplings are integers, so that sums are exact."""
    rng = np.random.default_rng(seed)
    used = int(rng.integers(1, NUMBER + 1))
    pairs = [(a, b) for a in range(used) for b in range(a + 1, used)]
    rng.shuffle(pairs)
    pairs = sorted(map(tuple, pairs[: int(rng.integers(0, ROOM + 1))]))
    blank = ROOM - len(pairs)
    low, high = np.array([*pairs, *[(0, 0)] * blank], np.int32).T
    length = np.array([1.0] * len(pairs) + [0.0] * blank, np.float32)
    # All couplings differ, so that the order of the strongest is unambiguous.
    coupling = (1.0 + rng.permutation(ROOM)).astype(np.float32) * 4
    links = Links(*map(jnp.asarray, (low, high, coupling, length, length)))
    return links, used, rng


@jax.jit
def seeds_of(rank, links, valid, seats, alone):
    needed = jnp.maximum(0.25 * links.total(NUMBER), alone)
    return choose_seeds(rank, links, valid, seats, needed)


@functools.partial(jax.jit, static_argnames="parts")
def weights_of(links, seed, valid, parts):
    return interpolate(links, seed, valid, parts)


@given(SEEDS)
def test_seeds_are_those_of_a_sweep_one_by_one(seed):
    links, used, rng = graph(seed)
    order = np.concatenate([rng.permutation(used), np.arange(used, NUMBER)])
    rank = np.argsort(order).astype(np.int32)
    seats = int(rng.integers(1, used + 1))
    valid = jnp.arange(NUMBER) < used
    alone = rng.integers(0, 60, NUMBER).astype(np.float32)
    ours = seeds_of(jnp.asarray(rank), links, valid, jnp.int32(seats), jnp.asarray(alone))
    coupling = plain.dense(links, NUMBER, links.coupling)
    needed = np.maximum(0.25 * coupling.sum(1), alone)
    assert set(np.flatnonzero(ours)) == set(plain.sweep(coupling, order[:used], seats, needed))


@given(SEEDS)
def test_weights_are_parts_of_the_coupling_to_seeds(seed):
    """Includes cases with too few seats: segments without a neighbouring seed, or any seed."""
    links, used, rng = graph(seed)
    seeds = sorted(rng.choice(used, int(rng.integers(1, used + 1)), replace=False).tolist())
    chosen, valid = np.isin(np.arange(NUMBER), seeds), np.arange(NUMBER) < used
    hangs = weights_of(links, jnp.asarray(chosen), jnp.asarray(valid), 2)
    ours = np.zeros((NUMBER, NUMBER))
    for parent, weight in zip(np.asarray(hangs.parent), np.asarray(hangs.weight), strict=True):
        np.add.at(ours, (np.arange(NUMBER), parent), weight)
    coupling = plain.dense(links, NUMBER, links.coupling)
    expected = plain.interpolation(coupling, seeds, range(used), 2)
    np.testing.assert_allclose(ours[:, seeds], expected, rtol=1e-6)
    assert (np.delete(ours, seeds, 1) == 0).all()
    assert (np.asarray(hangs.weight[0]) >= np.asarray(hangs.weight[1])).all()


def test_what_nothing_ties_to_a_seed_is_counted():
    links = Links(*(jnp.asarray([v]) for v in (0, 1, 2.0, 1.0, 0.0)))
    seed, valid = jnp.asarray([False, False, True, False]), jnp.asarray([True, True, True, False])
    hangs = interpolate(links, seed, valid, 2)
    assert hangs.adrift == 2
    assert hangs.parent[0, :3].tolist() == [2, 2, 2]
    assert hangs.weight.tolist() == [[1, 1, 1, 0], [0, 0, 0, 0]]


def test_larger_segments_come_first_and_equal_ones_in_no_order_of_places():
    rank = np.asarray(ranks(jnp.asarray([16.0] * 30 + [40.0, 0.0])))
    assert rank[30] == 0 and rank[31] == 31
    assert sorted(rank) == list(range(32))
    assert (np.abs(np.diff(rank[:30])) > 1).mean() > 0.8


@functools.partial(jax.jit, static_argnums=0)
def start_of(config, image):
    start = finest(image, config)
    return start.segments, first_links(start.borders, config.aggregation)


@functools.partial(jax.jit, static_argnums=3)
def one_step(segments, links, seats, config):
    return ranks(segments.size), aggregate(segments, links, seats, config, 42)


def weights_by_the_rules(segments, links, rank, seats):
    """Computes the matrix P of one step from its definition."""
    config, number = CONFIG.aggregation, segments.size.size
    there = np.flatnonzero(np.asarray(segments.size) > 0)
    coupling = plain.dense(links, number, links.coupling)
    alone = config.alone * np.asarray(segments.inside, np.float64)
    needed = np.maximum(config.seed * coupling.sum(1), alone)
    order = [i for i in np.argsort(rank) if i in there]
    seeds = plain.sweep(coupling, order, seats, needed)
    return plain.interpolation(coupling, seeds, there, config.parts)


@pytest.mark.parametrize("seed", [0, 1])
def test_levels_are_those_of_the_equations(seed):
    segments, links = start_of(CONFIG, jnp.asarray(picture(seed)))
    for seats in (26, 13, 3):
        rank, made = one_step(segments, links, jnp.int32(seats), CONFIG.aggregation)
        weights = weights_by_the_rules(segments, links, rank, seats)
        ours = np.zeros(weights.shape)
        for parent, weight in zip(np.asarray(made.parent), np.asarray(made.weight), strict=True):
            there = weight > 0
            np.add.at(ours, (np.flatnonzero(there), parent[there]), weight[there])
        np.testing.assert_allclose(ours, weights, rtol=1e-5, atol=1e-7)
        check_level(segments, links, weights, made)
        assert made.lost == 0
        segments, links = made.segments, made.links


def check_level(segments, links, weights, made):
    """Checks that statistics are P' s, and couplings P' W P times the modulation."""
    config, number = CONFIG.aggregation, weights.shape[1]
    sums = {
        name: np.asarray(getattr(segments, name), np.float64) @ weights
        for name in ("size", "colour", "square", "response", "response_square", "inside")
    }
    coupling, inside = plain.coarse(weights, plain.dense(links, len(weights), links.coupling))
    sums["inside"] = sums["inside"] + inside
    for name, expected in sums.items():
        got = np.asarray(getattr(made.segments, name))
        np.testing.assert_allclose(got[..., :number], expected, rtol=1e-4)
        assert not got[..., number:].any()
    scales = (config.colour, config.texture)
    factor = plain.modulation(sums["colour"], sums["response"], sums["size"], scales)
    for name, expected in {
        "coupling": coupling * factor,
        "length": plain.coarse(weights, plain.dense(links, len(weights), links.length))[0],
        "contrast": plain.coarse(weights, plain.dense(links, len(weights), links.contrast))[0],
    }.items():
        ours = plain.dense(made.links, number, getattr(made.links, name))
        np.testing.assert_allclose(ours, expected, rtol=2e-3, atol=1e-7)
    pairs = np.stack([made.links.low, made.links.high])[:, np.asarray(made.links.valid)]
    assert (pairs[0] < pairs[1]).all() and len(np.unique(pairs, axis=1).T) == pairs.shape[1]


@given(SEEDS)
@examples(0.5)
def test_weights_tree_and_pixels_of_any_image(seed):
    noise = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    made = compiled(jnp.asarray(noise if seed % 2 else picture(seed)))
    tree, weight = made.hierarchy, np.asarray(made.weight)
    assert tree.dropped == 0
    np.testing.assert_allclose(weight.sum(0), tree.valid, atol=1e-6)
    assert (weight >= 0).all() and (np.diff(weight, axis=0) <= 0).all()
    np.testing.assert_array_equal(np.where(tree.valid, made.parent[0], 0), tree.parent * tree.valid)
    rows = level_slices(tree.level_sizes)
    for level, here in enumerate(rows):
        check_members(made, level, here, rows[min(level + 1, len(rows) - 1)])


def check_members(made, level, here, above):
    """Checks that parents are on the next level and that every pixel is fully assigned."""
    valid, size = np.asarray(made.hierarchy.valid), np.asarray(made.hierarchy.size)
    parent, used = np.asarray(made.parent)[:, here], np.asarray(made.weight)[:, here] > 0
    assert ((parent[used] >= above.start) & (parent[used] < above.stop)).all()
    assert valid[parent[used]].all()
    sums = np.bincount(parent[0], size[here] * valid[here], valid.size)
    np.testing.assert_array_equal(sums[above], size[above])
    assert size[here].sum() == HEIGHT * WIDTH
    parts = np.asarray(made.memberships(level))
    np.testing.assert_allclose(parts.sum(1), valid[: len(parts)], atol=1e-5)
    assert not parts[:, ~valid[here]].any()
    np.testing.assert_array_equal(parts.max(0) > 0, valid[here])


@pytest.mark.parametrize("seed", [0, 1])
def test_joining_keeps_all_coupling(seed):
    """Couplings between segments become couplings between or inside the new segments."""
    segments, links = start_of(CONFIG, jnp.asarray(picture(seed)))
    seed = jnp.arange(42) % 3 == 0
    hangs = weights_of(links, seed, segments.size > 0, 3)
    above, between = jax.jit(product, static_argnums=3)(segments, links, hangs, 42)
    for name in ("size", "colour", "response"):
        one, other = (np.asarray(getattr(s, name)).sum(-1) for s in (segments, above))
        np.testing.assert_allclose(one, other, rtol=1e-5)
    before, after = (
        float(s.inside.sum() + np.where(w.valid, w.coupling, 0).sum())
        for s, w in ((segments, links), (above, between))
    )
    assert before == pytest.approx(after, rel=1e-5)


def test_the_weakest_links_go_where_room_is_short():
    # Nothing depends on the link from 1 to 2: both have stronger links to others.
    low, high = jnp.asarray([0, 1, 2, 0], jnp.int32), jnp.asarray([1, 2, 3, 0], jnp.int32)
    coupling, length = jnp.asarray([5.0, 1.0, 0.2, 9.0]), jnp.asarray([1.0, 2.0, 3.0, 0.0])
    kept, lost = strongest(Links(low, high, coupling, length, length), 2, 4)
    assert lost == 1
    assert kept.low.tolist() == [0, 2] and kept.high.tolist() == [1, 3]
    np.testing.assert_allclose(kept.coupling, [5.0, 0.2], rtol=1e-6)
    kept, lost = strongest(Links(low, high, coupling, length, length), 5, 4)
    assert lost == 0 and kept.valid.tolist() == [True, True, True, False, False]


def test_what_touches_stays_coupled():
    far = Links(*(jnp.asarray([v]) for v in (0, 1, 1e-30, 4.0, 0.0)))
    segments, _ = start_of(CONFIG, jnp.asarray(picture()))
    assert modulated(segments, far, CONFIG.aggregation).coupling[0] == pytest.approx(4e-9)


# Filters respond to the borders themselves; in flat regions only colour is informative.
BY_COLOUR = BottomUp(aggregation=Aggregation(texture=float("inf")))


@pytest.mark.parametrize("config", [BottomUp(coarsest=3), BY_COLOUR], ids=["merge", "aggregation"])
def test_both_ways_find_well_separated_regions_exactly(config):
    group = jax.jit(functools.partial(bottom_up, config=config))
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    colours = np.array([(20, 30, 40), (220, 40, 60), (40, 200, 60)], np.uint8)
    for right, down in ((8, 8), (13, 11), (20, 12), (16, 8)):
        label = np.where(x < right, 0, 1 + (y >= down))
        tree = group(jnp.asarray(colours[label]))
        top = np.asarray(tree.segments(-1))
        assert len(np.unique(top)) == 3
        assert len({*zip(top.ravel().tolist(), label.ravel().tolist(), strict=True)}) == 3
        # Their couplings to each other are far weaker than those of the finest segments.
        finest = tree.saliency[np.unique(tree.leaf)]
        assert 30 * tree.saliency[np.unique(top)].max() < jnp.median(finest)


def test_soft_segments_overlap_at_a_blurred_border_only():
    ramp = np.clip((np.arange(WIDTH) - 8) / 11, 0, 1)
    image = (40 + 170 * np.broadcast_to(ramp, (HEIGHT, WIDTH)))[..., None].repeat(3, 2)
    made = compiled(jnp.asarray(image.astype(np.uint8)))
    level = next(i for i in range(9) if len(np.unique(made.hierarchy.segments(i))) <= 6)
    parts = np.asarray(made.memberships(level)).max(1)[np.asarray(made.hierarchy.leaf)]
    assert parts[:, :4].min() > parts[:, 10:16].min()


def test_statistics_of_the_tree_are_those_of_its_pixels():
    tree, image = grouped().hierarchy, picture() / 255
    segments = np.asarray(tree.segments(2))
    for node in np.unique(segments):
        inside = segments == node
        assert tree.size[node] == inside.sum()
        np.testing.assert_allclose(tree.mean_colour[node], image[inside].mean(0), rtol=1e-4)
    for values in (tree.texture, tree.boundary, tree.saliency):
        assert np.isfinite(values).all() and (np.asarray(values) >= 0).all()


def test_batches_go_by_vmap():
    images = jnp.stack([jnp.asarray(picture(seed)) for seed in (0, 1)])
    together = jax.jit(jax.vmap(weighted_aggregation))(images)
    for i in (0, 1):
        alone = grouped(i)
        np.testing.assert_array_equal(together.parent[i], alone.parent)
        np.testing.assert_allclose(together.weight[i], alone.weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 23)])
def test_tiny_and_flat_images_are_covered(size):
    made = compiled(jnp.full((*size, 3), 128, jnp.uint8))
    top = np.unique(made.hierarchy.segments(-1))
    assert np.asarray(made.hierarchy.size)[top].sum() == size[0] * size[1]
    assert made.hierarchy.dropped == 0
    assert np.isfinite(made.hierarchy.saliency).all()


def test_weights_and_saliencies_have_finite_gradients():
    def total(image):
        made = weighted_aggregation(image)
        return (made.weight[0] * made.hierarchy.valid).sum() + made.hierarchy.saliency.sum()

    gradient = np.asarray(jax.jit(jax.grad(total))(jnp.asarray(picture(), jnp.float32) / 255))
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0.01


def test_settings_out_of_range_are_refused():
    for change, message in (
        ({"seed": 0.0}, r"seed is 0\.0"),
        ({"parts": 0}, "parts 0"),
        ({"contrast": 0.0}, r"contrast is 0\.0"),
        ({"colour": -1.0}, r"colour -1\.0"),
        ({"texture": float("nan")}, "texture nan"),
        ({"alone": -1e-3}, r"alone -0\.001"),
    ):
        with pytest.raises(ValueError, match=message):
            Aggregation(**change)
    with pytest.raises(IndexError):
        grouped().memberships(9)
