"""The merge of instances and stuff: a plain version, handmade cases and Detectron2's result."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segjax.data import rle
from segjax.results.detections import ImageDetections
from segjax.results.panoptic_merge import Dropped, merge_detections
from tests.oracles import oracle_panoptic_merge
from tests.support.examples import examples

GOLDENS = Path(__file__).resolve().parents[3] / "shared" / "goldens"


def merge(masks, scores, classes, semantic, **settings):
    """Calls `merge_detections` with encoded masks; same interface as the oracle's `merge`."""
    found = ImageDetections(
        boxes=np.zeros((len(scores), 4), np.float32),
        scores=scores,
        classes=np.asarray(classes, np.int32),
        image_size=semantic.shape,
        mask_rles=tuple(map(rle.encode, masks)),
    )
    return merge_detections(found, semantic, **settings)


@st.composite
def scenes(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, height, width = draw(st.integers(0, 5)), draw(st.integers(1, 6)), draw(st.integers(1, 6))
    masks = rng.random((count, height, width)) < draw(st.sampled_from([0.2, 0.6, 0.95]))
    scores = rng.choice(np.float32([0.25, 0.5, 0.75, 1.0]), count)
    semantic = rng.choice(np.uint8([0, 1, 2, 3, 255]), (height, width))
    return masks, scores, rng.integers(0, 3, count), semantic


@given(
    scenes(),
    st.sampled_from([0.25, 0.5, 0.75]),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.integers(0, 5),
)
@examples(15)
def test_agrees_with_loops(scene, score, overlap, area):
    settings = {
        "stuff_labels": (3, 1),
        "score_threshold": score,
        "overlap_threshold": overlap,
        "stuff_area": area,
    }
    merged, wanted = merge(*scene, **settings), oracle_panoptic_merge.merge(*scene, **settings)
    np.testing.assert_array_equal(merged.ids, wanted.ids)
    assert merged[1:] == wanted[1:]
    # Every instance and every pixel is accounted for.
    dropped, things = merged.dropped, sum(s.is_thing for s in merged.segments)
    assert things + dropped.low_score + dropped.empty + dropped.overlapping == len(scene[1])
    assert dropped.small_stuff_pixels + dropped.other_pixels == (merged.ids == 0).sum()


def _scene():
    """A street and sky; a good person, one half hidden, one nearly a duplicate, one uncertain."""
    masks = np.zeros((5, 8, 10), bool)
    masks[0, 2:6, 2:6] = True
    masks[1, 2:6, 4:8] = True
    masks[2, 2:6, 3:6] = True
    masks[3, 7, 9] = True
    semantic = np.full((8, 10), 1, np.uint8)
    semantic[4:] = 2
    semantic[0, :3] = 0
    semantic[0, 9] = 255
    semantic[7, :2] = 3
    scores = np.array([0.9, 0.8, 0.7, 0.4, 0.95], np.float32)
    return masks, scores, np.array([0, 0, 0, 1, 1], np.int32), semantic


def test_every_reason_is_counted():
    merged = merge(*_scene(), stuff_labels=(1, 2, 3), stuff_area=3)
    assert merged.dropped == Dropped(
        low_score=1, empty=1, overlapping=1, small_stuff=1, small_stuff_pixels=2, other_pixels=4
    )
    assert [(s.class_index, s.is_thing, s.area, s.instance) for s in merged.segments] == [
        (0, True, 16, 0),
        (0, True, 8, 1),  # exactly half of it is covered, which is still allowed
        (1, False, 24, None),
        (2, False, 26, None),
    ]
    assert merged.segments[0].score == pytest.approx(0.9)
    assert merged.segments[2].score is None


def test_thresholds_are_inclusive_where_the_reference_has_them_so():
    masks, scores, classes, semantic = _scene()
    at = merge(masks, scores, classes, semantic, stuff_labels=(), score_threshold=0.8)
    assert [s.instance for s in at.segments] == [0, 1]  # as float32, 0.8 is above 0.8
    tight = merge(masks, scores, classes, semantic, stuff_labels=(), overlap_threshold=0.49)
    assert [s.instance for s in tight.segments] == [0]
    exact = merge(masks, scores, classes, semantic, stuff_labels=(1,), stuff_area=24)
    assert exact.segments[-1].area == 24
    short = merge(masks, scores, classes, semantic, stuff_labels=(1,), stuff_area=25)
    assert short.dropped.small_stuff_pixels == 24


def test_nothing_at_all():
    nothing = merge(
        np.zeros((0, 4, 5), bool),
        np.zeros(0, np.float32),
        np.zeros(0, np.int32),
        np.full((4, 5), 255, np.uint8),
        stuff_labels=(0,),
    )
    assert nothing.segments == []
    assert not nothing.ids.any()
    assert nothing.dropped == Dropped(other_pixels=20)


def test_what_does_not_belong_together_is_refused():
    masks, scores, classes, semantic = _scene()
    found = ImageDetections(np.zeros((0, 4), np.float32), None, classes[:0], (8, 10), mask_rles=())
    with pytest.raises(ValueError, match=r"semantic map is \(4, 10\).*image of \(8, 10\)"):
        merge_detections(found, semantic[:4], stuff_labels=())
    scores[2] = np.nan
    with pytest.raises(ValueError, match="score of instance 2 is not a number"):
        merge(masks, scores, classes, semantic, stuff_labels=())


@pytest.mark.skipif(not GOLDENS.exists(), reason="needs the peers' golden numbers in ../shared")
def test_detectron2_took_the_same_of_its_first_masks():
    """The file holds only the first ten masks, which do not depend on later ones."""
    golden = np.load(GOLDENS / "d2_panoptic_fpn_r50.npz")
    segments, count = golden["panoptic/segments"], int(golden["detection/num_masks"])
    bits = np.unpackbits(golden["detection/masks_packed"])
    masks = bits[: count * segments.size].reshape(count, *segments.shape).astype(bool)
    info = json.loads(str(golden["panoptic/info"]))
    wanted = [s for s in info if s["isthing"] and s["instance_id"] < count]
    assert len(wanted) >= 5
    merged = merge(
        masks,
        golden["detection/scores"][:count],
        golden["detection/labels"][:count],
        golden["semantic_argmax"],
        stuff_labels=(),
        score_threshold=0.15,
        stuff_area=256,
    )
    assert [(s.id, s.instance, s.class_index) for s in merged.segments] == [
        (s["id"], s["instance_id"], s["category_id"]) for s in wanted
    ]
    np.testing.assert_array_equal(merged.ids, np.where(segments <= len(wanted), segments, 0))
