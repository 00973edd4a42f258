"""Small configs of every model family, intended for compilers rather than training."""

from segjax.config import OptimConfig, TrainConfig
from segjax.data.config import DataConfig
from segjax.models import (
    efficientnet_lite,
    mask_rcnn,
    panoptic_fpn,
    semantic_fpn,
)
from segjax.models.flavours.libraries import DETECTRON2, MMDET
from segjax.nn.backbones.resnet import ResNet, resnet
from segjax.nn.dtype import with_dtype
from tests.support import tiny

MMDETS = ("cascade_mmdet", "htc")


def _panoptic_fpn():
    model = panoptic_fpn(resnet(50), num_classes=tiny.CLASSES, semantic_classes=tiny.CLASSES + 2)
    return model.clone(detector=tiny.mask_rcnn())


MODELS = {
    "faster_rcnn": tiny.faster_rcnn,
    "mask_rcnn": tiny.mask_rcnn,
    "mask_rcnn_torchvision": lambda: tiny.mask_rcnn("torchvision"),
    "cascade_detectron2": lambda: tiny.cascade_mask_rcnn("detectron2"),
    "cascade_mmdet": lambda: tiny.cascade_mask_rcnn("mmdet"),
    "htc": tiny.htc,
    "panoptic_fpn": _panoptic_fpn,
    "semantic_fpn": lambda: semantic_fpn(resnet(50), semantic_classes=tiny.CLASSES + 1),
    "lite": lambda: mask_rcnn(efficientnet_lite(0), num_classes=tiny.CLASSES),
}
FAMILIES = tuple(MODELS)


def small_run(family, dtype="bfloat16"):
    """Returns the config of a family's small model, with images of 128 x 192 pixels."""
    flavour = MMDET if family in MMDETS else DETECTRON2
    model = with_dtype(_with_bottlenecks(MODELS[family](), flavour), dtype)
    pixels = model.classes.pixels is not None
    panoptic = family == "panoptic_fpn"
    return TrainConfig(
        model=model,
        data=DataConfig(
            resize="fit",
            size=(128, 192),
            batch_size=2,
            eval_batch_size=2,
            max_instances=8,
            mask_size=28,
            instances=family != "semantic_fpn",
            masks=("masks" in model.tasks),
            semantic="panoptic" if pixels else "none",
            merge_things="first" if panoptic else "no",
        ),
        optim=OptimConfig(),
    )


def _with_bottlenecks(model, flavour):
    """Puts the model on a backbone with the blocks and norm of the published models.

    Both affect XLA's fusions and their failures: a slice that skips cells before a 1x1 convolution
    aborted the compiler after mmdet's norm, but not after group norm.
    """
    if hasattr(model, "detector"):
        return model.clone(detector=_with_bottlenecks(model.detector, flavour))
    if not isinstance(model.backbone, ResNet):
        return model
    backbone = resnet(
        50,
        features=8,
        stride_in_1x1=flavour.stride_in_1x1,
        norm=flavour.backbone_norm,
        frozen_stages=2,
    )
    return model.clone(backbone=backbone.clone(stage_sizes=(1, 2, 1, 1)))
