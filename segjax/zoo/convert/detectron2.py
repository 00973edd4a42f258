"""Detectron2's names: Faster, Mask and Cascade R-CNN, Panoptic FPN, and its ResNets.

The background is the last class, as in our models.
"""

from segjax.zoo.convert.rules import (
    Rule,
    conv,
    conv_rules,
    deconv_rules,
    dense_after_pool,
    dense_rules,
    dropped,
    group_norm_rules,
    norm_rules,
    under,
)


def _resnet(peer: str, ours: str) -> list[Rule]:
    """Returns the rules of a ResNet body with the prefixes `peer` (theirs) and `ours`."""
    return [
        *_conv_norm(f"{peer}stem.conv1", f"{ours}stem_conv", f"{ours}stem_norm"),
        *[
            rule
            for stage in (1, 2, 3, 4)
            for rule in _stage(f"{peer}res{stage + 1}.#.", f"{ours}layer{stage}_#/")
        ],
    ]


def _stage(peer: str, ours: str) -> list[Rule]:
    return [
        *_conv_norm(f"{peer}conv#", f"{ours}conv#", f"{ours}norm#"),
        *_conv_norm(f"{peer}shortcut", f"{ours}conv_shortcut", f"{ours}norm_shortcut"),
    ]


def _conv_norm(peer: str, our_conv: str, our_norm: str) -> list[Rule]:
    return [*conv_rules(peer, our_conv, bias=False), *norm_rules(f"{peer}.norm", our_norm)]


def _fpn(kind: str) -> list[Rule]:
    return [
        *conv_rules(f"backbone.fpn_{kind}#", f"fpn/{kind}#", bias=True),
        *norm_rules(f"backbone.fpn_{kind}#.norm", f"fpn/{kind}#_norm"),
    ]


def _box_head(stage: str, ours: str) -> list[Rule]:
    head, predictor = f"roi_heads.box_head{stage}.", f"roi_heads.box_predictor{stage}."
    return [
        *dense_rules(f"{head}fc1", f"{ours}/fc1", dense_after_pool(7)),
        *dense_rules(f"{head}fc2", f"{ours}/fc2"),
        *dense_rules(f"{predictor}cls_score", f"{ours}/class_logits"),
        *dense_rules(f"{predictor}bbox_pred", f"{ours}/box_deltas"),
    ]


def _mask_head(ours: str) -> list[Rule]:
    head = "roi_heads.mask_head."
    return [
        *conv_rules(f"{head}mask_fcn#", f"{ours}/conv#", bias=True),
        *deconv_rules(f"{head}deconv", f"{ours}/deconv"),
        Rule(f"{head}predictor.weight", f"{ours}/logits_kernel", conv),
        Rule(f"{head}predictor.bias", f"{ours}/logits_bias"),
    ]


def _semantic_block(level: int, index: int) -> list[Rule]:
    """Returns the rules of a level's convolution; upsampling takes every other index there."""
    peer = f"sem_seg_head.p{level}.{2 * index}"
    ours = f"semantic_head/level{level - 1}_conv{index + 1}"
    return [
        *conv_rules(peer, ours, bias=False),
        *group_norm_rules(f"{peer}.norm", f"{ours}_norm"),
    ]


_DETECTOR: list[Rule] = [
    *_resnet("backbone.bottom_up.", "backbone/"),
    *_fpn("lateral"),
    *_fpn("output"),
    *conv_rules("proposal_generator.rpn_head.conv", "rpn_head/conv1", bias=True),
    *conv_rules("proposal_generator.rpn_head.objectness_logits", "rpn_head/objectness", bias=True),
    *conv_rules("proposal_generator.rpn_head.anchor_deltas", "rpn_head/deltas", bias=True),
    *_box_head("", "box_head"),
    *_box_head(".#", "box_heads_#"),
    # Constants of the config, which older files also contain.
    *dropped("pixel_mean", "pixel_std", "proposal_generator.anchor_generator.cell_anchors.#"),
]

RULES: list[Rule] = [*_DETECTOR, *_mask_head("mask_head")]

# Detectron2's cascade has a single mask head, with the names of a Mask R-CNN's.
CASCADE_RULES: list[Rule] = [*_DETECTOR, *_mask_head("mask_heads_0")]

# Panoptic FPN: a Mask R-CNN and the semantic branch.
PANOPTIC_RULES: list[Rule] = [
    *under("detector", RULES),
    *[
        rule
        for level in (2, 3, 4, 5)
        for index in range(max(1, level - 2))
        for rule in _semantic_block(level, index)
    ],
    *conv_rules("sem_seg_head.predictor", "semantic_head/logits", bias=True),
]

# A ResNet alone, with the names that Detectron2's tools give torchvision's weights
# (ImageNetPretrained/torchvision/R-50.pkl).
BACKBONE_RULES: list[Rule] = [*_resnet("", ""), *dropped("stem.fc.weight", "stem.fc.bias")]
