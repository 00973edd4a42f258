"""The cover against plain loops, and learning from images without masks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segjax.figure_ground.creatures import CreaturesConfig, generate
from segjax.figure_ground.fragments import Fragments, TopDownConfig
from segjax.figure_ground.fragments_learn import learn_fragments
from segjax.figure_ground.fragments_match import Peaks
from segjax.figure_ground.top_down import cover, top_down
from tests.oracles import oracle_top_down as oracle

SHAPE = (10, 12)
TWO_PEAKS = TopDownConfig(sizes=(3, 4), peaks=2, prior=0.25, max_disagreement=0.3)
CREATURES = CreaturesConfig(image_size=64, num_creatures=30, num_grounds=30, clutter=5)
SMALL = TopDownConfig(sizes=(8, 12, 16), candidates=30, max_fragments=25, label_rounds=2)


@jax.jit
def covered(peaks, fragments):
    return cover(peaks, fragments, SHAPE, TWO_PEAKS)


def random_case(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.choice([3, 4], 5).astype(np.int32)
    labels = np.zeros((5, 4, 4), np.float32)
    for label, size in zip(labels, sizes, strict=True):
        # Mostly 0 or 1; no two sums of such numbers fall on a threshold by chance.
        label[:size, :size] = rng.beta(0.3, 0.3, (size, size))
    fragments = Fragments(
        patches=jnp.zeros((5, 4, 4)),
        sizes=jnp.asarray(sizes),
        thresholds=jnp.full(5, 0.5, jnp.float32),
        information=jnp.asarray(rng.choice([0.1, 0.2, 0.35], 5), jnp.float32),
        labels=jnp.asarray(labels),
        downsample=2,
    )
    scores = rng.uniform(0, 1, (5, 2)).astype(np.float32)
    ys, xs = (
        np.stack([rng.integers(0, side - s + 1, 2) for s in sizes]).astype(np.int32)
        for side in SHAPE
    )
    return fragments, scores, ys, xs


class TestCover:
    @given(st.integers(0, 2**20))
    def test_as_plain_loops(self, seed):
        fragments, scores, ys, xs = random_case(seed)
        ours = covered(Peaks(*map(jnp.asarray, (scores, ys, xs))), fragments)
        probability, confidence = oracle.cover(scores, ys, xs, fragments, SHAPE, TWO_PEAKS)
        np.testing.assert_allclose(ours.probability, probability, atol=1e-5)
        np.testing.assert_allclose(ours.confidence, confidence, atol=1e-5)

    @given(st.integers(0, 2**20))
    def test_ranges_and_prior(self, seed):
        fragments, scores, ys, xs = random_case(seed)
        ours = covered(Peaks(*map(jnp.asarray, (scores, ys, xs))), fragments)
        assert ((ours.probability >= 0) & (ours.probability <= 1)).all()
        assert ((ours.confidence >= 0) & (ours.confidence < 1)).all()
        bare = np.asarray(ours.confidence) == 0
        np.testing.assert_allclose(np.asarray(ours.probability)[bare], 0.25)

    def test_nothing_found_leaves_the_prior(self):
        fragments, scores, ys, xs = random_case(0)
        ours = covered(Peaks(*map(jnp.asarray, (scores * 0, ys, xs))), fragments)
        np.testing.assert_allclose(ours.probability, 0.25)
        assert (ours.confidence == 0).all()

    def test_who_contradicts_the_better_informed_is_left_out(self):
        fragments, _, _, _ = random_case(0)
        whole = np.zeros((5, 4, 4), np.float32)
        whole[0] = 1
        fragments = dataclasses.replace(
            fragments,
            sizes=jnp.full(5, 4, jnp.int32),
            labels=jnp.asarray(whole),
            information=jnp.asarray([0.3, 0.2, 0.1, 0.1, 0.1]),
        )
        scores = np.zeros((5, 2), np.float32)
        scores[:2, 0] = 1
        here, apart = np.full((5, 2), 2, np.int32), np.full((5, 2), 2, np.int32)
        apart[1] = 6
        alone = covered(Peaks(*map(jnp.asarray, (scores, here, here))), fragments)
        both = covered(Peaks(*map(jnp.asarray, (scores, here, apart))), fragments)
        # On top of the first detection the second has no vote; next to it, it has one.
        np.testing.assert_allclose(alone.confidence[2:6, 2:6], 0.3 / 0.4, atol=1e-6)
        np.testing.assert_allclose(both.confidence[2:6, 6:10], 0.2 / 0.3, atol=1e-6)


def plain_segments(images):
    """Segmentations without any knowledge: quantised grey levels within blocks."""
    grey = images.astype(np.int64).sum(axis=-1) // 3
    rows, columns = np.mgrid[: images.shape[1], : images.shape[2]]
    return np.stack(
        [
            (rows // block * 64 + columns // block)[None] * 16 + grey // step
            for block, step in ((16, 40), (32, 60))
        ],
        axis=1,
    )


def iou(probability, masks):
    figure = np.asarray(probability) > 0.5
    return np.mean((figure & masks).sum((1, 2)) / (figure | masks).sum((1, 2)))


@pytest.fixture(scope="module")
def creatures():
    return generate(CREATURES)


@pytest.fixture(scope="module")
def learned(creatures):
    segments = plain_segments(creatures.images)
    return learn_fragments(creatures.images, creatures.grounds, segments, SMALL, seed=3)


@pytest.fixture(scope="module")
def unseen():
    return generate(dataclasses.replace(CREATURES, num_creatures=10, num_grounds=10), stream=1)


@pytest.fixture(scope="module")
def found(learned, unseen):
    def of_image(image):
        return top_down(image, learned, SMALL)

    both = np.concatenate([unseen.images, unseen.grounds])
    return jax.jit(jax.vmap(of_image))(jnp.asarray(both))


class TestLearning:
    def test_what_is_learned(self, learned):
        count = len(learned.sizes)
        assert 10 <= count <= 25
        assert learned.labels.shape == learned.patches.shape == (count, 16, 16)
        assert ((learned.labels >= 0) & (learned.labels <= 1)).all()
        assert (learned.information > 0).all()
        assert learned.information[0] == learned.information.max()
        for patch, label, size in zip(learned.patches, learned.labels, learned.sizes, strict=True):
            assert jnp.linalg.norm(patch) == pytest.approx(1, abs=1e-5)
            assert patch.sum() == pytest.approx(0, abs=1e-4)
            assert not label[int(size) :].any()
            assert not label[:, int(size) :].any()

    def test_figure_is_found_in_new_images(self, found, unseen):
        """Beats baselines that need no learning: everything, or a disc in the middle."""
        y, x = np.mgrid[:64, :64] - 31.5
        discs = [
            iou(np.broadcast_to(np.hypot(x, y) < radius, (10, 64, 64)), unseen.masks)
            for radius in range(4, 64, 4)
        ]
        assert iou(found.probability[:10], unseen.masks) > max(discs) + 0.1

    def test_more_is_found_where_the_class_is(self, found, unseen):
        confidence = np.asarray(found.confidence)
        assert confidence[:10].mean() > 1.2 * confidence[10:].mean()
        assert confidence[:10][unseen.masks].mean() > 1.2 * confidence[:10][~unseen.masks].mean()

    def test_learning_again_gives_the_same(self, creatures, learned):
        # Segment numbers carry no meaning.
        segments = 10_000_000 - 3 * plain_segments(creatures.images)
        again = learn_fragments(creatures.images, creatures.grounds, segments, SMALL, seed=3)
        for one, other in zip(jax.tree.leaves(learned), jax.tree.leaves(again), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)

    def test_labels_do_not_depend_on_the_places_searched_later(self, creatures, learned):
        """Learning uses each fragment's best position only, however many are searched later."""
        segments = plain_segments(creatures.images)
        settings = dataclasses.replace(SMALL, peaks=3)
        many = learn_fragments(creatures.images, creatures.grounds, segments, settings, seed=3)
        np.testing.assert_allclose(many.labels, learned.labels, atol=1e-6)

    def test_one_image_as_in_a_batch(self, learned, unseen, found):
        image = jnp.asarray(unseen.images[4])
        ours = top_down(image, learned, SMALL)
        np.testing.assert_allclose(ours.probability, found.probability[4], atol=1e-4)
        of_floats = top_down(image.astype(jnp.float32) / 255, learned, SMALL)
        np.testing.assert_allclose(of_floats.probability, ours.probability, atol=1e-4)

    def test_odd_sizes_keep_their_shape(self, learned, unseen):
        ours = top_down(jnp.asarray(unseen.images[0, :61, :47]), learned, SMALL)
        assert ours.probability.shape == ours.confidence.shape == (61, 47)
        assert jnp.isfinite(ours.probability).all()


