"""The cascade of box heads (Cascade R-CNN, 1712.00726, figure 3d), shared by all its models."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Float32, Int32

from segjax.losses.boxes import SmoothL1, SoftmaxCrossEntropy
from segjax.models.parts.pyramid_rpn import PyramidRPN
from segjax.models.parts.rois import (
    DetectionFilter,
    RoIPooler,
    RoISampler,
    box_losses,
    class_probabilities,
)
from segjax.nn.heads.box import BoxHead
from segjax.nn.heads.mask import MaskHead
from segjax.ops.boxes import DeltaCoder, clip_boxes, nonempty
from segjax.protocols import BoxLoss, ClassCounts, MaskBranch, Terms
from segjax.types import Batch, Detections, Proposals, RoISamples


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a cascade.

    Attributes:
      sampler: the regions it is trained on; its matcher holds the stage's IoU
        threshold.
      coder: scale of its box deltas.
      loss_weight: weight of the stage's losses.

    Set the matcher's `low` and `high` to the same threshold; regions between them would be
    ignored.
    """

    sampler: RoISampler
    coder: DeltaCoder
    loss_weight: float = 1.0


class BoxCascade(PyramidRPN):
    """`PyramidRPN` and a chain of box heads, each of which starts from the last one's boxes.

    The models write the loop over stages; what is here is what all of them do alike.

    Attributes, besides those of `PyramidRPN`:
      box_pooler: RoIAlign for the box heads.
      box_heads: one for each stage, with one box for all classes or one for each.
      stages: what each stage is trained on, and how.
      detections: what becomes a final detection.
      class_loss: loss of the box heads' classes.
      box_loss: loss of their deltas.
      averaged: what the final scores average over the stages: "logits" (mmdet)
        or "probabilities" (Detectron2).
      passes_gt: whether ground-truth boxes among a stage's regions, once refined,
        move on to the next stage (Detectron2) or not (mmdet).
      passes_empty: whether boxes that were refined to nothing stay in training
        (mmdet) or not (Detectron2).
      feature_gradient: factor on the gradient that each box head sends into the
        region features (Detectron2: one over the number of stages).
    """

    box_pooler: RoIPooler
    box_heads: tuple[BoxHead, ...]
    stages: tuple[Stage, ...]
    detections: DetectionFilter
    class_loss: SoftmaxCrossEntropy = SoftmaxCrossEntropy()
    box_loss: BoxLoss = SmoothL1()
    averaged: Literal["logits", "probabilities"] = "logits"
    passes_gt: bool = False
    passes_empty: bool = True
    feature_gradient: float = 1.0

    def setup(self) -> None:
        """Checks that heads and stages fit together.

        Raises:
          ValueError: if their numbers, or the heads' classes, differ.
        """
        if not self.stages or len(self.box_heads) != len(self.stages):
            raise ValueError(
                f"{len(self.box_heads)} box_heads for {len(self.stages)} stages: give one each"
            )
        self.check_classes(self.box_heads)

    def check_classes(self, heads: Sequence[BoxHead | MaskBranch | MaskHead]) -> None:
        """Raises a ValueError if a head has another number of classes than the model."""
        found = [head.num_classes for head in heads]
        if set(found) - {self.num_classes}:
            raise ValueError(
                f"the heads have {found} classes, the model {self.num_classes}: give all the same"
                " number, by `with_classes`"
            )

    @property
    def num_classes(self) -> int:
        """K, without background; 0 until the data decide."""
        return self.box_heads[0].num_classes if self.box_heads else 0

    @property
    def classes(self) -> ClassCounts:
        """Objects alone."""
        return ClassCounts(things=self.num_classes)

    def with_box_classes(self, num_classes: int) -> tuple[BoxHead, ...]:
        """The box heads for another number of classes."""
        return tuple(head.clone(num_classes=num_classes) for head in self.box_heads)

    def box_stage(
        self,
        stage: int,
        box_features: Float[Array, "N S S C"],
        shape: tuple[int, int],
        valid: Bool[Array, "B R"] | None = None,
        train: bool = False,
    ) -> tuple[Float32[Array, "B R K1"], Float32[Array, "B R Kb 4"]]:
        """Class logits, background last, and deltas of one stage's head.

        Args:
          stage: which head, from 0.
          box_features: features of B * R regions.
          shape: (B, R).
          valid: keeps padding rows out of batch norm's statistics.
          train: lets batch norm use batch statistics.
        """
        rows = None if valid is None else valid.reshape(-1)
        x: Any = optax.scale_gradient(box_features, self.feature_gradient)
        logits, deltas = self.box_heads[stage](x, train, rows)
        return logits.reshape(*shape, -1), deltas.reshape(*shape, -1, 4)

    def refine(
        self,
        stage: int,
        boxes: Float32[Array, "B R 4"],
        classes: Int32[Array, "B R"],
        logits: Float32[Array, "B R K1"],
        deltas: Float32[Array, "B R Kb 4"],
        image_sizes: Int32[Array, "B 2"],
    ) -> Float32[Array, "B R 4"]:
        """Boxes as a stage regresses them, clipped to the image; no gradient passes.

        Deltas for each class are those of `classes`, or, where these say
        background (K), of the best class (mmdet's `refine_bboxes`).
        """
        if deltas.shape[2] > 1:
            best = logits[..., :-1].argmax(-1).astype(classes.dtype)
            own = jnp.where(classes < self.num_classes, classes, best)
            deltas = jnp.take_along_axis(deltas, own[..., None, None], axis=2)
        refined = self.stages[stage].coder.decode(deltas[:, :, 0], boxes)
        return jax.lax.stop_gradient(clip_boxes(refined, image_sizes))

    def train_boxes(
        self,
        stage: int,
        box_features: Float[Array, "N S S C"],
        samples: RoISamples,
        batch: Batch,
    ) -> tuple[Terms, Proposals]:
        """The box losses of one stage, and the regions for the next."""
        images, regions = samples.classes.shape
        logits, deltas = self.box_stage(
            stage, box_features, (images, regions), samples.valid, train=True
        )
        terms = box_losses(
            logits.reshape(-1, logits.shape[-1]),
            deltas.reshape(-1, *deltas.shape[2:]),
            samples,
            batch.gt_boxes,
            self.stages[stage].coder,
            self.class_loss,
            self.box_loss,
        )
        boxes = self.refine(
            stage, samples.boxes, samples.classes, logits, deltas, batch.image_sizes
        )
        passed = samples.valid
        if not self.passes_gt:
            passed &= ~samples.is_gt
        if not self.passes_empty:
            passed &= nonempty(boxes)
        return self.of_stage(stage, terms), Proposals(boxes, jnp.zeros_like(boxes[..., 0]), passed)

    def of_stage(self, stage: int, terms: Terms) -> Terms:
        """Loss terms with the stage's weight and its number, from 1, in their names."""
        weight = self.stages[stage].loss_weight
        return {f"{name}_stage{stage + 1}": term.scaled(weight) for name, term in terms.items()}

    def find_boxes(
        self,
        box_features: Callable[[Float32[Array, "B R 4"]], Float[Array, "N S S C"]],
        proposals: Proposals,
        image_sizes: Int32[Array, "B 2"],
    ) -> Detections:
        """Final boxes [B, D], without masks, in pixels of the padded input.

        Args:
          box_features: gives the region features of boxes.
          proposals: proposals of the RPN.
          image_sizes: (height, width) inside the padding.
        """
        boxes = proposals.boxes
        shape = (boxes.shape[0], boxes.shape[1])
        unknown = jnp.full(shape, self.num_classes, jnp.int32)
        votes = []
        logits, deltas = self.box_stage(0, box_features(boxes), shape)
        for stage in range(1, len(self.stages)):
            votes.append(logits)
            boxes = self.refine(stage - 1, boxes, unknown, logits, deltas, image_sizes)
            logits, deltas = self.box_stage(stage, box_features(boxes), shape)
        votes.append(logits)
        return self.detections(
            self._scores(votes),
            deltas,
            dataclasses.replace(proposals, boxes=boxes),
            image_sizes,
            self.stages[-1].coder,
        )

    def _scores(self, votes: list[Float32[Array, "B R K1"]]) -> Float32[Array, "B R K"]:
        if self.averaged == "logits":
            return class_probabilities(jnp.stack(votes).mean(0))
        return jnp.stack([class_probabilities(logits) for logits in votes]).mean(0)
