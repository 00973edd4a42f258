"""torchvision's names: `maskrcnn_resnet50_fpn` and `_v2`, `fasterrcnn_*` likewise.

Its class 0 is the background: it moves to the end of the logits, and its
boxes and masks, which nothing ever reads, are left behind.
"""

import numpy as np

from segjax.zoo.convert.rules import (
    Rule,
    conv,
    conv_rules,
    deconv,
    dense_after_pool,
    dense_rules,
    norm_rules,
    same,
)


def resnet_rules(peer: str) -> list[Rule]:
    """A torchvision-style ResNet body under the prefix `peer` (mmdet's is the same)."""
    layer, ours = peer + r"layer(\d)\.(\d+)\.", r"backbone/layer\1_\2/"
    return [
        *conv_rules(peer + "conv1", "backbone/stem_conv", bias=False),
        *norm_rules(peer + "bn1", "backbone/stem_norm"),
        *conv_rules(layer + r"conv(\d)", ours + r"conv\3", bias=False),
        *norm_rules(layer + r"bn(\d)", ours + r"norm\3"),
        *conv_rules(layer + r"downsample\.0", ours + "conv_shortcut", bias=False),
        *norm_rules(layer + r"downsample\.1", ours + "norm_shortcut"),
    ]


def _background_last(x: np.ndarray) -> np.ndarray:
    """Class logits: [K + 1 (background first), ...] -> [..., K + 1 (background last)]."""
    return np.roll(x, -1, axis=0).T


def _foreground_boxes(x: np.ndarray) -> np.ndarray:
    """Box deltas: [(K + 1) * 4, ...] -> [..., K * 4]."""
    return x[4:].T


def _foreground_masks(x: np.ndarray) -> np.ndarray:
    """Mask logits: kernel [K + 1, C, 1, 1] -> [1, 1, C, K]; bias [K + 1] -> [K]."""
    return conv(x[1:]) if x.ndim == 4 else x[1:]


def _fpn(block: str, ours: str) -> list[Rule]:
    rules: list[Rule] = []
    for i in range(4):
        peer = rf"backbone\.fpn\.{block}\.{i}"
        rules += conv_rules(peer + r"(?:\.0)?", f"fpn/{ours}{i + 2}", bias=True)
        rules += norm_rules(peer + r"\.1", f"fpn/{ours}{i + 2}_norm")
    return rules


RULES: list[Rule] = [
    *resnet_rules(r"backbone\.body\."),
    *_fpn("inner_blocks", "lateral"),
    *_fpn("layer_blocks", "output"),
    *conv_rules(r"rpn\.head\.conv\.0\.0", "rpn_head/conv1", bias=True),
    *conv_rules(r"rpn\.head\.conv\.1\.0", "rpn_head/conv2", bias=True),
    *conv_rules(r"rpn\.head\.conv", "rpn_head/conv1", bias=True),  # files before 0.13
    *conv_rules(r"rpn\.head\.cls_logits", "rpn_head/objectness", bias=True),
    *conv_rules(r"rpn\.head\.bbox_pred", "rpn_head/deltas", bias=True),
    *dense_rules(r"roi_heads\.box_head\.fc6", "box_head/fc1", dense_after_pool(7)),
    *dense_rules(r"roi_heads\.box_head\.fc7", "box_head/fc2"),
    *[
        rule
        for i in range(4)
        for rule in (
            *conv_rules(rf"roi_heads\.box_head\.{i}\.0", f"box_head/conv{i + 1}", bias=False),
            *norm_rules(rf"roi_heads\.box_head\.{i}\.1", f"box_head/norm{i + 1}"),
            *conv_rules(rf"roi_heads\.mask_head\.{i}\.0", f"mask_head/conv{i + 1}", bias=True),
            *norm_rules(rf"roi_heads\.mask_head\.{i}\.1", f"mask_head/norm{i + 1}"),
        )
    ],
    *dense_rules(r"roi_heads\.box_head\.5", "box_head/fc1", dense_after_pool(7)),
    Rule(
        r"roi_heads\.box_predictor\.cls_score\.weight",
        "box_head/class_logits/kernel",
        _background_last,
    ),
    Rule(
        r"roi_heads\.box_predictor\.cls_score\.bias",
        "box_head/class_logits/bias",
        _background_last,
    ),
    Rule(
        r"roi_heads\.box_predictor\.bbox_pred\.weight",
        "box_head/box_deltas/kernel",
        _foreground_boxes,
    ),
    Rule(
        r"roi_heads\.box_predictor\.bbox_pred\.bias",
        "box_head/box_deltas/bias",
        _foreground_boxes,
    ),
    # files before 0.13 name the mask head's convolutions mask_fcn1..4
    *conv_rules(r"roi_heads\.mask_head\.mask_fcn(\d)", r"mask_head/conv\1", bias=True),
    Rule(r"roi_heads\.mask_predictor\.conv5_mask\.weight", "mask_head/deconv/kernel", deconv),
    Rule(r"roi_heads\.mask_predictor\.conv5_mask\.bias", "mask_head/deconv/bias", same),
    Rule(
        r"roi_heads\.mask_predictor\.mask_fcn_logits\.weight",
        "mask_head/logits_kernel",
        _foreground_masks,
    ),
    Rule(
        r"roi_heads\.mask_predictor\.mask_fcn_logits\.bias",
        "mask_head/logits_bias",
        _foreground_masks,
    ),
]
