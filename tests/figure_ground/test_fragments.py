"""Matching, information and labels of fragments, against plain loops and on constructed cases."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segjax.figure_ground import fragments_labels as labels_lib
from segjax.figure_ground.fragments import TopDownConfig
from segjax.figure_ground.fragments_information import (
    class_information,
    mutual_information,
    select_informative,
)
from segjax.figure_ground.fragments_match import (
    LEAST_CONTRAST,
    OUTSIDE,
    correlate,
    find_peaks,
    grey_levels,
    normalise_patches,
)
from tests.oracles import oracle_top_down as oracle

SIZES = np.array([3, 5, 4], np.int32)
LEVELS = st.floats(0, 1, width=32)


def pad(patches):
    return np.stack([np.pad(p, (0, 5 - len(p))) for p in patches]).astype(np.float32)


def match(image, patches):
    sizes = jnp.asarray(SIZES)
    unit = normalise_patches(jnp.asarray(pad(patches)), sizes)
    return np.asarray(jax.jit(correlate)(jnp.asarray(image), unit, sizes))


def clearly_flat_or_not(image, size):
    """False for windows near the contrast threshold, where rounding decides."""
    spread = [
        image[y : y + size, x : x + size].std() / LEAST_CONTRAST
        for y, x in np.ndindex(*image.shape)
    ]
    return abs(np.reshape(spread, image.shape) - 1) > 0.01


class TestCorrelate:
    @given(hnp.arrays(np.float32, (9, 11), elements=LEVELS), st.integers(0, 2**20))
    def test_as_plain_loops(self, image, seed):
        rng = np.random.default_rng(seed)
        patches = [rng.uniform(0, 1, (s, s)).astype(np.float32) for s in SIZES]
        ours = match(image, patches)
        for scores, patch in zip(ours, patches, strict=True):
            expected = oracle.correlation(image, patch, LEAST_CONTRAST)
            clear = clearly_flat_or_not(image, len(patch))
            np.testing.assert_allclose(scores[clear], expected[clear], atol=5e-4)

    def test_precise_on_a_large_image_of_little_contrast(self):
        rng = np.random.default_rng(0)
        image = rng.uniform(0.48, 0.52, (128, 100)).astype(np.float32)
        image[:, 50:] += 0.4
        patches = [rng.uniform(0, 1, (s, s)) for s in SIZES]
        for scores, patch in zip(match(image, patches), patches, strict=True):
            expected = oracle.correlation(image, patch, LEAST_CONTRAST)
            clear = clearly_flat_or_not(image, len(patch))
            np.testing.assert_allclose(scores[clear], expected[clear], atol=2e-3)

    @given(st.integers(0, 2**20), st.floats(0.2, 3), st.floats(-0.5, 0.5))
    def test_gain_and_offset_change_nothing(self, seed, gain, offset):
        rng = np.random.default_rng(seed)
        image = rng.uniform(0, 1, (9, 11)).astype(np.float32)
        patches = [rng.uniform(0, 1, (s, s)).astype(np.float32) for s in SIZES]
        other = (gain * image + offset).astype(np.float32)
        np.testing.assert_allclose(match(image, patches), match(other, patches), atol=1e-3)

    def test_a_patch_is_found_where_it_was_cut(self):
        image = np.random.default_rng(1).uniform(0, 1, (9, 11)).astype(np.float32)
        corners = [(6, 8), (4, 0), (0, 7)]
        patches = [image[y : y + s, x : x + s] for (y, x), s in zip(corners, SIZES, strict=True)]
        scores = match(image, patches)
        for one, corner in zip(scores, corners, strict=True):
            assert np.unravel_index(one.argmax(), one.shape) == corner
            assert one[corner] == pytest.approx(1, abs=1e-5)

    def test_windows_that_leave_the_image_are_outside(self):
        scores = match(np.random.default_rng(2).uniform(0, 1, (9, 11)), [np.eye(s) for s in SIZES])
        for one, size in zip(scores, SIZES, strict=True):
            assert (one[9 - size + 1 :] == OUTSIDE).all()
            assert (one[:, 11 - size + 1 :] == OUTSIDE).all()
            assert (one[: 9 - size + 1, : 11 - size + 1] > OUTSIDE).all()

    def test_flat_patches_and_flat_windows_give_zero(self):
        flat = match(np.full((9, 11), 0.3, np.float32), [np.eye(s) for s in SIZES])
        assert set(np.unique(flat)) == {OUTSIDE, 0.0}
        noise = np.random.default_rng(3).uniform(0, 1, (9, 11)).astype(np.float32)
        assert set(np.unique(match(noise, [np.full((s, s), 0.7) for s in SIZES]))) == {OUTSIDE, 0.0}

    def test_an_image_smaller_than_the_patches_is_refused(self):
        with pytest.raises(ValueError, match="5 cells a side, the image has 4 x 11"):
            match(np.zeros((4, 11), np.float32), [np.eye(s) for s in SIZES])


class TestPeaks:
    def test_best_first_and_apart(self):
        rng = np.random.default_rng(4)
        images = rng.uniform(0, 1, (2, 9, 11)).astype(np.float32)
        patches = [images[0, :s, :s] for s in SIZES]
        sizes = jnp.asarray(SIZES)
        unit = normalise_patches(jnp.asarray(pad(patches)), sizes)
        peaks = find_peaks(jnp.asarray(images), unit, sizes, 3)
        assert peaks.scores.shape == (2, 3, 3)
        scores = np.asarray(peaks.scores)
        assert (np.diff(scores, axis=2) <= 0).all()
        for b, f in np.ndindex(2, 3):
            all_scores = oracle.correlation(images[b], patches[f], LEAST_CONTRAST)
            assert scores[b, f, 0] == pytest.approx(all_scores.max(), abs=1e-4)
            places = list(zip(np.asarray(peaks.y)[b, f], np.asarray(peaks.x)[b, f], strict=True))
            for i, (y, x) in enumerate(places):
                assert scores[b, f, i] == pytest.approx(all_scores[y, x], abs=1e-4)
                for other_y, other_x in places[:i]:
                    assert 2 * max(abs(y - other_y), abs(x - other_x)) >= SIZES[f]

    def test_no_further_place_is_outside(self):
        image = jnp.asarray(np.random.default_rng(5).uniform(0, 1, (1, 5, 5)), jnp.float32)
        sizes = jnp.asarray([5], jnp.int32)
        peaks = find_peaks(image, normalise_patches(image, sizes), sizes, 2)
        np.testing.assert_allclose(peaks.scores[0, 0], [1, OUTSIDE], atol=1e-5)


class TestGreyLevels:
    def test_uint8_and_floats_agree(self):
        image = np.random.default_rng(6).integers(0, 256, (1, 7, 10, 3), np.uint8)
        of_bytes = grey_levels(jnp.asarray(image), 2)
        of_floats = grey_levels(jnp.asarray(image / np.float32(255), jnp.float32), 2)
        assert of_bytes.shape == (1, 4, 5)
        np.testing.assert_allclose(of_bytes, of_floats, atol=1e-6)

    def test_cells_are_means_and_edges_are_repeated(self):
        grey = np.arange(15, dtype=np.float32).reshape(3, 5) / 15
        image = np.repeat(grey[None, :, :, None], 3, axis=3)
        cells = np.asarray(grey_levels(jnp.asarray(image), 2))[0]
        padded = np.pad(grey, ((0, 1), (0, 1)), "edge")
        expected = [
            [padded[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean() for j in range(3)]
            for i in range(2)
        ]
        np.testing.assert_allclose(cells, expected, atol=1e-6)


CLASS = np.array([True] * 6 + [False] * 8)
DETECTED = hnp.arrays(bool, (5, 14))


class TestInformation:
    @given(DETECTED)
    def test_as_entropies(self, detected):
        bits = mutual_information(detected, CLASS)
        expected = [oracle.information(f, CLASS) for f in detected]
        np.testing.assert_allclose(bits, expected, atol=1e-9)
        assert (bits >= 0).all()
        assert (bits <= 1).all()

    def test_extremes(self):
        bits = mutual_information(np.stack([CLASS, ~CLASS, np.ones(14, bool)]), CLASS)
        whole = oracle.entropy(list(CLASS))
        np.testing.assert_allclose(bits, [whole, whole, 0], atol=1e-12)

    @given(hnp.arrays(np.float32, (4, 14), elements=st.sampled_from([0.0, 0.25, 0.5, 0.7, 1.0])))
    def test_no_threshold_tells_more(self, scores):
        bits, thresholds = class_information(scores, CLASS)
        for f in range(4):
            assert bits[f] == pytest.approx(oracle.best_threshold(scores[f], CLASS), abs=1e-9)
            found = scores[f] >= thresholds[f]
            assert bits[f] == pytest.approx(oracle.information(found, CLASS), abs=1e-9)
            if bits[f] == 0:
                assert not found.any()

    @given(DETECTED, st.integers(1, 6), st.sampled_from([0.0, 0.05]))
    def test_selects_as_plain_loops(self, detected, count, least_gain):
        ours = select_informative(detected, CLASS, count, least_gain)
        expected = oracle.select(detected, CLASS, count, least_gain)
        # Ties may be broken either way, and then more or fewer may follow; the gains must agree.
        bits = mutual_information(detected, CLASS)
        assert bits[ours[0]] == pytest.approx(bits[expected[0]], abs=1e-9)
        assert len(set(ours)) == len(ours)
        for i in range(1, len(ours)):
            left = [f for f in range(5) if f not in ours[:i]]
            gains = {f: self._gain(detected, f, ours[:i]) for f in left}
            assert gains[ours[i]] == pytest.approx(max(gains.values()), abs=1e-9)
            assert gains[ours[i]] > least_gain - 1e-9
        if len(ours) < min(count, 5):
            left = [f for f in range(5) if f not in ours]
            assert max(self._gain(detected, f, ours) for f in left) <= least_gain + 1e-9

    @staticmethod
    def _gain(detected, f, chosen):
        return min(
            oracle.information(np.stack([detected[f], detected[g]], axis=1), CLASS)
            - oracle.information(detected[g], CLASS)
            for g in chosen
        )

    def test_a_copy_comes_after_what_adds_something(self):
        strong, weak = CLASS.copy(), np.zeros(14, bool)
        strong[[0, 1, 7]] = [False, False, True]
        weak[[0, 1]] = True
        chosen = select_informative(np.stack([strong, strong, weak]), CLASS, 3)
        assert chosen.tolist() == [0, 2]  # the copy adds nothing to the first

    def test_images_of_one_kind_are_refused(self):
        with pytest.raises(ValueError, match="14 of 14 images show the class"):
            class_information(np.zeros((1, 14), np.float32), np.ones(14, bool))


class TestLabels:
    @given(hnp.arrays(np.float64, 12, elements=st.sampled_from([0.0, 0.1, 0.3, 0.6, 1.0])))
    def test_otsu_leaves_the_least_variance(self, values):
        threshold = labels_lib.otsu_threshold(values)

        def within(level):
            sides = (values[values > level], values[values <= level])
            return sum(side.size * side.var() for side in sides if side.size)

        assert within(threshold) <= min(within(level) for level in values) + 1e-9

    @given(
        hnp.arrays(np.float64, (2, 3, 4), elements=st.floats(0, 1)),
        hnp.arrays(np.int64, (2, 2, 3, 4), elements=st.integers(0, 3)),
    )
    def test_along_segments_as_plain_loops(self, maps, segments):
        ours = labels_lib.along_segments(maps, segments)
        for n, y, x in np.ndindex(2, 3, 4):
            means = [maps[n][labels == labels[y, x]].mean() for labels in segments[n]]
            assert ours[n, y, x] == pytest.approx(np.mean(means), abs=1e-9)

    def test_mean_windows(self):
        maps = np.arange(40, dtype=np.float64).reshape(2, 4, 5)
        found = np.array([[True, False, True], [True, False, False]])
        places = np.array([[[0, 0], [0, 0], [1, 2]], [[2, 3], [0, 0], [0, 0]]])
        means = labels_lib.mean_windows(maps, found, places, np.array([2, 2, 3]))
        np.testing.assert_allclose(means[0, :2, :2], (maps[0, :2, :2] + maps[1, 2:, 3:]) / 2)
        assert (means[0, 2:] == 0).all()
        assert (means[0, :, 2:] == 0).all()
        assert (means[1] == 0).all()
        np.testing.assert_allclose(means[2], maps[0, 1:4, 2:5])

    def test_figure_is_what_is_covered_most(self):
        segments = np.repeat(np.arange(4), 2)[None].repeat(8, axis=0)[None]  # vertical bands
        degree = np.tile([0.9, 0.9, 0.8, 0.9, 0.2, 0.1, 0.1, 0.1], (8, 1))
        figure = labels_lib.choose_figure(segments, degree, np.ones((8, 8)), 1.0)
        np.testing.assert_array_equal(figure, segments[0] < 2)

    def test_the_border_decides_where_cover_does_not(self):
        segments = np.repeat(np.arange(4), 2)[None].repeat(8, axis=0)[None]
        degree = np.tile([0.9, 0.9, 0.6, 0.6, 0.4, 0.4, 0.1, 0.1], (8, 1))
        for border in (1, 2, 3):
            edges = np.ones((8, 8))
            edges[:, 2 * border - 1 : 2 * border + 1] = 4.0
            figure = labels_lib.choose_figure(segments, degree, edges, 1.0)
            np.testing.assert_array_equal(figure, segments[0] < border)

    def test_the_segmentation_that_fits_is_used(self):
        upright = np.repeat(np.arange(2), 4)[None].repeat(8, axis=0)
        degree = np.where(upright.T == 0, 0.9, 0.1)
        figure = labels_lib.choose_figure(
            np.stack([upright, upright.T]), degree, np.ones((8, 8)), 1.0
        )
        np.testing.assert_array_equal(figure, upright.T == 0)

    def test_an_undivided_fragment_is_figure(self):
        figure = labels_lib.choose_figure(
            np.zeros((1, 4, 4), np.int64), np.ones((4, 4)), np.ones((4, 4)), 1.0
        )
        assert figure.all()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("sizes", (), "sizes is"),
        ("label_rounds", -1, "'label_rounds': -1"),
        ("border_weight", -0.5, r"'border_weight': -0\.5"),
        ("max_disagreement", float("nan"), "'max_disagreement': nan"),
        ("sizes", (2, 8), "3 whole cells or more"),
        ("candidates", 0, "'candidates': 0"),
        ("prior", 1.5, "prior 1.5"),
        ("prior_weight", 0.0, "weight above 0"),
        ("prior_weight", float("nan"), "prior_weight nan"),
    ],
)
def test_config_refuses(field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TopDownConfig(), **{field: value})
