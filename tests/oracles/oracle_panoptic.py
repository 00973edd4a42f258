"""Panoptic quality and mean IoU by plain loops over pixels; reference for the fast versions."""

import math
from fractions import Fraction


def segment_pixels(ids):
    """Maps each segment id to its set of (row, column); id 0 is void."""
    pixels = {}
    for y in range(ids.shape[0]):
        for x in range(ids.shape[1]):
            pixels.setdefault(int(ids[y, x]), set()).add((y, x))
    return pixels


def panoptic_counts(gt_ids, gt_segments, pred_ids, pred_segments):
    """Returns {category: [sum of IoU, tp, fp, fn]} of one image, as literally defined."""
    truth, found = segment_pixels(gt_ids), segment_pixels(pred_ids)
    void = truth.get(0, set())
    counts, taken = {}, set()
    for g in gt_segments:
        if g.is_crowd:
            continue
        area, hit = truth.get(g.id, set()), None
        for p in pred_segments:
            if p.category_id == g.category_id:
                union = area | (found[p.id] - void)
                iou = Fraction(len(area & found[p.id]), max(len(union), 1))
                if iou > Fraction(1, 2):
                    assert hit is None, "matches are unique"
                    hit = iou
                    taken.add(p.id)
        row = counts.setdefault(g.category_id, [0, 0, 0, 0])
        if hit is None:
            row[3] += 1
        else:
            row[0] += hit
            row[1] += 1
    for p in pred_segments:
        if p.id not in taken:
            crowds = [g for g in gt_segments if g.is_crowd and g.category_id == p.category_id]
            excuse = void | (truth.get(crowds[-1].id, set()) if crowds else set())
            if 2 * len(found[p.id] & excuse) <= len(found[p.id]):
                counts.setdefault(p.category_id, [0, 0, 0, 0])[2] += 1
    return counts


def panoptic_means(images, categories):
    """Returns {category: (pq, sq, rq)} and means of (all, things, stuff) of `panoptic_counts`."""
    table = {}
    for category in categories:
        rows = [counts[category.id] for counts in images if category.id in counts]
        iou, tp, fp, fn = (sum(row[i] for row in rows) for i in range(4))
        if tp + fp + fn:
            weight = tp + Fraction(fp, 2) + Fraction(fn, 2)
            table[category.id] = (iou / weight, iou / tp if tp else 0, tp / weight)
    means = []
    for kinds in ((True, False), (True,), (False,)):
        rows = [table[c.id] for c in categories if c.is_thing in kinds and c.id in table]
        means.append([float(sum(r[i] for r in rows) / len(rows)) if rows else math.nan
                      for i in range(3)])  # fmt: skip
    return table, means


def semantic_scores(pairs, count, ignore):
    """Returns mean IoU (both means), fwIoU, mACC, pACC and per-class IoU of (true, found) maps."""
    both, true, found = ([0] * count for _ in range(3))
    for gt, pred in pairs:
        for y in range(gt.shape[0]):
            for x in range(gt.shape[1]):
                t, p = int(gt[y, x]), int(pred[y, x])
                if t == ignore:
                    continue
                true[t] += 1
                if p != ignore:
                    found[p] += 1
                both[t] += t == p
    total = sum(true)
    either = [true[k] + found[k] - both[k] for k in range(count)]
    iou = [both[k] / either[k] if either[k] else math.nan for k in range(count)]
    accuracy = [both[k] / true[k] for k in range(count) if true[k]]
    return {
        "iou": iou,
        "mean_iou": _mean([v for v in iou if not math.isnan(v)]),
        "mean_iou_of_true": _mean([iou[k] for k in range(count) if true[k]]),
        "frequency_weighted_iou": sum(iou[k] * true[k] / total for k in range(count) if true[k])
        if total
        else math.nan,
        "mean_accuracy": _mean(accuracy),
        "pixel_accuracy": sum(both) / total if total else math.nan,
    }


def _mean(values):
    return sum(values) / len(values) if values else math.nan
