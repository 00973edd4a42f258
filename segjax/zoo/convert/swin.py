"""torchvision's names: the classifiers `swin_t`, `swin_s` and `swin_b`."""

from segjax.zoo.convert.rules import Rule, conv_rules, dense, dense_rules, dropped


def _norm(peer: str, ours: str) -> list[Rule]:
    """Returns the rules of a layer norm's scale and bias."""
    return [Rule(f"{peer}.weight", f"{ours}/scale"), Rule(f"{peer}.bias", f"{ours}/bias")]


def _block(peer: str, ours: str) -> list[Rule]:
    return [
        *_norm(f"{peer}.norm1", f"{ours}/norm1"),
        *dense_rules(f"{peer}.attn.qkv", f"{ours}/attn/qkv"),
        *dense_rules(f"{peer}.attn.proj", f"{ours}/attn/proj"),
        Rule(
            f"{peer}.attn.relative_position_bias_table",
            f"{ours}/attn/relative_position_bias_table",
        ),
        # Ours is computed from the window size.
        *dropped(f"{peer}.attn.relative_position_index"),
        *_norm(f"{peer}.norm2", f"{ours}/norm2"),
        # GELU and dropout are modules 1 and 2 of the MLP.
        *dense_rules(f"{peer}.mlp.0", f"{ours}/fc1"),
        *dense_rules(f"{peer}.mlp.3", f"{ours}/fc2"),
    ]


def _merging(peer: str, ours: str) -> list[Rule]:
    return [
        *_norm(f"{peer}.norm", f"{ours}/norm"),
        Rule(f"{peer}.reduction.weight", f"{ours}/reduction/kernel", dense),
    ]


# The body alone, without the classifier: a norm and a linear layer. In torchvision, stages have odd
# indices, and the patch mergings between them even ones.
BACKBONE_RULES: list[Rule] = [
    *conv_rules("features.0.0", "patch_embed", bias=True),
    *_norm("features.0.2", "patch_embed/norm"),
    *[
        rule
        for stage in range(4)
        for rule in _block(f"features.{2 * stage + 1}.#", f"stage{stage}_block#")
    ],
    *[
        rule
        for stage in range(3)
        for rule in _merging(f"features.{2 * stage + 2}", f"stage{stage}_merge")
    ],
    *dropped("norm.weight", "norm.bias", "head.weight", "head.bias"),
]
