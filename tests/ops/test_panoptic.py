"""The merge on device against the plain one, and labels resized in one step against two."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segjax.ops import panoptic
from segjax.ops.panoptic import merge_panoptic, semantic_labels
from segjax.ops.resize import interpolation_matrix, resize_bilinear
from tests.oracles.oracle_panoptic_merge import merge

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
    """Boxes of all kinds, including empty, equal and invalid ones, over blocks of classes."""
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
    assert len(rows) == np.count_nonzero(found.segment_ids)  # each id once
    assert sorted(rows) == [segment.id for segment in wanted.segments]
    for segment in wanted.segments:
        row = rows[segment.id]
        assert int(found.classes[row]) == segment.class_index
        assert bool(found.is_thing[row]) == segment.is_thing
        assert float(found.scores[row]) == (segment.score or 0.0)
    beyond = int(((semantic < 0) & (wanted.ids == 0)).sum())  # outside the image: not counted
    dropped = dataclasses.replace(wanted.dropped, other_pixels=wanted.dropped.other_pixels - beyond)
    assert {f.name: int(getattr(found.dropped, f.name)) for f in dataclasses.fields(dropped)} == (
        dataclasses.asdict(dropped)
    )


def test_an_image_without_instances_or_stuff_is_void():
    masks, scores, classes, _, semantic = draw(0)
    none = np.zeros(INSTANCES, bool)
    found = compiled(0, 0.5, 1)(masks, scores, classes, none, np.zeros_like(semantic))
    assert not np.asarray(found.ids).any() and not np.asarray(found.segment_ids).any()


def test_a_part_that_is_just_the_limit_is_no_overlap_too_much():
    # 117 / 180 is 0.65, but the float32 product 0.65 * 180 is less than 117.
    masks = np.zeros((2, 20, 20), bool)
    masks[0].reshape(-1)[:117] = masks[1].reshape(-1)[:180] = True
    scores, classes = np.float32([0.9, 0.8]), np.zeros(2, np.int32)
    semantic = np.zeros((20, 20), np.int32)
    found = compiled(0, 0.65, 1)(masks, scores, classes, np.ones(2, bool), semantic)
    wanted = merge(masks, scores, classes, semantic, stuff_labels=(), overlap_threshold=0.65)
    np.testing.assert_array_equal(found.ids, wanted.ids)
    assert len(wanted.segments) == 2
    less = compiled(0, 0.64, 1)(masks, scores, classes, np.ones(2, bool), semantic)
    assert np.asarray(less.segment_ids).tolist()[:2] == [1, 0]


@pytest.mark.parametrize("things", [SEMANTIC, -SEMANTIC - 1, 54])
def test_things_must_be_a_semantic_class(things):
    with pytest.raises(
        ValueError, match=rf"things is {things}, there are 5 .*wanted .*0\.\.4, or -1"
    ):
        compiled(things, 0.5, 1)(*draw(0))


@pytest.mark.parametrize("seed", range(5))
def test_masks_can_be_made_one_at_a_time(seed):
    masks, scores, classes, valid, semantic = draw(seed)
    packed = {"bits": np.packbits(masks, axis=-1), "flip": np.zeros(INSTANCES, bool)}

    def mask_of(row):
        return jnp.unpackbits(row["bits"], axis=-1, count=SIZE).astype(bool) ^ row["flip"]

    made = jax.jit(
        functools.partial(merge_panoptic, num_semantic=SEMANTIC, stuff_area=1, mask_of=mask_of)
    )(packed, scores, classes, valid, semantic)
    plain = compiled(None, 0.5, 1)(masks, scores, classes, valid, semantic)
    jax.tree.map(np.testing.assert_array_equal, made, plain)


def test_merge_on_a_mesh_and_in_a_batch():
    batch = [np.stack(parts) for parts in zip(draw(0), draw(1), strict=True)]
    many = jax.vmap(functools.partial(merge_panoptic, num_semantic=SEMANTIC, stuff_area=1))
    spec = jax.P("data")
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    on_mesh = jax.shard_map(many, mesh=mesh, in_specs=(spec,) * 5, out_specs=spec)
    found = jax.jit(on_mesh)(*batch)
    for seed in (0, 1):
        one = jax.tree.map(lambda x, row=seed: x[row], found)
        jax.tree.map(np.testing.assert_array_equal, one, compiled(None, 0.5, 1)(*draw(seed)))


def whole_labels(logits, image_size, output_size, padded_size, canvas):
    """Returns the labels of logits that are resized all at once."""
    maps = []
    for axis in (0, 1):
        up = interpolation_matrix(logits.shape[axis], padded_size[axis], align_corners=False)
        place = (np.arange(canvas[axis]) + 0.5) * image_size[axis] / output_size[axis] - 0.5
        place = np.clip(place, 0, image_size[axis] - 1)
        down = np.maximum(1 - abs(place[:, None] - np.arange(padded_size[axis])[None]), 0)
        maps.append(down @ up)
    labels = np.einsum("yh,hwk,xw->yxk", maps[0], logits.astype(np.float64), maps[1]).argmax(-1)
    labels[output_size[0] :] = labels[:, output_size[1] :] = -1
    return labels


@pytest.mark.parametrize("block", [1, 500, 1500, 2**21])  # 1, 3 or 4, 10 or 11, and all rows
@pytest.mark.parametrize("padded", [(32, 40), (40, 32)])
def test_labels_of_blocks_are_those_of_the_whole(monkeypatch, block, padded):
    monkeypatch.setattr(panoptic, "BLOCK_VALUES", block)
    sizes = {"padded_size": padded, "canvas": (37, 33)}
    image, output = (30, 31), (35, 32)
    logits = np.random.default_rng(0).normal(size=(padded[0] // 4, padded[1] // 4, 4))
    logits = logits.astype(np.float32)
    found = jax.jit(functools.partial(semantic_labels, **sizes))(
        logits, np.array(image, np.int32), np.array(output, np.int32)
    )
    np.testing.assert_array_equal(found, whole_labels(logits, image, output, **sizes))


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
