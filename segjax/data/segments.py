"""Types of panoptic segmentation, shared by reading, models and evaluation.

A panoptic map is an int [H, W] array of segment ids, where 0 is unknown ("void"). A list of
segments describes the ids (Kirillov et al., "Panoptic Segmentation", 1801.00868).
"""

import dataclasses

import numpy as np
from jaxtyping import Int32, UInt8

# Id of pixels outside all segments, as in COCO's panoptic format.
VOID = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """One region of a panoptic map.

    Attributes:
      id: value of its pixels in the map, above 0.
      category_id: `id` of its `PanopticCategory`.
      is_crowd: True for a region of several objects annotated as one; ground truth only.
    """

    id: int
    category_id: int
    is_crowd: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class PanopticCategory:
    """A class of panoptic segmentation.

    Attributes:
      id: id in the dataset; COCO's ids have gaps.
      name: human-readable name.
      is_thing: True for countable objects, False for stuff (at most one segment per image).
    """

    id: int
    name: str
    is_thing: bool


def ids_of(colours: UInt8[np.ndarray, "h w 3"]) -> Int32[np.ndarray, "h w"]:
    """Decodes segment ids from the colours of a panoptic PNG: red holds the lowest byte."""
    wide = colours.astype(np.int32)
    return wide[..., 0] + 256 * wide[..., 1] + 65536 * wide[..., 2]
