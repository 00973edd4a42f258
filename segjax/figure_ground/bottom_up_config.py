"""Settings of `bottom_up`."""

import dataclasses
import math

from segjax.figure_ground.bottom_up_merge import MergeCost
from segjax.figure_ground.bottom_up_order import MAX_SEGMENTS
from segjax.figure_ground.bottom_up_seeds import Aggregation

# Levels with fewer segments share one program, as compiling another costs more than it saves.
_FEW_SEGMENTS = 1000


@dataclasses.dataclass(frozen=True)
class BottomUp:
    """Settings of the bottom-up grouping of an image.

    Attributes:
      cell: distance between the seeds of the finest level along each axis, in pixels.
      rounds: number of times that pixels choose among the seeds around them.
      compactness: colour distance (0..1) that weighs as much as the distance between seeds.
      shrink: capacity of each level as a fraction of the one below, from 0.5 to below 1.
      coarsest: number of segments at which grouping ends.
      borders_per_segment: capacity for borders, per segment. A planar graph has at most 3.
        Segments in several pieces, as in busy photographs and noise, have more; see
        `Hierarchy.dropped`.
      cost: costs that determine which segments join first.
      aggregation: settings of weighted aggregation, which then ignores `cost`. None merges the
        segments of lowest cost instead.
    """

    cell: int = 4
    rounds: int = 2
    compactness: float = 0.055
    shrink: float = 0.6
    coarsest: int = 4
    borders_per_segment: float = 6.0
    cost: MergeCost = MergeCost()
    aggregation: Aggregation | None = None

    def __post_init__(self) -> None:
        if self.cell < 2 or self.rounds < 1 or self.coarsest < 1:
            raise ValueError(
                f"cell is {self.cell}, rounds {self.rounds}, coarsest {self.coarsest}: wanted at "
                "least 2, 1 and 1"
            )
        if not (self.compactness >= 0 and self.borders_per_segment > 0):  # NaN is neither
            raise ValueError(
                f"compactness is {self.compactness}, borders_per_segment "
                f"{self.borders_per_segment}: wanted 0 or more, and above 0"
            )
        if not 0.5 <= self.shrink < 1:
            raise ValueError(
                f"shrink is {self.shrink}: wanted 0.5 to below 1; one round joins no more than "
                "half of the segments for certain"
            )

    def level_sizes(self, height: int, width: int) -> tuple[int, ...]:
        """Computes the capacities of the levels for an image.

        Args:
          height: height of the image, in pixels.
          width: width of the image, in pixels.

        Raises:
          ValueError: for an image that is empty or too large.
        """
        if min(height, width) < 1:
            raise ValueError(f"the image is {height} x {width}: wanted at least one pixel")
        sizes = [-(-height // self.cell) * -(-width // self.cell)]
        while sizes[-1] > self.coarsest:
            # At least one less, because the fraction of a few segments may round up to all of them.
            next_size = min(math.ceil(sizes[-1] * self.shrink), sizes[-1] - 1)
            sizes.append(max(self.coarsest, next_size))
        if len(sizes) > 1 and sizes[1] > MAX_SEGMENTS:
            raise ValueError(
                f"an image of {height} x {width} has {sizes[1]} segments on the second level, "
                f"{MAX_SEGMENTS} at most: raise cell, {self.cell} now, or resize the image"
            )
        return tuple(sizes)

    @staticmethod
    def spans(sizes: tuple[int, ...]) -> list[tuple[int, int]]:
        """Returns the first and last level of each span of steps that share one program.

        Arrays keep the length of the first level, so spans are short where levels are large.
        """
        spans, start = [], 0
        while start < len(sizes) - 1:
            stop = start + 3 if sizes[start] > _FEW_SEGMENTS else len(sizes) - 1
            spans.append((start, min(stop, len(sizes) - 1)))
            start = spans[-1][1]
        return spans

    def room(self, segments: int) -> int:
        """Returns the capacity for borders between that many segments."""
        return math.ceil(self.borders_per_segment * segments)
