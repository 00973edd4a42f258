"""Geometry of a single mask: area, bounding box, centroid, outlines and RLE."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from segjax.data import rle

# Directions of outline steps (x, y): right, down, left, up. Each is a right turn from the previous
# one, as y points down.
_STEPS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])


@dataclasses.dataclass(frozen=True)
class Mask:
    """The mask of one object over its image, stored as RLE and decoded on demand.

    Pixel (x, y) covers the square from (x, y) to (x + 1, y + 1), which matches half-open boxes.
    Coordinates refer to pixel edges, and the centre of the first pixel is (0.5, 0.5).

    Attributes:
      encoded: COCO's compressed RLE.
    """

    encoded: rle.Rle

    @classmethod
    def of(cls, pixels: Bool[np.ndarray, "h w"] | UInt8[np.ndarray, "h w"]) -> "Mask":
        """Encodes a mask that is nonzero on the object."""
        return cls(rle.encode(pixels))

    def rle(self) -> rle.Rle:
        """Returns COCO's compressed RLE, `{"size", "counts"}`, including holes and parts."""
        return {"size": list(self.encoded["size"]), "counts": self.encoded["counts"]}

    @functools.cached_property
    def pixels(self) -> Bool[np.ndarray, "h w"]:
        """The mask over the whole image, decoded on first use."""
        return rle.decode(self.encoded).astype(bool)

    @functools.cached_property
    def _measured(self) -> tuple[int, tuple[int, int, int, int]]:
        return rle.measure(self.encoded)

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self._measured[0]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Bounding box (x0, y0, x1, y1), half-open; zeros for an empty mask."""
        return self._measured[1]

    @functools.cached_property
    def centroid(self) -> tuple[float, float]:
        """Mean (x, y) of the pixel centres; (nan, nan) for an empty mask."""
        if not self.area:
            return float("nan"), float("nan")
        height, width = self.encoded["size"]
        x = self.pixels.sum(axis=0) @ np.arange(0.5, width) / self.area
        y = self.pixels.sum(axis=1) @ np.arange(0.5, height) / self.area
        return float(x), float(y)

    def polygon(self, *, holes: bool = True) -> list[list[float]]:
        """Returns the exact outlines along pixel edges; all corners are integers.

        Outer outlines run clockwise on the screen, and outlines of holes counter-clockwise.
        Filling them by the even-odd or the nonzero rule (OpenCV, Pillow, SVG, matplotlib), or
        summing signed areas, reproduces the mask including its holes. COCO polygons cannot have
        holes, as readers fill the union of all outlines. For COCO, use `holes=False`, which fills
        the holes, or `rle()`, which keeps them. Pixels that only touch at a corner belong to
        separate outlines, unless they are connected elsewhere.

        Args:
          holes: include the outlines of holes.

        Returns:
          `[x0, y0, x1, y1, ...]` for every outline, starting at its uppermost, then leftmost
          corner, without repeating the first point; [] for an empty mask.
        """
        x0, y0, x1, y1 = self.box
        rings = _outlines(self.pixels[y0:y1, x0:x1])
        wanted = rings if holes else [ring for ring in rings if _signed_area(ring) > 0]
        return [(ring + np.array([x0, y0])).astype(np.float64).ravel().tolist() for ring in wanted]


def _outlines(pixels: Bool[np.ndarray, "h w"]) -> list[Int64[np.ndarray, "corners 2"]]:
    """Returns the corners (x, y) of every outline, with the mask on its right-hand side."""
    leaves = _edges(pixels)
    # In row-major order, the first edge of every outline is its uppermost, leftmost one.
    y, x, direction = (part.astype(np.int64) for part in np.nonzero(np.moveaxis(leaves, 0, -1)))
    number = np.full(leaves.shape, -1, np.int64)
    number[direction, y, x] = np.arange(len(x))
    end_x, end_y = x + _STEPS[direction, 0], y + _STEPS[direction, 1]
    follower = np.full(len(x), -1, np.int64)
    # The last match wins: a right turn stays at the same pixel, where two pixels touch at a corner.
    for turn in (-1, 0, 1):
        candidate = number[(direction + turn) % 4, end_y, end_x]
        follower = np.where(candidate >= 0, candidate, follower)
    points = np.stack([x, y], axis=1)
    rings = []
    for members in _cycles(follower):
        turns = direction[members] != direction[np.roll(members, 1)]
        rings.append(points[members[turns]])
    return rings


def _edges(pixels: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "4 H W"]:
    """Returns True where a unit step in a direction starts at a corner, along the mask's edge."""
    framed = np.pad(pixels, 1)
    up_left, up_right = framed[:-1, :-1], framed[:-1, 1:]
    down_left, down_right = framed[1:, :-1], framed[1:, 1:]
    return np.stack(
        [
            down_right & ~up_right,
            down_left & ~down_right,
            up_left & ~down_left,
            up_right & ~up_left,
        ]
    )


def _cycles(follower: Int64[np.ndarray, " n"]) -> list[Int64[np.ndarray, " members"]]:
    """Returns the cycles of a permutation, each starting at its smallest member."""
    after = follower.tolist()
    seen = bytearray(len(after))
    cycles = []
    for first in range(len(after)):
        if seen[first]:
            continue
        members, here = [], first
        while not seen[here]:
            seen[here] = 1
            members.append(here)
            here = after[here]
        cycles.append(np.array(members, np.int64))
    return cycles


def _signed_area(ring: Int64[np.ndarray, "corners 2"]) -> float:
    """Computes the area by the shoelace formula; positive for clockwise on the screen."""
    x, y = ring.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
