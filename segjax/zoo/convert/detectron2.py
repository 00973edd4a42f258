"""Detectron2's names: Faster, Mask and Cascade R-CNN. Background is its last class, as ours."""

import dataclasses

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


def _stage(stage: int) -> list[Rule]:
    peer, ours = rf"backbone\.bottom_up\.res{stage}\.(\d+)\.", rf"backbone/layer{stage - 1}_\1/"
    return [
        *conv_rules(peer + r"conv(\d)", ours + r"conv\2", bias=False),
        *norm_rules(peer + r"conv(\d)\.norm", ours + r"norm\2"),
        *conv_rules(peer + "shortcut", ours + "conv_shortcut", bias=False),
        *norm_rules(peer + r"shortcut\.norm", ours + "norm_shortcut"),
    ]


def _box_head(stage: str, ours: str) -> list[Rule]:
    head, predictor = rf"roi_heads\.box_head{stage}\.", rf"roi_heads\.box_predictor{stage}\."
    return [
        *dense_rules(head + "fc1", f"{ours}/fc1", dense_after_pool(7)),
        *dense_rules(head + "fc2", f"{ours}/fc2"),
        *dense_rules(predictor + "cls_score", f"{ours}/class_logits"),
        *dense_rules(predictor + "bbox_pred", f"{ours}/box_deltas"),
    ]


def _mask_head(ours: str) -> list[Rule]:
    head = r"roi_heads\.mask_head\."
    return [
        *conv_rules(head + r"mask_fcn(\d)", ours + r"/conv\1", bias=True),
        Rule(head + r"deconv\.weight", f"{ours}/deconv/kernel", deconv),
        Rule(head + r"deconv\.bias", f"{ours}/deconv/bias", same),
        Rule(head + r"predictor\.weight", f"{ours}/logits_kernel", conv),
        Rule(head + r"predictor\.bias", f"{ours}/logits_bias", same),
    ]


def _semantic_block(level: int, index: int) -> list[Rule]:
    peer = rf"sem_seg_head\.p{level}\.{2 * index}"
    ours = f"semantic_head/level{level - 1}_conv{index + 1}"
    return [
        *conv_rules(peer, ours, bias=False),
        Rule(peer + r"\.norm\.weight", f"{ours}_norm/group/scale", same),
        Rule(peer + r"\.norm\.bias", f"{ours}_norm/group/bias", same),
    ]


RULES: list[Rule] = [
    *conv_rules(r"backbone\.bottom_up\.stem\.conv1", "backbone/stem_conv", bias=False),
    *norm_rules(r"backbone\.bottom_up\.stem\.conv1\.norm", "backbone/stem_norm"),
    *[rule for stage in (2, 3, 4, 5) for rule in _stage(stage)],
    *conv_rules(r"backbone\.fpn_(lateral|output)(\d)", r"fpn/\1\2", bias=True),
    *norm_rules(r"backbone\.fpn_(lateral|output)(\d)\.norm", r"fpn/\1\2_norm"),
    *conv_rules(r"proposal_generator\.rpn_head\.conv", "rpn_head/conv1", bias=True),
    *conv_rules(
        r"proposal_generator\.rpn_head\.objectness_logits", "rpn_head/objectness", bias=True
    ),
    *conv_rules(r"proposal_generator\.rpn_head\.anchor_deltas", "rpn_head/deltas", bias=True),
    *_box_head("", "box_head"),
    *_box_head(r"\.(\d)", r"box_heads_\1"),
    *_mask_head("mask_head"),
]

# Panoptic FPN: a Mask R-CNN and the semantic branch, whose layers count in a Sequential with
# upsampling between them.
PANOPTIC_RULES: list[Rule] = [
    *(dataclasses.replace(rule, path=rule.path and f"detector/{rule.path}") for rule in RULES),
    *(
        rule
        for level in (2, 3, 4, 5)
        for index in range(3)
        for rule in _semantic_block(level, index)
    ),
    *conv_rules(r"sem_seg_head\.predictor", "semantic_head/logits", bias=True),
]

# Its cascade has one mask head, with the names of a Mask R-CNN's.
CASCADE_RULES: list[Rule] = [
    *(rule for rule in RULES if "mask_head" not in rule.pattern),
    *_mask_head("mask_heads_0"),
]
