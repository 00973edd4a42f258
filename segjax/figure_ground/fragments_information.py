"""Information that a fragment's detection carries about the class, and the choice of fragments.

Plain counting over a few hundred images: numpy on the host. After Borenstein and Ullman,
"Learning to segment", ECCV 2004, and Ullman, Vidal-Naquet and Sali, "Visual features of
intermediate complexity and their use in classification", Nature Neuroscience 2002.
"""

import numpy as np
from jaxtyping import Bool, Float, Int64


def mutual_information(
    detected: Bool[np.ndarray, "F N"], is_class: Bool[np.ndarray, " N"]
) -> Float[np.ndarray, " F"]:
    """I(C; F) of the class and each fragment's detection.

    Args:
      detected: whether fragment f is found in image n.
      is_class: whether image n shows the class.

    Returns:
      Bits, 0..1.
    """
    return _information(detected.astype(np.int64), 2, is_class)


def class_information(
    scores: Float[np.ndarray, "F N"], is_class: Bool[np.ndarray, " N"]
) -> tuple[Float[np.ndarray, " F"], Float[np.ndarray, " F"]]:
    """Chooses each fragment's threshold to tell the most of the class.

    Args:
      scores: best correlation of fragment f in image n.
      is_class: whether image n shows the class.

    Returns:
      The information in bits and the threshold: a fragment is detected from there on. Only
      thresholds are considered which class images reach more often than the others; a fragment
      without one has information 0 and a threshold above all its scores.

    Raises:
      ValueError: if the images are all of one kind.
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
    # A threshold lies between two scores that differ.
    bits[:, :-1][ranked[:, :-1] == ranked[:, 1:]] = 0
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
    """Picks fragments greedily: each adds most to the chosen one that it adds least to.

    The first is the most informative; the next maximises, over fragments f, the minimum over the
    chosen g of I(C; f, g) - I(C; g), so that near copies of a chosen one are passed over.

    Args:
      detected: whether fragment f is found in image n.
      is_class: whether image n shows the class.
      count: most to pick.
      least_gain: in bits; stops where no fragment adds more than this.

    Returns:
      Indices in the order they were picked, at least one.
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
    """I(C; X) in bits, of variables that take `kinds` values."""
    counts = np.stack(
        [
            ((states == kind) & (is_class == value)[None]).sum(axis=1)
            for kind in range(kinds)
            for value in (True, False)
        ]
    )
    return _bits(counts.astype(np.float64), is_class.size)


def _bits(counts: Float[np.ndarray, "cells *n"], total: int) -> Float[np.ndarray, "*n"]:
    """Mutual information of tables [kinds x 2], flattened in front, of the class (last) and X."""
    table = (counts / total).reshape(-1, 2, *counts.shape[1:])
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True)
    ratio = np.where(table > 0, table, 1) / np.where(table > 0, expected, 1)
    return np.maximum((table * np.log2(ratio)).sum(axis=(0, 1)), 0.0)
