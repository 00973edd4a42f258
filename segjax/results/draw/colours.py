"""Distinct colours for up to 255 classes."""

import colorsys
import functools
import itertools

import numpy as np
from jaxtyping import Float64, Int64

from segjax.results.draw.objects import instance_colour

# Number of 8-bit labels, without the one for unknown.
CLASS_COLOURS = 255
# The palette starts with this many of the bright, well-separated colours for objects.
FIRST = 6
# Grid of HSV candidates for the other colours.
HUES, SATURATIONS, VALUES = 48, (0.3, 0.45, 0.6, 0.75, 0.9, 1.0), (0.4, 0.55, 0.7, 0.85, 1.0)

# Linear sRGB to XYZ (IEC 61966-2-1); rows are X, Y, Z.
SRGB_TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
)


def class_colour(number: int) -> tuple[int, int, int]:
    """Returns the RGB colour of a class in images of semantic and panoptic maps.

    The Euclidean RGB distance is at least 37 levels between any two of the first 133 colours
    (COCO's things and stuff), 29 between any two of all 255, and 100 between classes whose
    numbers differ by at most three. Blended half and half with gray, as over an image, the CIELAB
    distances are at least 9, 7 and 25. Colours repeat from 255 on, as labels cannot be larger.
    """
    return _palette()[number % CLASS_COLOURS]


@functools.lru_cache(maxsize=1)
def _palette() -> tuple[tuple[int, int, int], ...]:
    """Builds the palette greedily, maximising the distance of each colour to all earlier ones.

    The last three colours have to be farther away than the others. Distances are measured in both
    RGB and CIELAB: RGB steps are hardly visible among greens, while CIELAB steps among blues
    amount to few RGB levels.
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
        # The last three colours count as if they were closer, and thus have to be farther away.
        chosen.append(int(np.minimum(nearest, 0.3 * np.min(gaps[-3:], axis=0)).argmax()))
        gaps.append(_gaps(colours, seen, chosen[-1]))
        nearest = np.minimum(nearest, gaps[-1])
    return tuple((int(red), int(green), int(blue)) for red, green, blue in colours[chosen])


def mixed_lab(colours: Int64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n 3"]:
    """Converts sRGB (0..255), blended half and half with gray, to CIELAB (lightness 0..100)."""
    mixed = (colours + 128) / 2 / 255
    linear = np.where(mixed > 0.04045, ((mixed + 0.055) / 1.055) ** 2.4, mixed / 12.92)
    xyz = linear @ SRGB_TO_XYZ.T / SRGB_TO_XYZ.sum(axis=1)[None]  # white is (1, 1, 1)
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * 29**2 / (3 * 6**2) + 4 / 29).T
    # Rounded so that numerical differences between NumPy versions cannot change the palette.
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1).round(2)


def _gaps(
    colours: Int64[np.ndarray, "n 3"], seen: Float64[np.ndarray, "n 3"], one: int
) -> Float64[np.ndarray, " n"]:
    """Returns the distances of all colours to one: the minimum of scaled RGB and CIELAB."""
    levels = np.linalg.norm(colours - colours[one][None], axis=1) / 2
    return np.minimum(levels, 2 * np.linalg.norm(seen - seen[one][None], axis=1))
