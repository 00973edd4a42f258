"""Mean IoU and pixel accuracy of semantic maps, from a confusion matrix summed over images.

`mean_iou` averages over the classes that occur in the ground truth or in the prediction, as
MMSegmentation's `IoUMetric` does. `mean_iou_of_true` averages over the classes that occur in the
ground truth, as Detectron2's `SemSegEvaluator` does. There are never more of these. Pixels whose
true label is the ignore label are excluded everywhere.

Boundary IoU (2103.16562) of a class is the IoU of the bands along the outlines of its true and
its predicted pixels, summed over images. Detectron2's evaluator instead erodes the whole map of
class indices, so that its bands contain differences between indices of neighbouring classes. Its
numbers depend on the order of the classes and are not comparable to these.
"""

import collections
import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64, Integer

from segjax.eval.boundary import DILATION_RATIO, band_width, boundary_region


@dataclasses.dataclass(frozen=True)
class SemanticScores:
    """Scores of semantic maps. Fractions in 0..1; NaN where the denominator is zero.

    Attributes:
      mean_iou: mean IoU of classes that occur in ground truth or prediction (MMSegmentation).
      mean_iou_of_true: mean IoU of classes that occur in the ground truth (Detectron2's mIoU).
      frequency_weighted_iou: IoU, weighted by each class's share of the true pixels (fwIoU).
      mean_accuracy: mean pixel recall of classes that occur in the ground truth (mACC).
      pixel_accuracy: fraction of labelled pixels predicted correctly (pACC).
      iou: IoU of each class; NaN if it occurs in neither map.
      accuracy: pixel recall of each class; NaN if it has no true pixels.
      class_names: name of each class.
      num_images: number of images scored.
      num_pixels: number of labelled pixels in these images.
      boundary_iou: IoU of the bands along the outlines of each class, NaN as for `iou`; None if
        not computed.
    """

    mean_iou: float
    mean_iou_of_true: float
    frequency_weighted_iou: float
    mean_accuracy: float
    pixel_accuracy: float
    iou: tuple[float, ...]
    accuracy: tuple[float, ...]
    class_names: tuple[str, ...]
    num_images: int
    num_pixels: int
    boundary_iou: tuple[float, ...] | None = None

    @property
    def mean_boundary_iou(self) -> float | None:
        """Mean over classes that occur in ground truth or prediction; None if not computed."""
        return None if self.boundary_iou is None else _mean(np.array(self.boundary_iou))

    def metrics(self) -> dict[str, float]:
        """Returns metrics by name, such as `semantic/mIoU`; NaN where undefined."""
        mean = self.mean_boundary_iou
        boundary = {} if mean is None else {"semantic/boundary_mIoU": mean}
        return {
            "semantic/mIoU": self.mean_iou,
            "semantic/mIoU_true": self.mean_iou_of_true,
            "semantic/fwIoU": self.frequency_weighted_iou,
            "semantic/mACC": self.mean_accuracy,
            "semantic/pACC": self.pixel_accuracy,
            **boundary,
        }

    def text(self) -> str:
        """Formats a table in percent: means, then IoU, accuracy and boundary IoU of each class."""
        common = collections.Counter(self.class_names)
        names = [
            f"{name} (class {number})" if common[name] > 1 else name
            for number, name in enumerate(self.class_names)
        ]
        means = [f"{key.split('/')[1]} {_percent(v)}" for key, v in self.metrics().items()]
        width = max([len("class"), *map(len, names)])
        columns = {"IoU": self.iou, "ACC": self.accuracy}
        if self.boundary_iou is not None:
            columns["bIoU"] = self.boundary_iou
        rows = [
            f"{name:<{width}}" + "".join(f"{_percent(value):>8}" for value in values)
            for name, *values in zip(names, *columns.values(), strict=True)
        ]
        head = f"{self.num_images} images, {self.num_pixels} labelled pixels"
        title = f"{'class':<{width}}" + "".join(f"{column:>8}" for column in columns)
        return "\n".join([head, ", ".join(means), title, *rows])


