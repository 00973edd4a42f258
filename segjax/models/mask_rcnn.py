"""Mask R-CNN with FPN (1703.06870)."""

from jaxtyping import Array, Int32, Key, UInt8

from segjax.models.flavours.libraries import Flavour, find_flavour
from segjax.models.parts.keys import fold_keys
from segjax.models.parts.two_stage import TwoStage, check_no_pixels
from segjax.protocols import Backbone, Counts, Features, MaskBranch, Neck, Task, Terms
from segjax.types import Batch, Detections, Dtype


class MaskRCNN(TwoStage, kw_only=True):  # pyright: ignore[reportCallIssue]
    """Faster R-CNN with a mask branch in addition to the box branch.

    Attributes, in addition to those of `TwoStage`:
      mask_head: branch that predicts masks of regions, with its losses.
    """

    mask_head: MaskBranch

    @property
    def tasks(self) -> frozenset[Task]:
        """Bounding boxes and masks of objects."""
        return frozenset({"boxes", "masks"})

    def with_classes(self, things: int | None = None, pixels: int | None = None) -> "MaskRCNN":
        """Returns the same model with another number of classes."""
        check_no_pixels(pixels)
        if things is None:
            return self
        return self.clone(
            box_head=self.box_head.clone(num_classes=things),
            mask_head=self.mask_head.with_classes(things),
        )

    def predict(
        self, images: UInt8[Array, "B H W 3"], image_sizes: Int32[Array, "B 2"]
    ) -> Detections:
        """Predicts final detections [B, D] with masks, in pixels of the padded input."""
        return self.detect(self.features(images, image_sizes), image_sizes)

    __call__ = predict

    def detect(self, features: Features, image_sizes: Int32[Array, "B 2"]) -> Detections:
        """Predicts detections from pyramid features P2..P6, as in `predict`."""
        return self.mask_head.predict(features, self.find_boxes(features, image_sizes))

    def losses(self, batch: Batch, keys: Key[Array, " B"]) -> tuple[Terms, Counts]:
        """Computes loss terms and counts of a batch, with one random key per image."""
        features = self.features(batch.images, batch.image_sizes, train=True)
        return self.detection_losses(features, batch, keys)

    def detection_losses(
        self, features: Features, batch: Batch, keys: Key[Array, " B"]
    ) -> tuple[Terms, Counts]:
        """Computes loss terms from pyramid features P2..P6, as in `losses`."""
        samples, terms, counts = self.rpn_and_box_losses(features, batch, keys)
        # JAX's default generator splits keys like `fold_in` of 0 and 1, which RPN and box head use.
        mask_terms, mask_counts = self.mask_head.losses(
            features, samples, batch, fold_keys(keys, 2)
        )
        return terms | mask_terms, counts | mask_counts


def mask_rcnn(
    backbone: Backbone,
    *,
    num_classes: int = 0,
    flavour: Flavour | str = "detectron2",
    neck: Neck | None = None,
    mask_head: MaskBranch | None = None,
    dtype: Dtype = "float32",
) -> MaskRCNN:
    """Builds Mask R-CNN with FPN.

    Args:
      backbone: backbone such as `resnet(50)`; its None fields follow the flavour.
      num_classes: number of classes K, without background; 0 lets the data determine it.
      flavour: conventions of "torchvision", "torchvision_v2", "detectron2" or "mmdet", or a
        `Flavour`.
      neck: neck that builds the pyramid; None for the flavour's FPN.
      mask_head: mask branch; None for the flavour's.
      dtype: compute dtype of all parts; parameters stay float32.
    """
    f = find_flavour(flavour)
    return MaskRCNN(
        preprocess=f.preprocess_of(backbone),
        backbone=f.backbone(backbone, dtype),
        fpn=f.neck(neck, dtype),
        rpn_head=f.rpn_head(dtype),
        rpn=f.rpn,
        box_pooler=f.box_pooler,
        box_head=f.box_head(num_classes, dtype),
        box_coder=f.box_coder,
        sampler=f.sampler,
        detections=f.detections,
        box_loss=f.box_loss,
        mask_head=f.mask_branch(num_classes, dtype) if mask_head is None else mask_head,
    )
