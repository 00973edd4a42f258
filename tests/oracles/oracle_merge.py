"""`bottom_up` in plain form: one pixel, one border and one segment at a time."""

import numpy as np


def join_seeds(feature, cell, rounds, compactness):
    """Returns row and column of the seed cell that each pixel joins."""
    _, height, width = feature.shape
    place = np.indices((height, width)) * (compactness / cell)
    values = np.concatenate([feature, place]).astype(np.float64)
    joined = {(y, x): (y // cell, x // cell) for y in range(height) for x in range(width)}
    for _ in range(rounds):
        members = {}
        for pixel, seed in joined.items():
            members.setdefault(seed, []).append(values[:, *pixel])
        means = {seed: np.mean(rows, 0) for seed, rows in members.items()}
        for y, x in joined:
            own = (y // cell, x // cell)
            near = [own] + [(own[0] + a, own[1] + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
            near = [seed for seed in near if seed in means]
            joined[y, x] = min(near, key=lambda s: ((values[:, y, x] - means[s]) ** 2).sum())
    return tuple(
        np.array([[joined[y, x][i] for x in range(width)] for y in range(height)]) for i in (0, 1)
    )


def borders_of(feature, label):
    """Returns length and contrast of the border of each pair of touching segments."""
    _, height, width = feature.shape
    borders = {}
    for y in range(height):
        for x in range(width):
            for down, right in ((1, 0), (0, 1)):
                if y + down >= height or x + right >= width:
                    continue
                pair = tuple(sorted((label[y, x], label[y + down, x + right])))
                before = feature[:, max(y - down, 0), max(x - right, 0)]
                after = feature[:, min(y + 2 * down, height - 1), min(x + 2 * right, width - 1)]
                if pair[0] != pair[1]:
                    length, contrast = borders.get(pair, (0, 0.0))
                    borders[pair] = (length + 1, contrast + np.linalg.norm(after - before))
    return borders


def join(costs, segments, capacity):
    """Returns the groups of segments that join, as a set of sets.

    Args:
      costs: joining costs by pair of segments; ties are broken by this order.
      segments: numbers of the segments.
      capacity: number of segments that should remain.
    """
    chosen = set()
    for segment in segments:
        own = [pair for pair in costs if segment in pair]
        if own:
            chosen.add(min(own, key=costs.get))
    wanted = len(segments) - capacity
    ordered = sorted(chosen, key=costs.get)
    limit = costs[ordered[min(wanted, len(ordered)) - 1]] if wanted > 0 and ordered else -1.0
    groups = {segment: {segment} for segment in segments}
    for one, other in chosen:
        if costs[one, other] <= limit:
            together = groups[one] | groups[other]
            groups |= dict.fromkeys(together, together)
    return {frozenset(group) for group in groups.values()}
