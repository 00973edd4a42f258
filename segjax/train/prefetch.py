"""The next batches on their way to the device while the current one computes."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

from segjax.data.pipeline import HostBatch
from segjax.types import Batch


@runtime_checkable
class DataIterator(Protocol):
    """Contract of the iterators of `segjax.data.pipeline.train_iterator`."""

    def __next__(self) -> HostBatch:
        """The next batch; never ends."""
        ...

    def get_state(self) -> Any:
        """Returns the position of the next batch, as a value that JSON can hold."""
        ...

    def close(self) -> None:
        """Ends the worker processes."""
        ...


class Prefetched(NamedTuple):
    """A batch on the device.

    Attributes:
      batch: for the step.
      host: the same batch's arrays on the host (ids, counts of dropped objects).
      data_state: the iterator's state after this batch, for a checkpoint.
    """

    batch: Batch
    host: HostBatch
    data_state: Any


class Prefetch(Iterator[Prefetched]):
    """Draws batches and sends them to the device, in a thread, `size` ahead.

    The iterator's state travels with each batch: a checkpoint needs the one after the last
    batch that was trained on, not after the last that was read ahead.

    Args:
      iterator: the source; closed by `close`.
      put: from the host to the device.
      size: batches held ready.
    """

    def __init__(self, iterator: DataIterator, put: Callable[[HostBatch], Batch], size: int = 2):
        self._iterator, self._put = iterator, put
        self._queue: queue.Queue[Prefetched | BaseException] = queue.Queue(size)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def __next__(self) -> Prefetched:
        """The next batch; raises what the source raised."""
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Ends the thread and the source's workers."""
        self._stopping.set()
        while self._thread.is_alive():  # it may wait for room in the queue
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
        except BaseException as error:  # handed to the thread that trains
            self._queue.put(error)


def _light(host: HostBatch) -> HostBatch:
    """Returns the parts of a batch that the loop needs on the host: all but the pixels."""
    pixels = ("images", "gt_masks", "gt_semantic")
    return {name: array for name, array in host.items() if name not in pixels}