class TestErrors:
    def test_other_cells(self, learned):
        with pytest.raises(ValueError, match="learned with downsample 2, the config has 4"):
            image = jnp.zeros((64, 64, 3), jnp.uint8)
            top_down(image, learned, dataclasses.replace(SMALL, downsample=4))

    def test_a_small_image(self, learned):
        with pytest.raises(ValueError, match="16 cells a side, the image has 15 x 32"):
            top_down(jnp.zeros((30, 64, 3), jnp.uint8), learned, SMALL)

    @pytest.mark.parametrize("shape", [(64, 64), (64, 64, 1), (2, 64, 64, 3)])
    def test_no_rgb_image(self, learned, shape):
        with pytest.raises(ValueError, match="wanted RGB"):
            top_down(jnp.zeros(shape, jnp.uint8), learned, SMALL)

    def test_nan_is_no_image_without_the_class(self, learned, unseen):
        image = jnp.asarray(unseen.images[4], jnp.float32) / 255
        of_nan = top_down(image.at[3, 5, 0].set(jnp.nan), learned, SMALL)
        assert jnp.isnan(of_nan.probability).all()
        assert jnp.isnan(of_nan.confidence).all()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"class_images": np.zeros((0, 64, 64, 3), np.uint8)}, "class_images are .0, 64"),
            ({"other_images": np.zeros((0, 64, 64, 3), np.uint8)}, "other_images are .0, 64"),
            ({"class_images": np.zeros((2, 64, 64), np.uint8)}, "wanted RGB"),
            ({"other_images": np.zeros((2, 64, 64, 1), np.uint8)}, "wanted RGB"),
            ({"class_images": np.full((2, 64, 64, 3), np.nan, np.float32)}, "without NaN"),
            ({"class_images": np.full((2, 64, 64, 3), 200.0, np.float32)}, "from 200.0 to 200.0"),
            ({"class_images": np.zeros((2, 64, 64, 3), np.int32)}, "wanted uint8"),
            ({"other_images": np.zeros((2, 64, 64, 3), np.float32)}, "give both alike"),
            ({"other_images": np.zeros((2, 64, 60, 3), np.uint8)}, "of one size"),
            ({"segments": np.zeros((2, 1, 64, 64), np.float32)}, "wanted integers"),
            ({"segments": np.full((2, 1, 64, 64), -1)}, "wanted integers of 0 or more"),
            ({"segments": np.zeros((2, 0, 64, 64), np.int32)}, "L of 1 or more"),
            ({"segments": np.zeros((2, 1, 64, 60), np.int32)}, "here 2, L of 1 or more, 64, 64"),
            ({"config": TopDownConfig(sizes=(40,))}, "fragments up to 80"),
            ({}, "no window of the class images has a contrast"),
        ],
    )
    def test_learning_refuses(self, change, message):
        flat = np.zeros((2, 64, 64, 3), np.uint8)
        arguments = {
            "class_images": flat,
            "other_images": flat,
            "segments": np.zeros((2, 1, 64, 64), np.int32),
            "config": SMALL,
        } | change
        with pytest.raises(ValueError, match=message):
            learn_fragments(**arguments)

    def test_nothing_in_common(self):
        rng = np.random.default_rng(0)
        images = rng.integers(0, 255, (2, 64, 64, 3), np.uint8)
        segments = np.zeros((2, 1, 64, 64), np.int32)
        with pytest.raises(ValueError, match="is found in class images more than in the others"):
            # The same images serve as images with and without the class.
            learn_fragments(images, images, segments, SMALL)
