"""All that one part of segjax may ask of another: models, backbones, necks and mask branches.

The training loop, the evaluator, the predictor, the command line and the zoo ask a model for what
stands here and for nothing else. A class needs no base and no registration: it fits if it has the
members. A linen module brings `init`, `apply` and `clone`.
"""

# pyright: strict, reportUnknownMemberType=false, reportMissingTypeStubs=false

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

from jaxtyping import Array, Float, Int32, Key, UInt8

from segjax.ops.panoptic import PanopticSegments
from segjax.ops.preprocess import Preprocess
from segjax.types import Batch, Detections, LossTerm, RoISamples

_S = TypeVar("_S")
Task = Literal["boxes", "masks", "semantic", "panoptic"]
Terms = dict[str, LossTerm]
Counts = dict[str, Float[Array, ""]]
Features = Sequence[Float[Array, "B _ _ C"]]


@dataclasses.dataclass(frozen=True)
class ClassCounts:
    """Number of classes that a model tells apart.

    Attributes:
      things: classes of objects, without background; 0 until the data decide, None for a model
        that finds no objects.
      pixels: classes of pixels that the model learns; 0 until the data decide, None for a model
        without a semantic branch. The branch may serve training alone, as in Hybrid Task Cascade:
        "semantic" in the model's tasks says that it predicts them.
      thing_label: label among the classes of pixels that stands for every thing, counted from the
        end if negative; None where all labels are stuff. Only panoptic models have one.
    """

    things: int | None = None
    pixels: int | None = None
    thing_label: int | None = None


@dataclasses.dataclass(frozen=True)
class Padding:
    """Sizes of input that a model takes.

    Attributes:
      divisor: both sides of the padded input are multiples of this many pixels.
      exact: whether results depend on the padding, so that an image is to be padded to the next
        multiple of `divisor` and no further (torchvision's anchors).
      init_side: side in pixels of the square image with which variables are drawn.
    """

    divisor: int = 32
    exact: bool = False
    init_side: int = 64


@runtime_checkable
class Backbone(Protocol):
    """Linen module from normalised images to feature maps.

    Attributes:
      strides: pixels of the input per cell of each map, finest first: (4, 8, 16, 32).
      channels: number of channels of each map.
      size_divisor: both sides of the input must be multiples of this many pixels.
      preprocess: normalisation that its released weights were trained with; None leaves it to the
        conventions of the detector.
      num_layers: number of layers that `layer_of` counts, the first of index 0.
    """

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the input per cell of each map, finest first."""
        ...

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each map."""
        ...

    @property
    def size_divisor(self) -> int:
        """Pixels of which both sides of the input must be multiples."""
        ...

    @property
    def preprocess(self) -> Preprocess | None:
        """Normalisation of images."""
        ...

    @property
    def num_layers(self) -> int:
        """Layers that `layer_of` counts."""
        ...

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """Draws variables, as linen modules do."""
        ...

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls a method with variables, as linen modules do."""
        ...

    def __call__(self, x: Any, train: bool = False) -> tuple[Any, ...]:
        """Normalised images [B, H, W, 3] -> maps [B, H / stride, W / stride, channels]."""
        ...

    def frozen_paths(self) -> tuple[str, ...]:
        """Names of the children that are not trained."""
        ...

    def layer_of(self, path: str) -> int:
        """Layer of a parameter, from 0 for the stem, for layer-wise learning rates.

        Args:
          path: "/"-joined names below the backbone.
        """
        ...


@runtime_checkable
class Neck(Protocol):
    """Linen module from a backbone's maps to a pyramid of one width.

    Attributes:
      features: number of channels of every level.
    """

    @property
    def features(self) -> int:
        """Channels of every level."""
        ...

    def strides(self, backbone_strides: tuple[int, ...]) -> tuple[int, ...]:
        """Pixels of the input per cell of each level, finest first."""
        ...

    def __call__(self, stages: Any, train: bool = False) -> tuple[Any, ...]:
        """Maps of the backbone -> levels [B, H / stride, W / stride, features]."""
        ...


@runtime_checkable
class SemanticHead(Protocol):
    """Linen module from a pyramid to the class of every cell.

    Attributes:
      num_classes: K, classes of pixels; 0 until the data decide.
    """

    @property
    def num_classes(self) -> int:
        """K, without background."""
        ...

    def clone(self: _S, **changes: Any) -> _S:
        """The same head with other fields, as linen modules have it."""
        ...

    def __call__(self, levels: Any, train: bool = False) -> Any:
        """Levels of the pyramid -> logits [B, h, w, K], float32."""
        ...


@runtime_checkable
class BoxLoss(Protocol):
    """Regression loss of boxes, a frozen value."""

    def __call__(
        self,
        deltas: Float[Array, "*n 4"],
        regions: Float[Array, "*r 4"],
        gt_boxes: Float[Array, "*n 4"],
        coder: Any,
        positive: Any,
        count: Any,
    ) -> LossTerm:
        """Sum over the positive rows, to be divided by `count`.

        Args:
          deltas: predicted, as `coder` decodes them.
          regions: boxes that the deltas start from, in pixels.
          gt_boxes: boxes that they should arrive at.
          coder: `segjax.ops.boxes.DeltaCoder` of the deltas.
          positive: bool [*n], rows that show an object.
          count: float [], the normaliser.
        """
        ...


@runtime_checkable
class MaskBranch(Protocol):
    """Linen module of a detector's masks: pooler, head, targets and loss.

    Attributes:
      num_classes: K, without background.
    """

    @property
    def num_classes(self) -> int:
        """K, without background."""
        ...

    def with_classes(self: _S, num_classes: int) -> _S:
        """The same branch for another number of classes."""
        ...

    def losses(
        self, features: Features, samples: RoISamples, batch: Batch, keys: Key[Array, " B"]
    ) -> tuple[Terms, Counts]:
        """Loss terms and counts of the regions that the box branch was trained on.

        Args:
          features: the pyramid.
          samples: regions, positives first.
          batch: ground truth.
          keys: random key of each image.

        Returns:
          Terms by name, "loss_mask" as a rule, and counts; "mask_rois_dropped" counts positive
          regions that the branch left out.
        """
        ...

    def predict(self, features: Features, found: Detections) -> Detections:
        """Adds masks to detections; it may change their scores."""
        ...


@runtime_checkable
class Model(Protocol):
    """Linen module that trains and predicts.

    Attributes:
      tasks: what it predicts.
      classes: how many classes it knows.
      padding: sizes of input that it takes.
      preprocess: how it normalises images; None if that is not a `Preprocess`.
      backbone: part that weights of a classifier fit; None for a model without one.
    """

    @property
    def tasks(self) -> frozenset[Task]:
        """Tasks that it predicts."""
        ...

    @property
    def classes(self) -> ClassCounts:
        """Numbers of classes."""
        ...

    @property
    def padding(self) -> Padding:
        """Sizes of input that it takes."""
        ...

    @property
    def preprocess(self) -> Preprocess | None:
        """Normalisation of images."""
        ...

    @property
    def backbone(self) -> Backbone | None:
        """Part that weights of a classifier fit."""
        ...

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """Draws variables, as linen modules do."""
        ...

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls a method with variables, as linen modules do."""
        ...

    def with_classes(self: _S, things: int | None = None, pixels: int | None = None) -> _S:
        """The same model for other numbers of classes; None leaves a number as it is.

        Raises:
          ValueError: for a number that the model has no use for.
        """
        ...

    def frozen_paths(self) -> tuple[str, ...]:
        """Prefixes, with "/", of parameters that are not trained."""
        ...

    def losses(self, batch: Batch, keys: Key[Array, " B"]) -> tuple[Terms, Counts]:
        """Loss terms of a batch, with one random key for each image, and counts."""
        ...

    def predict(
        self, images: UInt8[Array, "B H W 3"], image_sizes: Int32[Array, "B 2"]
    ) -> Detections:
        """Detections of a batch in pixels of the padded input; `image_sizes` are inside it."""
        ...


