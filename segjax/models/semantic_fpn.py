"""Semantic segmentation alone, on a feature pyramid (1901.02446, section 3.2)."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Key, UInt8

from segjax.models.flavours import flavour
from segjax.models.preprocess import Preprocess
from segjax.models.semantic import SemanticLoss
from segjax.nn.backbone import Backbone
from segjax.nn.heads.semantic import FCNHead, SemanticFPNHead
from segjax.nn.necks.fpn import FPN
from segjax.types import Batch, Detections, Dtype, LossTerm


class SemanticFPN(nn.Module):
    """Backbone, FPN, and a head that gives the class of every pixel; no objects.

    Attributes:
      preprocess: channel order and normalisation.
      backbone: gives C2..C5.
      fpn: gives P2..P6.
      semantic_head: `SemanticFPNHead`, or a plain `FCNHead`.
      semantic_loss: how it is trained.
    """

    preprocess: Preprocess
    backbone: Backbone
    fpn: FPN
    semantic_head: SemanticFPNHead | FCNHead
    semantic_loss: SemanticLoss = SemanticLoss(full_resolution=True)

    size_divisor = 32
    num_classes = None  # it knows no objects
    has_masks = False
    paste_padded = False

    @property
    def semantic_classes(self) -> int:
        """Classes of pixels; 0 until the data decide."""
        return self.semantic_head.num_classes

    def with_semantic_classes(self, num_classes: int) -> "SemanticFPN":
        """The same model for another number of classes of pixels."""
        return self.clone(semantic_head=self.semantic_head.clone(num_classes=num_classes))

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

    def losses(
        self, batch: Batch, keys: Key[Array, " B"]
    ) -> tuple[dict[str, LossTerm], dict[str, Float[Array, ""]]]:
        """Loss terms of a batch; nothing is drawn with `keys`, and nothing counted."""
        logits = self.logits(batch.images, batch.image_sizes, train=True)
        return self.semantic_loss(logits, batch.gt_semantic, batch.image_sizes), {}


def semantic_fpn_resnet(
    semantic_classes: int = 0,
    *,
    depth: int = 50,
    groups: int = 1,
    group_width: int = 64,
    style: str = "detectron2",
    head: str = "fpn",
    dtype: Dtype = "float32",
) -> SemanticFPN:
    """Semantic FPN on a ResNet or ResNeXt.

    Args:
      semantic_classes: of pixels; 0 lets the data decide.
      depth: of the ResNet.
      groups: cardinality of a ResNeXt.
      group_width: width per group of a ResNeXt.
      style: whose preprocessing and backbone: "detectron2", "mmdet" or "torchvision".
      head: "fpn" adds up all levels (`SemanticFPNHead`), "fcn" is two convolutions on P2 alone
        (`FCNHead`); give a head of other widths with `.clone(semantic_head=...)`.
      dtype: of the computation; parameters stay float32.

    Raises:
      ValueError: for another `head` or style.
    """
    heads = {"fpn": SemanticFPNHead, "fcn": FCNHead}
    if head not in heads:
        raise ValueError(f"head is {head!r}: wanted one of {sorted(heads)}")
    shared = flavour(style).pyramid_rpn(depth, groups, group_width, dtype)
    return SemanticFPN(
        **{part: shared[part] for part in ("preprocess", "backbone", "fpn")},
        semantic_head=heads[head](semantic_classes, dtype=dtype),
    )
