"""Faster R-CNN with FPN (1506.01497, 1612.03144)."""

from jaxtyping import Array, Float, Int32, Key, UInt8

from segjax.models.flavours import Flavour, flavour
from segjax.models.two_stage import TwoStage
from segjax.types import Batch, Detections, Dtype, LossTerm


class FasterRCNN(TwoStage):
    """Two-stage detector: `TwoStage` has its fields and the methods on the way."""

    has_masks = False
    paste_padded = False

    def with_num_classes(self, num_classes: int) -> "FasterRCNN":
        """The same model for another number of classes."""
        return self.clone(box_head=self.box_head.clone(num_classes=num_classes))

    def predict(
        self, images: UInt8[Array, "B H W 3"], image_sizes: Int32[Array, "B 2"]
    ) -> Detections:
        """Final detections [B, D] in pixels of the padded input."""
        return self.find_boxes(self.features(images, image_sizes), image_sizes)

    __call__ = predict

    def losses(
        self, batch: Batch, keys: Key[Array, " B"]
    ) -> tuple[dict[str, LossTerm], dict[str, Float[Array, ""]]]:
        """Loss terms of a batch, with one random key for each image, and counts."""
        features = self.features(batch.images, batch.image_sizes, train=True)
        _, terms, counts = self.rpn_and_box_losses(features, batch, keys)
        return terms, counts


def faster_rcnn_resnet_fpn(
    num_classes: int = 0,
    *,
    depth: int = 50,
    groups: int = 1,
    group_width: int = 64,
    style: Flavour | str = "detectron2",
    dtype: Dtype = "float32",
) -> FasterRCNN:
    """Faster R-CNN on a ResNet or ResNeXt with FPN.

    Args:
      num_classes: K, without background; 0 lets the data decide.
      depth: of the ResNet.
      groups: cardinality of a ResNeXt.
      group_width: width per group of a ResNeXt.
      style: whose conventions: "torchvision", "torchvision_v2", "detectron2",
        "mmdet", or a `Flavour`.
      dtype: of the computation; parameters stay float32.
    """
    f = flavour(style)
    return FasterRCNN(
        **f.pyramid_rpn(depth, groups, group_width, dtype),
        box_pooler=f.box_pooler,
        box_head=f.box_head(num_classes, dtype),
        box_coder=f.box_coder,
        sampler=f.sampler_without_masks or f.sampler,
        detections=f.detections,
        box_smooth_l1_beta=f.box_smooth_l1_beta,
    )
