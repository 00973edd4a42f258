"""Ctrl-C and SIGTERM during training: the step is finished and saved before the process ends."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingInterrupted(KeyboardInterrupt):
    """Training that a signal ended after a checkpoint.

    Attributes:
      number: number of the signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class Interrupts:
    """Notes the first signal, for the loop to look at; the second ends the process at once.

    Signals can be caught in the main thread alone. Elsewhere this does nothing, and whoever
    started the thread handles them.

    Args:
      say: prints a line for people.

    Attributes:
      number: number of the signal that came, or None.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.number: int | None = None
        self._say = say
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        for caught, handler in self._before.items():
            signal.signal(caught, handler)
        self._say(
            f"{signal.Signals(number).name}: stops after this step and saves it; again to stop at"
            " once, without saving"
        )
