"""One step of weighted aggregation in plain form: dense float64 matrices and loops."""

import numpy as np


def sweep(coupling, order, seats, needed):
    """Returns the seeds in the order in which they are found.

    Args:
      coupling: couplings of all pairs, [n, n], symmetric, 0 on the diagonal.
      order: segments in the order of the sweep.
      seats: upper limit on seeds.
      needed: for each segment, the coupling to seeds that keeps it from becoming a seed.
    """
    seeds = []
    for i in order:
        to_seeds = coupling[i, seeds].sum()
        hangs = to_seeds > 0 and to_seeds >= needed[i]
        if not hangs and len(seeds) < seats:
            seeds.append(i)
    return seeds


def interpolation(coupling, seeds, segments, parts):
    """Returns the weights [n, seeds] of all segments; columns are seeds in ascending order."""
    seeds = sorted(seeds)
    weights = np.zeros((len(coupling), len(seeds)))
    for i in segments:
        if i in seeds:
            weights[i, seeds.index(i)] = 1
            continue
        near = sorted((k for k in seeds if coupling[i, k] > 0), key=lambda k: -coupling[i, k])
        for k in near[:parts]:
            weights[i, seeds.index(k)] = coupling[i, k] / coupling[i, near[:parts]].sum()
    while True:
        bare = [i for i in segments if not weights[i].any()]
        clothed = [j for j in segments if weights[j].any()]
        found = {i: max(clothed, key=lambda j, i=i: coupling[i, j]) for i in bare}
        found = {i: j for i, j in found.items() if coupling[i, j] > 0}
        if not found:
            break
        before = weights.copy()
        for i, j in found.items():
            weights[i] = before[j]
    weights[bare, -1] = 1
    return weights


def dense(links, number, values):
    """Arranges values of pairs in a symmetric matrix."""
    matrix = np.zeros((number, number))
    there = np.asarray(links.length) > 0
    low, high = np.asarray(links.low)[there], np.asarray(links.high)[there]
    matrix[low, high] = matrix[high, low] = np.asarray(values, np.float64)[there]
    return matrix


def coarse(weights, matrix):
    """Splits P' W P into couplings between new segments and, each pair once, inside them."""
    product = weights.T @ matrix @ weights
    inside = np.diag(product) / 2
    return product - np.diag(np.diag(product)), inside


def modulation(colour, response, size, scales):
    """Returns coupling factors [n, n] from differences of responses and JPEG-style colours."""
    red, green, blue = colour / size
    brightness = 0.299 * red + 0.587 * green + 0.114 * blue
    feature = np.stack(
        [brightness, 2 * 0.564 * (blue - brightness), 2 * 0.713 * (red - brightness)]
    )
    apart = 0
    for means, scale in zip((feature, response / size), scales, strict=True):
        apart = apart + np.linalg.norm(means[:, :, None] - means[:, None], axis=0) / scale
    return np.exp(-apart)
