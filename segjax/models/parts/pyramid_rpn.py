"""Backbone, neck and region proposal network, which turn pixels into regions."""

import flax.linen as nn
from jaxtyping import Array, Float, Int32, Key, UInt8

from segjax.models.parts.rpn import RPN
from segjax.nn.heads.rpn import RPNHead, RPNOutput
from segjax.ops.preprocess import Preprocess
from segjax.protocols import Backbone, Counts, Features, Neck, Padding, Terms
from segjax.types import Batch, Proposals


class PyramidRPN(nn.Module):
    """Backbone, neck and RPN; its methods are not meant to be overridden.

    Every method can be called on its own under jit: `model.apply(variables, ...,
    method="features")`. Images are uint8 RGB [B, H, W, 3], padded to multiples of
    `padding.divisor`. `image_sizes` [B, 2] are (height, width) inside the padding.

    Attributes:
      preprocess: channel order and normalisation of images.
      backbone: network from images to feature maps.
      fpn: neck from feature maps to the pyramid.
      rpn_head: network that predicts objectness and deltas of the anchors.
      rpn: anchors, proposals and losses of the RPN; its strides must be the pyramid's.
    """

    preprocess: Preprocess
    backbone: Backbone
    fpn: Neck
    rpn_head: RPNHead
    rpn: RPN

    @property
    def padding(self) -> Padding:
        """Input sizes, which the backbone determines."""
        divisor = self.backbone.size_divisor
        # With strides from shapes (torchvision), anchors depend on how far images are padded.
        return Padding(divisor, exact=self.rpn.stride_from_shape, init_side=2 * divisor)

    def frozen_paths(self) -> tuple[str, ...]:
        """Returns the "/"-joined prefixes of frozen parameters."""
        return tuple(f"backbone/{name}" for name in self.backbone.frozen_paths())

    def check_strides(self) -> None:
        """Raises a ValueError if the strides of the RPN and the pyramid differ."""
        strides = self.fpn.strides(self.backbone.strides)
        if self.rpn.strides != strides:
            raise ValueError(
                f"the RPN is for levels of strides {self.rpn.strides}, the pyramid has {strides}:"
                " set rpn.strides to these, and an anchor size for each"
            )

    def features(
        self,
        images: UInt8[Array, "B H W 3"],
        image_sizes: Int32[Array, "B 2"],
        train: bool = False,
    ) -> tuple[Float[Array, "B _ _ C"], ...]:
        """Computes the pyramid, usually P2..P6, each level [B, H / stride, W / stride, C]."""
        self.check_strides()
        return self.fpn(self.backbone(self.preprocess(images, image_sizes), train), train)

    def region_proposals(
        self, features: Features, image_sizes: Int32[Array, "B 2"], train: bool = False
    ) -> tuple[Proposals, RPNOutput, list[Float[Array, "_ 4"]]]:
        """Returns proposals [B, R], the RPN's output, and the anchors."""
        output = self.rpn_head(features)
        shapes = [(level.shape[1], level.shape[2]) for level in features]
        stride = self.rpn.strides[0]
        anchors = self.rpn.anchors(shapes, (stride * shapes[0][0], stride * shapes[0][1]))
        return self.rpn.proposals(output, anchors, image_sizes, train=train), output, anchors

    def rpn_losses(
        self, features: Features, batch: Batch, keys: Key[Array, " B"]
    ) -> tuple[Proposals, Terms, Counts]:
        """Returns training proposals [B, R], the losses of the RPN, and counts."""
        proposals, output, anchors = self.region_proposals(features, batch.image_sizes, train=True)
        terms, counts = self.rpn.losses(output, anchors, batch, keys)
        return proposals, terms, counts
