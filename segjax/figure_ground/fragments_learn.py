"""Learns the fragments of a class from images with it and images without; nobody marks anything.

After Borenstein and Ullman, "Class-specific, top-down segmentation", ECCV 2002, and "Learning to
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

# Random places tried for each candidate, until one has contrast.
_TRIES = 20


def learn_fragments(
    class_images: Shaped[np.ndarray, "N H W 3"],
    other_images: Shaped[np.ndarray, "M H W 3"],
    segments: Shaped[np.ndarray, "N L H W"],
    config: TopDownConfig,
    seed: int = 0,
) -> Fragments:
    """Cuts patches from the class images, keeps those that tell of the class, and labels them.

    Args:
      class_images: RGB with the class, uint8 or 0..1.
      other_images: without it, of the same size and kind.
      segments: L bottom-up segmentations of each class image, from any source: integer labels
        of 0 or more, whose numbers mean nothing beyond one map.
      config: see `TopDownConfig`.
      seed: of the places that candidates are cut from.

    Returns:
      Fragments, in the order they were chosen.

    Raises:
      ValueError: if shapes do not fit together, images are smaller than a fragment, or no
        fragment tells of the class.
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
    """Windows of class images.

    Attributes:
      patches: grey levels, in the upper left.
      sizes: sides of the windows.
      origins: image, row and column they were cut from.
    """

    patches: Float32[np.ndarray, "F S S"]
    sizes: Int32[np.ndarray, " F"]
    origins: Int64[np.ndarray, "F 3"]


def _candidates(
    grey: Float32[np.ndarray, "N h w"], config: TopDownConfig, rng: np.random.Generator
) -> _Candidates:
    """Cuts windows at random places that have some contrast."""
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
    """Detects all candidates everywhere, sets their thresholds and selects."""
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
    """Takes the label in the middle of each cell, and numbers each map's labels from 0."""
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
    class_images: Shaped[np.ndarray, "N H W 3"],
    other_images: Shaped[np.ndarray, "M H W 3"],
    segments: Shaped[np.ndarray, "N L H W"],
    config: TopDownConfig,
) -> None:
    height, width = class_images.shape[1:3]
    if min(len(class_images), len(other_images)) < 1:
        raise ValueError(
            f"{len(class_images)} images with the class and {len(other_images)} without: wanted"
            " some of both"
        )
    if class_images.dtype != other_images.dtype:
        raise ValueError(
            f"class images are {class_images.dtype}, others {other_images.dtype}: give both alike"
        )
    if not np.issubdtype(segments.dtype, np.integer) or segments.shape[1] < 1:
        raise ValueError(
            f"segments are {segments.dtype} {segments.shape}: wanted integers [N, L, H, W], L of 1"
            " or more"
        )
    need = max(config.sizes) * config.downsample
    if min(height, width) < need:
        raise ValueError(
            f"images have {height} x {width} pixels, fragments up to {need}: give larger images or"
            " smaller `sizes`"
        )
