"""A Mask R-CNN that compiles in seconds, and a batch for it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from segjax.models import FasterRCNN, MaskRCNN, faster_rcnn_resnet_fpn, mask_rcnn_resnet_fpn
from segjax.models.flavours import FLAVOURS
from segjax.nn.norm import NormSpec
from segjax.nn.resnet import resnet
from segjax.types import Batch

CLASSES = 3
SIZE = 64
NORM = NormSpec("group", groups=4)


def mask_rcnn(style="detectron2", norm=NORM, dtype="float32", num_classes=CLASSES) -> MaskRCNN:
    """ResNet-18 of width 8, FPN of width 16, few regions."""
    model = mask_rcnn_resnet_fpn(num_classes, style=style, dtype=dtype)
    shrunk = _shrink(model, style, norm, dtype)
    return shrunk.clone(
        mask_head=model.mask_head.clone(features=8, num_convs=1),
        mask_pooler=dataclasses.replace(model.mask_pooler, output_size=4),
    )


def faster_rcnn(style="detectron2", norm=NORM, dtype="float32", num_classes=CLASSES) -> FasterRCNN:
    """The same without the mask branch."""
    model = faster_rcnn_resnet_fpn(num_classes, style=style, dtype=dtype)
    return _shrink(model, style, norm, dtype)


def _shrink(model, style, norm, dtype):
    flavour = FLAVOURS[style]
    return model.clone(
        backbone=resnet(18, features=8, norm=norm, dtype=dtype),
        fpn=model.fpn.clone(features=16),
        rpn=dataclasses.replace(
            flavour.rpn,
            anchor_sizes=(8.0, 16.0, 32.0, 64.0, 128.0),
            pre_nms_topk=(32, 32),
            post_nms_topk=(32, 32),
            num_samples=32,
        ),
        box_head=model.box_head.clone(fc_features=16, conv_features=16),
        box_pooler=dataclasses.replace(flavour.box_pooler, output_size=3),
        sampler=dataclasses.replace(flavour.sampler, num_samples=16),
        detections=dataclasses.replace(flavour.detections, max_detections=8, num_candidates=64),
    )


def batch(images=2, objects=2, slots=4, size=SIZE, canvas=None, seed=0) -> Batch:
    """Random pictures with `objects` bright boxes each, whose masks are full."""
    random = np.random.default_rng(seed)
    canvas = size if canvas is None else canvas
    pixels = np.zeros((images, canvas, canvas, 3), np.uint8)
    pixels[:, :size, :size] = random.integers(0, 100, (images, size, size, 3))
    boxes = np.zeros((images, slots, 4), np.float32)
    classes = np.zeros((images, slots), np.int32)
    masks = np.zeros((images, slots, 28, 28), np.uint8)
    for i in range(images):
        for j in range(objects):
            x, y = random.integers(0, size - 30, 2)
            w, h = random.integers(16, 30, 2)
            boxes[i, j] = x, y, x + w, y + h
            classes[i, j] = random.integers(CLASSES)
            pixels[i, y : y + h, x : x + w] = 150 + 50 * np.eye(3)[classes[i, j]]
            masks[i, j] = 1
    valid = np.broadcast_to(np.arange(slots)[None] < objects, (images, slots))
    return Batch(
        images=jnp.asarray(pixels),
        image_sizes=jnp.full((images, 2), size, jnp.int32),
        gt_boxes=jnp.asarray(boxes),
        gt_classes=jnp.asarray(classes),
        gt_valid=jnp.asarray(valid),
        gt_is_crowd=jnp.zeros((images, slots), bool),
        gt_masks=jnp.asarray(masks),
        gt_mask_frames=jnp.asarray(boxes),
    )


def init(model, seed=0):
    """Variables of a model."""
    images = jnp.zeros((1, SIZE, SIZE, 3), jnp.uint8)
    sizes = jnp.full((1, 2), SIZE, jnp.int32)
    return jax.jit(model.init)(jax.random.key(seed), images, sizes)


def keys(images=2, seed=0):
    """A key for each image."""
    return jax.random.split(jax.random.key(seed), images)
