"""Ctrl-C and SIGTERM during training: the step is finished and saved before the process ends.

Python runs signal handlers only between bytecodes of the main thread. While XLA compiles or a
device computes, that can take minutes. A thread therefore reads the signals as they arrive
(Python's "wakeup file descriptor"): the first is answered and the second ends the process at any
time.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from segjax._files import written_whole

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# File in a run's folder that says that a signal stopped the run; removed when it continues.
MARKER = "preempted.json"


class TrainingInterrupted(KeyboardInterrupt):
    """Raised when a signal ends training, after a checkpoint has been saved.

    Attributes:
      number: signal number.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class Interrupts:
    """Records the first signal for the loop to check; a second one ends the process at once.

    Python delivers signals to the main thread alone. In other threads this does nothing, and the
    program that started the thread handles them. In notebooks, and where the program has handlers
    of its own, the second signal goes to these instead of ending the process. Signals that the
    process was started to ignore, as SIGINT in the background of a shell, stay ignored.

    Args:
      say: function that prints a line for the user.

    Attributes:
      number: number of the first signal, or None.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.number: int | None = None
        self._say = say
        self._before: dict[int, Any] = {}
        self._lock = threading.RLock()
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            caught = [n for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._handle) for number in caught}
            ours = (signal.SIG_DFL, signal.default_int_handler)
            if "ipykernel" not in sys.modules and all(h in ours for h in self._before.values()):
                self._watch()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.close()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def came(self) -> bool:
        """Returns True if there was a signal."""
        return self.number is not None

    def _watch(self) -> None:
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        thread = threading.Thread(target=self._read, args=(reader,), daemon=True)
        thread.start()
        # Closed from the last to the first: the thread ends when the writer is closed.
        self._closing.callback(reader.close)
        self._closing.callback(thread.join)
        self._closing.callback(writer.close)
        self._closing.callback(signal.set_wakeup_fd, before)

    def _read(self, reader: socket.socket) -> None:
        seen = 0
        while data := reader.recv(64):
            for number in data:
                seen += number in self._before
                if number in self._before and seen == 1:
                    self._note(number)
                elif number in self._before:
                    os._exit(128 + number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._note(number)
        for caught, handler in self._before.items():
            signal.signal(caught, handler)

    def _note(self, number: int) -> None:
        with self._lock:
            if self.number is not None:
                return
            self.number = number
        self._say(
            f"{signal.Signals(number).name}: stops after this step and saves it; again to stop at"
            " once, without saving"
        )


class Stopping:
    """Decision to end training after a signal, which all processes take together.

    Args:
      interrupts: signals of this process.
      vote: takes whether this process had a signal, and returns whether any process had one when
        it was last asked; None for a single process. All processes must ask equally often.

    Attributes:
      agreed: True once training has to end.
    """

    def __init__(self, interrupts: Interrupts, vote: Callable[[bool], bool] | None = None) -> None:
        self.agreed = False
        self._interrupts, self._vote = interrupts, vote

    @property
    def number(self) -> int:
        """Number of the signal; SIGTERM if another process had it."""
        return self._interrupts.number or signal.SIGTERM

    def due(self) -> bool:
        """Asks whether to stop."""
        came = self._interrupts.came()
        self.agreed = self.agreed or (came if self._vote is None else self._vote(came))
        return self.agreed


def leave_marker(workdir: Path, step: int, number: int) -> None:
    """Writes that a signal stopped the run, for whoever starts runs again.

    Args:
      workdir: folder of the run.
      step: step that was saved.
      number: number of the signal.
    """
    content = {
        "step": step,
        "signal": signal.Signals(number).name,
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    with written_whole(workdir / MARKER) as partial:
        partial.write_text(json.dumps(content))
