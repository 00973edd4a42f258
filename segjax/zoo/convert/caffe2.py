"""Caffe2's names: the ResNets that Detectron2 starts from (MSRA/R-50, R-101, FAIR/X-101-32x8d).

Detectron2's files hold whole batch norms (`BACKBONE_RULES`). Those of its predecessor, Detectron,
hold batch norms folded into scale and bias (`FOLDED_BACKBONE_RULES`). For these, Detectron2 fills
in a mean of 0 and a variance of 1 - 1e-5, which cancel the epsilon of 1e-5 of its
`FrozenBatchNorm2d`; our norm must have the default epsilon for the same reason. Images are BGR.
"""

from collections.abc import Callable

from segjax.zoo.convert.rules import Rule, conv, dropped

NormRules = Callable[[str, str], list[Rule]]


def _whole(peer: str, ours: str) -> list[Rule]:
    """Returns the rules of a whole batch norm.

    Each array has two names, both of which Detectron2's `convert_basic_c2_names` accepts.
    """
    return [
        Rule(f"{peer}_gamma", f"{ours}/scale"),
        Rule(f"{peer}_beta", f"{ours}/bias"),
        Rule(f"{peer}_running_mean", f"{ours}/mean"),
        Rule(f"{peer}_running_var", f"{ours}/var"),
        Rule(f"{peer}_s", f"{ours}/scale", old=True),
        Rule(f"{peer}_b", f"{ours}/bias", old=True),
        Rule(f"{peer}_rm", f"{ours}/mean", old=True),
        Rule(f"{peer}_riv", f"{ours}/var", old=True),
    ]


def _folded(peer: str, ours: str) -> list[Rule]:
    return [
        Rule(f"{peer}_s", f"{ours}/scale"),
        Rule(f"{peer}_b", f"{ours}/bias"),
        Rule(None, f"{ours}/mean", value=0.0),
        Rule(None, f"{ours}/var", value=1 - 1e-5),
    ]


def _stage(peer: str, ours: str, norm: NormRules) -> list[Rule]:
    branches = {"1": "_shortcut", "2a": "1", "2b": "2", "2c": "3"}
    return [
        rule
        for theirs, n in branches.items()
        for rule in (
            Rule(f"{peer}_branch{theirs}_w", f"{ours}/conv{n}/kernel", conv),
            *norm(f"{peer}_branch{theirs}_bn", f"{ours}/norm{n}"),
        )
    ]


def _backbone(norm: NormRules) -> list[Rule]:
    body = [
        Rule("conv1_w", "stem_conv/kernel", conv),
        *norm("res_conv1_bn", "stem_norm"),
        *[
            rule
            for stage in (1, 2, 3, 4)
            for rule in _stage(f"res{stage + 1}_#", f"layer{stage}_#", norm)
        ],
    ]
    return [
        *body,
        # The bias of MSRA's stem is close to zero; Detectron2 drops it, too.
        *dropped("conv1_b", "fc1000_w", "fc1000_b", "pred_w", "pred_b"),
        *dropped(*(f"{rule.peer}_momentum" for rule in body if rule.peer)),
        *dropped("conv1_b_momentum", "pred_w_momentum", "pred_b_momentum"),
    ]


BACKBONE_RULES: list[Rule] = _backbone(_whole)
FOLDED_BACKBONE_RULES: list[Rule] = _backbone(_folded)
