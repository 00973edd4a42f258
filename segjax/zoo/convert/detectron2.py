"""Detectron2's names: Faster and Mask R-CNN. Background is its last class, as ours."""

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
    *dense_rules(r"roi_heads\.box_head\.fc1", "box_head/fc1", dense_after_pool(7)),
    *dense_rules(r"roi_heads\.box_head\.fc2", "box_head/fc2"),
    *dense_rules(r"roi_heads\.box_predictor\.cls_score", "box_head/class_logits"),
    *dense_rules(r"roi_heads\.box_predictor\.bbox_pred", "box_head/box_deltas"),
    *conv_rules(r"roi_heads\.mask_head\.mask_fcn(\d)", r"mask_head/conv\1", bias=True),
    Rule(r"roi_heads\.mask_head\.deconv\.weight", "mask_head/deconv/kernel", deconv),
    Rule(r"roi_heads\.mask_head\.deconv\.bias", "mask_head/deconv/bias", same),
    Rule(r"roi_heads\.mask_head\.predictor\.weight", "mask_head/logits_kernel", conv),
    Rule(r"roi_heads\.mask_head\.predictor\.bias", "mask_head/logits_bias", same),
]
