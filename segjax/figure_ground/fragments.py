"""Class fragments, which are the class model of top-down segmentation, and their settings."""

import dataclasses
from numbers import Integral

from jaxtyping import Array, Float32, Int32

from segjax.types import static_field, struct


@struct
class Fragments:
    """Patches that are typical of a class, each with figure-ground labels, best first.

    All lengths are in cells of `downsample` pixels. Patches of less than S cells are in the upper
    left, padded with zeros.

    Attributes:
      patches: grey levels with mean 0 and norm 1.
      sizes: side of each patch.
      thresholds: minimum correlation of a detection.
      information: information that a detection carries about the class, in bits, 0..1.
      labels: probability that each cell of a fragment is figure, 0..1.
      downsample: side of a cell, in pixels of the training images; static.
    """

    patches: Float32[Array, "F S S"]
    sizes: Int32[Array, " F"]
    thresholds: Float32[Array, " F"]
    information: Float32[Array, " F"]
    labels: Float32[Array, "F S S"]
    downsample: int = static_field()


@dataclasses.dataclass(frozen=True)
class TopDownConfig:
    """Settings of learning and of using fragments; use the same for both.

    Attributes:
      downsample: side of the cells that images are reduced to, in pixels.
      sizes: sides of the fragments, in cells.
      candidates: number of patches of each size to try.
      least_contrast: minimum standard deviation of a candidate's grey levels (0..1).
      max_fragments: maximum number of fragments to keep.
      least_gain: information, in bits; fragments must add more than this to each selected one.
      border_weight: weight of the edges along the border of a fragment's figure, relative to the
        degree of cover, when its first label is chosen.
      label_rounds: number of times that the class images are covered to refine the labels.
      peaks: maximum number of detections of a fragment in an image.
      max_disagreement: mean absolute difference (0..1) from earlier labels, where they overlap,
        above which a detection is skipped.
      prior: probability of figure where nothing is detected.
      prior_weight: weight of the prior, in bits of information.
    """

    downsample: int = 2
    sizes: tuple[int, ...] = (8, 12, 16, 22)
    candidates: int = 200
    least_contrast: float = 0.03
    max_fragments: int = 150
    least_gain: float = 0.0
    border_weight: float = 1.0
    label_rounds: int = 3
    peaks: int = 1
    max_disagreement: float = 0.4
    prior: float = 0.0
    prior_weight: float = 0.1

    def __post_init__(self) -> None:
        if not self.sizes or not all(isinstance(x, Integral) and x >= 3 for x in self.sizes):
            raise ValueError(f"sizes is {self.sizes}: wanted sides of 3 whole cells or more")
        counts = {
            name: getattr(self, name)
            for name in ("downsample", "candidates", "max_fragments", "peaks")
        }
        if min(counts.values()) < 1:
            raise ValueError(f"{counts}: wanted 1 or more of each")
        weights = {
            name: getattr(self, name)
            for name in ("label_rounds", "least_contrast", "border_weight", "max_disagreement")
        }
        if not all(weight >= 0 for weight in weights.values()):  # NaN is not
            raise ValueError(f"{weights}: wanted 0 or more of each")
        if not (0 <= self.prior <= 1 and self.prior_weight > 0):
            raise ValueError(
                f"prior {self.prior}, prior_weight {self.prior_weight}: wanted a probability and a "
                "weight above 0"
            )
