"""Cascade of box heads (Cascade R-CNN, 1712.00726, figure 3d), shared by all cascade models."""

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
      sampler: sampler of the regions that the stage is trained on; its matcher has the stage's
        IoU threshold.
      coder: scale of the box deltas.
      loss_weight: weight of the stage's losses.

    Set the matcher's `low` and `high` to the same threshold; regions between them would be
    ignored.
    """

    sampler: RoISampler
    coder: DeltaCoder
    loss_weight: float = 1.0


class BoxCascade(PyramidRPN):
    """`PyramidRPN` and a chain of box heads, each of which refines the boxes of the previous one.

    This class has the steps that all cascades share. Each model writes its own loop over stages.

    Attributes, in addition to those of `PyramidRPN`:
      box_pooler: RoIAlign for the box heads.
      box_heads: box head of each stage, class-agnostic or with one box per class.
      stages: training settings of each stage.
      detections: filter that selects the final detections.
      class_loss: classification loss of the box heads.
      box_loss: loss of the box deltas.
      averaged: quantity that is averaged over the stages for the final scores: "logits" (mmdet)
        or "probabilities" (Detectron2).
      passes_gt: True passes refined ground-truth boxes of a stage to the next one (Detectron2);
        False drops them (mmdet).
      passes_empty: True keeps boxes that refinement made empty in training (mmdet); False
        drops them (Detectron2).
      feature_gradient: factor on the gradient from each box head to the region features
        (Detectron2: one over the number of stages).
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
          ValueError: if there is not one head per stage, or the heads differ in their classes.
        """
        if not self.stages or len(self.box_heads) != len(self.stages):
            raise ValueError(
                f"{len(self.box_heads)} box_heads for {len(self.stages)} stages: give one each"
            )
        self.check_classes(self.box_heads)

    def check_classes(self, heads: Sequence[BoxHead | MaskBranch | MaskHead]) -> None:
        """Raises a ValueError if a head and the model differ in their numbers of classes."""
        found = [head.num_classes for head in heads]
        if set(found) - {self.num_classes}:
            raise ValueError(
                f"the heads have {found} classes, the model {self.num_classes}: give all the same"
                " number, by `with_classes`"
            )

    @property
    def num_classes(self) -> int:
        """Number of classes K, without background; 0 until the data determine it."""
        return self.box_heads[0].num_classes if self.box_heads else 0

    @property
    def classes(self) -> ClassCounts:
        """Classes of objects only."""
        return ClassCounts(things=self.num_classes)

    def with_box_classes(self, num_classes: int) -> tuple[BoxHead, ...]:
        """Returns the box heads with another number of classes."""
        return tuple(head.clone(num_classes=num_classes) for head in self.box_heads)

    def box_stage(
        self,
        stage: int,
        box_features: Float[Array, "N S S C"],
        shape: tuple[int, int],
        valid: Bool[Array, "B R"] | None = None,
        train: bool = False,
    ) -> tuple[Float32[Array, "B R K1"], Float32[Array, "B R Kb 4"]]:
        """Predicts class logits, background last, and deltas with the head of one stage.

        Args:
          stage: index of the head, from 0.
          box_features: features of B * R regions.
          shape: (B, R).
          valid: False for padding rows, which batch norm excludes from its statistics.
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
        """Applies a stage's deltas to boxes and clips them to the image, without gradient.

        If there are deltas for each class, those of `classes` apply. Where that is background
        (K), those of the highest-scoring class do (mmdet's `refine_bboxes`).
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
        """Computes the box losses of one stage and the regions for the next one."""
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
        """Scales loss terms by the stage's weight and adds its number, from 1, to their names."""
        weight = self.stages[stage].loss_weight
        return {f"{name}_stage{stage + 1}": term.scaled(weight) for name, term in terms.items()}

    def find_boxes(
        self,
        box_features: Callable[[Float32[Array, "B R 4"]], Float[Array, "N S S C"]],
        proposals: Proposals,
        image_sizes: Int32[Array, "B 2"],
    ) -> Detections:
        """Predicts the final boxes [B, D], without masks, in pixels of the padded input.

        Args:
          box_features: function from boxes to their region features.
          proposals: proposals of the RPN.
          image_sizes: (height, width) inside the padding.
        """
        boxes = proposals.boxes
        shape = (boxes.shape[0], boxes.shape[1])
        # Regions have no known class in prediction: `refine` uses the highest-scoring one.
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
