"""Faster R-CNN with FPN (1506.01497, 1612.03144)."""

from jaxtyping import Array, Int32, Key, UInt8

from segjax.models.flavours.libraries import Flavour, find_flavour
from segjax.models.parts.two_stage import TwoStage, check_no_pixels
from segjax.protocols import Backbone, Counts, Neck, Task, Terms
from segjax.types import Batch, Detections, Dtype


class FasterRCNN(TwoStage):
    """Two-stage detector; `TwoStage` has its fields and intermediate methods."""

    @property
    def tasks(self) -> frozenset[Task]:
        """Bounding boxes of objects."""
        return frozenset({"boxes"})

    def with_classes(self, things: int | None = None, pixels: int | None = None) -> "FasterRCNN":
        """Returns the same model with another number of classes."""
        check_no_pixels(pixels)
        if things is None:
            return self
        return self.clone(box_head=self.box_head.clone(num_classes=things))

    def predict(
        self, images: UInt8[Array, "B H W 3"], image_sizes: Int32[Array, "B 2"]
    ) -> Detections:
        """Predicts the final detections [B, D] in pixels of the padded input."""
        return self.find_boxes(self.features(images, image_sizes), image_sizes)

    __call__ = predict

    def losses(self, batch: Batch, keys: Key[Array, " B"]) -> tuple[Terms, Counts]:
        """Computes loss terms and counts of a batch, with one random key per image."""
        features = self.features(batch.images, batch.image_sizes, train=True)
        _, terms, counts = self.rpn_and_box_losses(features, batch, keys)
        return terms, counts


def faster_rcnn(
    backbone: Backbone,
    *,
    num_classes: int = 0,
    flavour: Flavour | str = "detectron2",
    neck: Neck | None = None,
    dtype: Dtype = "float32",
) -> FasterRCNN:
    """Builds Faster R-CNN with FPN.

    Args:
      backbone: backbone such as `resnet(50)`; its None fields follow the flavour.
      num_classes: number of classes K, without background; 0 lets the data determine it.
      flavour: conventions of "torchvision", "torchvision_v2", "detectron2" or "mmdet", or a
        `Flavour`.
      neck: neck that builds the pyramid; None for the flavour's FPN.
      dtype: compute dtype of all parts; parameters stay float32.
    """
    f = find_flavour(flavour)
    return FasterRCNN(
        preprocess=f.preprocess_of(backbone),
        backbone=f.backbone(backbone, dtype),
        fpn=f.neck(neck, dtype),
        rpn_head=f.rpn_head(dtype),
        rpn=f.rpn,
        box_pooler=f.box_pooler,
        box_head=f.box_head(num_classes, dtype),
        box_coder=f.box_coder,
        sampler=f.sampler_without_masks or f.sampler,
        detections=f.detections,
        box_loss=f.box_loss,
    )
