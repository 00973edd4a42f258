"""Mask branch of Mask R-CNN (1703.06870), which predicts a mask over each region."""

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
    """Rules for the targets of a mask head and for the regions that it is trained on.

    Attributes:
      aligned: True for RoIAlign's half-pixel shift when resampling ground truth.
      threshold: targets are 1 where the resampled mask reaches this value; None for soft targets
        (torchvision).
      max_rois: upper limit on regions per image; None means all positives. Regions over the
        limit are skipped and counted.
    """

    aligned: bool = True
    threshold: float | None = 0.5
    max_rois: int | None = None

    def select(self, samples: RoISamples) -> RoISamples:
        """Selects the rows of `samples` that can be positive, up to `max_rois`, for training."""
        # Positives come first, and shapes must be static: take a fixed number of leading rows.
        slots = samples.max_positives
        slots = slots if self.max_rois is None else min(slots, self.max_rois)
        return jax.tree.map(lambda x: x[:, :slots], samples)

    def __call__(
        self, samples: RoISamples, batch: Batch, size: int
    ) -> Float32[Array, "N {size} {size}"]:
        """Resamples the ground truth of B * R regions to `size` x `size` cells, 0..1."""
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

    The head's parameters are stored directly under the branch's name.

    Attributes:
      pooler: RoIAlign for the head.
      head: network from region features to mask logits.
      targets: rules for the ground truth of regions.
      loss: loss between logits and targets.
      padded: True pastes masks into images with torchvision's padding; False resamples them
        directly, like Detectron2 and mmdet.
    """

    pooler: RoIPooler
    head: MaskHead
    targets: MaskTargets = MaskTargets()
    loss: MaskCrossEntropy = MaskCrossEntropy()
    padded: bool = False

    def setup(self) -> None:
        """Makes the head store its parameters in the scope of the branch."""
        nn.share_scope(self, self.head)

    @property
    def num_classes(self) -> int:
        """Number of classes K, without background."""
        return self.head.num_classes

    def with_classes(self, num_classes: int) -> "RoIMaskBranch":
        """Returns the same branch with another number of classes."""
        return self.clone(head=self.head.clone(num_classes=num_classes))

    def logits(
        self,
        features: Features,
        boxes: Float[Array, "B R 4"],
        classes: Int32[Array, "B R"] | None = None,
        valid: Bool[Array, "B R"] | None = None,
        train: bool = False,
    ) -> Float[Array, "N M M *K"]:
        """Predicts mask logits [B * R, M, M] of the given classes, or [B * R, M, M, K] of all.

        Args:
          features: levels of the pyramid.
          boxes: regions, in pixels.
          classes: class of each region; None for the logits of all classes.
          valid: False for padding rows, which batch norm excludes from its statistics.
          train: lets batch norm use batch statistics.
        """
        rows = None if valid is None else valid.reshape(-1)
        classes = own_classes(classes, self.num_classes)
        return self.head(self.pooler(features, boxes), classes, train, rows)

    def losses(
        self, features: Features, samples: RoISamples, batch: Batch, keys: Key[Array, " B"]
    ) -> tuple[Terms, Counts]:
        """Computes "loss_mask" of positive regions, counts "mask_rois_dropped"; ignores `keys`."""
        del keys
        shown = self.targets.select(samples)
        logits = self.logits(features, shown.boxes, shown.classes, shown.positive, train=True)
        term = mask_loss(self.targets, self.loss, logits, shown, batch)
        return {"loss_mask": term}, {"mask_rois_dropped": dropped(samples, shown)}

    def predict(self, features: Features, found: Detections) -> Detections:
        """Adds masks [B, D, M, M] over their boxes to detections."""
        assert found.boxes is not None
        probs = jax.nn.sigmoid(self.logits(features, found.boxes, found.classes))
        return with_box_masks(found, probs, self.padded)


def own_classes(classes: Int32[Array, "B R"] | None, num_classes: int) -> Int32[Array, " N"] | None:
    """Flattens classes; background (K), whose masks are never used, becomes the last class."""
    return None if classes is None else jnp.minimum(classes.reshape(-1), num_classes - 1)


def mask_loss(
    targets: MaskTargets,
    loss: MaskCrossEntropy,
    logits: Float32[Array, "N M M"],
    shown: RoISamples,
    batch: Batch,
) -> LossTerm:
    """Computes the loss of the mask logits of selected regions."""
    wanted = targets(shown, batch, logits.shape[-1])
    return loss(logits, wanted, shown.positive.reshape(-1))


def dropped(samples: RoISamples, shown: RoISamples) -> Float32[Array, ""]:
    """Counts the positive regions that the mask head is not trained on."""
    return (samples.positive.sum() - shown.positive.sum()).astype(jnp.float32)


def with_box_masks(found: Detections, probs: Float32[Array, "N M M"], padded: bool) -> Detections:
    """Adds mask probabilities over their boxes to detections."""
    assert found.boxes is not None
    probs = probs.reshape(*found.scores.shape, *probs.shape[1:])  # [B, D, M, M]
    return dataclasses.replace(found, masks=BoxMasks(probs, found.boxes, padded))


def average_masks(found: Sequence[Detections]) -> Detections:
    """Averages the mask probabilities that several branches predict for the same detections."""
    masks = [one.masks for one in found if isinstance(one.masks, BoxMasks)]
    if len(masks) < len(found):
        raise ValueError("only masks over boxes are averaged over the stages of a cascade")
    probs = jnp.stack([one.probs for one in masks]).mean(0)
    return dataclasses.replace(found[0], masks=dataclasses.replace(masks[0], probs=probs))
