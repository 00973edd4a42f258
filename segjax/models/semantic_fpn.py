"""Semantic segmentation alone, on a feature pyramid (1901.02446, section 3.2)."""

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
    """Backbone, neck, and a head that predicts the class of every pixel; no objects.

    Attributes:
      preprocess: channel order and normalisation.
      backbone: feature maps of the image.
      fpn: neck, from these to the pyramid.
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
        """The class of every pixel."""
        return frozenset({"semantic"})

    @property
    def classes(self) -> ClassCounts:
        """Pixels alone."""
        return ClassCounts(pixels=self.semantic_head.num_classes)

    @property
    def padding(self) -> Padding:
        """Sizes of input: those of the backbone."""
        divisor = self.backbone.size_divisor
        return Padding(divisor, init_side=2 * divisor)

    def with_classes(self, things: int | None = None, pixels: int | None = None) -> "SemanticFPN":
        """The same model for another number of classes of pixels."""
        if things is not None:
            raise ValueError(f"{things} classes of objects, for a model that finds none")
        if pixels is None:
            return self
        return self.clone(semantic_head=self.semantic_head.clone(num_classes=pixels))

    def frozen_paths(self) -> tuple[str, ...]:
        """Prefixes, with "/", of parameters that are not trained."""
        return tuple(f"backbone/{name}" for name in self.backbone.frozen_paths())

    def logits(
        self,
        images: UInt8[Array, "B H W 3"],
        image_sizes: Int32[Array, "B 2"],
        train: bool = False,
    ) -> Float[Array, "B h w K"]:
        """Logits of every cell's class."""
        levels = self.backbone(self.preprocess(images, image_sizes), train)
        return self.semantic_head(self.fpn(levels, train), train)

    def predict(
        self, images: UInt8[Array, "B H W 3"], image_sizes: Int32[Array, "B 2"]
    ) -> Detections:
        """Logits of every cell's class, and no detections [B, 0]."""
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
        """Loss terms of a batch; nothing is drawn with `keys`, and nothing counted."""
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
    """Semantic FPN.

    Args:
      backbone: such as `resnet(50)`; fields that it leaves open follow the flavour.
      semantic_classes: classes of pixels; 0 lets the data decide.
      head: "fpn" adds up all levels (`SemanticFPNHead`), "fcn" is two convolutions on P2 alone
        (`FCNHead`); give a head of other widths with `.clone(semantic_head=...)`.
      flavour: preprocessing, backbone and neck of "detectron2", "mmdet" or "torchvision".
      neck: pyramid; None is the flavour's FPN.
      dtype: compute dtype of all parts; parameters stay float32.

    Raises:
      ValueError: for another `head` or flavour.
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
