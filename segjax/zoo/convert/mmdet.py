"""MMDetection's names: Faster, Mask and Cascade R-CNN, HTC. Background is last, as ours."""

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


def _box_head(stage: str, ours: str) -> list[Rule]:
    head = rf"roi_head\.bbox_head{stage}\."
    return [
        *dense_rules(head + r"shared_fcs\.0", f"{ours}/fc1", dense_after_pool(7)),
        *dense_rules(head + r"shared_fcs\.1", f"{ours}/fc2"),
        *dense_rules(head + "fc_cls", f"{ours}/class_logits"),
        *dense_rules(head + "fc_reg", f"{ours}/box_deltas"),
    ]


def _mask_head(stage: str, ours: str) -> list[Rule]:
    head = rf"roi_head\.mask_head{stage}\."
    return [
        *_counted_convs(head + "convs", f"{ours}/conv", 4),
        Rule(head + r"upsample\.weight", f"{ours}/deconv/kernel", deconv),
        Rule(head + r"upsample\.bias", f"{ours}/deconv/bias", same),
        Rule(head + r"conv_logits\.weight", f"{ours}/logits_kernel", conv),
        Rule(head + r"conv_logits\.bias", f"{ours}/logits_bias", same),
    ]


def _semantic_head(head: str, ours: str) -> list[Rule]:
    return [
        *_counted_convs(head + "lateral_convs", f"{ours}/lateral", 5),
        *_counted_convs(head + "convs", f"{ours}/conv", 4),
        *conv_rules(head + r"conv_embedding\.conv", f"{ours}/embedding", bias=True),
        *conv_rules(head + "conv_logits", f"{ours}/logits", bias=True),
    ]


def _counted_convs(peer: str, ours: str, count: int) -> list[Rule]:
    """Convolutions in a list, which the peer counts from 0 and we from 1."""
    return [
        rule
        for i in range(count)
        for rule in conv_rules(rf"{peer}\.{i}\.conv", f"{ours}{i + 1}", bias=True)
    ]


RULES: list[Rule] = [
    *resnet_rules(r"backbone\."),
    *_neck("lateral_convs", "lateral"),
    *_neck("fpn_convs", "output"),
    *conv_rules(r"rpn_head\.rpn_conv", "rpn_head/conv1", bias=True),
    *conv_rules(r"rpn_head\.rpn_cls", "rpn_head/objectness", bias=True),
    *conv_rules(r"rpn_head\.rpn_reg", "rpn_head/deltas", bias=True),
    *_box_head("", "box_head"),
    *_box_head(r"\.(\d)", r"box_heads_\1"),
    *_mask_head("", "mask_head"),
    *_mask_head(r"\.(\d)", r"mask_heads_\1"),
    # What flows into mask head t we count from the head that it comes from.
    *conv_rules(r"roi_head\.mask_head\.(\d)\.conv_res\.conv", r"mask_flow\1", bias=True),
    *_semantic_head(r"roi_head\.semantic_head\.", "semantic_head"),
]
