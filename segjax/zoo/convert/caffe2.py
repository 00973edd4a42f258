"""Caffe2's names: the ResNets that Detectron2 starts from (MSRA/R-50, R-101, FAIR/X-101-32x8d).

Their batch norms are folded to scale and bias. Detectron2 fills in the statistics that make its
norm of epsilon 1e-5 the same: a mean of 0 and a variance of 1 - 1e-5 (`FrozenBatchNorm2d`); ours
has to be of the default epsilon too. Their images are BGR.
"""

from segjax.zoo.convert.rules import Rule, conv, dropped


def _affine(peer: str, ours: str) -> list[Rule]:
    return [
        Rule(f"{peer}_s", f"{ours}/scale"),
        Rule(f"{peer}_b", f"{ours}/bias"),
        Rule(None, f"{ours}/mean", value=0.0),
        Rule(None, f"{ours}/var", value=1 - 1e-5),
    ]


def _conv_norm(peer: str, our_conv: str, our_norm: str) -> list[Rule]:
    return [Rule(f"{peer}_w", f"{our_conv}/kernel", conv), *_affine(f"{peer}_bn", our_norm)]


def _stage(peer: str, ours: str) -> list[Rule]:
    branches = {"1": "_shortcut", "2a": "1", "2b": "2", "2c": "3"}
    return [
        rule
        for theirs, n in branches.items()
        for rule in _conv_norm(f"{peer}_branch{theirs}", f"{ours}/conv{n}", f"{ours}/norm{n}")
    ]


_BODY: list[Rule] = [
    Rule("conv1_w", "stem_conv/kernel", conv),
    *_affine("res_conv1_bn", "stem_norm"),
    *[rule for stage in (1, 2, 3, 4) for rule in _stage(f"res{stage + 1}_#", f"layer{stage}_#")],
]

BACKBONE_RULES: list[Rule] = [
    *_BODY,
    # The bias of MSRA's stem is next to nothing; Detectron2 leaves it out, too.
    *dropped("conv1_b", "fc1000_w", "fc1000_b", "pred_w", "pred_b"),
    *dropped(*(f"{rule.peer}_momentum" for rule in _BODY if rule.peer)),
    *dropped("conv1_b_momentum", "pred_w_momentum", "pred_b_momentum"),
]
