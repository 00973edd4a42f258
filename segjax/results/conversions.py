"""From instances, semantic and panoptic maps to one another: every way with its rule."""

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
    """Paints objects into a semantic map; where they overlap the best score wins.

    Of equal scores the earlier object wins. Without scores (ground truth) all objects count, and
    the smaller wins, of equal areas the later: so training labels are drawn from instances.

    Args:
      instances: with masks, unless there are none.
      score_threshold: leave out scores at or below it.
      background: name of one more class, the last, for pixels of no object; None leaves them
        unknown.

    Returns:
      Labels are the class indices; `contested_pixels` counts where classes overlapped.

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
    """Forgets which object a pixel belongs to: labels are places in `categories`, void is 255.

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
    """The things of a panoptic map as objects without overlap, best first.

    Boxes are those of the masks. Crowds are not single objects and are skipped. There are scores if
    every thing has one; else the order is the map's.
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
    """The segments that are single objects, in the order of `instances_of_panoptic`."""
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
    """Merges instances and a semantic map; `panoptic_merge.merge_detections` says how.

    Classes meet by their names. A semantic label becomes stuff if its name is that of a stuff
    category; all other labels (of things, "things", 255) never do, and `dropped.other_pixels`
    counts the pixels that are void for it.

    Args:
      instances: with masks, unless there are none.
      semantic: labels of the same image.
      categories: categories of the panoptic map. () takes the instances' classes as things and the
        semantic classes of other names, but "things", as stuff, with ids from 1.
      score_threshold: least score of an instance.
      overlap_threshold: largest part of an instance that better ones may have taken.
      stuff_area: least pixels of a stuff segment.

    Raises:
      ValueError: if sizes differ, classes have no names, or names do not belong together.
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
    """Says which category an instance class or a semantic label is, as `panoptic_of_parts` has it.

    Args:
      thing_names: names of the instance classes; () takes them for the things, in order.
      semantic_names: by label.
      categories: categories of the panoptic map; () makes them.
      highest_class: highest instance class that occurs.

    Returns:
      All categories; that of every instance class; that of every label that is stuff.

    Raises:
      ValueError: if classes have no names, or names do not belong together.
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
    """Says before training whether the data's names can be merged to a panoptic map afterwards.

    Args:
      thing_names: names of the instance classes, from `instances_*.json`.
      semantic_names: names of the semantic labels.
      categories: from `panoptic_*.json`; () where there is none, which fits all.

    Raises:
      ValueError: if an instance class is not a thing of the categories, two categories have one
        name or id, or no semantic class is stuff of the categories.
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
    """Categories with ids from 1: the things, then the other semantic classes but "things".

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
    """The category of every instance class: of its name, or in order where names are unknown."""
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
    """The category of every semantic label that is stuff."""
    of_name = {category.name: category for category in categories if not category.is_thing}
    found = {label: of_name[n] for label, n in enumerate(semantic_names) if n in of_name}
    if of_name and not found:
        raise ValueError(
            f"no semantic class is stuff of the categories: semantic names begin"
            f" {list(semantic_names[:3])}, stuff with {list(of_name)[:3]}: wanted the same names"
        )
    return found


def _names_of(instances: ImageDetections) -> tuple[str, ...]:
    """Class names, made up as far as classes go where they are unknown."""
    count = max(len(instances.class_names), int(instances.classes.max(initial=-1)) + 1)
    made_up = tuple(f"class {index}" for index in range(len(instances.class_names), count))
    return instances.class_names + made_up


def _best_first(instances: ImageDetections) -> list[int]:
    """Who wins an overlap, first to last."""
    if instances.scores is not None:
        return [int(i) for i in np.argsort(-instances.scores, kind="stable")]
    areas = [int(instances.mask(i).sum()) for i in range(len(instances))]
    return sorted(range(len(areas)), key=lambda i: (areas[i], -i))
