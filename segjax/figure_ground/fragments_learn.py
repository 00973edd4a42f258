"""Learns the fragments of a class from images with and without the class, but without annotations.

Follows Borenstein and Ullman, "Class-specific, top-down segmentation", ECCV 2002, and "Learning to
segment", ECCV 2004.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int32, Int64, Shaped

from segjax.figure_ground.fragments import Fragments, TopDownConfig
from segjax.figure_ground.fragments_information import class_information, select_informative
from segjax.figure_ground.fragments_labels import learn_labels
from segjax.figure_ground.fragments_match import find_peaks, grey_levels, normalise_patches

# Maximum number of random places to try for each candidate, until one has enough contrast.
_TRIES = 20


def learn_fragments(
    class_images: Shaped[np.ndarray, "..."],
    other_images: Shaped[np.ndarray, "..."],
    segments: Shaped[np.ndarray, "..."],
    config: TopDownConfig,
    seed: int = 0,
) -> Fragments:
    """Cuts patches from the class images, selects informative ones, and learns their labels.

    Args:
      class_images: RGB images with the class, [N, H, W, 3], uint8 or floats in 0..1.
      other_images: images without the class, [M, H, W, 3], with the same size and dtype.
      segments: L bottom-up segmentations of each class image, [N, L, H, W], from any source.
        Integer labels of 0 or more, which are independent between maps.
      config: settings of learning.
      seed: seed of the places that candidates are cut from.

    Returns:
      Fragments, in the order of selection.

    Raises:
      ValueError: if either kind of images is missing; if images are not RGB, contain NaN or
        values out of range, or are smaller than a fragment; if shapes do not match; or if no
        fragment is informative.
    """
    _check(class_images, other_images, segments, config)
    grey = grey_levels(jnp.asarray(class_images), config.downsample)
    others = grey_levels(jnp.asarray(other_images), config.downsample)
    rng = np.random.default_rng(seed)
    candidates = _candidates(np.asarray(grey), config, rng)
    fragments, origins = _most_informative(grey, others, candidates, config)
    peaks = find_peaks(grey, fragments.patches, fragments.sizes)
    cells = _sample(segments, config.downsample)
    labels = learn_labels(np.asarray(grey), cells, fragments, peaks, origins, config)
    return dataclasses.replace(fragments, labels=jnp.asarray(labels))


@dataclasses.dataclass(frozen=True)
class _Candidates:
    """Candidate fragments: windows of class images.

    Attributes:
      patches: grey levels, in the upper left of each padded patch.
      sizes: sides of the windows.
      origins: image, row and column that each window was cut from.
    """

    patches: Float32[np.ndarray, "F S S"]
    sizes: Int32[np.ndarray, " F"]
    origins: Int64[np.ndarray, "F 3"]


def _candidates(
    grey: Float32[np.ndarray, "N h w"], config: TopDownConfig, rng: np.random.Generator
) -> _Candidates:
    """Cuts windows with enough contrast at random places."""
    largest = max(config.sizes)
    patches, sizes, origins = [], [], []
    for size in config.sizes:
        room = np.array([len(grey), grey.shape[1] - size + 1, grey.shape[2] - size + 1])
        for _ in range(config.candidates):
            for _ in range(_TRIES):
                n, y, x = rng.integers(room)
                patch = grey[n, y : y + size, x : x + size]
                if patch.std() >= config.least_contrast:
                    patches.append(np.pad(patch, (0, largest - size)))
                    sizes.append(size)
                    origins.append((n, y, x))
                    break
    if not patches:
        raise ValueError(
            f"no window of the class images has a contrast of {config.least_contrast}: lower"
            " `least_contrast`"
        )
    return _Candidates(np.stack(patches), np.array(sizes, np.int32), np.array(origins))


def _most_informative(
    grey: jnp.ndarray, others: jnp.ndarray, candidates: _Candidates, config: TopDownConfig
) -> tuple[Fragments, Int64[np.ndarray, "F 3"]]:
    """Detects all candidates in all images, sets their thresholds, and selects fragments."""
    sizes = jnp.asarray(candidates.sizes)
    patches = normalise_patches(jnp.asarray(candidates.patches), sizes)
    images = jnp.concatenate([grey, others])
    scores = np.asarray(find_peaks(images, patches, sizes).scores)[..., 0].T
    is_class = np.arange(len(images)) < len(grey)
    information, thresholds = class_information(scores, is_class)
    if information.max() <= 0:
        raise ValueError(
            f"none of {len(scores)} candidates is found in class images more than in the others:"
            " give more images, or raise `candidates`"
        )
    detected = scores >= thresholds[:, None]
    chosen = select_informative(detected, is_class, config.max_fragments, config.least_gain)
    kept = Fragments(
        patches[chosen],
        sizes[chosen],
        jnp.asarray(thresholds[chosen], jnp.float32),
        jnp.asarray(information[chosen], jnp.float32),
        jnp.zeros_like(patches[chosen]),
        config.downsample,
    )
    return kept, candidates.origins[chosen]


def _sample(
    segments: Shaped[np.ndarray, "N L H W"], downsample: int
) -> Int64[np.ndarray, "N L h w"]:
    """Samples the label in the middle of each cell, and renumbers the labels of each map from 0."""
    rows, columns = (
        np.minimum(np.arange(0, side, downsample) + downsample // 2, side - 1)
        for side in segments.shape[2:]
    )
    cells = segments[:, :, rows][:, :, :, columns]
    numbered = np.zeros(cells.shape, np.int64)
    for index in np.ndindex(cells.shape[:2]):
        numbered[index] = np.unique(cells[index], return_inverse=True)[1].reshape(cells.shape[2:])
    return numbered


def _check(
    class_images: Shaped[np.ndarray, "..."],
    other_images: Shaped[np.ndarray, "..."],
    segments: Shaped[np.ndarray, "..."],
    config: TopDownConfig,
) -> None:
    _check_images("class_images", class_images)
    _check_images("other_images", other_images)
    if class_images.dtype != other_images.dtype or class_images.shape[1:] != other_images.shape[1:]:
        raise ValueError(
            f"class images are {class_images.dtype} {class_images.shape}, others "
            f"{other_images.dtype} {other_images.shape}: give both alike, of one size"
        )
    images, height, width = class_images.shape[:3]
    fits = segments.ndim == 4 and segments.shape[::2] == (images, height)
    if not fits or segments.shape[3] != width or segments.shape[1] < 1:
        raise ValueError(
            f"segments are {segments.shape}: wanted [N, L, H, W], here {images}, L of 1 or more, "
            f"{height}, {width}"
        )
    if not np.issubdtype(segments.dtype, np.integer) or segments.min() < 0:
        raise ValueError(f"segments are {segments.dtype}: wanted integers of 0 or more")
    need = max(config.sizes) * config.downsample
    if min(height, width) < need:
        raise ValueError(
            f"images have {height} x {width} pixels, fragments up to {need}: give larger images or"
            " smaller `sizes`"
        )


def _check_images(name: str, images: Shaped[np.ndarray, "..."]) -> None:
    if not images.size:
        raise ValueError(
            f"{name} are {images.shape}: wanted some images with the class and some without"
        )
    if images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(
            f"{name} are {images.shape}: wanted RGB, [images, height, width, 3]; repeat the channel"
            " of grey images three times"
        )
    if images.dtype == np.uint8:
        return
    # Written so that NaN, for which both comparisons are False, is an error.
    if not np.issubdtype(images.dtype, np.floating) or not (
        images.min() >= 0 and images.max() <= 1
    ):
        raise ValueError(
            f"{name} are {images.dtype} from {images.min()} to {images.max()}: wanted uint8, or "
            "floats in 0..1 without NaN"
        )
