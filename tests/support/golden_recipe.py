"""Reproduces the inputs of a golden file: weights by name, image, ground truth and regions.

Every array is drawn from numpy's legacy generator, which numpy's policy keeps frozen. The seed is
the CRC-32 of the parameter's name plus the file's seed.
"""

import zlib

import numpy as np

# Standard deviation of a layer's output for unit-variance input, by part of its name. The first
# match applies.
GAINS = {
    "rpn.head.cls_logits": 1.0,
    "rpn.head.bbox_pred": 0.2,
    "cls_score": 0.7,
    "bbox_pred": 0.3,
    "mask_fcn_logits": 1.0,
    "objectness_logits": 1.0,
    "anchor_deltas": 0.2,
    "mask_head.predictor": 1.0,
    "sem_seg_head.predictor": 8.0,
    "rpn_cls": 1.0,
    "rpn_reg": 0.2,
    "fc_cls": 0.7,
    "fc_reg": 0.3,
    "conv_logits": 1.0,
    "conv_seg": 1.0,
}
LAST_NORMS = ("bn3", "conv3.norm", "norm3")  # small, so that residual sums stay bounded


def state_dict(
    manifest: dict[str, list[int]], seed: int, scaled: dict[str, float] | None = None
) -> dict[str, np.ndarray]:
    """Returns the peer's checkpoint, {name: array}, for shapes {name: shape}.

    Arrays whose names contain a key of `scaled` are multiplied by its value.
    """
    arrays = {name: _array(name, tuple(shape), manifest, seed) for name, shape in manifest.items()}
    for part, factor in (scaled or {}).items():
        arrays |= {name: x * np.float32(factor) for name, x in arrays.items() if part in name}
    return arrays


def _array(name, shape, manifest, seed):
    random = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
    stem, _, leaf = name.rpartition(".")
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "running_mean":
        return (0.1 * random.standard_normal(shape)).astype(np.float32)
    if leaf == "running_var":
        return random.uniform(0.8, 1.2, shape).astype(np.float32)
    # Vectors called "weight" in torchvision's Swin belong to layer norms.
    layer_norm = name.startswith("features.") and leaf == "weight" and len(shape) == 1
    in_norm = layer_norm or f"{stem}.running_var" in manifest
    if leaf == "bias":
        spread = 0.1 if in_norm else 0.05
        return (spread * random.standard_normal(shape)).astype(np.float32)
    if in_norm:
        return _norm_scale(name, shape, random)
    return (random.standard_normal(shape) * _gain(name) / np.sqrt(_fan_in(name, shape))).astype(
        np.float32
    )


def _norm_scale(name, shape, random):
    if name.endswith("stem.conv1.norm.weight"):  # Detectron2 feeds pixels of deviation ~57
        return (random.uniform(0.8, 1.2, shape) / 57).astype(np.float32)
    low, high = (0.1, 0.4) if any(part in name for part in LAST_NORMS) else (0.8, 1.2)
    return random.uniform(low, high, shape).astype(np.float32)


def _fan_in(name, shape):
    transposed = any(part in name for part in ("deconv", "upsample", "conv5_mask"))
    if transposed or len(shape) == 1:
        return shape[0]
    return int(np.prod(shape[1:]))


def _gain(name):
    for part, gain in GAINS.items():
        if part in name:
            return gain
    return 0.8 if any(part in name for part in ("fpn", "neck", "lateral")) else 1.4


def image(height: int, width: int, seed: int) -> np.ndarray:
    """Draws an image of waves, discs and bars, uint8 RGB [height, width, 3]."""
    random = np.random.RandomState(1000 + seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)

    def wave():
        length, phase = random.uniform(15, 60), random.uniform(0, 6)
        return 127 + 60 * np.sin(x / length + phase) * np.cos(y / random.uniform(15, 60))

    picture = np.stack([wave() for _ in range(3)], -1)
    for _ in range(12):
        cy, cx = random.uniform(0, height), random.uniform(0, width)
        radius = random.uniform(0.04, 0.2) * min(height, width)
        colour = random.uniform(0, 255, 3)
        if random.uniform() < 0.5:
            inside = (y - cy) ** 2 + (x - cx) ** 2 < radius * radius
        else:
            inside = (abs(y - cy) < radius) & (abs(x - cx) < radius * random.uniform(0.4, 2.0))
        picture[inside] = colour + 10 * random.standard_normal((inside.sum(), 3))
    return np.clip(picture, 0, 255).astype(np.uint8)


def instances(height: int, width: int, count: int, num_classes: int, seed: int):
    """Draws ellipses: boxes [count, 4] float32, classes [count], masks [count, H, W] bool."""
    random = np.random.RandomState(2000 + seed)
    y, x = np.mgrid[0:height, 0:width] + 0.5
    boxes, masks = [], []
    while len(masks) < count:
        cy, cx = random.uniform(0.1, 0.9) * height, random.uniform(0.1, 0.9) * width
        ry, rx = random.uniform(0.05, 0.3) * height, random.uniform(0.05, 0.3) * width
        mask = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
        if mask.sum() < 16:
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        masks.append(mask)
    return np.array(boxes, np.float32), random.randint(0, num_classes, count), np.array(masks)


def regions(height: int, width: int, count: int, seed: int) -> np.ndarray:
    """Draws boxes of all scales inside the image, float32 [count, 4]."""
    random = np.random.RandomState(3000 + seed)
    largest = 0.9 * min(height, width)
    size = np.exp(random.uniform(np.log(8), np.log(largest), (count, 2)))
    centre = random.uniform(0, 1, (count, 2)) * [width, height]
    boxes = np.concatenate([centre - size / 2, centre + size / 2], 1)
    boxes[:, 0::2] = boxes[:, 0::2].clip(0, width)
    boxes[:, 1::2] = boxes[:, 1::2].clip(0, height)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 4)
    return boxes.astype(np.float32)


def semantic(height: int, width: int, num_classes: int, seed: int) -> np.ndarray:
    """Draws uint8 labels [height, width] in blocks of 32 pixels, a tenth of them 255 (ignored)."""
    random = np.random.RandomState(4000 + seed)
    rows, columns = height // 32 + 1, width // 32 + 1
    blocks = random.randint(0, num_classes, (rows, columns))
    blocks[random.uniform(size=blocks.shape) < 0.1] = 255
    return blocks.repeat(32, 0).repeat(32, 1)[:height, :width].astype(np.uint8)
