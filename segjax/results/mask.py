"""The geometry of one mask: area, box, centroid, outlines and run lengths."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from segjax.data import rle

# The steps of an outline, each a right turn from the one before on a picture whose y grows
# downwards: right, down, left, up.
_STEPS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])


@dataclasses.dataclass(frozen=True)
class Mask:
    """The mask of one object over its image, kept as run lengths and measured when asked.

    Pixel (x, y) covers the square from (x, y) to (x + 1, y + 1), as everywhere with half-open
    boxes: coordinates are those of pixel edges, and the centre of the first pixel is (0.5, 0.5).

    Attributes:
      encoded: COCO's compressed run lengths.
    """

    encoded: rle.Rle

    @classmethod
    def of(cls, pixels: Bool[np.ndarray, "h w"] | UInt8[np.ndarray, "h w"]) -> "Mask":
        """The mask that is nonzero where the object is."""
        return cls(rle.encode(pixels))

    def rle(self) -> rle.Rle:
        """COCO's compressed run lengths, holes and parts included: `{"size", "counts"}`."""
        return {"size": list(self.encoded["size"]), "counts": self.encoded["counts"]}

    @functools.cached_property
    def pixels(self) -> Bool[np.ndarray, "h w"]:
        """The mask over the whole image, decoded at the first use."""
        return rle.decode(self.encoded).astype(bool)

    @functools.cached_property
    def _measured(self) -> tuple[int, tuple[int, int, int, int]]:
        return rle.measure(self.encoded)

    @property
    def area(self) -> int:
        """The number of pixels."""
        return self._measured[0]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The tightest (x0, y0, x1, y1), half-open; zeros for an empty mask."""
        return self._measured[1]

    @functools.cached_property
    def centroid(self) -> tuple[float, float]:
        """The mean (x, y) of the pixels' centres; (nan, nan) for an empty mask."""
        if not self.area:
            return float("nan"), float("nan")
        height, width = self.encoded["size"]
        x = self.pixels.sum(axis=0) @ np.arange(0.5, width) / self.area
        y = self.pixels.sum(axis=1) @ np.arange(0.5, height) / self.area
        return float(x), float(y)

    def polygon(self, *, holes: bool = True) -> list[list[float]]:
        """The outlines along the pixels' edges, exactly: corners lie on whole numbers.

        An outline around pixels runs clockwise as seen on the screen, one around a hole
        counter-clockwise: filled by the even-odd or the nonzero rule (OpenCV, Pillow, SVG,
        matplotlib), or added up as signed areas, they give the mask back, holes and all.
        COCO's format has no holes, its readers fill the union: give them `holes=False`, which
        they read as the mask without its holes, or `rle()`, which keeps them. Pixels that touch
        at a corner only belong to separate outlines, unless they connect elsewhere.

        Args:
          holes: also give the outlines of holes.

        Returns:
          `[x0, y0, x1, y1, ...]` for every outline, the first point not repeated, from the
          uppermost and then leftmost corner; empty for an empty mask.
        """
        x0, y0, x1, y1 = self.box
        rings = _outlines(self.pixels[y0:y1, x0:x1])
        wanted = rings if holes else [ring for ring in rings if _signed_area(ring) > 0]
        return [(ring + np.array([x0, y0])).astype(np.float64).ravel().tolist() for ring in wanted]


def _outlines(pixels: Bool[np.ndarray, "h w"]) -> list[Int64[np.ndarray, "corners 2"]]:
    """Corners (x, y) of every outline, the pixels on the right-hand side."""
    leaves = _edges(pixels)
    # Row by row, so that the first edge of every outline is its uppermost, leftmost one.
    y, x, direction = (part.astype(np.int64) for part in np.nonzero(np.moveaxis(leaves, 0, -1)))
    number = np.full(leaves.shape, -1, np.int64)
    number[direction, y, x] = np.arange(len(x))
    end_x, end_y = x + _STEPS[direction, 0], y + _STEPS[direction, 1]
    follower = np.full(len(x), -1, np.int64)
    for turn in (-1, 0, 1):  # the last wins: to the right, which stays with the same pixel
        candidate = number[(direction + turn) % 4, end_y, end_x]
        follower = np.where(candidate >= 0, candidate, follower)
    points = np.stack([x, y], axis=1)
    rings = []
    for members in _cycles(follower):
        turns = direction[members] != direction[np.roll(members, 1)]
        rings.append(points[members[turns]])
    return rings


def _edges(pixels: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "4 H W"]:
    """True where a unit step in a direction leaves a corner along the mask's edge."""
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
    """The cycles of a permutation, each from its smallest member."""
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
    """Area by the shoelace formula; positive for clockwise on the screen."""
    x, y = ring.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
