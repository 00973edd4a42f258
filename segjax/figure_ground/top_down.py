"""Top-down segmentation: covers an image with class fragments, whose labels vote.

Follows Borenstein and Ullman, "Class-specific, top-down segmentation", ECCV 2002. Fragments are
detected by normalised correlation. The cover consists of detections that agree where they overlap,
the most informative first.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32, UInt8

from segjax.figure_ground.fragments import Fragments, TopDownConfig
from segjax.figure_ground.fragments_match import Peaks, find_peaks, grey_levels, window_mask
from segjax.figure_ground.images import check_image
from segjax.types import struct


@struct
class TopDown:
    """Top-down evidence from the fragments detected in an image.

    Attributes:
      probability: probability that each pixel is figure, 0..1.
      confidence: share of detections, as opposed to the prior, in this probability: 0 where
        there are none, approaching 1 where many informative ones overlap.
    """

    probability: Float32[Array, "*B H W"]
    confidence: Float32[Array, "*B H W"]


@partial(jax.jit, static_argnames="config")
def top_down(
    image: UInt8[Array, "..."] | Float[Array, "..."],
    fragments: Fragments,
    config: TopDownConfig,
) -> TopDown:
    """Covers an image with fragments; use `jax.vmap` for batches.

    Args:
      image: RGB, [H, W, 3], 0..255 if uint8, else 0..1; at least as large as the largest fragment.
      fragments: fragments that `learn_fragments` returned for the same config.
      config: config that the fragments were learned with.

    Returns:
      Maps of the image size; all NaN if any value of the image is not finite.

    Raises:
      ValueError: if the image is not RGB of uint8 or floats, or is smaller than a fragment, or if
        the fragments were learned with a different cell size.
    """
    check_image(image)
    if fragments.downsample != config.downsample:
        raise ValueError(
            f"the fragments were learned with downsample {fragments.downsample}, the config has "
            f"{config.downsample}: give the config they were learned with"
        )
    grey = grey_levels(image[None], config.downsample)
    peaks = find_peaks(grey, fragments.patches, fragments.sizes, config.peaks)
    peaks = jax.tree.map(lambda values: values[0], peaks)
    covered = cover(peaks, fragments, grey.shape[1:], config)
    # Nothing correlates with NaN, which would look like an image without the class.
    whole = jnp.isfinite(grey).all()
    covered = jax.tree.map(lambda cells: jnp.where(whole, cells, jnp.nan), covered)
    height, width = image.shape[:2]
    return jax.tree.map(lambda cells: _enlarge(cells, config.downsample)[:height, :width], covered)


def cover(
    peaks: Peaks, fragments: Fragments, shape: tuple[int, ...], config: TopDownConfig
) -> TopDown:
    """Covers an image with the detected fragments, the most informative first.

    Detections whose labels disagree with the current cover are skipped. The probability of a
    cell is the mean of the labels that cover it, weighted by information, and the prior.

    Args:
      peaks: detections of every fragment, `[F, P]`.
      fragments: fragments with their labels.
      shape: (height, width) of the image in cells.
      config: settings of the cover.

    Returns:
      Maps of that shape.
    """
    side = fragments.labels.shape[1]
    windows = window_mask(fragments.sizes, side).astype(jnp.float32)
    found = peaks.scores >= fragments.thresholds[:, None]
    weights = jnp.where(found, fragments.information[:, None], 0.0).ravel()
    order = jnp.argsort(-weights, stable=True)

    def lay(votes: Float32[Array, "2 h w"], rank: Int32[Array, ""]) -> tuple[Array, None]:
        fragment = rank // peaks.scores.shape[1]
        start = (0, peaks.y.ravel()[rank], peaks.x.ravel()[rank])
        label, window = fragments.labels[fragment], windows[fragment]
        before = jax.lax.dynamic_slice(votes, start, (2, side, side))
        agrees = _disagreement(before, label, window) <= config.max_disagreement
        own = jnp.stack([label, jnp.ones_like(label)]) * window[None]
        added = before + jnp.where(agrees, weights[rank], 0.0) * own
        return jax.lax.dynamic_update_slice(votes, added, start), None

    # Padded windows of smaller fragments may extend beyond the lower and right edges.
    height, width = shape
    blank = jnp.zeros((2, height + side, width + side), jnp.float32)
    votes, _ = jax.lax.scan(lay, blank, order)
    figure, total = votes[:, :height, :width]
    prior = config.prior_weight
    return TopDown(
        probability=(figure + prior * config.prior) / (total + prior),
        confidence=total / (total + prior),
    )


def _disagreement(
    before: Float32[Array, "2 S S"], label: Float32[Array, "S S"], window: Float32[Array, "S S"]
) -> Float32[Array, ""]:
    """Mean difference between a label and the earlier votes, weighted by them; 0 without votes."""
    figure, total = before * window[None]
    # This is |label - figure / total| * total, without a division by zero.
    difference = jnp.abs(label * total - figure).sum()
    return difference / jnp.maximum(total.sum(), 1e-9)


def _enlarge(cells: Float32[Array, "h w"], times: int) -> Float32[Array, "H W"]:
    """Interpolates a map of cells to pixels."""
    height, width = cells.shape
    return jax.image.resize(cells, (height * times, width * times), "linear")
