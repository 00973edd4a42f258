"""COCO's average precision in plain numpy for small sets, the reference for `coco_ap`."""

import numpy as np

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)


def box_overlaps(detections, truths):
    """Returns IoUs of (x, y, w, h) boxes; for crowds, relative to the detection's area."""
    table = np.zeros((len(detections), len(truths)))
    for i, d in enumerate(detections):
        for j, g in enumerate(truths):
            (dx, dy, dw, dh), (gx, gy, gw, gh) = d["bbox"], g["bbox"]
            across = max(0.0, min(dx + dw, gx + gw) - max(dx, gx))
            down = max(0.0, min(dy + dh, gy + gh) - max(dy, gy))
            both = across * down
            table[i, j] = both / (dw * dh if g["iscrowd"] else dw * dh + gw * gh - both)
    return table


def mask_overlaps(detections, truths):
    """Returns the same for the boolean arrays under "mask"."""
    table = np.zeros((len(detections), len(truths)))
    for i, d in enumerate(detections):
        for j, g in enumerate(truths):
            both = (d["mask"] & g["mask"]).sum()
            whole = d["mask"].sum() if g["iscrowd"] else (d["mask"] | g["mask"]).sum()
            table[i, j] = both / max(whole, 1)
    return table


def average_precision(images, truths, detections, threshold, limit, areas, overlaps):
    """Returns (AP, recall) of one class at one threshold; (nan, nan) without ground truth."""
    marks, total = [], 0
    for image in images:
        gts = [g for g in truths if g["image_id"] == image]
        skipped = [bool(g["iscrowd"]) or not areas[0] <= g["area"] <= areas[1] for g in gts]
        dets = sorted((d for d in detections if d["image_id"] == image), key=lambda d: -d["score"])
        dets = dets[:limit]
        table, taken = overlaps(dets, gts), set()
        total += len(gts) - sum(skipped)
        for i, d in enumerate(dets):
            marks.append((d["score"], *_match(table[i], gts, skipped, taken, threshold, d, areas)))
    if not total:
        return np.nan, np.nan
    hits = [hit for _, hit, skip in sorted(marks, key=lambda m: -m[0]) if not skip]
    tp, fp = np.cumsum(hits), np.cumsum(np.logical_not(hits))
    if not len(tp):
        return 0.0, 0.0
    recall, precision = tp / total, tp / (tp + fp)
    best = [precision[recall >= r].max(initial=0.0) for r in RECALLS]
    return float(np.mean(best)), float(recall[-1])


def _match(row, gts, skipped, taken, threshold, detection, areas):
    """Returns (hit, ignored) for one detection."""
    free = [j for j in range(len(gts)) if j not in taken or gts[j]["iscrowd"]]
    for of_skipped in (False, True):
        near = [j for j in free if skipped[j] is of_skipped and row[j] >= threshold]
        if near:
            j = max(near, key=lambda j: row[j])
            taken.add(j)
            return not of_skipped, of_skipped
    return False, not areas[0] <= detection["area"] <= areas[1]


def coco_summary(images, truths, detections, classes, limits, overlaps, areas=(0, 1e10)):
    """Returns {"ap", "ap50", "ap75", "ar" (one per limit), "per_class"} for the given classes."""
    table = np.full((len(classes), len(IOU_THRESHOLDS), len(limits), 2), np.nan)
    for k, category in enumerate(classes):
        gts = [g for g in truths if g["category_id"] == category]
        dets = [d for d in detections if d["category_id"] == category]
        for t, threshold in enumerate(IOU_THRESHOLDS):
            for m, limit in enumerate(limits):
                table[k, t, m] = average_precision(
                    images, gts, dets, threshold, limit, areas, overlaps
                )
    return {
        "ap": np.nanmean(table[:, :, -1, 0]),
        "ap50": np.nanmean(table[:, 0, -1, 0]),
        "ap75": np.nanmean(table[:, 5, -1, 0]),
        "ar": np.nanmean(table[..., 1], axis=(0, 1)),
        "per_class": table[:, :, -1, 0].mean(axis=1),
    }
