"""Plans batches such that each has a single shape, and each epoch covers every image.

A batch holds images of one canvas (height, width), so that a run compiles its step once per canvas.
The images of a canvas form an endless stream, reshuffled every epoch, which is cut into batches.
Images that do not fill a batch at the end of an epoch go first into the next one. Batch n depends
only on n and the seed: any process can compute any batch, resuming needs no history, and every
process takes its own rows of the same global batch.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64


@dataclasses.dataclass(frozen=True)
class PlannedBatch:
    """Images that a process loads for one batch.

    Attributes:
      canvas: index of the canvas.
      rows: positions of the images in the split; -1 for padding rows.
      draws: number of each row, unique in the run, that seeds its augmentation.
    """

    canvas: int
    rows: Int64[np.ndarray, " b"]
    draws: Int64[np.ndarray, " b"]


class TrainPlan:
    """Endless, shuffled sequence of training batches.

    Attributes:
      batch_size: number of rows in a global batch.
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
        return 1 << 40  # Grain needs a finite length; no run gets this far

    def __getitem__(self, number: int) -> PlannedBatch:
        if not 0 <= number < len(self):
            raise IndexError(number)
        epoch = self.epoch_of(number)
        canvas, rank = self._order(epoch)[number - int(self._done(epoch).sum())]
        places = rank * self.batch_size + np.arange(self.batch_size)[self._share]
        # A batch at the end of an epoch can contain images of the next one.
        epochs, offsets = np.divmod(places, self._sizes[canvas])
        rows = [
            self._groups[canvas][self._shuffled(canvas, int(e))[o]]
            for e, o in zip(epochs, offsets, strict=True)
        ]
        draws = number * self.batch_size + np.arange(self.batch_size)[self._share]
        return PlannedBatch(canvas, np.array(rows, np.int64), draws.astype(np.int64))

    def epoch_of(self, number: int) -> int:
        """Returns the epoch in which batch `number` is completed."""
        # The first guess ignores that each canvas rounds its number of batches down separately.
        epoch = int(number * self.batch_size // self._sizes.sum())
        while self._done(epoch + 1).sum() <= number:
            epoch += 1
        while self._done(epoch).sum() > number:
            epoch -= 1
        return epoch

    def _done(self, epoch: int) -> Int64[np.ndarray, " canvases"]:
        """Returns the number of batches of each canvas completed before `epoch` begins."""
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
    """Batches with each image once, canvas by canvas; -1 pads the last batch of a canvas."""

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
    """Groups positions by canvas.

    Args:
      positions: positions of images in their split.
      canvas: index of each image's canvas.
      count: number of canvases.

    Returns:
      `count` arrays, possibly empty, each in the order of `positions`.
    """
    return [positions[canvas == index] for index in range(count)]


# Cached, because all batches of an epoch index the same permutations.
@functools.lru_cache(maxsize=64)
def _permutation(size: int, seed: int, canvas: int, epoch: int) -> Int64[np.ndarray, " n"]:
    return np.random.default_rng([seed, 0, canvas, epoch]).permutation(size)


@functools.lru_cache(maxsize=8)
def _epoch_order(
    begin: tuple[int, ...], end: tuple[int, ...], seed: int, epoch: int
) -> list[tuple[int, int]]:
    """Returns the batches (canvas, rank) completed in an epoch, in random order."""
    batches = [
        (canvas, rank)
        for canvas, (first, last) in enumerate(zip(begin, end, strict=True))
        for rank in range(first, last)
    ]
    order = np.random.default_rng([seed, 1, epoch]).permutation(len(batches))
    return [batches[i] for i in order]


def _share(batch_size: int, process_index: int, process_count: int) -> slice:
    """Returns the slice of a global batch that belongs to one process."""
    if batch_size % process_count or not 0 <= process_index < process_count:
        raise ValueError(
            f"batch size {batch_size} on process {process_index} of {process_count}: the batch "
            "must divide evenly among the processes"
        )
    rows = batch_size // process_count
    return slice(process_index * rows, (process_index + 1) * rows)
