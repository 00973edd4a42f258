"""The mask branch of Mask R-CNN (1703.06870): from regions to masks over them."""

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32, Key

from segjax.losses.masks import MaskCrossEntropy
from segjax.models.parts.rois import RoIPooler
from segjax.nn.heads.mask import MaskHead
from segjax.ops.masks import mask_targets
from segjax.ops.soft_masks import BoxMasks
from segjax.protocols import Counts, Features, Terms
from segjax.types import Batch, Detections, LossTerm, RoISamples


@dataclasses.dataclass(frozen=True)
class MaskTargets:
    """Targets of a mask head, and the regions that it is trained on.

    Attributes:
      aligned: RoIAlign's half-pixel shift when ground truth is resampled.
      threshold: targets are 1 where the resampled mask reaches it; None for soft targets
        (torchvision).
      max_rois: upper limit on regions per image; None means all positives. Regions over the
        limit are skipped and counted.
    """

    aligned: bool = True
    threshold: float | None = 0.5
    max_rois: int | None = None

    def select(self, samples: RoISamples) -> RoISamples:
        """Rows of `samples` that the mask head is trained on: all that can be positive."""
        slots = samples.max_positives
        slots = slots if self.max_rois is None else min(slots, self.max_rois)
        return jax.tree.map(lambda x: x[:, :slots], samples)

    def __call__(
        self, samples: RoISamples, batch: Batch, size: int
    ) -> Float32[Array, "N {size} {size}"]:
        """Ground truth of B * R regions on a grid of `size` cells a side, 0..1."""
        index = samples.gt_index[..., None]
        masks = jnp.take_along_axis(batch.gt_masks, index[..., None], axis=1)
        frames = jnp.take_along_axis(batch.gt_mask_frames, index, axis=1)
        return mask_targets(
            masks.reshape(-1, *masks.shape[2:]),
            frames.reshape(-1, 4),
            samples.boxes.reshape(-1, 4),
            size,
            aligned=self.aligned,
            threshold=self.threshold,
        )


class RoIMaskBranch(nn.Module):
    """Pooler, mask head, targets and loss: `segjax.protocols.MaskBranch`.

    Its parameters are those of the head, under the branch's own name.

    Attributes:
      pooler: RoIAlign for the head.
      head: mask logits of regions.
      targets: ground truth of regions.
      loss: compares the two.
      padded: how masks are pasted into images: torchvision's padded form, or Detectron2's and
        mmdet's grid.
    """

    pooler: RoIPooler
    head: MaskHead
    targets: MaskTargets = MaskTargets()
    loss: MaskCrossEntropy = MaskCrossEntropy()
    padded: bool = False

    def setup(self) -> None:
        """Puts the head's parameters where the branch's are."""
        nn.share_scope(self, self.head)

    @property
    def num_classes(self) -> int:
        """K, without background."""
        return self.head.num_classes

    def with_classes(self, num_classes: int) -> "RoIMaskBranch":
        """The same branch for another number of classes."""
        return self.clone(head=self.head.clone(num_classes=num_classes))

    def logits(
        self,
        features: Features,
        boxes: Float[Array, "B R 4"],
        classes: Int32[Array, "B R"] | None = None,
        valid: Bool[Array, "B R"] | None = None,
        train: bool = False,
    ) -> Float[Array, "N M M *K"]:
        """Mask logits [B * R, M, M] of the given classes, or [B * R, M, M, K] of all.

        Args:
          features: the pyramid.
          boxes: regions, in pixels.
          classes: one for each region; None for all.
          valid: keeps padding rows out of batch norm's statistics.
          train: lets batch norm use batch statistics.
        """
        rows = None if valid is None else valid.reshape(-1)
        classes = own_classes(classes, self.num_classes)
        return self.head(self.pooler(features, boxes), classes, train, rows)

    def losses(
        self, features: Features, samples: RoISamples, batch: Batch, keys: Key[Array, " B"]
    ) -> tuple[Terms, Counts]:
        """The "loss_mask" over positive regions, and "mask_rois_dropped"; nothing is drawn."""
        del keys
        shown = self.targets.select(samples)
        logits = self.logits(features, shown.boxes, shown.classes, shown.positive, train=True)
        term = mask_loss(self.targets, self.loss, logits, shown, batch)
        return {"loss_mask": term}, {"mask_rois_dropped": dropped(samples, shown)}

    def predict(self, features: Features, found: Detections) -> Detections:
        """Adds masks [B, D, M, M] over the boxes."""
        assert found.boxes is not None
        probs = jax.nn.sigmoid(self.logits(features, found.boxes, found.classes))
        return with_box_masks(found, probs, self.padded)


def own_classes(classes: Int32[Array, "B R"] | None, num_classes: int) -> Int32[Array, " N"] | None:
    """Classes as a row, background (K) as the last class: its masks are never looked at."""
    return None if classes is None else jnp.minimum(classes.reshape(-1), num_classes - 1)


def mask_loss(
    targets: MaskTargets,
    loss: MaskCrossEntropy,
    logits: Float32[Array, "N M M"],
    shown: RoISamples,
    batch: Batch,
) -> LossTerm:
    """The loss of mask logits of selected regions."""
    wanted = targets(shown, batch, logits.shape[-1])
    return loss(logits, wanted, shown.positive.reshape(-1))


def dropped(samples: RoISamples, shown: RoISamples) -> Float32[Array, ""]:
    """Number of positive regions that the mask head is not trained on."""
    return (samples.positive.sum() - shown.positive.sum()).astype(jnp.float32)


def with_box_masks(found: Detections, probs: Float32[Array, "N M M"], padded: bool) -> Detections:
    """Detections with masks over their boxes."""
    assert found.boxes is not None
    probs = probs.reshape(*found.scores.shape, *probs.shape[1:])  # [B, D, M, M]
    return dataclasses.replace(found, masks=BoxMasks(probs, found.boxes, padded))


def average_masks(found: Sequence[Detections]) -> Detections:
    """The same detections with the mean of several branches' probabilities over their boxes."""
    masks = [one.masks for one in found if isinstance(one.masks, BoxMasks)]
    if len(masks) < len(found):
        raise ValueError("only masks over boxes are averaged over the stages of a cascade")
    probs = jnp.stack([one.probs for one in masks]).mean(0)
    return dataclasses.replace(found[0], masks=dataclasses.replace(masks[0], probs=probs))
