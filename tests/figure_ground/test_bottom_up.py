import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segjax.figure_ground.bottom_up import BottomUp, bottom_up
from segjax.figure_ground.bottom_up_graph import Borders, first_borders, first_segments
from segjax.figure_ground.bottom_up_merge import MergeCost, choose, coarsen, merge_costs
from segjax.figure_ground.bottom_up_pixels import from_blocks, join_seeds, measure, to_blocks
from segjax.figure_ground.hierarchy import level_slices
from segjax.figure_ground.images import check_image
from tests.oracles import oracle_merge as plain_merge

HEIGHT, WIDTH, CELL = 22, 27, 4
CELLS = (6, 7)


def picture(seed=0, height=HEIGHT, width=WIDTH):
    """Colour patches with noise."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 255, (-(-height // 9), -(-width // 9), 3))
    image = patches.repeat(9, 0).repeat(9, 1)[:height, :width] + rng.normal(
        0, 12, (height, width, 3)
    )
    return np.clip(image, 0, 255).astype(np.uint8)


@functools.cache
def grouped(seed=0):
    return compiled(jnp.asarray(picture(seed)))


compiled = jax.jit(bottom_up)


@functools.partial(jax.jit, static_argnums=1)
def first_level(image, room):
    pixels = measure(image)
    row, column = join_seeds(pixels.feature, CELL, 2, 0.05)
    number = CELLS[0] * CELLS[1]
    segments = first_segments(pixels, row * CELLS[1] + column, number)
    return pixels, row, column, segments, first_borders(pixels.feature, row, column, CELLS, room)


def test_blocks_hold_every_pixel_once():
    planes = jnp.arange(2 * 5 * 7).reshape(2, 5, 7)
    blocks = to_blocks(planes, 3, fill=-1)
    assert blocks.shape == (2, 9, 2, 3)
    assert blocks[0, :, 0, 1].tolist() == [3, 4, 5, 10, 11, 12, 17, 18, 19]
    for plane, block in zip(planes, blocks, strict=True):
        np.testing.assert_array_equal(from_blocks(block, 3)[:5, :7], plane)
    assert (np.asarray(from_blocks(blocks[0], 3))[5:] == -1).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_pixels_join_the_seeds_that_the_plain_rule_gives(seed):
    pixels, row, column, _, _ = first_level(jnp.asarray(picture(seed)), 200)
    expected = plain_merge.join_seeds(np.asarray(pixels.feature), CELL, 2, 0.05)
    np.testing.assert_array_equal(row, expected[0])
    np.testing.assert_array_equal(column, expected[1])
    assert (np.asarray(row) != np.arange(HEIGHT)[:, None] // CELL).any()


@pytest.mark.parametrize("seed", [0, 1])
def test_first_segments_and_borders_are_those_counted_plainly(seed):
    pixels, row, column, segments, (borders, lost) = first_level(jnp.asarray(picture(seed)), 200)
    label = np.asarray(row * CELLS[1] + column)
    count = np.bincount(label.ravel(), minlength=42)
    np.testing.assert_array_equal(segments.size, count)
    for channel in range(3):
        plane = np.asarray(pixels.colour[channel])
        sums = np.bincount(label.ravel(), plane.ravel(), 42)
        np.testing.assert_allclose(segments.colour[channel], sums, rtol=1e-5)
    expected = plain_merge.borders_of(np.asarray(pixels.feature), label)
    assert lost == 0
    ours = {
        (int(a), int(b)): (length, contrast)
        for a, b, length, contrast in zip(
            borders.low, borders.high, borders.length, borders.contrast, strict=True
        )
        if length > 0
    }
    assert list(ours) == sorted(expected)
    for pair, values in expected.items():
        np.testing.assert_allclose(ours[pair], values, rtol=1e-4)


def test_borders_beyond_capacity_are_counted():
    *_, (borders, none) = first_level(jnp.asarray(picture()), 200)
    *_, (fewer, lost) = first_level(jnp.asarray(picture()), 60)
    assert none == 0
    assert lost == borders.valid.sum() - 60 > 0
    np.testing.assert_array_equal(fewer.low, borders.low[:60])


def test_what_noise_drops_has_room_with_more_borders_for_each_segment():
    noise = jnp.asarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)), jnp.uint8)
    tight = jax.jit(functools.partial(bottom_up, config=BottomUp(borders_per_segment=3.0)))
    assert tight(noise).dropped > 0
    assert compiled(noise).dropped == 0


@given(st.integers(0, 2**32 - 1))
def test_segments_join_as_in_the_sequential_rule(seed):
    rng = np.random.default_rng(seed)
    number, room = 12, 30
    used = int(rng.integers(1, number + 1))
    pairs = [(a, b) for a in range(used) for b in range(a + 1, used)]
    rng.shuffle(pairs)
    pairs = sorted(map(tuple, pairs[: int(rng.integers(0, room + 1))]))
    costs = {pair: float(rng.integers(0, 8)) for pair in pairs}  # many are equal
    capacity = int(rng.integers(1, used + 1))
    filled = [*pairs, *[(0, 0)] * (room - len(pairs))]
    low, high = np.array(filled, np.int32).T
    length = jnp.asarray([1.0] * len(pairs) + [0.0] * (room - len(pairs)))
    borders = Borders(jnp.asarray(low), jnp.asarray(high), length, length)
    values = jnp.asarray([*costs.values(), *[np.inf] * (room - len(pairs))], jnp.float32)
    root = np.asarray(
        jax.jit(choose)(values, borders, jnp.arange(number) < used, jnp.int32(capacity))
    )
    ours = {frozenset(np.flatnonzero(root == r).tolist()) for r in set(root[:used].tolist())}
    assert ours == plain_merge.join(costs, list(range(used)), capacity)


@functools.partial(jax.jit, static_argnums=3)
def one_step(segments, borders, capacity, cost):
    return merge_costs(segments, borders, cost), coarsen(segments, borders, capacity, cost)


def test_levels_coarsen_as_in_the_sequential_rule():
    pixels, row, column, segments, (borders, _) = first_level(jnp.asarray(picture()), 130)
    label = np.asarray(row * CELLS[1] + column)
    for capacity in (25, 14, 7, 3):
        costs, made = one_step(segments, borders, jnp.int32(capacity), MergeCost())
        there = np.asarray(borders.valid)
        pairs = zip(np.asarray(borders.low)[there], np.asarray(borders.high)[there], strict=True)
        numbers = np.flatnonzero(np.asarray(segments.size) > 0)
        expected = plain_merge.join(
            dict(zip(pairs, np.asarray(costs)[there].tolist(), strict=True)), numbers, capacity
        )
        parent = np.asarray(made.parent)
        ours = {frozenset(numbers[parent[numbers] == p]) for p in set(parent[numbers])}
        assert ours == expected
        label, segments, borders = parent[label], made.segments, made.borders
        check_statistics(pixels, label, segments, borders)
        assert made.dropped == 0
    assert segments.size.tolist()[3:] == [0.0] * 39


def check_statistics(pixels, label, segments, borders):
    """Checks that statistics of segments and borders equal sums over the pixels themselves."""
    response = np.asarray(pixels.response[2])
    np.testing.assert_array_equal(segments.size, np.bincount(label.ravel(), minlength=42))
    sums = np.bincount(label.ravel(), response.ravel(), 42)
    np.testing.assert_allclose(segments.response[2], sums, rtol=1e-4)
    expected = plain_merge.borders_of(np.asarray(pixels.feature), label)
    there = np.asarray(borders.valid)
    pairs = zip(np.asarray(borders.low)[there], np.asarray(borders.high)[there], strict=True)
    assert list(pairs) == sorted(expected)
    length, contrast = np.array([expected[pair] for pair in sorted(expected)]).T
    np.testing.assert_array_equal(borders.length[there], length)
    np.testing.assert_allclose(borders.contrast[there], contrast, rtol=1e-4)


def test_every_level_covers_the_image_in_its_capacity():
    hierarchy = grouped()
    sizes = BottomUp().level_sizes(HEIGHT, WIDTH)
    assert hierarchy.level_sizes == sizes == (42, 26, 16, 10, 6, 4)
    assert hierarchy.dropped == 0
    for level, rows in enumerate(level_slices(sizes)):
        segments = np.asarray(hierarchy.segments(level))
        assert segments.min() >= rows.start and segments.max() < rows.stop
        count = np.bincount(segments.ravel(), minlength=rows.stop)[rows]
        np.testing.assert_array_equal(hierarchy.size[rows], count)
        assert (np.asarray(hierarchy.level[rows]) == level).all()
        # All pixels of a seed may have chosen other seeds; higher levels stop joining at capacity.
        assert int(hierarchy.valid[rows].sum()) == (
            len(np.unique(segments)) if level == 0 else sizes[level]
        )
    top = level_slices(sizes)[-1]
    assert hierarchy.parent[top].tolist() == list(range(top.start, top.stop))


def test_colours_textures_and_borders_describe_the_segments():
    hierarchy = grouped()
    segments = np.asarray(hierarchy.segments(3))
    image = picture() / 255
    for node in np.unique(segments):
        inside = segments == node
        np.testing.assert_allclose(hierarchy.mean_colour[node], image[inside].mean(0), rtol=1e-4)
    described = (hierarchy.texture, hierarchy.boundary, hierarchy.saliency)
    for values in described:
        assert np.isfinite(values).all()
        assert (np.asarray(values) >= 0).all()
    assert float(hierarchy.boundary[hierarchy.level == 3].min()) > 0.05


def test_two_flat_halves_are_the_last_two_segments():
    image = np.full((24, 32, 3), 60, np.uint8)
    image[:, 13:] = (200, 90, 30)
    hierarchy = jax.jit(functools.partial(bottom_up, config=BottomUp(coarsest=2)))(image)
    halves = np.asarray(hierarchy.segments(-1))
    np.testing.assert_array_equal(halves == halves[0, 0], (image == image[0, 0]).all(-1))
    assert len(np.unique(halves)) == 2
    salient = hierarchy.saliency[jnp.asarray(np.unique(halves))]
    assert float(salient.max()) < 0.02 < float(hierarchy.saliency[hierarchy.level == 0].max())


def test_bytes_and_floats_are_the_same_image():
    floats = jax.jit(bottom_up)(jnp.asarray(picture(), jnp.float32) / 255)
    np.testing.assert_array_equal(floats.leaf, grouped().leaf)
    np.testing.assert_allclose(floats.mean_colour, grouped().mean_colour, atol=1e-5)


def test_batches_go_by_vmap():
    images = jnp.stack([jnp.asarray(picture(seed)) for seed in (0, 1)])
    together = jax.jit(jax.vmap(bottom_up))(images)
    for i in (0, 1):
        alone = grouped(i)
        np.testing.assert_array_equal(together.leaf[i], alone.leaf)
        np.testing.assert_array_equal(together.parent[i], alone.parent)
        np.testing.assert_allclose(together.saliency[i], alone.saliency, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (3, 9), (1, 23), (14, 1)])
def test_tiny_and_flat_images_are_covered(size):
    hierarchy = jax.jit(bottom_up)(jnp.full((*size, 3), 128, jnp.uint8))
    top = np.asarray(hierarchy.segments(-1))
    assert np.asarray(hierarchy.size)[np.unique(top)].sum() == size[0] * size[1]
    assert hierarchy.dropped == 0
    assert np.isfinite(hierarchy.saliency).all()


@pytest.mark.slow
def test_images_of_a_detectors_size_fit():
    image = jnp.asarray(picture(2, 800, 1344))
    hierarchy = compiled(image)
    assert hierarchy.level_sizes[0] == 200 * 336
    assert hierarchy.dropped == 0
    for level in (0, 8, -1):
        segments = np.unique(hierarchy.segments(level))
        assert np.asarray(hierarchy.size)[segments].sum() == 800 * 1344
    assert len(segments) == 4


def test_mean_colours_have_the_gradient_of_means():
    image = jnp.asarray(picture(), jnp.float32) / 255

    def redness(image):
        hierarchy = bottom_up(image)
        return hierarchy.mean_colour[hierarchy.segments(-1)[0, 0], 0]

    def contrast(image):
        return bottom_up(image).boundary.sum()

    segment = np.asarray(grouped().segments(-1))
    inside = segment == segment[0, 0]
    gradient = np.asarray(jax.jit(jax.grad(redness))(image))
    expected = np.zeros_like(gradient)
    expected[inside, 0] = 1 / inside.sum()
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    gradient = np.asarray(jax.jit(jax.grad(contrast))(image))
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0.01


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_images_that_are_not_finite_have_no_statistics(value):
    image = (picture() / 255).astype(np.float32)
    image[3, 4, 1] = value
    hierarchy = compiled(jnp.asarray(image))
    described = (hierarchy.mean_colour, hierarchy.texture, hierarchy.boundary, hierarchy.saliency)
    assert all(np.isnan(values).all() for values in described)
    top = np.unique(hierarchy.segments(-1))
    assert np.asarray(hierarchy.size)[top].sum() == HEIGHT * WIDTH


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 9), np.uint8), r"\(8, 9\): wanted RGB"),
        (np.zeros((8, 9, 1), np.uint8), "repeat the channel of a grey image"),
        (np.zeros((8, 9, 4), np.uint8), "leave out an alpha channel"),
        (np.zeros((2, 8, 9, 3), np.uint8), "use jax.vmap for batches"),
        (np.zeros((8, 9, 3), np.uint16), "is uint16: wanted uint8, or floats"),
    ],
)
def test_other_images_are_refused(image, message):
    with pytest.raises(ValueError, match=message):
        check_image(jnp.asarray(image))


@pytest.mark.parametrize("shrink", [0.5, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("coarsest", [1, 2, 4])
def test_levels_shrink_down_to_the_coarsest(shrink, coarsest):
    sizes = BottomUp(shrink=shrink, coarsest=coarsest).level_sizes(20, 28)
    assert sizes[0] == 35 and sizes[-1] == coarsest
    assert all(2 * above >= below > above for below, above in itertools.pairwise(sizes))


def test_values_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"shrink is 0\.4"):
        BottomUp(shrink=0.4)
    with pytest.raises(ValueError, match="cell is 1"):
        BottomUp(cell=1)
    with pytest.raises(ValueError, match=r"borders_per_segment 0\.0"):
        BottomUp(borders_per_segment=0.0)
    with pytest.raises(ValueError, match=r"colour -1\.0"):
        MergeCost(colour=-1.0)
    with pytest.raises(ValueError, match=r"affinity 0\.0"):
        MergeCost(affinity=0.0)
    with pytest.raises(ValueError, match="texture nan"):
        MergeCost(texture=float("nan"))
    with pytest.raises(ValueError, match="compactness is nan"):
        BottomUp(compactness=float("nan"))
    with pytest.raises(ValueError, match="raise cell"):
        BottomUp().level_sizes(4000, 4000)
    with pytest.raises(ValueError, match="0 x 5"):
        BottomUp().level_sizes(0, 5)
    with pytest.raises(IndexError):
        grouped().segments(6)
