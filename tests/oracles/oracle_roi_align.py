"""RoIAlign computed sample by sample.

Positions are computed in float32, in the operation order of torchvision and mmcv, because the last
bit decides if a sample on the very rim counts. Everything after that is float64.
"""

import numpy as np

F = np.float32


def axis_samples(
    low: np.float32, high: np.float32, size: int, bins: int, ratio: int, aligned: bool
) -> list[list[list[tuple[int, float]]]]:
    """Returns, for each bin and sample, the cells it reads with their weights; possibly none."""
    low, high = F(low), F(high)
    start = F(low - F(0.5)) if aligned else low
    length = F(F(high - F(0.5)) - start) if aligned else max(F(high - start), F(1))
    bin_size = F(length / F(bins))
    count = ratio or max(int(np.ceil(bin_size)), 0)
    positions = [
        [
            F(F(start + F(F(p) * bin_size)) + F(F(F(k + 0.5) * bin_size) / F(count)))
            for k in range(count)
        ]
        for p in range(bins)
    ]
    return [[_cells(float(v), size) for v in row] for row in positions]


def _cells(position: float, size: int) -> list[tuple[int, float]]:
    """Returns one sample's two cells: none beyond the rim, clamped within a cell of the map."""
    if position < -1 or position > size:
        return []
    position = max(position, 0.0)
    low = int(position)
    if low >= size - 1:
        return [(size - 1, 1.0)]
    return [(low, 1 - (position - low)), (low + 1, position - low)]


def roi_taps(
    roi: np.ndarray, shape: tuple[int, int], bins: int, ratio: int, aligned: bool
) -> list[tuple[int, int, int, int, float]]:
    """Returns all `(bin row, bin column, row, column, weight)` of a region in cell coordinates."""
    rows = axis_samples(roi[1], roi[3], shape[0], bins, ratio, aligned)
    cols = axis_samples(roi[0], roi[2], shape[1], bins, ratio, aligned)
    taps = []
    for s in range(bins):
        for t in range(bins):
            mean = 1 / max(len(rows[s]) * len(cols[t]), 1)
            for y in rows[s]:
                for x in cols[t]:
                    taps += [(s, t, r, c, wr * wc * mean) for r, wr in y for c, wc in x]
    return taps


def roi_align(
    feature: np.ndarray, roi: np.ndarray, bins: int, ratio: int, aligned: bool
) -> np.ndarray:
    """Pools one region, in cell coordinates, from a map `[h, w, C]` to `[bins, bins, C]`."""
    out = np.zeros((bins, bins, feature.shape[-1]))
    for s, t, r, c, weight in roi_taps(roi, feature.shape[:2], bins, ratio, aligned):
        out[s, t] += weight * feature[r, c]
    return out


def roi_align_transpose(
    grad: np.ndarray, shape: tuple[int, int], roi: np.ndarray, ratio: int, aligned: bool
) -> np.ndarray:
    """Returns the map's gradient, given the gradient of the bins."""
    out = np.zeros((*shape, grad.shape[-1]))
    for s, t, r, c, weight in roi_taps(roi, shape, len(grad), ratio, aligned):
        out[r, c] += weight * grad[s, t]
    return out


def some_rois(rng: np.random.Generator, shape: tuple[int, ...], extent: float) -> np.ndarray:
    """Draws regions `[*shape, 4]` around an image of side `extent`: all kinds except huge ones.

    Most are ordinary, long and thin, or aligned to whole cells (where rounding decides); a few are
    empty, inverted or outside the image.
    """
    low = rng.uniform(-0.3 * extent, extent, (*shape, 2))
    sides = np.exp(rng.uniform(np.log(0.1), np.log(1.5 * extent), (*shape, 2)))
    rois = np.concatenate([low, low + sides], axis=-1)
    kind = rng.integers(0, 8, shape)
    rois[kind == 0] = np.round(rois[kind == 0])
    rois[kind == 1] = np.round(rois[kind == 1] / 4) * 4
    rois[kind == 2, 2:] = rois[kind == 2, :2]
    rois[kind == 3] = rois[kind == 3][:, [2, 1, 0, 3]]
    return rois.astype(np.float32)
