"""Interfaces between the parts of segjax: models, backbones, necks and mask branches.

The training loop, evaluator, predictor, command line and zoo only use the members of a model that
are listed here. Classes need no base class or registration; having the members is sufficient.
Linen modules already have `init`, `apply` and `clone`.
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
    """Numbers of classes of a model.

    Attributes:
      things: number of object classes, without background; 0 until set from the data, None for a
        model that predicts no objects.
      pixels: number of semantic classes that the model learns; 0 until set from the data, None
        for a model without a semantic branch. The branch may only be used in training, as in
        Hybrid Task Cascade. Models that predict semantic maps have "semantic" in their tasks.
      thing_label: semantic label that represents all things, counted from the end if negative;
        None if all labels are stuff. Only used by panoptic models.
    """

    things: int | None = None
    pixels: int | None = None
    thing_label: int | None = None


@dataclasses.dataclass(frozen=True)
class Padding:
    """Input sizes of a model.

    Attributes:
      divisor: both sides of the padded input must be multiples of this number of pixels.
      exact: True if results depend on the padding (torchvision's anchors), so that images must be
        padded to the next multiple of `divisor` and no further.
      init_side: side in pixels of the square image used to initialise variables.
    """

    divisor: int = 32
    exact: bool = False
    init_side: int = 64


@runtime_checkable
class Backbone(Protocol):
    """Linen module that maps normalised images to feature maps.

    Attributes:
      strides: stride of each feature map in input pixels, finest first, such as (4, 8, 16, 32).
      channels: number of channels of each feature map.
      size_divisor: both sides of the input must be multiples of this number of pixels.
      preprocess: normalisation that the released weights were trained with; None to use the
        convention of the detector.
      num_layers: number of layers for `layer_of`, whose indices start at 0.
    """

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each feature map in input pixels, finest first."""
        ...

    @property
    def channels(self) -> tuple[int, ...]:
        """Number of channels of each feature map."""
        ...

    @property
    def size_divisor(self) -> int:
        """Number of pixels that both sides of the input must be multiples of."""
        ...

    @property
    def preprocess(self) -> Preprocess | None:
        """Normalisation of images."""
        ...

    @property
    def num_layers(self) -> int:
        """Number of layers for `layer_of`."""
        ...

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """Initialises variables, as in Linen modules."""
        ...

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls a method with variables, as in Linen modules."""
        ...

    def __call__(self, x: Any, train: bool = False) -> tuple[Any, ...]:
        """Maps normalised images [B, H, W, 3] to features [B, H / stride, W / stride, channels]."""
        ...

    def frozen_paths(self) -> tuple[str, ...]:
        """Returns the names of submodules that are not trained."""
        ...

    def layer_of(self, path: str) -> int:
        """Returns the layer of a parameter, 0 for the stem, for layer-wise learning rates.

        Args:
          path: "/"-joined path of the parameter inside the backbone.
        """
        ...


@runtime_checkable
class Neck(Protocol):
    """Linen module that maps backbone features to a pyramid of constant width.

    Attributes:
      features: number of channels of every level.
    """

    @property
    def features(self) -> int:
        """Number of channels of every level."""
        ...

    def strides(self, backbone_strides: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the stride of each level in input pixels, finest first."""
        ...

    def __call__(self, stages: Any, train: bool = False) -> tuple[Any, ...]:
        """Maps backbone features to levels [B, H / stride, W / stride, features]."""
        ...


@runtime_checkable
class SemanticHead(Protocol):
    """Linen module that maps a feature pyramid to semantic logits.

    Attributes:
      num_classes: number of semantic classes K; 0 until set from the data.
    """

    @property
    def num_classes(self) -> int:
        """Number of semantic classes K."""
        ...

    def clone(self: _S, **changes: Any) -> _S:
        """Returns a copy with some fields replaced, as in Linen modules."""
        ...

    def __call__(self, levels: Any, train: bool = False) -> Any:
        """Maps the levels of the pyramid to float32 logits [B, h, w, K]."""
        ...


@runtime_checkable
class BoxLoss(Protocol):
    """Box regression loss; a frozen value."""

    def __call__(
        self,
        deltas: Float[Array, "*n 4"],
        regions: Float[Array, "*r 4"],
        gt_boxes: Float[Array, "*n 4"],
        coder: Any,
        positive: Any,
        count: Any,
    ) -> LossTerm:
        """Returns the sum over positive rows, with `count` as its normaliser.

        Args:
          deltas: predicted deltas, as encoded by `coder`.
          regions: boxes in pixels that the deltas are relative to.
          gt_boxes: ground-truth boxes in pixels.
          coder: `segjax.ops.boxes.DeltaCoder` of the deltas.
          positive: bool [*n], True for rows matched to an object.
          count: float [], normaliser of the loss.
        """
        ...


@runtime_checkable
class MaskBranch(Protocol):
    """Linen module for the masks of a detector: pooler, head, targets and loss.

    Attributes:
      num_classes: number of classes K, without background.
    """

    @property
    def num_classes(self) -> int:
        """Number of classes K, without background."""
        ...

    def with_classes(self: _S, num_classes: int) -> _S:
        """Returns the same branch for another number of classes."""
        ...

    def losses(
        self, features: Features, samples: RoISamples, batch: Batch, keys: Key[Array, " B"]
    ) -> tuple[Terms, Counts]:
        """Computes loss terms and counts from the regions that the box branch is trained on.

        Args:
          features: levels of the feature pyramid.
          samples: sampled regions, positives first.
          batch: batch with the ground truth.
          keys: random key of each image.

        Returns:
          Loss terms by name, usually "loss_mask", and counts. "mask_rois_dropped" is the number of
          positive regions that the branch skipped.
        """
        ...

    def predict(self, features: Features, found: Detections) -> Detections:
        """Adds masks to detections; may also change their scores."""
        ...


@runtime_checkable
class Model(Protocol):
    """Linen module that can be trained and used for prediction.

    Attributes:
      tasks: kinds of output that the model predicts.
      classes: numbers of classes.
      padding: supported input sizes.
      preprocess: normalisation of images; None if it is not a `Preprocess`.
      backbone: submodule that the weights of a classifier can be loaded into, or None.
    """

    @property
    def tasks(self) -> frozenset[Task]:
        """Kinds of output that the model predicts."""
        ...

    @property
    def classes(self) -> ClassCounts:
        """Numbers of classes."""
        ...

    @property
    def padding(self) -> Padding:
        """Supported input sizes."""
        ...

    @property
    def preprocess(self) -> Preprocess | None:
        """Normalisation of images."""
        ...

    @property
    def backbone(self) -> Backbone | None:
        """Submodule that the weights of a classifier can be loaded into."""
        ...

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """Initialises variables, as in Linen modules."""
        ...

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls a method with variables, as in Linen modules."""
        ...

    def with_classes(self: _S, things: int | None = None, pixels: int | None = None) -> _S:
        """Returns the same model with other numbers of classes; None keeps a number.

        Raises:
          ValueError: for a number that does not apply to the model.
        """
        ...

    def frozen_paths(self) -> tuple[str, ...]:
        """Returns "/"-joined prefixes of the parameters that are not trained."""
        ...

    def losses(self, batch: Batch, keys: Key[Array, " B"]) -> tuple[Terms, Counts]:
        """Computes loss terms and counts of a batch, with one random key per image."""
        ...

    def predict(
        self, images: UInt8[Array, "B H W 3"], image_sizes: Int32[Array, "B 2"]
    ) -> Detections:
        """Predicts detections in pixels of the padded input; `image_sizes` exclude the padding."""
        ...


@runtime_checkable
class PyramidDetector(Model, Protocol):
    """Model with a feature pyramid that other branches can share."""

    def features(
        self,
        images: UInt8[Array, "B H W 3"],
        image_sizes: Int32[Array, "B 2"],
        train: bool = False,
    ) -> tuple[Float[Array, "B _ _ C"], ...]:
        """Computes the levels of the pyramid, finest first."""
        ...

    def detect(self, features: Features, image_sizes: Int32[Array, "B 2"]) -> Detections:
        """Predicts detections from the pyramid, as in `predict`."""
        ...

    def detection_losses(
        self, features: Features, batch: Batch, keys: Key[Array, " B"]
    ) -> tuple[Terms, Counts]:
        """Computes loss terms and counts from the pyramid, as in `losses`."""
        ...


@runtime_checkable
class PanopticModel(Model, Protocol):
    """Model with "panoptic" in its tasks."""

    def with_score_threshold(self: _S, threshold: float) -> _S:
        """Returns the same model with another minimum score for the merge."""
        ...

    def to_panoptic(self, found: Detections, semantic: Int32[Array, "H W"]) -> PanopticSegments:
        """Merges the detections and semantic map of one image. Does not need variables.

        Args:
          found: detections of one image, with boxes and masks in pixels of the map.
          semantic: label of every pixel; -1 outside the image.
        """
        ...


def as_model(module: Any) -> Model:
    """Returns the module, after checking that it is a `Model`.

    Raises:
      ValueError: if it is not; the message lists the missing members.
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
    """Returns the layer of a parameter in the model's backbone; None for other parameters.

    Args:
      model: model with or without a backbone.
      path: "/"-joined path of the parameter, such as "backbone/layer1_0/conv1/kernel".
    """
    *_, inner = path.rpartition("backbone/")
    if model.backbone is None or inner == path:
        return None
    return model.backbone.layer_of(inner)
