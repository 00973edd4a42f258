"""Textured backgrounds of the synthetic dataset: stuff classes such as grass and water.

Each class has its own texture, but the colours of the classes overlap. A single pixel therefore
does not reveal its class, while a small neighbourhood does.
"""

import numpy as np
from jaxtyping import Float, UInt8

GROUNDS = ("grass", "sand", "water", "sky")
# As in COCO, the ids of stuff follow those of things and have gaps.
GROUND_IDS = (20, 21, 24, 27)
# Mean colours. Each image deviates from them by up to _COLOUR_SPREAD levels per channel.
_COLOURS = ((70, 105, 60), (120, 105, 75), (60, 85, 115), (95, 105, 125))
_COLOUR_SPREAD = 30
# Smallest fraction of the image that a region should cover.
_LEAST_PART = 0.08


def draw_grounds(
    size: int, classes: int, rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
    """Draws a background of at least two regions of different classes.

    Args:
      size: side of the image, in pixels.
      classes: number of classes to draw from, counted from the start of `GROUNDS`; at least 2.
      rng: random generator.

    Returns:
      The RGB image, and the index in `GROUNDS` of each pixel.
    """
    chosen = rng.permutation(classes)[: int(rng.integers(2, classes + 1))]
    regions = _regions(size, len(chosen), rng)
    image = np.zeros((size, size, 3), np.float64)
    for region, kind in enumerate(chosen):
        spread = rng.uniform(-_COLOUR_SPREAD, _COLOUR_SPREAD, 3)
        levels = np.array(_COLOURS[kind]) + spread
        inside = regions == region
        image[inside] = levels + _texture(int(kind), size, rng)[inside][:, None]
    image += rng.normal(0, 3, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), chosen.astype(np.uint8)[regions]


def _regions(size: int, count: int, rng: np.random.Generator) -> UInt8[np.ndarray, "h w"]:
    """Divides an image into the cells of `count` random points, with wavy borders."""
    y, x = np.mgrid[:size, :size] / size
    regions = np.zeros((size, size), np.uint8)
    for _ in range(20):
        places = rng.uniform(0, 1, (count, 2))
        distances = [
            np.hypot(y - cy, x - cx) + 0.12 * _smooth(size, 5, 5, rng) for cy, cx in places
        ]
        regions = np.argmin(distances, axis=0).astype(np.uint8)
        parts = np.bincount(regions.ravel(), minlength=count) / regions.size
        if parts.min() >= _LEAST_PART:
            break
    return regions


def _texture(kind: int, size: int, rng: np.random.Generator) -> Float[np.ndarray, "h w"]:
    """Returns levels to add to a mean colour: blades, grains, waves or blotches."""
    if GROUNDS[kind] == "grass":
        return 32 * _smooth(size, size // 8, size // 2, rng)
    if GROUNDS[kind] == "sand":
        return 40 * _smooth(size, 2 * size // 3, 2 * size // 3, rng)
    if GROUNDS[kind] == "water":
        y = np.arange(size, dtype=np.float64)[:, None]
        length, start = rng.uniform(7, 10), rng.uniform(0, 2 * np.pi)
        return 18 * np.sin(2 * np.pi * y / length + start + 3 * _smooth(size, 6, 6, rng))
    return 12 * _smooth(size, 4, 4, rng)


def _smooth(
    size: int, rows: int, columns: int, rng: np.random.Generator
) -> Float[np.ndarray, "h w"]:
    """Returns noise in -1..1 with `rows` x `columns` soft cells."""
    import cv2

    cells = rng.uniform(-1, 1, (rows, columns))
    return np.asarray(cv2.resize(cells, (size, size), interpolation=cv2.INTER_LINEAR), np.float64)
