"""MMDetection's names: Faster and Mask R-CNN. Background is its last class, as ours."""

from segjax.zoo.convert.rules import (
    Rule,
    conv,
    conv_rules,
    deconv,
    dense_after_pool,
    dense_rules,
    same,
)
from segjax.zoo.convert.torchvision import resnet_rules


def _neck(peer: str, ours: str) -> list[Rule]:
    return [
        rule
        for i in range(4)
        for rule in conv_rules(rf"neck\.{peer}\.{i}\.conv", f"fpn/{ours}{i + 2}", bias=True)
    ]


RULES: list[Rule] = [
    *resnet_rules(r"backbone\."),
    *_neck("lateral_convs", "lateral"),
    *_neck("fpn_convs", "output"),
    *conv_rules(r"rpn_head\.rpn_conv", "rpn_head/conv1", bias=True),
    *conv_rules(r"rpn_head\.rpn_cls", "rpn_head/objectness", bias=True),
    *conv_rules(r"rpn_head\.rpn_reg", "rpn_head/deltas", bias=True),
    *dense_rules(r"roi_head\.bbox_head\.shared_fcs\.0", "box_head/fc1", dense_after_pool(7)),
    *dense_rules(r"roi_head\.bbox_head\.shared_fcs\.1", "box_head/fc2"),
    *dense_rules(r"roi_head\.bbox_head\.fc_cls", "box_head/class_logits"),
    *dense_rules(r"roi_head\.bbox_head\.fc_reg", "box_head/box_deltas"),
    *[
        rule
        for i in range(4)
        for rule in conv_rules(
            rf"roi_head\.mask_head\.convs\.{i}\.conv", f"mask_head/conv{i + 1}", bias=True
        )
    ],
    Rule(r"roi_head\.mask_head\.upsample\.weight", "mask_head/deconv/kernel", deconv),
    Rule(r"roi_head\.mask_head\.upsample\.bias", "mask_head/deconv/bias", same),
    Rule(r"roi_head\.mask_head\.conv_logits\.weight", "mask_head/logits_kernel", conv),
    Rule(r"roi_head\.mask_head\.conv_logits\.bias", "mask_head/logits_bias", same),
]
