"""The merge on the device against the plain one, and labels at another size against two steps."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segjax.eval.panoptic_merge import merge
from segjax.ops.panoptic import merge_panoptic, semantic_labels
from segjax.ops.resize import resize_bilinear

SIZE, INSTANCES, SEMANTIC = 12, 6, 5


@functools.cache
def compiled(things, overlap, stuff_area):
    return jax.jit(
        functools.partial(
            merge_panoptic,
            num_semantic=SEMANTIC,
            things=things,
            score_threshold=0.5,
            overlap=overlap,
            stuff_area=stuff_area,
        )
    )


def draw(seed):
    """Boxes of all kinds, among them empty, equal and unwanted ones, over blocks of classes."""
    random = np.random.default_rng(seed)
    masks = np.zeros((INSTANCES, SIZE, SIZE), bool)
    for mask in masks:
        x, y, w, h = random.integers(0, SIZE, 4)
        mask[y : y + h, x : x + w] = True
    masks[-1] = masks[0] if random.random() < 0.3 else masks[-1]
    scores = np.sort(random.choice([0.3, 0.5, 0.6, 0.9], INSTANCES))[::-1].astype(np.float32)
    blocks = random.integers(-1, SEMANTIC, (3, 3))
    return (
        masks,
        scores,
        random.integers(0, 4, INSTANCES).astype(np.int32),
        random.random(INSTANCES) < 0.8,
        blocks.repeat(SIZE // 3, 0).repeat(SIZE // 3, 1).astype(np.int32),
    )


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10**6),
    st.sampled_from([None, 0, -1]),
    st.sampled_from([0.0, 0.5]),
    st.sampled_from([1, 20]),
)
def test_merge_is_the_plain_one(seed, things, overlap, stuff_area):
    masks, scores, classes, valid, semantic = draw(seed)
    found = compiled(things, overlap, stuff_area)(masks, scores, classes, valid, semantic)
    stuff = [c for c in range(SEMANTIC) if things is None or c != things % SEMANTIC]
    wanted = merge(
        masks[valid],
        scores[valid],
        classes[valid],
        semantic,
        stuff_labels=stuff,
        overlap_threshold=overlap,
        stuff_area=stuff_area,
    )
    np.testing.assert_array_equal(found.ids, wanted.ids)
    rows = {int(i): row for row, i in enumerate(found.segment_ids) if i}
    assert len(rows) == np.count_nonzero(found.segment_ids)  # every id once
    assert sorted(rows) == [segment.id for segment in wanted.segments]
    for segment in wanted.segments:
        row = rows[segment.id]
        assert int(found.classes[row]) == segment.class_index
        assert bool(found.is_thing[row]) == segment.is_thing
        assert float(found.scores[row]) == (segment.score or 0.0)
    beyond = int(((semantic < 0) & (wanted.ids == 0)).sum())  # of no image: not counted
    dropped = dataclasses.replace(wanted.dropped, other_pixels=wanted.dropped.other_pixels - beyond)
    assert {f.name: int(getattr(found.dropped, f.name)) for f in dataclasses.fields(dropped)} == (
        dataclasses.asdict(dropped)
    )


def test_an_image_without_instances_or_stuff_is_void():
    masks, scores, classes, _, semantic = draw(0)
    none = np.zeros(INSTANCES, bool)
    found = compiled(0, 0.5, 1)(masks, scores, classes, none, np.zeros_like(semantic))
    assert not np.asarray(found.ids).any() and not np.asarray(found.segment_ids).any()


@pytest.mark.parametrize(("image", "output"), [((24, 30), (24, 30)), ((20, 27), (33, 19))])
def test_labels_at_another_size_are_upsampled_cropped_and_resized(image, output):
    padded, canvas = (32, 32), (40, 36)
    logits = np.random.default_rng(0).normal(size=(8, 8, 4)).astype(np.float32)
    found = np.asarray(
        semantic_labels(
            jnp.asarray(logits),
            jnp.array(image, jnp.int32),
            jnp.array(output, jnp.int32),
            padded_size=padded,
            canvas=canvas,
        )
    )
    wide = resize_bilinear(jnp.asarray(logits[None]), padded, align_corners=False)
    cropped = wide[:, : image[0], : image[1]]
    wanted = np.asarray(resize_bilinear(cropped, output, align_corners=False))[0]
    best = np.sort(wanted, -1)
    sure = best[..., -1] - best[..., -2] > 1e-4  # elsewhere the last bits decide
    assert sure.mean() > 0.95
    inside = found[: output[0], : output[1]]
    np.testing.assert_array_equal(inside[sure], wanted.argmax(-1)[sure])
    assert (found[output[0] :] == -1).all() and (found[:, output[1] :] == -1).all()
