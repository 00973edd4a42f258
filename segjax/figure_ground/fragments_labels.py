"""Learns figure-ground labels of class fragments, without masks.

Follows Borenstein and Ullman, "Learning to segment", ECCV 2004. Two cues determine which segments
of the image that a fragment was cut from are its figure:

- Degree of cover: fragments of a class are found on the figure more often than outside it, so more
  of them overlap there.
- Border consistency: edges between figure and ground are at the same position in all detections
  of a fragment; other edges are not.

The labelled fragments then cover the class images, which are divided into figure and ground along
their segments. The labels are learned again from this division.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int

from segjax.figure_ground.fragments import Fragments, TopDownConfig
from segjax.figure_ground.fragments_match import Peaks
from segjax.figure_ground.top_down import cover

# Lower limit on divisors.
_LEAST = 1e-9


def learn_labels(
    grey: Float32[np.ndarray, "N h w"],
    segments: Int[np.ndarray, "N L h w"],
    fragments: Fragments,
    peaks: Peaks,
    origins: Int[np.ndarray, "F 3"],
    config: TopDownConfig,
) -> Float32[np.ndarray, "F S S"]:
    """Learns which cells of every fragment are figure.

    Args:
      grey: class images in cells, 0..1.
      segments: L segmentations of each image, with any labels of 0 or more.
      fragments: fragments to label; their current labels are ignored.
      peaks: detections in the class images, `[N, F, P]`; only the best of each is used.
      origins: image, row and column that each fragment was cut from.
      config: settings of learning.

    Returns:
      Probability that each cell is figure; 0 beyond the size of a fragment.
    """
    sizes = np.asarray(fragments.sizes)
    found = np.asarray(peaks.scores)[..., 0] >= np.asarray(fragments.thresholds)[None]
    places = np.stack([np.asarray(peaks.y)[..., 0], np.asarray(peaks.x)[..., 0]], axis=-1)
    windows = functools.partial(mean_windows, found=found, places=places, sizes=sizes)
    covers = windows(along_segments(_degree_of_cover(found, places, fragments, grey), segments))
    edges = windows(edge_strength(grey))
    labels = np.zeros(fragments.labels.shape, np.float32)
    for f, (size, (image, y, x)) in enumerate(zip(sizes, origins, strict=True)):
        inside = segments[image, :, y : y + size, x : x + size]
        labels[f, :size, :size] = choose_figure(
            inside, covers[f, :size, :size], edges[f, :size, :size], config.border_weight
        )
    for _ in range(config.label_rounds):
        labelled = dataclasses.replace(fragments, labels=jnp.asarray(labels))
        maps = np.asarray(_cover_all(peaks, labelled, grey.shape[1:], config), np.float64)
        labels = windows(_divide(along_segments(maps, segments))).astype(np.float32)
    return labels


@functools.partial(jax.jit, static_argnames=("shape", "config"))
def _cover_all(
    peaks: Peaks, fragments: Fragments, shape: tuple[int, int], config: TopDownConfig
) -> jax.Array:
    def of_image(places: Peaks) -> jax.Array:
        return cover(places, fragments, shape, config).probability

    return jax.lax.map(of_image, peaks)


def _degree_of_cover(
    found: Bool[np.ndarray, "N F"],
    places: Int[np.ndarray, "N F 2"],
    fragments: Fragments,
    grey: Float32[np.ndarray, "N h w"],
) -> Float64[np.ndarray, "N h w"]:
    """Summed information of the fragments over each cell, divided by size, and scaled to 0..1."""
    sizes, information = np.asarray(fragments.sizes), np.asarray(fragments.information)
    degree = np.zeros(grey.shape, np.float64)
    for n, f in zip(*np.nonzero(found), strict=True):
        (y, x), size = places[n, f], sizes[f]
        degree[n, y : y + size, x : x + size] += information[f] / size
    return degree / np.maximum(degree.max(axis=(1, 2), keepdims=True), _LEAST)


def mean_windows(
    maps: Float64[np.ndarray, "N h w"],
    found: Bool[np.ndarray, "N F"],
    places: Int[np.ndarray, "N F 2"],
    sizes: Int[np.ndarray, " F"],
) -> Float64[np.ndarray, "F S S"]:
    """Averages the map under each fragment over all its detections; S is the largest size.

    Args:
      maps: maps of the class images.
      found: True if fragment f is found in image n.
      places: row and column of the upper left corner of each detection.
      sizes: sizes of the fragments.

    Returns:
      Means; 0 beyond the size of a fragment, and for fragments that are not found anywhere.
    """
    means = np.zeros((len(sizes), int(sizes.max()), int(sizes.max())), np.float64)
    for n, f in zip(*np.nonzero(found), strict=True):
        (y, x), size = places[n, f], sizes[f]
        means[f, :size, :size] += maps[n, y : y + size, x : x + size]
    return means / np.maximum(found.sum(axis=0), 1)[:, None, None]


def along_segments(
    maps: Float64[np.ndarray, "N h w"], segments: Int[np.ndarray, "N L h w"]
) -> Float64[np.ndarray, "N h w"]:
    """Replaces each cell by the mean of the map over its segment, averaged over segmentations."""
    return np.stack(
        [
            np.mean([_segment_means(values, labels)[labels] for labels in image], axis=0)
            for values, image in zip(maps, segments, strict=True)
        ]
    )


def _segment_means(
    values: Float64[np.ndarray, "h w"], labels: Int[np.ndarray, "h w"]
) -> Float64[np.ndarray, " K"]:
    """Mean of the values over each segment, indexed by label."""
    sums = np.bincount(labels.ravel(), values.ravel())
    return sums / np.maximum(np.bincount(labels.ravel()), 1)


def edge_strength(grey: Float32[np.ndarray, "N h w"]) -> Float64[np.ndarray, "N h w"]:
    """Magnitude of the gradient, normalised to mean 1 in each image."""
    down, across = np.gradient(grey.astype(np.float64), axis=(1, 2))
    strength = np.hypot(down, across)
    return strength / np.maximum(strength.mean(axis=(1, 2), keepdims=True), _LEAST)


def choose_figure(
    segments: Int[np.ndarray, "L s s"],
    cover_degree: Float64[np.ndarray, "s s"],
    edges: Float64[np.ndarray, "s s"],
    border_weight: float,
) -> Bool[np.ndarray, "s s"]:
    """Divides a fragment into figure, its segments with the highest degree of cover, and ground.

    The segmentation and the number of segments maximise the contrast in the degree of cover
    between both sides, as in Otsu's threshold, plus the mean edge strength along the border.

    Args:
      segments: L segmentations of the fragment, from the image it was cut from.
      cover_degree: mean degree of cover over its detections.
      edges: mean edge strength over its detections.
      border_weight: weight of the edge strength.

    Returns:
      The figure. It is never empty, and is the whole fragment only if no segmentation divides it.
    """
    best, figure = -np.inf, np.ones(cover_degree.shape, bool)
    spread, mean_edge = max(cover_degree.std(), _LEAST), max(edges.mean(), _LEAST)
    for segmentation in segments:
        labels = np.unique(segmentation, return_inverse=True)[1].reshape(cover_degree.shape)
        degrees = _segment_means(cover_degree, labels)[labels]
        for threshold in np.unique(degrees)[1:]:
            part = degrees >= threshold
            share = part.mean()
            contrast = cover_degree[part].mean() - cover_degree[~part].mean()
            border = edges[_border(part)].mean() / mean_edge - 1
            score = contrast / spread * np.sqrt(share * (1 - share)) + border_weight * border
            if score > best:
                best, figure = score, part
    return figure


def _border(part: Bool[np.ndarray, "s s"]) -> Bool[np.ndarray, "s s"]:
    """Returns the cells on both sides of the border of a part, excluding the window's frame."""
    border = np.zeros(part.shape, bool)
    across, down = part[:, 1:] != part[:, :-1], part[1:] != part[:-1]
    border[:, 1:] |= across
    border[:, :-1] |= across
    border[1:] |= down
    border[:-1] |= down
    return border


def _divide(maps: Float64[np.ndarray, "N h w"]) -> Float64[np.ndarray, "N h w"]:
    """Binarises the map of each image at its Otsu threshold."""
    return np.stack([(values > otsu_threshold(values)).astype(np.float64) for values in maps])


def otsu_threshold(values: Float[np.ndarray, "*n"]) -> float:
    """Finds the threshold that minimises the variance within both sides (Otsu 1979).

    Args:
      values: numbers to divide.

    Returns:
      The threshold, which separates the values above it from the others; if all values are
      equal, that value.
    """
    levels, counts = np.unique(values, return_counts=True)
    if levels.size == 1:
        return float(levels[0])
    below = np.cumsum(counts)[:-1]
    above = values.size - below
    sums = np.cumsum(levels * counts)
    means_below, means_above = sums[:-1] / below, (sums[-1] - sums[:-1]) / above
    best = int((below * above * (means_above - means_below) ** 2).argmax())
    return float((levels[best] + levels[best + 1]) / 2)
