"""Sends the next batches to the device while the current one is being computed."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

from segjax.data.pipeline import HostBatch
from segjax.types import Batch


@runtime_checkable
class DataIterator(Protocol):
    """Interface of the iterators from `segjax.data.pipeline.train_iterator`."""

    def __next__(self) -> HostBatch:
        """Returns the next batch; never stops."""
        ...

    def get_state(self) -> Any:
        """Returns the position of the next batch, as a JSON-serialisable value."""
        ...

    def close(self) -> None:
        """Stops the worker processes."""
        ...


class Prefetched(NamedTuple):
    """A batch on the device.

    Attributes:
      batch: input of the training step.
      host: host arrays of the same batch, without pixels (ids, counts of dropped objects).
      data_state: state of the iterator after this batch, for a checkpoint.
    """

    batch: Batch
    host: HostBatch
    data_state: Any


class Prefetch(Iterator[Prefetched]):
    """Reads batches and sends them to the device from a background thread, `size` ahead.

    Each batch carries the iterator's state. A checkpoint needs the state after the last batch
    that was trained on, not after the last one that was read ahead.

    Args:
      iterator: source of batches; `close` closes it.
      put: function that sends a host batch to the device.
      size: number of batches to keep ready.
    """

    def __init__(self, iterator: DataIterator, put: Callable[[HostBatch], Batch], size: int = 2):
        self._iterator, self._put = iterator, put
        self._queue: queue.Queue[Prefetched | BaseException] = queue.Queue(size)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def __next__(self) -> Prefetched:
        """Returns the next batch, or re-raises the source's exception."""
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Stops the thread and the source's workers."""
        self._stopping.set()
        # The thread may be blocked on a full queue, so the queue has to be drained.
        while self._thread.is_alive():
            try:
                self._queue.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)
        self._iterator.close()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                host = next(self._iterator)
                state = self._iterator.get_state()
                self._queue.put(Prefetched(self._put(host), _light(host), state))
        except BaseException as error:  # re-raised in the training thread
            self._queue.put(error)


def _light(host: HostBatch) -> HostBatch:
    """Returns a batch without its pixels, which the loop does not need on the host."""
    pixels = ("images", "gt_masks", "gt_semantic")
    return {name: array for name, array in host.items() if name not in pixels}
