"""Input pipeline: Grain loads the batches of a plan from a prepared dataset."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from segjax.data.canvas import Canvas, assign_canvases
from segjax.data.config import DataConfig
from segjax.data.dataset import Dataset, image_sizes, open_dataset
from segjax.data.plan import EvalPlan, PlannedBatch, TrainPlan, group_by_canvas
from segjax.data.prepared import INDEX_COLUMNS, PreparedSplit
from segjax.data.rows import HostBatch, Record, empty_batch, fill, make_row

__all__ = [
    "BatchIterator",
    "Dataset",
    "HostBatch",
    "empty_batch",
    "eval_iterator",
    "open_dataset",
    "train_iterator",
]


class BatchIterator:
    """Iterator over batches in a fixed order, with a position that can be saved and restored.

    Call `close` after iterating, or use it as a context manager. Otherwise worker processes and
    their shared memory outlive it.
    """

    def __init__(
        self, plan: TrainPlan | EvalPlan, loader: "_Loader", config: DataConfig, identity: str
    ) -> None:
        self._plan, self._loader, self._config = plan, loader, config
        self._identity = identity
        self._next = 0
        self._batches: Any = None
        self._closed = False

    def __len__(self) -> int:
        """Returns the number of batches; 2**40 for the endless training iterator."""
        return len(self._plan)

    def __iter__(self) -> Iterator[HostBatch]:
        return self

    def __next__(self) -> HostBatch:
        if self._closed:
            raise RuntimeError("this iterator is closed: make a new one")
        if self._next >= len(self._plan):
            raise StopIteration
        if self._batches is None:
            self._batches = _start(self._plan, self._loader, self._config, self._next)
        batch = next(self._batches)
        self._next += 1
        if self._config.num_workers:
            # Copy from Grain's shared memory, which must be released before the interpreter exits.
            return {name: np.array(value, copy=True, subok=False) for name, value in batch.items()}
        return batch

    def get_state(self) -> dict[str, Any]:
        """Returns the position, as a JSON-serialisable dictionary."""
        return {"next_batch": self._next, "identity": self._identity}

    def set_state(self, state: dict[str, Any]) -> None:
        """Moves to a position.

        Args:
          state: state from `get_state` of an iterator with any number of workers or processes.

        Raises:
          ValueError: if the state belongs to another dataset, seed, batch size or set of canvases.
        """
        if state["identity"] != self._identity:
            raise ValueError(
                f"the iterator's state is of [{state['identity']}], this iterator is of "
                f"[{self._identity}]: resume with the same data, seed and batch size"
            )
        self._stop()
        self._next = int(state["next_batch"])

    def close(self) -> None:
        """Stops threads and worker processes; further calls have no effect."""
        self._closed = True
        self._stop()

    def _stop(self) -> None:
        if self._batches is not None and hasattr(self._batches, "close"):
            self._batches.close()
        self._batches = None

    def __enter__(self) -> "BatchIterator":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def train_iterator(
    dataset: Dataset,
    config: DataConfig,
    *,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    start_state: dict[str, Any] | None = None,
) -> BatchIterator:
    """Creates the endless iterator over the training split.

    Args:
      dataset: dataset from `open_dataset`.
      config: settings of batches and transforms.
      seed: seed of shuffling and augmentation.
      process_index: index of this process in a multi-host run, which selects its rows of each
        global batch.
      process_count: number of processes in the run.
      start_state: state from `get_state`, to continue where another iterator stopped.

    Returns:
      An iterator of dictionaries with the fields of `segjax.types.Batch`, and `image_ids`,
      `original_sizes`, `example_valid`, `truncated` and `dropped_degenerate`. They include
      `gt_semantic` unless `config.semantic` is "none", which also works for datasets with labels.

    Raises:
      ValueError: if an image has too many objects and `overflow` is "error", no image is left, the
        dataset has other semantic labels, the config uses neither objects nor labels, or
        `start_state` belongs to another run.
    """
    split = dataset.split("train")
    if not len(split.index):
        raise ValueError(f'the split "{split.name}" has no image to train on')
    _check_labels(dataset, config)
    _check_caps(split, config)
    positions = _trained_on(split, config)
    canvases = dataset.buckets(config)
    groups = _groups(split, positions, canvases, config)
    plan = TrainPlan(groups, config.batch_size, seed, process_index, process_count)
    table = None if config.merge_things == "no" else dataset.label_table
    loader = _Loader(split, config, canvases, _Draws(seed, positions), table)
    identity = (
        f"dataset {dataset.fingerprint}, seed {seed}, batch size {config.batch_size}, "
        f"canvases {canvases}, filter_empty {config.filter_empty}"
    )
    if not config.instances:
        identity += ", labels alone"
    if config.semantic != "none" and config.merge_things != "no":
        identity += f", things {config.merge_things}"
    iterator = BatchIterator(plan, loader, config, identity)
    if start_state is not None:
        iterator.set_state(start_state)
    return iterator


def eval_iterator(
    dataset: Dataset,
    split: str,
    config: DataConfig,
    *,
    process_index: int = 0,
    process_count: int = 1,
) -> BatchIterator:
    """Creates an iterator that yields each image of a split once, without augmentation.

    Objects over `max_instances` are dropped and counted, regardless of `overflow`. This does not
    affect evaluation, which scores against the complete `Dataset.instances`.

    Args:
      dataset: dataset from `open_dataset`.
      split: name of the split, such as "val".
      config: settings of batches and transforms.
      process_index: index of this process in a multi-host run.
      process_count: number of processes in the run.

    Returns:
      An iterator like that of `train_iterator`, but finite and without semantic labels.
      `example_valid` is False for rows that pad the last batch of a canvas.
    """
    config = dataclasses.replace(config, semantic="none")
    source = dataset.split(split)
    canvases = dataset.buckets(config)
    positions = np.arange(len(source.index), dtype=np.int64)
    groups = _groups(source, positions, canvases, config)
    plan = EvalPlan(groups, config.eval_batch_size, process_index, process_count)
    identity = f"dataset {dataset.fingerprint}, split {split}, canvases {canvases}"
    return BatchIterator(plan, _Loader(source, config, canvases, None), config, identity)


def trained_on(dataset: Dataset, config: DataConfig) -> Int64[np.ndarray, " n"]:
    """Returns the positions, in the training split, of the images that `train_iterator` uses."""
    return _trained_on(dataset.split("train"), config)


class _Loader:
    """Loads planned batches; opens the records on first use in each process."""

    def __init__(
        self,
        split: PreparedSplit,
        config: DataConfig,
        canvases: tuple[Canvas, ...],
        draws: "_Draws | None",
        label_table: UInt8[np.ndarray, "256"] | None = None,
    ) -> None:
        self.split, self.config, self.canvases, self.draws = split, config, canvases, draws
        self.label_table = label_table
        self._records: Any = None

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes open the records themselves instead of receiving open files.
        return {**self.__dict__, "_records": None}

    def __call__(self, plan: PlannedBatch) -> HostBatch:
        if self._records is None:
            # Imported late because it requires TFDS, which prediction does not need.
            from segjax.data.build import open_records

            self._records = open_records(self.split)
        batch = empty_batch(len(plan.rows), self.canvases[plan.canvas], self.config)
        for place, (row, draw) in enumerate(zip(plan.rows, plan.draws, strict=True)):
            if row >= 0:
                rng = None if self.draws is None else self.draws.rng(int(draw))
                made = make_row(self._records[int(row)], rng, self.config, self._another)
                fill(batch, place, made, self.config)
        if self.label_table is not None and "gt_semantic" in batch:
            batch["gt_semantic"] = self.label_table[batch["gt_semantic"]]
        return batch

    def _another(self, rng: np.random.Generator) -> Record:
        """Draws a record for mixes."""
        assert self.draws is not None
        return self._records[int(rng.choice(self.draws.positions))]


@dataclasses.dataclass(frozen=True)
class _Draws:
    """Random draws of training.

    Attributes:
      seed: seed of the run.
      positions: positions of the images that mixes draw from, which are those to train on.
    """

    seed: int
    positions: Int64[np.ndarray, " n"]

    def rng(self, draw: int) -> np.random.Generator:
        """Returns the generator of a row; `draw` is its unique number in the run."""
        return np.random.default_rng([self.seed, 2, draw])


def _start(plan: Any, loader: _Loader, config: DataConfig, first: int) -> Any:
    """Starts Grain at batch `first`."""
    import grain

    threads = max(1, min(config.prefetch, 4)) if config.num_workers == 0 else 1
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=config.prefetch)
    source = grain.MapDataset.source(_From(plan, first))
    batches = source.map(loader).to_iter_dataset(options)
    if config.num_workers:
        _mark_flags_parsed()
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(
                num_workers=config.num_workers, per_worker_buffer_size=config.prefetch
            )
        )
    return iter(batches)


class _From:
    """A plan without its first batches, so that resuming does not depend on Grain's state."""

    def __init__(self, plan: TrainPlan | EvalPlan, first: int) -> None:
        self.plan, self.first = plan, first

    def __len__(self) -> int:
        return len(self.plan) - self.first

    def __getitem__(self, index: int) -> PlannedBatch:
        return self.plan[index + self.first]


