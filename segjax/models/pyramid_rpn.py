"""What every detector here begins with: backbone, FPN and RPN, from pixels to regions."""

from collections.abc import Sequence

import flax.linen as nn
from jaxtyping import Array, Float, Int32, Key, UInt8

from segjax.models.preprocess import Preprocess
from segjax.models.rpn import RPN
from segjax.nn.backbone import Backbone
from segjax.nn.heads.rpn import RPNHead, RPNOutput
from segjax.nn.necks.fpn import FPN
from segjax.types import Batch, LossTerm, Proposals


class PyramidRPN(nn.Module):
    """Backbone, FPN and RPN; nothing here is meant to be overridden.

    Every method is usable alone under jit: `model.apply(variables, ...,
    method="features")`. Images are uint8 RGB [B, H, W, 3] padded to multiples
    of 32, `image_sizes` [B, 2] the (height, width) inside the padding.

    Attributes:
      preprocess: channel order and normalisation.
      backbone: gives C2..C5.
      fpn: gives P2..P6.
      rpn_head: objectness and deltas of the anchors.
      rpn: anchors, proposals and losses of the RPN.
    """

    preprocess: Preprocess
    backbone: Backbone
    fpn: FPN
    rpn_head: RPNHead
    rpn: RPN

    size_divisor = 32

    def frozen_paths(self) -> tuple[str, ...]:
        """Prefixes, with "/", of parameters that are not trained."""
        return tuple(f"backbone/{name}" for name in self.backbone.frozen_paths())

    def features(
        self,
        images: UInt8[Array, "B H W 3"],
        image_sizes: Int32[Array, "B 2"],
        train: bool = False,
    ) -> tuple[Float[Array, "B _ _ C"], ...]:
        """P2..P6, each [B, H / stride, W / stride, C]."""
        return self.fpn(self.backbone(self.preprocess(images, image_sizes), train), train)

    def region_proposals(
        self,
        features: Sequence[Float[Array, "B _ _ C"]],
        image_sizes: Int32[Array, "B 2"],
        train: bool = False,
    ) -> tuple[Proposals, RPNOutput, list[Float[Array, "_ 4"]]]:
        """Proposals [B, R] with the RPN's output and the anchors they come from."""
        output = self.rpn_head(features)
        shapes = [(level.shape[1], level.shape[2]) for level in features]
        padded_size = (4 * shapes[0][0], 4 * shapes[0][1])  # from P2, at stride 4
        anchors = self.rpn.anchors(shapes, padded_size)
        return self.rpn.proposals(output, anchors, image_sizes, train=train), output, anchors

    def rpn_losses(
        self, features: Sequence[Float[Array, "B _ _ C"]], batch: Batch, keys: Key[Array, " B"]
    ) -> tuple[Proposals, dict[str, LossTerm], dict[str, Float[Array, ""]]]:
        """Training proposals [B, R], the RPN's losses, and counts."""
        proposals, output, anchors = self.region_proposals(features, batch.image_sizes, train=True)
        terms, counts = self.rpn.losses(output, anchors, batch, keys)
        return proposals, terms, counts