def _percent(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{100 * value:.1f}"


class MeanIou:
    """Accumulates the confusion matrix of semantic maps over images, and boundary counts."""

    def __init__(
        self,
        class_names: Sequence[str],
        ignore_label: int = 255,
        *,
        boundary: bool = False,
        dilation_ratio: float = DILATION_RATIO,
    ):
        """Starts with zero counts.

        Args:
          class_names: name of each class 0..C-1.
          ignore_label: true label of pixels to exclude.
          boundary: also compute boundary IoU.
          dilation_ratio: band width for boundary IoU, as a fraction of the image diagonal.

        Raises:
          ValueError: if the ignore label is one of the classes, there are no classes, or the ratio
            is not positive and finite.
        """
        band_width(1, 1, dilation_ratio)  # checks the ratio
        if not class_names:
            raise ValueError("class_names is empty: wanted a name for every class")
        if 0 <= ignore_label < len(class_names):
            raise ValueError(
                f"ignore_label {ignore_label} is class {class_names[ignore_label]!r}: wanted a"
                f" number outside of 0..{len(class_names) - 1}"
            )
        self.class_names = tuple(class_names)
        self.ignore_label = ignore_label
        count = len(class_names)
        # The last column counts true pixels without a predicted class.
        self._confusion = np.zeros((count, count + 1), np.int64)
        # Intersections and unions of the bands, padded to the width of the confusion matrix.
        self._bands = np.zeros((2 if boundary else 0, count + 1), np.int64)
        self._dilation_ratio = dilation_ratio
        self._num_images = 0

    def add(
        self, gt_labels: Integer[np.ndarray, "h w"], pred_labels: Integer[np.ndarray, "ph pw"]
    ) -> None:
        """Adds one image.

        Args:
          gt_labels: true classes 0..C-1, or the ignore label.
          pred_labels: predicted classes, of the same shape. The ignore label means that no class
            was predicted. Such a pixel is a false negative, but not a false positive of any class.

        Raises:
          ValueError: if the maps differ in shape, or contain any other label.
        """
        if gt_labels.shape != pred_labels.shape:
            raise ValueError(
                f"the prediction is {pred_labels.shape} and the ground truth {gt_labels.shape}"
                " pixels: wanted one shape, that of the original image"
            )
        count = len(self.class_names)
        known = gt_labels != self.ignore_label
        true = gt_labels[known].astype(np.int64)
        found = pred_labels[known].astype(np.int64)
        none = found == self.ignore_label
        self._check(true, "ground truth")
        self._check(found[~none], "prediction")
        found[none] = count
        pairs = np.bincount(true * (count + 1) + found, minlength=self._confusion.size)
        self._confusion += pairs.reshape(self._confusion.shape)
        if len(self._bands):
            self._add_bands(gt_labels, pred_labels)
        self._num_images += 1

    def _add_bands(
        self, gt_labels: Integer[np.ndarray, "h w"], pred_labels: Integer[np.ndarray, "h w"]
    ) -> None:
        # Pixels without a true label are removed from the prediction as well, so that both maps
        # have the same outlines there.
        found = np.where(gt_labels == self.ignore_label, self.ignore_label, pred_labels)
        for label in np.union1d(gt_labels, found).tolist():
            if label != self.ignore_label:
                one = boundary_region(gt_labels == label, self._dilation_ratio)
                other = boundary_region(found == label, self._dilation_ratio)
                self._bands[:, label] += (int((one & other).sum()), int((one | other).sum()))

    def _check(self, labels: Int64[np.ndarray, " n"], side: str) -> None:
        if labels.size and not (labels.min() >= 0 and labels.max() < len(self.class_names)):
            raise ValueError(
                f"the {side} has labels from {labels.min()} to {labels.max()}: wanted classes"
                f" 0..{len(self.class_names) - 1} or {self.ignore_label} (ignore)"
            )

    def state(self) -> Int64[np.ndarray, "n m"]:
        """Returns all counts as an array, to be summed over processes and passed to `merge`.

        Returns:
          The confusion matrix [C, C + 1] (rows are true classes and columns predicted ones, the
          last for pixels without a predicted class). With `boundary`, two rows of intersections
          and unions of the bands follow. The last row is [images, 0, ...].
        """
        images = np.zeros((1, self._confusion.shape[1]), np.int64)
        images[0, 0] = self._num_images
        return np.concatenate([self._confusion, self._bands, images])

    def merge(self, state: Int64[np.ndarray, "n m"]) -> None:
        """Adds the counts of another process with the same classes and the same `boundary`.

        Args:
          state: `state()` of another process, or the sum of several.

        Raises:
          ValueError: if the state has another number of classes or another `boundary`.
        """
        count, bands = len(self.class_names), len(self._bands)
        wanted = (count + bands + 1, count + 1)
        if state.shape != wanted:
            raise ValueError(
                f"the state is {state.shape}: wanted {wanted}, of {count} classes"
                f" with{'' if bands else 'out'} boundary"
            )
        self._confusion += state[:count]
        self._bands += state[count:-1]
        self._num_images += int(state[-1, 0])

    def results(self) -> SemanticScores:
        """Computes the scores of all images added so far."""
        right = self._confusion.diagonal().astype(np.float64)
        true = self._confusion.sum(axis=1).astype(np.float64)
        found = self._confusion[:, :-1].sum(axis=0).astype(np.float64)
        iou, accuracy = _ratio(right, true + found - right), _ratio(right, true)
        total = true.sum()
        boundary = None
        if len(self._bands):
            both, either = self._bands[:, :-1].astype(np.float64)
            boundary = tuple(_ratio(both, either).tolist())
        return SemanticScores(
            mean_iou=_mean(iou),
            mean_iou_of_true=_mean(iou[true > 0]),
            frequency_weighted_iou=_sum_share(iou[true > 0] * true[true > 0], total),
            mean_accuracy=_mean(accuracy),
            pixel_accuracy=_sum_share(right, total),
            iou=tuple(iou.tolist()),
            accuracy=tuple(accuracy.tolist()),
            class_names=self.class_names,
            num_images=self._num_images,
            num_pixels=int(total),
            boundary_iou=boundary,
        )


def _ratio(
    part: Float64[np.ndarray, " n"], whole: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    return np.divide(part, whole, out=np.full_like(part, math.nan), where=whole > 0)


def _mean(values: Float64[np.ndarray, " n"]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else math.nan


def _sum_share(values: Float64[np.ndarray, " n"], total: float) -> float:
    return float(values.sum() / total) if total else math.nan