def _mark_flags_parsed() -> None:
    """Lets Grain start processes outside absl applications, such as in notebooks."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _trained_on(split: PreparedSplit, config: DataConfig) -> Int64[np.ndarray, " n"]:
    """Returns the positions of the images to train on.

    Raises:
      ValueError: if masks are required, but no object has one.
    """
    if not config.instances:
        return np.arange(len(split.index), dtype=np.int64)
    column = "masked" if config.masks else "objects"
    counts = split.index[:, INDEX_COLUMNS.index(column)]
    if config.masks and not counts.any() and split.index[:, INDEX_COLUMNS.index("objects")].any():
        raise ValueError(
            f'no object of the split "{split.name}" has a segmentation: train a model without mask '
            "head, with masks=False"
        )
    positions = np.arange(len(counts), dtype=np.int64)
    return positions[counts > 0] if config.filter_empty else positions


def _check_labels(dataset: Dataset, config: DataConfig) -> None:
    """Checks that the dataset was opened with the labels that the config uses."""
    if config.semantic == "none":
        if not config.instances:
            raise ValueError(
                'instances=False and semantic="none" leave nothing to learn from: choose semantic '
                "labels, or instances=True"
            )
        return
    wanted = config.semantic, config.merge_things
    if wanted != (dataset.semantic, dataset.merge_things):
        raise ValueError(
            f'the dataset was opened with semantic="{dataset.semantic}" and has no labels '
            f'"{config.semantic}": open it with the config that the iterator gets'
            if config.semantic != dataset.semantic
            else f'the dataset was opened with merge_things="{dataset.merge_things}", the iterator '
            f'wants "{config.merge_things}": open it with the config that the iterator gets'
        )


def _check_caps(split: PreparedSplit, config: DataConfig) -> None:
    """Raises, before training starts, if an image has too many objects that are not crowds."""
    if not config.instances:
        return
    counts = split.index[:, INDEX_COLUMNS.index("objects")]
    worst = int(counts.argmax()) if len(counts) else 0
    if config.overflow == "error" and len(counts) and counts[worst] > config.max_instances:
        raise ValueError(
            f"image {split.index[worst, 0]} has {counts[worst]} instances, max_instances is "
            f'{config.max_instances}: raise it, or choose overflow="drop_smallest"'
        )


def _groups(
    split: PreparedSplit,
    positions: Int64[np.ndarray, " n"],
    canvases: tuple[Canvas, ...],
    config: DataConfig,
) -> list[Int64[np.ndarray, " k"]]:
    canvas = assign_canvases(image_sizes(split.index[positions]), canvases, config)
    return group_by_canvas(positions, canvas, len(canvases))
