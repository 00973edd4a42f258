"""The panoptic merge in plain form: sets of pixels, one instance and one label at a time."""

import numpy as np

from segjax.results.panoptic_merge import Dropped, Merged, MergedSegment


def merge(
    masks,
    scores,
    classes,
    semantic,
    *,
    stuff_labels,
    score_threshold=0.5,
    overlap_threshold=0.5,
    stuff_area=4096,
):
    """Merges whole masks by the rule of "Panoptic Feature Pyramid Networks" (1901.02446).

    Args:
      masks: bool, (n, h, w).
      scores: float32, (n,).
      classes: integer, (n,).
      semantic: label of each pixel, (h, w).
      stuff_labels, score_threshold, overlap_threshold, stuff_area: as for
        `segjax.results.panoptic_merge.merge_detections`.
    """
    owner, segments, reasons = {}, [], dict.fromkeys(Dropped.__dataclass_fields__, 0)

    def take(pixels, index, is_thing, score, instance):
        number = len(segments) + 1
        segments.append(MergedSegment(number, index, is_thing, score, len(pixels), instance))
        owner.update(dict.fromkeys(pixels, number))

    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        pixels = _pixels(masks[i])
        taken = pixels & owner.keys()
        if scores[i] < score_threshold:
            reasons["low_score"] += 1
        elif not pixels:
            reasons["empty"] += 1
        elif taken == pixels or len(taken) / len(pixels) > overlap_threshold:
            reasons["overlapping"] += 1
        else:
            take(pixels - taken, int(classes[i]), True, float(scores[i]), i)
    for label in np.unique(semantic).tolist():
        left = _pixels(semantic == label) - owner.keys()
        if label not in stuff_labels:
            reasons["other_pixels"] += len(left)
        elif left and len(left) < stuff_area:
            reasons["small_stuff"] += 1
            reasons["small_stuff_pixels"] += len(left)
        elif left:
            take(left, label, False, None, None)
    ids = np.zeros(semantic.shape, np.int32)
    for pixel, number in owner.items():
        ids[pixel] = number
    return Merged(ids, segments, Dropped(**reasons))


def _pixels(mask):
    return {(int(y), int(x)) for y, x in np.argwhere(mask)}
