"""Correlation, information and cover as plain loops in float64."""

import math
from collections import Counter

import numpy as np


def correlation(image, patch, least_contrast):
    """Returns correlation coefficients of a patch [s, s] with all windows; 0 for flat windows."""
    size = len(patch)
    centred = patch.astype(np.float64) - patch.mean()
    out = np.full(image.shape, -1.0)
    for y in range(image.shape[0] - size + 1):
        for x in range(image.shape[1] - size + 1):
            window = image[y : y + size, x : x + size].astype(np.float64)
            away = window - window.mean()
            if window.std() < least_contrast or patch.std() < least_contrast:
                out[y, x] = 0
            else:
                out[y, x] = (away * centred).sum() / math.sqrt((away**2).sum() * (centred**2).sum())
    return out


def entropy(values):
    """Returns the entropy of a list of symbols in bits."""
    counts = Counter(values)
    return -sum(n / len(values) * math.log2(n / len(values)) for n in counts.values())


def information(symbols, is_class):
    """Returns I(C; X) = H(C) + H(X) - H(C, X) in bits."""
    symbols, is_class = [tuple(np.atleast_1d(s)) for s in symbols], list(is_class)
    both = list(zip(symbols, is_class, strict=True))
    return entropy(is_class) + entropy(symbols) - entropy(both)


def best_threshold(scores, is_class):
    """Returns the largest information of any threshold that class images reach more often."""
    best = 0.0
    for level in scores:
        found = scores >= level
        if found[is_class].mean() > found[~is_class].mean():
            best = max(best, information(found, is_class))
    return best


def select(detected, is_class, count, least_gain):
    """Chooses greedily by the minimum of I(C; f, g) - I(C; g) over the chosen g."""
    alone = [information(f, is_class) for f in detected]
    chosen = [max(range(len(alone)), key=lambda f: (round(alone[f], 9), -f))]

    def gain(f):
        pairs = (np.stack([detected[f], detected[g]], axis=1) for g in chosen)
        return min(
            information(pair, is_class) - alone[g] for pair, g in zip(pairs, chosen, strict=True)
        )

    while len(chosen) < min(count, len(detected)):
        left = [f for f in range(len(detected)) if f not in chosen]
        best = max(left, key=lambda f: (round(gain(f), 9), -f))
        if gain(best) <= least_gain:
            break
        chosen.append(best)
    return chosen


def cover(scores, ys, xs, fragments, shape, config):
    """Returns probability and confidence of every cell, adding one detection at a time."""
    votes, total = np.zeros(shape), np.zeros(shape)
    detections = [
        (-float(fragments.information[f]), f * config.peaks + p)
        for f, p in np.ndindex(*scores.shape)
        if scores[f, p] >= fragments.thresholds[f]
    ]
    for negative, rank in sorted(detections):
        f, p = divmod(rank, config.peaks)
        size, y, x = int(fragments.sizes[f]), int(ys[f, p]), int(xs[f, p])
        label = np.asarray(fragments.labels[f], np.float64)
        cells = [(i, j) for i in range(size) for j in range(size)]
        overlap = sum(total[y + i, x + j] for i, j in cells)
        differs = sum(
            total[y + i, x + j] * abs(label[i, j] - votes[y + i, x + j] / total[y + i, x + j])
            for i, j in cells
            if total[y + i, x + j] > 0
        )
        if overlap > 0 and differs / overlap > config.max_disagreement:
            continue
        for i, j in cells:
            votes[y + i, x + j] -= negative * label[i, j]
            total[y + i, x + j] -= negative
    full = total + config.prior_weight
    return (votes + config.prior_weight * config.prior) / full, total / full
