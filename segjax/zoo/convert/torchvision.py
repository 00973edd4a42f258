"""torchvision's names: `maskrcnn_resnet50_fpn` and `_v2`, `fasterrcnn_*`, and its ResNets.

Class 0 is the background in torchvision. It moves to the end of the logits; its boxes and masks,
which are never read, are dropped.
"""

import numpy as np

from segjax.zoo.convert.rules import (
    Layout,
    Rule,
    conv,
    conv_rules,
    deconv_rules,
    dense,
    dense_after_pool,
    dense_rules,
    dropped,
    foreground,
    norm_rules,
    same,
)


def resnet_rules(peer: str, ours: str, *, frozen: bool) -> list[Rule]:
    """Returns the rules of a ResNet body, for torchvision and mmdet.

    Args:
      peer: prefix of the peer's names.
      ours: prefix of our names.
      frozen: as in `norm_rules`.
    """
    layer, block = f"{peer}layer#.#.", f"{ours}layer#_#/"
    return [
        *conv_rules(f"{peer}conv1", f"{ours}stem_conv", bias=False),
        *norm_rules(f"{peer}bn1", f"{ours}stem_norm", frozen=frozen),
        *conv_rules(f"{layer}conv#", f"{block}conv#", bias=False),
        *norm_rules(f"{layer}bn#", f"{block}norm#", frozen=frozen),
        *conv_rules(f"{layer}downsample.0", f"{block}conv_shortcut", bias=False),
        *norm_rules(f"{layer}downsample.1", f"{block}norm_shortcut", frozen=frozen),
    ]


# Class logits: [K + 1 (background first), ...] and [..., K + 1 (background last)].
_background_last = Layout(lambda x: np.roll(x, -1, 0).T, lambda x: np.roll(x.T, 1, 0))
# Box deltas: [(K + 1) * 4, ...] and [..., K * 4].
_boxes = foreground(dense, 4)
# Mask logits: kernels [K + 1, C, 1, 1] and [1, 1, C, K]; biases [K + 1] and [K].
_mask_kernels, _mask_biases = foreground(conv, 1), foreground(same, 1)


def _fpn(peer: str, ours: str) -> list[Rule]:
    return [
        *conv_rules(f"{peer}.0", ours, bias=True),
        *norm_rules(f"{peer}.1", f"{ours}_norm"),
        *conv_rules(peer, ours, bias=True, old=True),  # files of torchvision before 0.13
    ]


def _conv_norm(peer: str, ours: str, number: int) -> list[Rule]:
    """Returns the rules of a head's convolution, numbered from 0 in torchvision and from 1 here."""
    return [
        *conv_rules(f"{peer}.{number}.0", f"{ours}/conv{number + 1}", bias=True),
        *norm_rules(f"{peer}.{number}.1", f"{ours}/norm{number + 1}"),
    ]


def _predictor(peer: str, ours: str, layout: Layout) -> list[Rule]:
    return [
        Rule(f"roi_heads.box_predictor.{peer}.weight", f"box_head/{ours}/kernel", layout),
        Rule(f"roi_heads.box_predictor.{peer}.bias", f"box_head/{ours}/bias", layout),
    ]


RULES: list[Rule] = [
    *resnet_rules("backbone.body.", "backbone/", frozen=True),
    *[
        rule
        for i in range(4)
        for rule in (
            *_fpn(f"backbone.fpn.inner_blocks.{i}", f"fpn/lateral{i + 2}"),
            *_fpn(f"backbone.fpn.layer_blocks.{i}", f"fpn/output{i + 2}"),
            *_conv_norm("roi_heads.box_head", "box_head", i),
            *_conv_norm("roi_heads.mask_head", "mask_head", i),
        )
    ],
    *conv_rules("rpn.head.conv.0.0", "rpn_head/conv1", bias=True),
    *conv_rules("rpn.head.conv.1.0", "rpn_head/conv2", bias=True),
    *conv_rules("rpn.head.cls_logits", "rpn_head/objectness", bias=True),
    *conv_rules("rpn.head.bbox_pred", "rpn_head/deltas", bias=True),
    # In v2, four convolutions and a Flatten come before the first dense layer.
    *dense_rules(
        "roi_heads.box_head.5",
        "box_head/fc1",
        dense_after_pool(7),
        beside="params/box_head/conv4/kernel",
    ),
    *dense_rules("roi_heads.box_head.fc6", "box_head/fc1", dense_after_pool(7)),
    *dense_rules("roi_heads.box_head.fc7", "box_head/fc2"),
    *_predictor("cls_score", "class_logits", _background_last),
    *_predictor("bbox_pred", "box_deltas", _boxes),
    *deconv_rules("roi_heads.mask_predictor.conv5_mask", "mask_head/deconv"),
    Rule(
        "roi_heads.mask_predictor.mask_fcn_logits.weight",
        "mask_head/logits_kernel",
        _mask_kernels,
    ),
    Rule("roi_heads.mask_predictor.mask_fcn_logits.bias", "mask_head/logits_bias", _mask_biases),
    # Files of torchvision before 0.13.
    *conv_rules("rpn.head.conv", "rpn_head/conv1", bias=True, old=True),
    *conv_rules("roi_heads.mask_head.mask_fcn#", "mask_head/conv#", bias=True, old=True),
]

# A ResNet or ResNeXt alone, without its classifier; timm's weights have the same names.
BACKBONE_RULES: list[Rule] = [
    *resnet_rules("", "", frozen=False),
    *dropped("fc.weight", "fc.bias"),
]
