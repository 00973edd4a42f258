"""Converts a model's fixed-shape panoptic output to a map with named segments."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Integer

from segjax.data.segments import PanopticCategory
from segjax.ops.panoptic import PanopticSegments
from segjax.results.conversions import class_categories
from segjax.results.maps import PanopticMap, PanopticSegment
from segjax.results.panoptic_merge import Dropped


def collect_panoptic(
    found: PanopticSegments,
    image_size: tuple[int, int],
    thing_names: Sequence[str],
    semantic_names: Sequence[str],
    categories: Sequence[PanopticCategory] = (),
    instance_rows: Integer[np.ndarray, " n"] | None = None,
) -> PanopticMap:
    """Transfers the panoptic map of one image to the host.

    Args:
      found: segments of one image, from `merge_panoptic`.
      image_size: (height, width) of the image, which is at the upper left of the map.
      thing_names: names of the instance classes.
      semantic_names: names of the semantic head's classes.
      categories: categories of the panoptic map, as for `conversions.panoptic_of_parts`.
      instance_rows: rows of the merged detections that are also returned as instances, in their
        order, so that each segment can refer to its instance; None if there are no instances.

    Returns:
      The map, with things by descending score followed by stuff by label, and counts of what was
      dropped.

    Raises:
      ValueError: if names do not match, or a segment has a label that is not stuff.
    """
    height, width = image_size
    host = jax.device_get(found)
    rows = np.flatnonzero(host.segment_ids > 0)
    rows = rows[np.argsort(host.segment_ids[rows])]
    highest = int(host.classes[rows][host.is_thing[rows]].max(initial=-1))
    kinds, things, stuff = class_categories(thing_names, semantic_names, categories, highest)
    ids = host.ids[:height, :width]
    areas = np.bincount(ids.ravel(), minlength=int(host.segment_ids.max(initial=0)) + 1)
    place_of = {} if instance_rows is None else {int(r): i for i, r in enumerate(instance_rows)}
    segments = []
    for row in rows.tolist():
        index, is_thing = int(host.classes[row]), bool(host.is_thing[row])
        if not is_thing and index not in stuff:
            raise ValueError(
                f"a segment is of the semantic class {index}, which is no stuff: set the model's"
                f" `things` to it, or give names; those of stuff are"
                f" {[category.name for category in stuff.values()]}"
            )
        segments.append(
            PanopticSegment(
                id=int(host.segment_ids[row]),
                category=things[index] if is_thing else stuff[index],
                area=int(areas[host.segment_ids[row]]),
                score=float(host.scores[row]) if is_thing else None,
                instance=place_of.get(row) if is_thing else None,
            )
        )
    counts = {f.name: int(getattr(host.dropped, f.name)) for f in dataclasses.fields(Dropped)}
    return PanopticMap(ids, tuple(segments), kinds, Dropped(**counts))
