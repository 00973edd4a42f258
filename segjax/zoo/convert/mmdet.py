"""MMDetection's names: Faster, Mask and Cascade R-CNN, HTC, Panoptic FPN.

The background is the last class, as in our models.
"""

from segjax.zoo.convert.rules import (
    Rule,
    conv,
    conv_rules,
    deconv_rules,
    dense_after_pool,
    dense_rules,
    group_norm_rules,
    under,
)
from segjax.zoo.convert.torchvision import resnet_rules


def _neck(peer: str, ours: str) -> list[Rule]:
    return [
        rule
        for i in range(4)
        for rule in conv_rules(f"neck.{peer}.{i}.conv", f"fpn/{ours}{i + 2}", bias=True)
    ]


def _box_head(peer: str, ours: str) -> list[Rule]:
    return [
        *dense_rules(f"{peer}.shared_fcs.0", f"{ours}/fc1", dense_after_pool(7)),
        *dense_rules(f"{peer}.shared_fcs.1", f"{ours}/fc2"),
        *dense_rules(f"{peer}.fc_cls", f"{ours}/class_logits"),
        *dense_rules(f"{peer}.fc_reg", f"{ours}/box_deltas"),
    ]


def _mask_head(peer: str, ours: str) -> list[Rule]:
    return [
        *_counted_convs(f"{peer}.convs", f"{ours}/conv", 4),
        *deconv_rules(f"{peer}.upsample", f"{ours}/deconv"),
        Rule(f"{peer}.conv_logits.weight", f"{ours}/logits_kernel", conv),
        Rule(f"{peer}.conv_logits.bias", f"{ours}/logits_bias"),
    ]


def _fused_semantic_head(peer: str, ours: str) -> list[Rule]:
    return [
        *_counted_convs(f"{peer}.lateral_convs", f"{ours}/lateral", 5),
        *_counted_convs(f"{peer}.convs", f"{ours}/conv", 4),
        *conv_rules(f"{peer}.conv_embedding.conv", f"{ours}/embedding", bias=True),
        *conv_rules(f"{peer}.conv_logits", f"{ours}/logits", bias=True),
    ]


def _counted_convs(peer: str, ours: str, count: int) -> list[Rule]:
    """Returns the rules of a list of convolutions, numbered from 0 by the peer and from 1 by us."""
    return [
        rule
        for i in range(count)
        for rule in conv_rules(f"{peer}.{i}.conv", f"{ours}{i + 1}", bias=True)
    ]


def _semantic_block(level: int, index: int) -> list[Rule]:
    """Returns the rules of one convolution of a level in Panoptic FPN's semantic branch."""
    peer = f"semantic_head.conv_upsample_layers.{level}.conv.{index}"
    ours = f"semantic_head/level{level + 1}_conv{index + 1}"
    return [
        *conv_rules(f"{peer}.conv", ours, bias=False),
        *group_norm_rules(f"{peer}.gn", f"{ours}_norm"),
    ]


RULES: list[Rule] = [
    *resnet_rules("backbone.", "backbone/", frozen=False),
    *_neck("lateral_convs", "lateral"),
    *_neck("fpn_convs", "output"),
    *conv_rules("rpn_head.rpn_conv", "rpn_head/conv1", bias=True),
    *conv_rules("rpn_head.rpn_cls", "rpn_head/objectness", bias=True),
    *conv_rules("rpn_head.rpn_reg", "rpn_head/deltas", bias=True),
    *_box_head("roi_head.bbox_head", "box_head"),
    *_box_head("roi_head.bbox_head.#", "box_heads_#"),
    *_mask_head("roi_head.mask_head", "mask_head"),
    *_mask_head("roi_head.mask_head.#", "mask_heads_#"),
    # Both sides number a mask flow by the head that receives it, from 0.
    *conv_rules("roi_head.mask_head.#.conv_res.conv", "mask_flow#", bias=True),
    *_fused_semantic_head("roi_head.semantic_head", "semantic_head"),
]

# Panoptic FPN: a Mask R-CNN and the semantic branch, with all things as the last class, as here.
PANOPTIC_RULES: list[Rule] = [
    *under("detector", RULES),
    *[
        rule
        for level in range(4)
        for index in range(max(1, level))
        for rule in _semantic_block(level, index)
    ],
    *conv_rules("semantic_head.conv_logits", "semantic_head/logits", bias=True),
]
