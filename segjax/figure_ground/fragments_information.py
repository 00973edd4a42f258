"""Information that detections of fragments carry about the class, and the choice of fragments.

Uses NumPy on the host, because this only counts over a few hundred images. Follows Borenstein and
Ullman, "Learning to segment", ECCV 2004, and Ullman, Vidal-Naquet and Sali, "Visual features of
intermediate complexity and their use in classification", Nature Neuroscience 2002.
"""

import numpy as np
from jaxtyping import Bool, Float, Int64


def mutual_information(
    detected: Bool[np.ndarray, "F N"], is_class: Bool[np.ndarray, " N"]
) -> Float[np.ndarray, " F"]:
    """Computes I(C; F) between the class and the detection of each fragment.

    Args:
      detected: True if fragment f is found in image n.
      is_class: True if image n shows the class.

    Returns:
      Information in bits, 0..1.
    """
    return _information(detected.astype(np.int64), 2, is_class)


def class_information(
    scores: Float[np.ndarray, "F N"], is_class: Bool[np.ndarray, " N"]
) -> tuple[Float[np.ndarray, " F"], Float[np.ndarray, " F"]]:
    """Chooses the threshold of each fragment that maximises information about the class.

    Args:
      scores: best correlation of fragment f in image n.
      is_class: True if image n shows the class.

    Returns:
      The information in bits, and the minimum score of a detection. Class images reach the
      threshold more often than the other images. A fragment without such a threshold has
      information 0 and a threshold above all its scores.

    Raises:
      ValueError: if all images show the class, or none does.
    """
    positives, total = int(is_class.sum()), is_class.size
    if not 0 < positives < total:
        raise ValueError(
            f"{positives} of {total} images show the class: wanted some with it and some without"
        )
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked = np.take_along_axis(scores, order, axis=1)
    hits = np.cumsum(is_class[order], axis=1)
    false = np.arange(1, total + 1)[None] - hits
    counts = np.stack([hits, positives - hits, false, total - positives - false])
    bits = _bits(counts.astype(np.float64), total)
    # No threshold can separate equal scores.
    bits[:, :-1][ranked[:, :-1] == ranked[:, 1:]] = 0
    # Mutual information has no sign: discard thresholds that other images reach as often or more.
    bits[hits * (total - positives) <= false * positives] = 0
    best = bits.argmax(axis=1)
    rows = np.arange(len(scores))
    above, below = ranked[rows, best], ranked[rows, np.minimum(best + 1, total - 1)]
    information = bits[rows, best]
    useless = np.nextafter(ranked[:, 0], np.inf, dtype=ranked.dtype)
    return information, np.where(information > 0, (above + below) / 2, useless)


def select_informative(
    detected: Bool[np.ndarray, "F N"],
    is_class: Bool[np.ndarray, " N"],
    count: int,
    least_gain: float = 0.0,
) -> Int64[np.ndarray, " K"]:
    """Selects fragments greedily by the information they add to the ones already selected.

    The first is the most informative one. Each further one maximises, over fragments f, the
    minimum over the selected g of I(C; f, g) - I(C; g). This skips near copies of selected ones.

    Args:
      detected: True if fragment f is found in image n.
      is_class: True if image n shows the class.
      count: maximum number of fragments to select.
      least_gain: information in bits; selection stops if no fragment adds more than this.

    Returns:
      Indices in the order of selection, at least one.
    """
    information = mutual_information(detected, is_class)
    chosen = [int(information.argmax())]
    gains = np.full(len(detected), np.inf)
    while len(chosen) < min(count, len(detected)):
        last = detected[chosen[-1]]
        pair = 2 * detected.astype(np.int64) + last[None]
        gains = np.minimum(gains, _information(pair, 4, is_class) - information[chosen[-1]])
        gains[chosen] = -np.inf
        if gains.max() <= least_gain:
            break
        chosen.append(int(gains.argmax()))
    return np.array(chosen, np.int64)


def _information(
    states: Int64[np.ndarray, "F N"], kinds: int, is_class: Bool[np.ndarray, " N"]
) -> Float[np.ndarray, " F"]:
    """Computes I(C; X) in bits, for variables X with values in 0..kinds-1."""
    counts = np.stack(
        [
            ((states == kind) & (is_class == value)[None]).sum(axis=1)
            for kind in range(kinds)
            for value in (True, False)
        ]
    )
    return _bits(counts.astype(np.float64), is_class.size)


def _bits(counts: Float[np.ndarray, "cells *n"], total: int) -> Float[np.ndarray, "*n"]:
    """Mutual information of X and the class, from tables [kinds x 2] flattened in axis 0."""
    table = (counts / total).reshape(-1, 2, *counts.shape[1:])
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True)
    ratio = np.where(table > 0, table, 1) / np.where(table > 0, expected, 1)
    return np.maximum((table * np.log2(ratio)).sum(axis=(0, 1)), 0.0)
