"""Canvases and batches: every batch has one shape, and every epoch every image.

A batch holds images of one canvas (height, width), so that a run compiles its step once a
canvas. The images of a canvas form an endless stream, reshuffled every epoch, that is cut into
batches; what does not fill a batch at the end of an epoch goes first into the next one. Batch
number n is a function of n and the seed alone: any process can make any batch, resuming needs no
history, and every process takes its rows of the same global batch.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from segjax.data.config import DataConfig
from segjax.data.transforms import resized_size

Canvas = tuple[int, int]


def derive_canvases(sizes: Int64[np.ndarray, "images 2"], config: DataConfig) -> tuple[Canvas, ...]:
    """Chooses the canvases for a set of images.

    Args:
      sizes: (height, width) of the images as stored.
      config: how they are resized, and `buckets`, `size_divisor`.

    Returns:
      `config.buckets`, or one canvas for landscape (and square) and one for portrait images, as
      small as the images allow; one alone where both would waste little (a quarter) of it; none
      without images.
    """
    if config.buckets is not None:
        return config.buckets
    needed = _needed_sizes(np.unique(sizes, axis=0), config)
    portrait = needed[:, 0] > needed[:, 1]
    groups = [needed[portrait == side] for side in (False, True)]
    canvases = [_round_up(group.max(axis=0), config) for group in groups if len(group)]
    if len(canvases) == 2:
        joint = (max(c[0] for c in canvases), max(c[1] for c in canvases))
        if joint[0] * joint[1] <= 1.25 * min(c[0] * c[1] for c in canvases):
            return (joint,)
    return tuple(canvases)


def assign_canvases(
    sizes: Int64[np.ndarray, "images 2"], canvases: Sequence[Canvas], config: DataConfig
) -> Int64[np.ndarray, " images"]:
    """Finds the smallest canvas that holds each image at every scale.

    Args:
      sizes: (height, width) of the images as stored.
      canvases: to choose from.
      config: how images are resized.

    Returns:
      The index of each image's canvas.

    Raises:
      ValueError: if an image fits on no canvas.
    """
    if not len(sizes):
        return np.zeros(0, np.int64)  # and perhaps there is no canvas either
    unique, inverse = np.unique(sizes, axis=0, return_inverse=True)
    needed = _needed_sizes(unique, config)
    fits = (needed[:, None] <= np.asarray(canvases)[None]).all(axis=2)
    homeless = np.flatnonzero(~np.any(fits, axis=1))
    if homeless.size:
        height, width = needed[homeless[0]]
        raise ValueError(
            f"an image becomes {height} x {width} pixels and fits on none of the canvases "
            f"{tuple(canvases)}: add a larger one to buckets, or resize to less"
        )
    areas = np.prod(np.asarray(canvases), axis=1)
    best = np.where(fits, areas[None], np.iinfo(np.int64).max).argmin(axis=1)
    return best[inverse.reshape(-1)].astype(np.int64)


@dataclasses.dataclass(frozen=True)
class PlannedBatch:
    """Which images a process loads for one batch.

    Attributes:
      canvas: index of the canvas.
      rows: positions in the split, -1 for rows that only fill the batch.
      draws: for each row a number that is unique in the run: the seed of its augmentation.
    """

    canvas: int
    rows: Int64[np.ndarray, " b"]
    draws: Int64[np.ndarray, " b"]


class TrainPlan:
    """The endless, shuffled sequence of training batches.

    Attributes:
      batch_size: rows of a global batch.
    """

    def __init__(
        self,
        groups: Sequence[Int64[np.ndarray, " _"]],
        batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        self.batch_size = batch_size
        self._groups = [np.asarray(group) for group in groups]
        self._sizes = np.array([len(group) for group in groups], np.int64)
        self._seed = seed
        self._share = _share(batch_size, process_index, process_count)
        if self._sizes.sum() == 0:
            raise ValueError("no image to train on: is every image without objects?")

    def __len__(self) -> int:
        return 1 << 40  # endless, as far as Grain needs to know

    def __getitem__(self, number: int) -> PlannedBatch:
        if not 0 <= number < len(self):
            raise IndexError(number)
        epoch = self.epoch_of(number)
        canvas, rank = self._order(epoch)[number - int(self._done(epoch).sum())]
        places = rank * self.batch_size + np.arange(self.batch_size)[self._share]
        epochs, offsets = np.divmod(places, self._sizes[canvas])
        rows = [
            self._groups[canvas][self._shuffled(canvas, int(e))[o]]
            for e, o in zip(epochs, offsets, strict=True)
        ]
        draws = number * self.batch_size + np.arange(self.batch_size)[self._share]
        return PlannedBatch(canvas, np.array(rows, np.int64), draws.astype(np.int64))

    def epoch_of(self, number: int) -> int:
        """Returns the epoch in which batch `number` is complete."""
        epoch = int(number * self.batch_size // self._sizes.sum())
        while self._done(epoch + 1).sum() <= number:
            epoch += 1
        while self._done(epoch).sum() > number:
            epoch -= 1
        return epoch

    def _done(self, epoch: int) -> Int64[np.ndarray, " canvases"]:
        """Counts the batches of each canvas that are complete when `epoch` begins."""
        return epoch * self._sizes // self.batch_size

    def _order(self, epoch: int) -> list[tuple[int, int]]:
        return _epoch_order(
            tuple(self._done(epoch).tolist()),
            tuple(self._done(epoch + 1).tolist()),
            self._seed,
            epoch,
        )

    def _shuffled(self, canvas: int, epoch: int) -> Int64[np.ndarray, " n"]:
        return _permutation(int(self._sizes[canvas]), self._seed, canvas, epoch)


class EvalPlan:
    """Each image once, canvas by canvas; the last batch of a canvas is filled with -1."""

    def __init__(
        self,
        groups: Sequence[Int64[np.ndarray, " _"]],
        batch_size: int,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        self._share = _share(batch_size, process_index, process_count)
        self._batches: list[tuple[int, Int64[np.ndarray, " b"]]] = []
        for canvas, group in enumerate(groups):
            for start in range(0, len(group), batch_size):
                rows = np.full(batch_size, -1, np.int64)
                chosen = group[start : start + batch_size]
                rows[: len(chosen)] = chosen
                self._batches.append((canvas, rows))

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> PlannedBatch:
        canvas, rows = self._batches[number]
        return PlannedBatch(canvas, rows[self._share], rows[self._share])


def group_by_canvas(
    positions: Int64[np.ndarray, " n"], canvas: Int64[np.ndarray, " n"], count: int
) -> list[Int64[np.ndarray, " k"]]:
    """Sorts positions into one list for each canvas.

    Args:
      positions: of images in their split.
      canvas: the canvas of each.
      count: how many canvases there are.

    Returns:
      `count` lists, perhaps empty, each in the order of `positions`.
    """
    return [positions[canvas == index] for index in range(count)]


@functools.lru_cache(maxsize=64)
def _permutation(size: int, seed: int, canvas: int, epoch: int) -> Int64[np.ndarray, " n"]:
    return np.random.default_rng([seed, 0, canvas, epoch]).permutation(size)


@functools.lru_cache(maxsize=8)
def _epoch_order(
    begin: tuple[int, ...], end: tuple[int, ...], seed: int, epoch: int
) -> list[tuple[int, int]]:
    """Shuffles the batches (canvas, rank) that become complete in an epoch."""
    batches = [
        (canvas, rank)
        for canvas, (first, last) in enumerate(zip(begin, end, strict=True))
        for rank in range(first, last)
    ]
    order = np.random.default_rng([seed, 1, epoch]).permutation(len(batches))
    return [batches[i] for i in order]


def _share(batch_size: int, process_index: int, process_count: int) -> slice:
    """Returns the rows of a global batch that belong to one process."""
    if batch_size % process_count or not 0 <= process_index < process_count:
        raise ValueError(
            f"batch size {batch_size} on process {process_index} of {process_count}: the batch "
            "must divide evenly among the processes"
        )
    rows = batch_size // process_count
    return slice(process_index * rows, (process_index + 1) * rows)


def _needed_sizes(sizes: Int64[np.ndarray, "n 2"], config: DataConfig) -> Int64[np.ndarray, "n 2"]:
    """Returns the largest size of each image over all scales of training and evaluation."""
    short_side = max(*config.short_side, config.eval_short_side or 0)
    resized = [resized_size(int(h), int(w), short_side, config) for h, w in sizes]
    return np.array(resized, np.int64).reshape(-1, 2)


def _round_up(size: Int64[np.ndarray, "2"], config: DataConfig) -> Canvas:
    divisor = config.size_divisor
    return int(-(-size[0] // divisor) * divisor), int(-(-size[1] // divisor) * divisor)
