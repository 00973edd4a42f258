"""Conversions between instances, semantic maps and panoptic maps."""

import difflib
from collections.abc import Mapping, Sequence

import numpy as np

from segjax.data import rle
from segjax.data.images import IGNORE
from segjax.data.segments import VOID, PanopticCategory
from segjax.data.things import THINGS
from segjax.results.detections import ImageDetections
from segjax.results.maps import (
    PanopticMap,
    PanopticSegment,
    SemanticMap,
    check_categories,
    check_label_count,
)
from segjax.results.panoptic_merge import merge_detections


def semantic_of_instances(
    instances: ImageDetections, *, score_threshold: float = 0.5, background: str | None = None
) -> SemanticMap:
    """Paints objects into a semantic map. Where they overlap, the highest score wins.

    For equal scores, the earlier object wins. Without scores (ground truth), all objects are
    painted, and the smaller one wins, or the later one for equal areas. Semantic labels for
    training are made from instances in the same way.

    Args:
      instances: objects, with masks unless there are none.
      score_threshold: objects with a score up to this are omitted.
      background: name of an additional last class for pixels without an object; None to leave
        them unknown.

    Returns:
      A map whose labels are class indices. `contested_pixels` counts overlaps of classes.

    Raises:
      ValueError: without masks, or with more than 255 classes.
    """
    chosen = instances.above(score_threshold)
    names = _names_of(chosen)
    if background is not None:
        names = (*names, background)
    check_label_count(len(names))
    labels = np.full(instances.image_size, IGNORE, np.uint8)
    contested = np.zeros(instances.image_size, bool)
    for i in _best_first(chosen):
        mask, label = chosen.mask(i), int(chosen.classes[i])
        free = labels == IGNORE
        contested |= mask & ~free & (labels != label)
        labels[mask & free] = label
    if background is not None:
        labels[labels == IGNORE] = len(names) - 1
    return SemanticMap(labels, names, int(contested.sum()))


def semantic_of_panoptic(panoptic: PanopticMap) -> SemanticMap:
    """Reduces segments to their classes: labels are indices into `categories`, void is 255.

    Raises:
      ValueError: for more than 255 categories.
    """
    check_label_count(len(panoptic.categories))
    label_of = {category: label for label, category in enumerate(panoptic.categories)}
    ids = np.array([VOID, *(s.id for s in panoptic.segments)], np.int32)
    labels = np.array([IGNORE, *(label_of[s.category] for s in panoptic.segments)], np.uint8)
    order = np.argsort(ids)
    place = np.searchsorted(ids[order], panoptic.ids)
    return SemanticMap(
        labels[order][place], tuple(category.name for category in panoptic.categories)
    )


def instances_of_panoptic(panoptic: PanopticMap) -> ImageDetections:
    """Converts the things of a panoptic map to objects without overlap, best first.

    Boxes are the bounding boxes of the masks. Crowds are not single objects and are skipped. If
    any thing lacks a score, there are no scores and the order is that of the map.
    """
    things = [category for category in panoptic.categories if category.is_thing]
    class_of = {category: index for index, category in enumerate(things)}
    found = objects_of_panoptic(panoptic)
    scores = [s.score for s in found if s.score is not None]
    masks = tuple(rle.encode(panoptic.mask(s.id)) for s in found)
    boxes = np.array([rle.to_bbox(mask) for mask in masks], np.float32).reshape(-1, 4)
    return ImageDetections(
        boxes=boxes,
        scores=np.array(scores, np.float32) if len(scores) == len(found) else None,
        classes=np.array([class_of[s.category] for s in found], np.int32),
        image_size=panoptic.image_size,
        class_names=tuple(category.name for category in things),
        mask_rles=masks,
    )


def objects_of_panoptic(panoptic: PanopticMap) -> list[PanopticSegment]:
    """Returns the segments that are single objects, in the order of `instances_of_panoptic`."""
    found = [s for s in panoptic.segments if s.category.is_thing and not s.is_crowd]
    scores = [s.score for s in found if s.score is not None]
    if len(scores) < len(found):
        return found
    return [found[i] for i in np.argsort(-np.array(scores, np.float32), kind="stable")]


def panoptic_of_parts(
    instances: ImageDetections,
    semantic: SemanticMap,
    categories: Sequence[PanopticCategory] = (),
    *,
    score_threshold: float = 0.5,
    overlap_threshold: float = 0.5,
    stuff_area: int = 4096,
) -> PanopticMap:
    """Merges instances and a semantic map by the rule of `panoptic_merge.merge_detections`.

    Classes are matched by name. A semantic label becomes stuff if a stuff category has its name.
    All other labels (things, "things", 255) become void, and `dropped.other_pixels` counts their
    pixels.

    Args:
      instances: objects, with masks unless there are none.
      semantic: semantic map of the same image.
      categories: categories of the panoptic map. () makes categories with ids from 1: things from
        the instance classes, and stuff from semantic classes with other names, except "things".
      score_threshold: minimum score of an instance.
      overlap_threshold: maximum fraction of an instance that better ones may cover.
      stuff_area: minimum area of a stuff segment, in pixels.

    Raises:
      ValueError: if sizes differ, classes have no names, or names do not match.
    """
    highest = int(instances.classes.max(initial=-1))
    kinds, things, stuff = class_categories(
        instances.class_names, semantic.names, categories, highest
    )
    merged = merge_detections(
        instances,
        semantic.labels,
        stuff_labels=tuple(stuff),
        score_threshold=score_threshold,
        overlap_threshold=overlap_threshold,
        stuff_area=stuff_area,
    )
    segments = tuple(
        PanopticSegment(
            id=s.id,
            category=things[s.class_index] if s.is_thing else stuff[s.class_index],
            area=s.area,
            score=None if instances.scores is None else s.score,
            instance=s.instance,
        )
        for s in merged.segments
    )
    return PanopticMap(merged.ids, segments, kinds, merged.dropped)


