"""What panoptic maps are made of: segments, and the categories that they belong to."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a panoptic map.

    Attributes:
      id: the number of its pixels in the map of ids, at least 1; 0 is void.
      category_id: of its category.
      is_crowd: True for a region of many things of one category.
    """

    id: int
    category_id: int
    is_crowd: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class PanopticCategory:
    """A class of segments.

    Attributes:
      id: as in the file.
      name: as in the file.
      is_thing: True for countable objects, False for stuff.
    """

    id: int
    name: str
    is_thing: bool
