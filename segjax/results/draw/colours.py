"""Colours of classes that are all told apart, however many classes there are."""

import colorsys
import functools
import itertools

import numpy as np
from jaxtyping import Float64, Int64

from segjax.results.draw.objects import instance_colour

# As many as labels of 8 bits, without the one for unknown.
CLASS_COLOURS = 255
# The first are those of objects: bright, and well apart.
FIRST = 6
HUES, SATURATIONS, VALUES = 48, (0.3, 0.45, 0.6, 0.75, 0.9, 1.0), (0.4, 0.55, 0.7, 0.85, 1.0)

# IEC 61966-2-1; rows are X, Y, Z.
SRGB_TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
)


def class_colour(number: int) -> tuple[int, int, int]:
    """The RGB colour of a class in semantic and panoptic pictures.

    Of the first 133 (COCO's things and stuff) any two are at least 37 RGB levels apart, of all
    255 at least 29 (Euclidean distance), and of classes up to three numbers apart at least 100.
    Mixed half and half with gray, as over a picture, they differ by CIELAB distances of 9, 7 and
    25. From 255 on they repeat: labels know no more.
    """
    return _palette()[number % CLASS_COLOURS]


@functools.lru_cache(maxsize=1)
def _palette() -> tuple[tuple[int, int, int], ...]:
    """Each colour is as far from all earlier ones, and much farther from the last three, as can be.

    Both distances count: equal steps of RGB are hardly seen among greens, equal steps of CIELAB
    are few levels among blues.
    """
    grid = itertools.product(range(HUES), SATURATIONS, VALUES)
    known = [colorsys.hsv_to_rgb(hue / HUES, s, v) for hue, s, v in grid]
    first = np.array([instance_colour(rank) for rank in range(FIRST)], np.int64)
    colours = np.concatenate([first, (255 * np.array(known)).round().astype(np.int64)])
    seen = mixed_lab(colours)
    chosen = list(range(FIRST))
    gaps = [_gaps(colours, seen, i) for i in chosen]
    nearest = np.min(gaps, axis=0)
    while len(chosen) < CLASS_COLOURS:
        chosen.append(int(np.minimum(nearest, 0.3 * np.min(gaps[-3:], axis=0)).argmax()))
        gaps.append(_gaps(colours, seen, chosen[-1]))
        nearest = np.minimum(nearest, gaps[-1])
    return tuple((int(red), int(green), int(blue)) for red, green, blue in colours[chosen])


def mixed_lab(colours: Int64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n 3"]:
    """CIELAB (lightness in 0..100) of sRGB colours in 0..255, mixed half and half with gray."""
    mixed = (colours + 128) / 2 / 255
    linear = np.where(mixed > 0.04045, ((mixed + 0.055) / 1.055) ** 2.4, mixed / 12.92)
    xyz = linear @ SRGB_TO_XYZ.T / SRGB_TO_XYZ.sum(axis=1)[None]  # white is (1, 1, 1)
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * 29**2 / (3 * 6**2) + 4 / 29).T
    # Rounded, so that no release of numpy orders the colours in another way.
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1).round(2)


def _gaps(
    colours: Int64[np.ndarray, "n 3"], seen: Float64[np.ndarray, "n 3"], one: int
) -> Float64[np.ndarray, " n"]:
    """Distances of all colours from one of them: in RGB or in CIELAB, whichever is less."""
    levels = np.linalg.norm(colours - colours[one][None], axis=1) / 2
    return np.minimum(levels, 2 * np.linalg.norm(seen - seen[one][None], axis=1))
