"""Semantic segmentation on a feature pyramid, without objects (1901.02446, section 3.2)."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Key, UInt8

from segjax.losses.semantic import SemanticLoss
from segjax.models.flavours.libraries import Flavour, find_flavour
from segjax.nn.heads.semantic import FCNHead, SemanticFPNHead
from segjax.ops.preprocess import Preprocess
from segjax.protocols import (
    Backbone,
    ClassCounts,
    Counts,
    Neck,
    Padding,
    SemanticHead,
    Task,
    Terms,
)
from segjax.types import Batch, Detections, Dtype


class SemanticFPN(nn.Module):
    """Backbone, neck, and a head that predicts the class of every pixel.

    Attributes:
      preprocess: channel order and normalisation of images.
      backbone: network from images to feature maps.
      fpn: neck from feature maps to the pyramid.
      semantic_head: `SemanticFPNHead`, a plain `FCNHead`, or another `SemanticHead`.
      semantic_loss: loss of the head.
    """

    preprocess: Preprocess
    backbone: Backbone
    fpn: Neck
    semantic_head: SemanticHead
    semantic_loss: SemanticLoss = SemanticLoss(full_resolution=True)

    @property
    def tasks(self) -> frozenset[Task]:
        """Classes of pixels."""
        return frozenset({"semantic"})

    @property
    def classes(self) -> ClassCounts:
        """Classes of pixels only."""
        return ClassCounts(pixels=self.semantic_head.num_classes)

    @property
    def padding(self) -> Padding:
        """Input sizes, which the backbone determines."""
        divisor = self.backbone.size_divisor
        return Padding(divisor, init_side=2 * divisor)

    def with_classes(self, things: int | None = None, pixels: int | None = None) -> "SemanticFPN":
        """Returns the same model with another number of pixel classes."""
        if things is not None:
            raise ValueError(f"{things} classes of objects, for a model that finds none")
        if pixels is None:
            return self
        return self.clone(semantic_head=self.semantic_head.clone(num_classes=pixels))

    def frozen_paths(self) -> tuple[str, ...]:
        """Returns the "/"-joined prefixes of frozen parameters."""
        return tuple(f"backbone/{name}" for name in self.backbone.frozen_paths())

    def logits(
        self,
        images: UInt8[Array, "B H W 3"],
        image_sizes: Int32[Array, "B 2"],
        train: bool = False,
    ) -> Float[Array, "B h w K"]:
        """Predicts class logits of every cell."""
        levels = self.backbone(self.preprocess(images, image_sizes), train)
        return self.semantic_head(self.fpn(levels, train), train)

    def predict(
        self, images: UInt8[Array, "B H W 3"], image_sizes: Int32[Array, "B 2"]
    ) -> Detections:
        """Predicts class logits of every cell, and empty detections [B, 0]."""
        none = jnp.zeros((images.shape[0], 0))
        return Detections(
            boxes=jnp.zeros((*none.shape, 4)),
            scores=none,
            classes=none.astype(jnp.int32),
            valid=none.astype(bool),
            semantic_logits=self.logits(images, image_sizes),
        )

    __call__ = predict

    def losses(self, batch: Batch, keys: Key[Array, " B"]) -> tuple[Terms, Counts]:
        """Computes loss terms of a batch; ignores `keys` and returns no counts."""
        logits = self.logits(batch.images, batch.image_sizes, train=True)
        divisor = self.padding.divisor
        return self.semantic_loss(logits, batch.gt_semantic, batch.image_sizes, divisor), {}


def semantic_fpn(
    backbone: Backbone,
    *,
    semantic_classes: int = 0,
    head: str = "fpn",
    flavour: Flavour | str = "detectron2",
    neck: Neck | None = None,
    dtype: Dtype = "float32",
) -> SemanticFPN:
    """Builds Semantic FPN.

    Args:
      backbone: backbone such as `resnet(50)`; its None fields follow the flavour.
      semantic_classes: number of pixel classes; 0 lets the data determine it.
      head: "fpn" adds up P2..P5 (`SemanticFPNHead`); "fcn" applies two convolutions to P2 only
        (`FCNHead`). For heads of other widths, use `.clone(semantic_head=...)`.
      flavour: preprocessing, backbone and neck of "detectron2", "mmdet" or "torchvision".
      neck: neck that builds the pyramid; None for the flavour's FPN.
      dtype: compute dtype of all parts; parameters stay float32.

    Raises:
      ValueError: if the head or flavour is unknown.
    """
    heads = {"fpn": SemanticFPNHead, "fcn": FCNHead}
    if head not in heads:
        raise ValueError(f"head is {head!r}: wanted one of {sorted(heads)}")
    f = find_flavour(flavour)
    return SemanticFPN(
        preprocess=f.preprocess_of(backbone),
        backbone=f.backbone(backbone, dtype),
        fpn=f.neck(neck, dtype),
        semantic_head=heads[head](semantic_classes, dtype=dtype),
    )
