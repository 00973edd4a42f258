"""One result for objects, semantic and panoptic maps: names, counts and conversions."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import segjax
from segjax.data import rle
from segjax.data.segments import PanopticCategory, Segment
from segjax.results import conversions
from segjax.results.detections import ImageDetections
from segjax.results.draw.objects import label_texts
from segjax.results.maps import PanopticMap, PanopticSegment, SemanticMap
from segjax.results.panoptic_merge import Dropped
from segjax.results.result import Result

SIZE = (8, 10)
CATEGORIES = (
    PanopticCategory(1, "person", True),
    PanopticCategory(3, "road", False),
    PanopticCategory(18, "dog", True),
    PanopticCategory(90, "sky", False),
)


def detections(masks, scores, classes, names=("person", "dog")):
    return ImageDetections(
        boxes=np.array([rle.to_bbox(rle.encode(m)) for m in masks], np.float32).reshape(-1, 4),
        scores=None if scores is None else np.array(scores, np.float32),
        classes=np.array(classes, np.int32),
        image_size=SIZE,
        class_names=names,
        mask_rles=tuple(rle.encode(mask) for mask in masks),
    )


def block(y0, y1, x0, x1):
    mask = np.zeros(SIZE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def street():
    """Two overlapping people, a dog in front of one of them, and a road below the sky."""
    masks = [block(2, 6, 0, 4), block(2, 6, 3, 6), block(5, 7, 5, 8)]
    labels = np.full(SIZE, 1, np.uint8)
    labels[:4] = 2
    labels[7, :3] = 255
    return Result(
        SIZE,
        instances=detections(masks, [0.75, 0.9, 0.8], [0, 0, 1]),
        semantic=SemanticMap(labels, ("things", "road", "sky")),
    )


def panoptic_street():
    ids = np.zeros(SIZE, np.int32)
    ids[:4], ids[4:] = 7, 5
    ids[7, 0] = 0
    ids[block(2, 6, 0, 4)] = 300
    ids[block(2, 6, 4, 6)] = 2
    ids[block(6, 7, 5, 8)] = 9
    areas = Counter(ids.ravel().tolist())
    person, road, dog, sky = CATEGORIES
    segments = (
        PanopticSegment(7, sky, areas[7]),
        PanopticSegment(300, person, areas[300], 0.75),
        PanopticSegment(2, person, areas[2], 0.875),
        PanopticSegment(5, road, areas[5]),
        PanopticSegment(9, dog, areas[9], 0.5),
    )
    return PanopticMap(ids, segments, CATEGORIES)


def test_objects_are_called_as_people_call_them():
    result = street()
    assert [o.name for o in result.objects] == ["person 1", "dog 1", "person 2"]
    best = result.object("person 1")
    assert best.score == pytest.approx(0.9)
    assert (best.class_name, best.class_index, best.index) == ("person", 0, 1)
    assert best.mask.area == 12
    assert best.mask.box == (3, 2, 6, 6)
    np.testing.assert_array_equal(best.box, [3, 2, 6, 6])
    np.testing.assert_array_equal(rle.decode(best.mask.rle()), block(2, 6, 3, 6))
    assert result.object("dog 1").mask.centroid == (6.5, 6.0)
    with pytest.raises(ValueError, match=r"no object is called 'cat 1': there are .'person 1'"):
        result.object("cat 1")


def test_the_picture_says_the_same_names():
    found = street().instances
    order = [o.index for o in street().objects]
    drawn = label_texts(found, order, found.class_names)
    assert drawn == [f"{o.name} {o.score:.2f}" for o in street().objects]


def crowded_street():
    """Four people: the first hides the second, and nobody hides the fourth."""
    masks = [block(2, 6, 0, 4), block(2, 6, 1, 4), block(2, 6, 5, 8), block(0, 1, 0, 3)]
    people = detections(masks, [0.9, 0.8, 0.7, 0.06], [0, 0, 0, 0])
    result = Result(SIZE, people, SemanticMap(np.ones(SIZE, np.uint8), ("things", "road")))
    return dataclasses.replace(result, panoptic=result.to_panoptic(stuff_area=1))


def test_segments_are_called_as_their_objects():
    result = crowded_street()
    assert result.panoptic.dropped == Dropped(low_score=1, overlapping=1)
    assert result.segment_names == {1: "person 1", 2: "person 3"}
    assert [s.instance for s in result.panoptic.segments] == [0, 2, None]
    for number, name in result.segment_names.items():
        np.testing.assert_array_equal(result.panoptic.mask(number), result.object(name).mask.pixels)
    alone = dataclasses.replace(result, instances=None)
    assert alone.segment_names == {1: "person 1", 2: "person 2"}
    assert alone.object("person 2").mask.box == (5, 2, 8, 6)
    # No segment is named after an object that was filtered out.
    few = dataclasses.replace(result, instances=result.instances.above(0.75))
    assert few.segment_names == {1: "person 1"}
    others = dataclasses.replace(result.instances, scores=np.float32([0.5, 0.5, 0.7, 0.5]))
    assert dataclasses.replace(result, instances=others).segment_names == {2: "person 1"}
    with pytest.raises(ValueError, match="has no panoptic map"):
        _ = street().segment_names


@given(st.integers(0, 2**32 - 1), st.integers(0, 6), st.booleans())
def test_every_thing_of_a_merged_map_is_part_of_the_object_of_its_name(seed, count, scored):
    rng = np.random.default_rng(seed)
    masks = rng.random((count, *SIZE)) < 0.3
    scores = rng.choice([0.25, 0.5, 0.75, 0.875], count) if scored else None
    found = detections(masks, scores, rng.integers(0, 2, count))
    result = Result(SIZE, found, SemanticMap(np.ones(SIZE, np.uint8), ("things", "road")))
    panoptic = result.to_panoptic(overlap_threshold=rng.choice([0.2, 0.5, 0.9]))
    result = dataclasses.replace(result, panoptic=panoptic)
    things = {s.id: s for s in panoptic.segments if s.category.is_thing}
    assert result.segment_names.keys() == things.keys()
    assert len(set(result.segment_names.values())) == len(things)
    for number, name in result.segment_names.items():
        named = result.object(name)
        assert (named.class_name, named.score) == (
            things[number].category.name,
            things[number].score,
        )
        assert not (panoptic.mask(number) & ~named.mask.pixels).any()


@given(st.lists(st.tuples(st.sampled_from([0.25, 0.5, 0.75, 1.0]), st.integers(0, 2)), max_size=9))
def test_names_are_stable(drawn):
    masks = [block(0, 1, 0, 1)] * len(drawn)
    found = detections(masks, [s for s, _ in drawn], [k for _, k in drawn], ("a", "b"))
    names = {o.index: o.name for o in Result(SIZE, found).objects}
    assert len(set(names.values())) == len(drawn)
    for index, (score, k) in enumerate(drawn):
        better = [
            other
            for other, (s, c) in enumerate(drawn)
            if c == k and (s > score or (s == score and other < index))
        ]
        assert names[index] == f"{('a', 'b', 'class 2')[k]} {len(better) + 1}"
    for threshold in (0.25, 0.5, 0.75, 1.0):
        kept = Result(SIZE, found.above(threshold))
        assert {o.name for o in kept.objects} == {
            names[i] for i, (s, _) in enumerate(drawn) if s > threshold
        }
        counts = Result(SIZE, found).counts(threshold)
        assert counts == Counter(o.class_name for o in kept.objects)
        assert list(counts) == [name for name in ("a", "b", "class 2") if name in counts]


def test_counts():
    assert list(street().counts().items()) == [("person", 2), ("dog", 1)]
    assert street().counts(0.75) == {"person": 1, "dog": 1}
    assert crowded_street().counts() == crowded_street().counts(0.5) == {"person": 3}
    assert crowded_street().counts(0.0) == {"person": 4}
    assert dataclasses.replace(crowded_street(), instances=None).counts() == {"person": 2}
    assert crowded_street().counts(0.9) == {}  # a score equal to the threshold is not counted
    truth = dataclasses.replace(street().instances, scores=None)
    assert Result(SIZE, truth).counts(0.99) == {"person": 2, "dog": 1}
    assert Result(SIZE, panoptic=panoptic_street()).counts() == {"person": 2}
    assert Result(SIZE, panoptic=panoptic_street()).counts(0.25) == {"person": 2, "dog": 1}


def test_instances_to_semantic_by_score():
    made = street().instances_to_semantic(background="ground")
    assert made.names == ("person", "dog", "ground")
    wanted = np.full(SIZE, 2, np.uint8)
    wanted[block(5, 7, 5, 8)] = 1
    wanted[block(2, 6, 0, 4) | block(2, 6, 3, 6)] = 0  # the higher-scoring person covers the dog
    np.testing.assert_array_equal(made.labels, wanted)
    assert made.contested_pixels == 1  # only person against dog; two people do not contest a class
    assert list(made.areas().items()) == [("ground", 51), ("person", 24), ("dog", 5)]
    few = street().instances_to_semantic(score_threshold=0.75)
    assert (few.labels == 255).sum() == SIZE[0] * SIZE[1] - 17


def test_ground_truth_to_semantic_lets_the_smaller_win():
    masks = [block(0, 2, 0, 2), block(0, 8, 0, 10), block(1, 3, 1, 3)]
    made = conversions.semantic_of_instances(detections(masks, None, [0, 1, 1]))
    assert made.labels[1, 1] == 1  # the later of two equal areas wins
    assert made.labels[0, 0] == 0
    assert (made.labels != 255).all()
    assert made.contested_pixels == 4


@given(st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_instances_to_semantic_pixel_by_pixel(seed, count):
    rng = np.random.default_rng(seed)
    masks = rng.random((count, *SIZE)) < 0.4
    scores, classes = rng.choice([0.25, 0.5, 0.75], count), rng.integers(0, 3, count)
    made = conversions.semantic_of_instances(
        detections(masks, scores, classes, ("a", "b", "c")), score_threshold=0.25
    )
    contested = 0
    for y, x in np.ndindex(SIZE):
        here = [i for i in range(count) if masks[i, y, x] and scores[i] > 0.25]
        best = min(here, key=lambda i: (-scores[i], i), default=None)
        assert made.labels[y, x] == (255 if best is None else classes[best])
        contested += len({int(classes[i]) for i in here}) > 1
    assert made.contested_pixels == contested


def test_parts_to_panoptic():
    made = street().to_panoptic(stuff_area=20)
    assert [(c.id, c.name, c.is_thing) for c in made.categories] == [
        (1, "person", True),
        (2, "dog", True),
        (3, "road", False),
        (4, "sky", False),
    ]
    assert [(s.category.name, s.area) for s in made.segments] == [
        ("person", 12),
        ("dog", 5),
        ("person", 12),
        ("road", 20),
        ("sky", 28),
    ]
    assert [s.score for s in made.segments[3:]] == [None, None]
    assert made.dropped == Dropped(other_pixels=3)
    assert made.ids[0, 0] == 5
    assert made.ids[7, 0] == 0
    ids, segments = made.to_segments()
    assert ids is made.ids
    assert segments == [Segment(n, c) for n, c in zip(range(1, 6), (1, 2, 1, 3, 4), strict=True)]


def test_parts_meet_by_name():
    result = street()
    made = result.to_panoptic(CATEGORIES, stuff_area=1)
    assert [s.category.id for s in made.segments] == [1, 18, 1, 3, 90]
    # A thing label never becomes stuff, whatever its name.
    named = SemanticMap(result.semantic.labels, ("person", "road", "dog"))
    made = dataclasses.replace(result, semantic=named).to_panoptic(CATEGORIES, stuff_area=1)
    assert [s.category.name for s in made.segments] == ["person", "dog", "person", "road"]
    assert made.dropped.other_pixels == (made.ids == 0).sum() > 20
    # Unnamed instance classes are the things in order.
    unnamed = dataclasses.replace(result.instances, class_names=())
    made = Result(SIZE, unnamed, result.semantic).to_panoptic(CATEGORIES)
    assert [s.category.name for s in made.segments] == ["person", "dog", "person"]
    assert made.dropped.small_stuff == 2


def test_ground_truth_stays_without_scores():
    result = street()
    truth = dataclasses.replace(result.instances, scores=None)
    made = Result(SIZE, truth, result.semantic).to_panoptic(stuff_area=1)
    assert {s.score for s in made.segments} == {None}
    assert conversions.instances_of_panoptic(made).scores is None


def test_panoptic_to_semantic_and_instances():
    result = Result(SIZE, panoptic=panoptic_street())
    semantic = result.panoptic_to_semantic()
    assert semantic.names == ("person", "road", "dog", "sky")
    lookup = {7: 3, 300: 0, 2: 0, 5: 1, 9: 2, 0: 255}
    wanted = [[lookup[i] for i in row] for row in result.panoptic.ids.tolist()]
    np.testing.assert_array_equal(semantic.labels, wanted)
    found = result.panoptic_to_instances()
    assert found.class_names == ("person", "dog")
    np.testing.assert_array_equal(found.scores, np.float32([0.875, 0.75, 0.5]))
    np.testing.assert_array_equal(found.classes, [0, 0, 1])
    np.testing.assert_array_equal(found.boxes, [[4, 2, 6, 6], [0, 2, 4, 6], [5, 6, 8, 7]])
    np.testing.assert_array_equal(found.mask(0), result.panoptic.ids == 2)
    assert [o.name for o in result.objects] == ["person 1", "person 2", "dog 1"]


def test_crowds_are_no_objects():
    panoptic = panoptic_street()
    first, crowd, *rest = panoptic.segments
    crowd = dataclasses.replace(crowd, is_crowd=True, score=None)
    mixed = dataclasses.replace(panoptic, segments=(first, crowd, *rest))
    assert len(conversions.instances_of_panoptic(mixed)) == 2
    assert mixed.to_segments()[1][1] == Segment(300, 1, is_crowd=True)


def partition(panoptic):
    """Represents the map as a set of (class, its pixels)."""
    return {(s.category, (panoptic.ids == s.id).tobytes()) for s in panoptic.segments}


@given(st.integers(0, 2**32 - 1))
def test_panoptic_apart_and_together_again(seed):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 7, SIZE).astype(np.int32)
    person, road, dog, sky = CATEGORIES
    kinds = dict(enumerate((road, person, dog, person, sky, person), start=1))
    present = [i for i in kinds if (ids == i).any()]
    segments = tuple(
        PanopticSegment(
            i,
            kinds[i],
            int((ids == i).sum()),
            float(np.float32(rng.uniform(0.1, 1))) if kinds[i].is_thing else None,
        )
        for i in present
    )
    start = PanopticMap(ids, segments, CATEGORIES)
    whole = Result(SIZE, panoptic=start)
    apart = Result(SIZE, whole.panoptic_to_instances(), whole.panoptic_to_semantic())
    again = apart.to_panoptic(CATEGORIES, score_threshold=0.0, stuff_area=1)
    assert partition(again) == partition(start)
    assert again.dropped == Dropped(other_pixels=int((ids == 0).sum()))
    scores = {s.score for s in again.segments}
    assert scores == {s.score for s in segments}


def test_reading_a_map_measures_it():
    panoptic = panoptic_street()
    ids, segments = panoptic.to_segments()
    absent = [*segments, Segment(44, 3)]
    read = PanopticMap.from_segments(ids.astype(np.int64), absent, CATEGORIES)
    assert [(s.id, s.category, s.area) for s in read.segments] == [
        (s.id, s.category, s.area) for s in panoptic.segments
    ]
    with pytest.raises(ValueError, match=r"category ids \[4\] are not among \[1, 3, 18, 90\]"):
        PanopticMap.from_segments(ids, [Segment(7, 4)], CATEGORIES)
    with pytest.raises(
        ValueError, match=r"segments and map disagree: the map holds.*2: 8, 5: 24, 9: 3"
    ):
        PanopticMap.from_segments(ids, segments[:1], CATEGORIES)


def test_nothing_found():
    empty = detections(np.zeros((0, *SIZE), bool), [], [])
    unknown = SemanticMap(np.full(SIZE, 255, np.uint8), ("things", "road"))
    result = Result(SIZE, empty, unknown)
    assert result.objects == ()
    assert result.counts() == {}
    assert result.semantic.areas() == {}
    assert (result.instances_to_semantic().labels == 255).all()
    panoptic = result.to_panoptic()
    assert panoptic.segments == ()
    again = dataclasses.replace(result, panoptic=panoptic)
    assert len(again.panoptic_to_instances()) == 0
    assert (again.panoptic_to_semantic().labels == 255).all()
    unmasked = ImageDetections.from_coco([], SIZE, (3,))
    assert (conversions.semantic_of_instances(unmasked).labels == 255).all()


def test_what_is_missing_is_named():
    nothing = Result(SIZE)
    for call, word in (
        (nothing.instances_to_semantic, "no instances"),
        (nothing.panoptic_to_semantic, "no panoptic map"),
        (nothing.panoptic_to_instances, "no panoptic map"),
        (nothing.to_panoptic, "no instances"),
        (Result(SIZE, street().instances).to_panoptic, "no semantic map"),
        (nothing.counts, "no panoptic map"),
    ):
        with pytest.raises(ValueError, match=f"this result has {word}: take a model"):
            call()
    boxes_only = dataclasses.replace(street().instances, mask_rles=None)
    result = Result(SIZE, boxes_only, street().semantic)
    with pytest.raises(ValueError, match="person 1 has no mask"):
        _ = result.objects[0].mask
    for convert in (result.instances_to_semantic, result.to_panoptic):
        with pytest.raises(ValueError, match="have no masks"):
            convert()
    with pytest.raises(ValueError, match="have no masks"):
        conversions.semantic_of_instances(dataclasses.replace(boxes_only, scores=None))


def test_what_does_not_belong_together_is_refused():
    result = street()
    with pytest.raises(ValueError, match=r"instances are of an image of \(8, 10\).*\(9, 10\)"):
        dataclasses.replace(result, image_size=(9, 10))
    foreign = SemanticMap(result.semantic.labels, ("things", "lawn", "sea"))
    with pytest.raises(ValueError, match=r"no semantic class is stuff.*'lawn'.*'road', 'sky'"):
        dataclasses.replace(result, semantic=foreign).to_panoptic(CATEGORIES)
    with pytest.raises(ValueError, match="instance class 'dog' is no thing"):
        result.to_panoptic(CATEGORIES[:2])
    unnamed = dataclasses.replace(result.instances, class_names=())
    with pytest.raises(ValueError, match="0 names of instance classes, 3 of semantic ones"):
        Result(SIZE, unnamed, result.semantic).to_panoptic()
    with pytest.raises(ValueError, match="an instance is of class 1, there are 1 things"):
        Result(SIZE, unnamed, result.semantic).to_panoptic(CATEGORIES[:2])


def test_names_can_be_checked_before_there_are_maps():
    things, pixels = ("dog", "person"), ("things", "road", "sky")
    conversions.check_names(things, pixels, CATEGORIES)
    conversions.check_names(("dog",), ("dog", "sky"), CATEGORIES)
    conversions.check_names((), pixels, CATEGORIES)
    conversions.check_names(("cat",), ("lawn",), ())
    words = (
        r"instances_\*.json calls a class 'Dog', which is none of the 2 things of"
        r" panoptic_\*.json; there are .'dog', 'person'.: use the same names in both"
    )
    with pytest.raises(ValueError, match=words):
        conversions.check_names(("person", "Dog"), pixels, CATEGORIES)
    with pytest.raises(ValueError, match="calls a class 'road'"):
        conversions.check_names(("road",), pixels, CATEGORIES)
    with pytest.raises(ValueError, match="no semantic class is stuff of the categories"):
        conversions.check_names(things, ("things", "lawn"), CATEGORIES)
    doors = (*CATEGORIES, PanopticCategory(100, "sky", False))
    with pytest.raises(ValueError, match="2 categories have the name 'sky': wanted one"):
        conversions.check_names(things, pixels, doors)
    # What passes validation can be merged.
    for names in (things, ("dog",), ()):
        found = detections([block(0, 2, 0, 2)], [0.9], [0], names)
        parts = Result(SIZE, found, SemanticMap(np.ones(SIZE, np.uint8), pixels))
        assert len(parts.to_panoptic(CATEGORIES, stuff_area=1).segments) == 2


def test_maps_are_checked():
    with pytest.raises(ValueError, match=r"labels from 0 to 3: wanted 0..1, or 255"):
        SemanticMap(np.array([[0, 3, 255]], np.uint8), ("a", "b"))
    with pytest.raises(ValueError, match="labels from -1 to 0"):
        SemanticMap(np.array([[0, -1]], np.int32))
    with pytest.raises(ValueError, match="256 classes, but labels are 8 bits"):
        SemanticMap(np.array([[0]], np.uint8), tuple(map(str, range(256))))
    panoptic = panoptic_street()
    with pytest.raises(ValueError, match="which is not in categories"):
        dataclasses.replace(panoptic, categories=CATEGORIES[1:])
    below = PanopticSegment(-3, CATEGORIES[0], 1)
    with pytest.raises(ValueError, match=r"the map holds the id -3: wanted 0 \(void\) or more"):
        PanopticMap(np.array([[0, -3]], np.int32), (below,), CATEGORIES)
    with pytest.raises(ValueError, match="2 categories have the name 'person': wanted one"):
        dataclasses.replace(
            panoptic, categories=(*CATEGORIES, PanopticCategory(7, "person", False))
        )
    with pytest.raises(ValueError, match="2 categories have the id 3"):
        dataclasses.replace(panoptic, categories=(*CATEGORIES, PanopticCategory(3, "x", False)))


def test_it_is_public():
    assert segjax.Result is Result
