"""Models that compile in seconds, and a batch for them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from segjax import models
from segjax.models import (
    CascadeMaskRCNN,
    CascadeRCNN,
    FasterRCNN,
    HybridTaskCascade,
    MaskRCNN,
    resnet,
)
from segjax.models.variables import variable_shapes
from segjax.nn.heads.semantic import FusedSemanticHead
from segjax.nn.norm import NormSpec
from segjax.types import Batch

CLASSES = 3
SIZE = 64
NORM = NormSpec("group", groups=4)


def backbone(norm=NORM):
    """ResNet-18 of width 8 with few blocks and nothing frozen, which is cheap to compile."""
    small = resnet(18, features=8, norm=norm, stride_in_1x1=False, frozen_stages=0)
    return small.clone(stage_sizes=(2, 1, 1, 1))


def mask_rcnn(style="detectron2", norm=NORM, dtype="float32", num_classes=CLASSES) -> MaskRCNN:
    """ResNet-18 of width 8, FPN of width 16 and few regions."""
    made = models.mask_rcnn(backbone(norm), num_classes=num_classes, flavour=style, dtype=dtype)
    model = _shrink(made)
    return model.clone(
        box_head=_small_box_head(model.box_head),
        sampler=dataclasses.replace(model.sampler, num_samples=16),
        mask_head=_small_branch(model.mask_head),
    )


def faster_rcnn(style="detectron2", norm=NORM, dtype="float32", num_classes=CLASSES) -> FasterRCNN:
    """The same model without the mask branch."""
    made = models.faster_rcnn(backbone(norm), num_classes=num_classes, flavour=style, dtype=dtype)
    model = _shrink(made)
    return model.clone(
        box_head=_small_box_head(model.box_head),
        sampler=dataclasses.replace(model.sampler, num_samples=16),
    )


def cascade_rcnn(style="detectron2", dtype="float32", num_classes=CLASSES) -> CascadeRCNN:
    """A cascade of three stages with the same parts."""
    model = models.cascade_rcnn(backbone(), num_classes=num_classes, flavour=style, dtype=dtype)
    return _shrink_stages(_shrink(model))


def class_specific(model):
    """Returns the cascade with one box per class."""
    heads = tuple(head.clone(class_agnostic=False) for head in model.box_heads)
    return model.clone(box_heads=heads)


def cascade_mask_rcnn(style="detectron2", dtype="float32", num_classes=CLASSES) -> CascadeMaskRCNN:
    """Three stages, with one mask head (Detectron2) or three (mmdet)."""
    model = models.cascade_mask_rcnn(
        backbone(), num_classes=num_classes, flavour=style, dtype=dtype
    )
    model = _shrink_stages(_shrink(model))
    return model.clone(mask_heads=tuple(_small_branch(head) for head in model.mask_heads))


def htc(semantic=True, dtype="float32", num_classes=CLASSES) -> HybridTaskCascade:
    """Three stages; the semantic branch predicts the classes of `batch` and the ground."""
    made = models.htc(backbone(), num_classes=num_classes, semantic=semantic, dtype=dtype)
    model = _shrink_stages(_shrink(made))
    masks = model.mask_head
    model = model.clone(
        mask_head=masks.clone(
            pooler=dataclasses.replace(masks.pooler, output_size=4),
            semantic_pooler=dataclasses.replace(masks.semantic_pooler, output_size=12),
            mask_heads=tuple(_small_mask_head(head) for head in masks.mask_heads),
            features=16,
        )
    )
    if not semantic:
        return model
    return model.clone(
        semantic_head=FusedSemanticHead(CLASSES + 1, features=16, num_convs=1, dtype=dtype)
    )


def _shrink(model):
    return model.clone(
        fpn=model.fpn.clone(features=16),
        rpn=dataclasses.replace(
            model.rpn,
            anchor_sizes=(8.0, 16.0, 32.0, 64.0, 128.0),
            pre_nms_topk=(32, 32),
            post_nms_topk=(32, 32),
            num_samples=32,
        ),
        box_pooler=dataclasses.replace(model.box_pooler, output_size=3),
        detections=dataclasses.replace(model.detections, max_detections=8, num_candidates=64),
    )


def _shrink_stages(model):
    return model.clone(
        box_heads=tuple(_small_box_head(head) for head in model.box_heads),
        stages=with_samples(model.stages, 16),
    )


def with_samples(stages, number):
    """Returns the stages of a cascade with another number of sampled regions."""
    return tuple(
        dataclasses.replace(stage, sampler=dataclasses.replace(stage.sampler, num_samples=number))
        for stage in stages
    )


def _small_box_head(head):
    return head.clone(fc_features=16, conv_features=16)


def _small_branch(branch):
    pooler = dataclasses.replace(branch.pooler, output_size=4)
    return branch.clone(pooler=pooler, head=_small_mask_head(branch.head))


def _small_mask_head(head):
    return head.clone(features=8, num_convs=1)


def batch(images=2, objects=2, slots=4, size=SIZE, canvas=None, seed=0) -> Batch:
    """Random images with `objects` bright boxes each and full masks."""
    random = np.random.default_rng(seed)
    canvas = size if canvas is None else canvas
    pixels = np.zeros((images, canvas, canvas, 3), np.uint8)
    pixels[:, :size, :size] = random.integers(0, 100, (images, size, size, 3))
    boxes = np.zeros((images, slots, 4), np.float32)
    classes = np.zeros((images, slots), np.int32)
    masks = np.zeros((images, slots, 28, 28), np.uint8)
    semantic = np.full((images, canvas, canvas), 255, np.uint8)
    semantic[:, :size, :size] = CLASSES
    for i in range(images):
        for j in range(objects):
            x, y = random.integers(0, size - 30, 2)
            w, h = random.integers(16, 30, 2)
            boxes[i, j] = x, y, x + w, y + h
            classes[i, j] = random.integers(CLASSES)
            pixels[i, y : y + h, x : x + w] = 150 + 50 * np.eye(3)[classes[i, j]]
            masks[i, j] = 1
            semantic[i, y : y + h, x : x + w] = classes[i, j]
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
        gt_semantic=jnp.asarray(semantic),
    )


def init(model, seed=0):
    """Draws a model's variables with its layers' distributions, without compiling a program."""
    random = np.random.default_rng(seed)

    def draw(path, leaf):
        names = [entry.key for entry in path]
        if names[-1] in ("scale", "var"):
            return jnp.ones(leaf.shape, leaf.dtype)
        if not names[-1].endswith("kernel"):  # biases, means
            return jnp.zeros(leaf.shape, leaf.dtype)
        return jnp.asarray(random.normal(0, _deviation(names, leaf.shape), leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, variable_shapes(model))


def _deviation(names, shape):
    """Returns a kernel's standard deviation: small for predictors, otherwise scale-preserving."""
    if names[-1] == "logits_kernel" or names[-2] == "box_deltas":
        return 0.001
    if "rpn_head" in names or names[-2] in ("class_logits", "logits"):
        return 0.01
    return np.sqrt(2 / np.prod(shape[:-1]))


def keys(images=2, seed=0):
    """Returns one key per image."""
    return jax.random.split(jax.random.key(seed), images)