@runtime_checkable
class PyramidDetector(Model, Protocol):
    """Model whose features are a pyramid that other branches can share."""

    def features(
        self,
        images: UInt8[Array, "B H W 3"],
        image_sizes: Int32[Array, "B 2"],
        train: bool = False,
    ) -> tuple[Float[Array, "B _ _ C"], ...]:
        """Levels of the pyramid, finest first."""
        ...

    def detect(self, features: Features, image_sizes: Int32[Array, "B 2"]) -> Detections:
        """Detections from the pyramid, as in `predict`."""
        ...

    def detection_losses(
        self, features: Features, batch: Batch, keys: Key[Array, " B"]
    ) -> tuple[Terms, Counts]:
        """Loss terms and counts from the pyramid, as in `losses`."""
        ...


@runtime_checkable
class PanopticModel(Model, Protocol):
    """Model with "panoptic" in its tasks."""

    def with_score_threshold(self: _S, threshold: float) -> _S:
        """The same model, merging instances of this score or more."""
        ...

    def to_panoptic(self, found: Detections, semantic: Int32[Array, "H W"]) -> PanopticSegments:
        """Merges what was found in one image; may be called without variables.

        Args:
          found: detections of one image, boxes and masks in pixels of the map.
          semantic: label of every pixel; -1 beyond the image.
        """
        ...


def as_model(module: Any) -> Model:
    """The module, if it is a `Model`.

    Raises:
      ValueError: naming the members that it lacks.
    """
    wanted = Model
    if isinstance(module, Model):
        if "panoptic" not in module.tasks or isinstance(module, PanopticModel):
            return module
        wanted = PanopticModel
    lacking = [name for name in sorted(_members(wanted)) if not hasattr(module, name)]
    raise ValueError(
        f"{type(module).__name__} is no model: it has no {', '.join(lacking)};"
        " segjax.protocols.Model says what they are"
    )


def _members(protocol: type) -> set[str]:
    return {
        name
        for base in protocol.__mro__
        if getattr(base, "_is_protocol", False)
        for name in vars(base)
        if not name.startswith("_")
    }


def layer_of(model: Model, path: str) -> int | None:
    """Layer of a parameter in the model's backbone; None for parameters elsewhere.

    Args:
      model: with a backbone.
      path: "/"-joined names of the parameter, such as "backbone/layer1_0/conv1/kernel".
    """
    *_, inner = path.rpartition("backbone/")
    if model.backbone is None or inner == path:
        return None
    return model.backbone.layer_of(inner)