def class_categories(
    thing_names: Sequence[str],
    semantic_names: Sequence[str],
    categories: Sequence[PanopticCategory],
    highest_class: int,
) -> tuple[
    tuple[PanopticCategory, ...], Sequence[PanopticCategory], Mapping[int, PanopticCategory]
]:
    """Maps instance classes and semantic labels to categories, as for `panoptic_of_parts`.

    Args:
      thing_names: names of the instance classes; () if they are the things, in order.
      semantic_names: names of the semantic classes, by label.
      categories: categories of the panoptic map; () to make them from the names.
      highest_class: highest instance class that occurs.

    Returns:
      All categories, the category of every instance class, and that of every stuff label.

    Raises:
      ValueError: if classes have no names, or names do not match.
    """
    kinds = tuple(categories) or default_categories(thing_names, semantic_names)
    check_categories(kinds)
    things = _thing_categories(thing_names, kinds)
    if highest_class >= len(things):
        raise ValueError(f"an instance is of class {highest_class}, there are {len(things)} things")
    return kinds, things, _stuff_categories(semantic_names, kinds)


def check_names(
    thing_names: Sequence[str],
    semantic_names: Sequence[str],
    categories: Sequence[PanopticCategory],
) -> None:
    """Checks before training that the data's class names will allow a panoptic merge.

    Args:
      thing_names: names of the instance classes, from `instances_*.json`.
      semantic_names: names of the semantic labels.
      categories: categories from `panoptic_*.json`; () if there is no such file, which passes.

    Raises:
      ValueError: if an instance class is not among the thing categories, two categories share a
        name or id, or no semantic class is among the stuff categories.
    """
    if not categories:
        return
    check_categories(categories)
    things = [category.name for category in categories if category.is_thing]
    lost = [name for name in thing_names if name not in things]
    if lost:
        near = difflib.get_close_matches(lost[0], things, n=3, cutoff=0)
        raise ValueError(
            f"instances_*.json calls a class {lost[0]!r}, which is none of the {len(things)} things"
            f" of panoptic_*.json; there are {near}: use the same names in both"
        )
    _stuff_categories(semantic_names, categories)


def default_categories(
    thing_names: Sequence[str], semantic_names: Sequence[str]
) -> tuple[PanopticCategory, ...]:
    """Makes categories with ids from 1: things, then other semantic classes except "things".

    Raises:
      ValueError: if names are unknown.
    """
    if not thing_names or not semantic_names:
        raise ValueError(
            f"{len(thing_names)} names of instance classes, {len(semantic_names)} of semantic"
            " ones: a panoptic map needs both, or the argument `categories` and semantic names"
        )
    stuff = [name for name in semantic_names if name not in thing_names and name != THINGS]
    named = [(name, True) for name in thing_names] + [(name, False) for name in stuff]
    return tuple(
        PanopticCategory(number, name, is_thing)
        for number, (name, is_thing) in enumerate(named, start=1)
    )


def _thing_categories(
    thing_names: Sequence[str], categories: Sequence[PanopticCategory]
) -> list[PanopticCategory]:
    """Returns the category of every instance class: by name, or by order if names are unknown."""
    things = [category for category in categories if category.is_thing]
    if not thing_names:
        return things
    of_name = {category.name: category for category in things}
    lost = [name for name in thing_names if name not in of_name]
    if lost:
        raise ValueError(f"the instance class {lost[0]!r} is no thing of the categories")
    return [of_name[name] for name in thing_names]


def _stuff_categories(
    semantic_names: Sequence[str], categories: Sequence[PanopticCategory]
) -> dict[int, PanopticCategory]:
    """Returns the category of every semantic label that is stuff."""
    of_name = {category.name: category for category in categories if not category.is_thing}
    found = {label: of_name[n] for label, n in enumerate(semantic_names) if n in of_name}
    if of_name and not found:
        raise ValueError(
            f"no semantic class is stuff of the categories: semantic names begin"
            f" {list(semantic_names[:3])}, stuff with {list(of_name)[:3]}: wanted the same names"
        )
    return found


def _names_of(instances: ImageDetections) -> tuple[str, ...]:
    """Returns class names, with placeholders for unknown ones up to the highest class."""
    count = max(len(instances.class_names), int(instances.classes.max(initial=-1)) + 1)
    made_up = tuple(f"class {index}" for index in range(len(instances.class_names), count))
    return instances.class_names + made_up


def _best_first(instances: ImageDetections) -> list[int]:
    """Returns object indices by priority in overlaps, highest first."""
    if instances.scores is not None:
        return [int(i) for i in np.argsort(-instances.scores, kind="stable")]
    areas = [int(instances.mask(i).sum()) for i in range(len(instances))]
    return sorted(range(len(areas)), key=lambda i: (areas[i], -i))
