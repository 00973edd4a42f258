"""Words of panoptic segmentation that reading, models and evaluation share.

A panoptic map is an int [H, W] array of segment ids, 0 where nothing is known ("void"); a list of
segments says what the ids are (Kirillov et al., "Panoptic Segmentation", 1801.00868).
"""

import dataclasses

import numpy as np
from jaxtyping import Int32, UInt8

# The id of pixels that belong to no segment, as in COCO's panoptic format.
VOID = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """One region of a panoptic map.

    Attributes:
      id: the value of its pixels in the map, above 0.
      category_id: `id` of its `PanopticCategory`.
      is_crowd: ground truth only: several objects of the class that were not told apart.
    """

    id: int
    category_id: int
    is_crowd: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class PanopticCategory:
    """A class of panoptic segmentation.

    Attributes:
      id: the data set's number of it; COCO's have gaps.
      name: as people say it.
      is_thing: True for countable objects, False for stuff (one segment per image at most).
    """

    id: int
    name: str
    is_thing: bool


def ids_of(colours: UInt8[np.ndarray, "h w 3"]) -> Int32[np.ndarray, "h w"]:
    """Takes segment ids out of a panoptic PNG's colours: red holds the lowest byte."""
    wide = colours.astype(np.int32)
    return wide[..., 0] + 256 * wide[..., 1] + 65536 * wide[..., 2]
