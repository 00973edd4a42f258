"""Logging of training metrics: JSON lines, progress bar, log file and TensorBoard (optional)."""

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np
from tqdm import tqdm

from segjax._files import written_whole
from segjax.distributed import is_first


class Writer:
    """Appends metrics to `metrics.jsonl`, and optionally to TensorBoard event files.

    Each line is flushed, so that a killed run loses none. NaN and infinite values, such as the AP
    of a class without ground truth, are written as null.

    Args:
      folder: the run's folder; None to write nothing, in all processes but the first.
      tensorboard: whether to write event files, by tensorboardX.
      first: step that the run continues from. Records of later steps are deleted, as these steps
        are taken again.

    Raises:
      ModuleNotFoundError: if `tensorboard` is set and tensorboardX is not installed.
    """

    def __init__(self, folder: Path | None, tensorboard: bool = False, first: int = 0):
        self._events: Any = None
        self._file: TextIO | None = None
        if folder is None:
            return
        if tensorboard:
            try:
                import tensorboardX
            except ModuleNotFoundError as error:
                raise ModuleNotFoundError(
                    "tensorboard=True needs tensorboardX: pip install 'segjax[tensorboard]'"
                ) from error
            self._events = tensorboardX.SummaryWriter(str(folder / "tensorboard"))
        path = folder / "metrics.jsonl"
        _forget_after(path, first)
        self._file = path.open("a")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes one record."""
        if self._file is None:
            return
        numbers = {k: float(v) if math.isfinite(v) else None for k, v in metrics.items()}
        self._file.write(json.dumps({"step": step, "time": time.time()} | numbers) + "\n")
        self._file.flush()
        if self._events is not None:
            for name, value in numbers.items():
                if value is not None:  # TensorBoard cannot show gaps
                    self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Closes the files."""
        if self._file is not None:
            self._file.close()
        if self._events is not None:
            self._events.close()


def _forget_after(path: Path, step: int) -> None:
    """Deletes records of steps after `step`, and a last one that was only written in part."""
    if not path.is_file():
        return
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    if kept != lines:
        with written_whole(path) as partial:
            partial.write_text("".join(kept))


class Progress:
    """Shows loss, images/s and time left: as a progress bar on a terminal, else as log lines.

    Args:
      steps: number of steps of the whole run.
      first: steps already taken.
    """

    def __init__(self, steps: int, first: int):
        # disable=None also detects terminals, but tqdm then does not keep track of time.
        self._on_terminal = is_first() and sys.stderr.isatty()
        self._bar = tqdm(
            total=steps,
            initial=first,
            unit="step",
            dynamic_ncols=True,
            disable=not self._on_terminal,
        )
        self._steps = steps

    def advance(self) -> None:
        """Counts a step."""
        self._bar.update()

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows metrics next to the bar, or prints them as a line."""
        if self._on_terminal:
            rate = f"{metrics['images_per_second']:.1f} images/s"
            self._bar.set_postfix_str(f"loss {metrics['loss']:.4f}, {rate}")
        else:
            say(metrics_line(step, self._steps, metrics))

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()


class RunLog:
    """Collects the lines printed by `say`, and writes them to a file once the run is accepted.

    Until then they are kept in memory, so that a rejected run does not change its folder.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._file: TextIO | None = None

    def __enter__(self) -> "RunLog":
        _logs.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _logs.remove(self)
        if self._file is not None:
            self._file.close()

    def keep(self, path: Path) -> None:
        """Appends all lines so far to a file, and all later ones as they come."""
        self._file = path.open("a", encoding="utf-8")
        self._file.writelines(self._lines)
        self._file.flush()

    def add(self, text: str) -> None:
        """Adds a line with a timestamp."""
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n"
        if self._file is None:
            self._lines.append(line)
        else:
            self._file.write(line)
            self._file.flush()


_logs: list[RunLog] = []


def say(text: str) -> None:
    """Prints a line, above the progress bar if there is one, and adds it to open logs.

    Only the first of several processes does.
    """
    if not is_first():
        return
    tqdm.write(text)
    sys.stdout.flush()
    for log in _logs:
        log.add(text)


def metrics_line(step: int, steps: int, metrics: Mapping[str, float]) -> str:
    """Formats a log line: losses, gradient norm, learning rate, speed and time left."""
    rate = metrics["steps_per_second"]
    left = tqdm.format_interval((steps - step) / rate) if rate > 0 else "?"
    terms = "  ".join(
        f"{name.removeprefix('loss/')} {value:.4f}"
        for name, value in metrics.items()
        if name.startswith("loss")
    )
    return (
        f"step {step}/{steps}  {terms}  grad_norm {metrics['grad_norm']:.3g}"
        f"  lr {metrics['learning_rate']:.3g}  {metrics['images_per_second']:.2f} images/s"
        f"  left {left}"
    )


class Window:
    """Collects the metrics of the steps between two log lines.

    Metrics stay on the device until the window is read, so that collecting them never blocks.
    """

    def __init__(self) -> None:
        self._metrics: list[Mapping[str, Any]] = []
        self._images = 0
        self._start = time.perf_counter()
        self._paused = 0.0

    def add(self, metrics: Mapping[str, Any], images: int) -> None:
        """Adds the metrics of one step."""
        self._metrics.append(metrics)
        self._images += images

    def exclude(self, seconds: float) -> None:
        """Excludes time that was not spent on training, such as an evaluation, from the speed."""
        self._paused += seconds

    def read(self) -> dict[str, float]:
        """Means over the window (of the learning rate: the last) and speeds; starts again.

        Steps that are not finite were skipped, and do not count; "finite" is the part of the
        others.
        """
        fetched: Sequence[Mapping[str, np.ndarray]] = jax.device_get(self._metrics)
        seconds = max(time.perf_counter() - self._start - self._paused, 1e-9)
        taken = [m for m in fetched if m.get("finite", True)] or fetched
        means = {name: float(np.mean([m[name] for m in taken])) for name in fetched[0]}
        if "finite" in means:
            means["finite"] = float(np.mean([m["finite"] for m in fetched]))
        means["learning_rate"] = float(fetched[-1]["learning_rate"])
        speeds = {
            "images_per_second": self._images / seconds,
            "steps_per_second": len(fetched) / seconds,
        }
        self.__init__()
        return means | speeds


class FiniteCheck:
    """Counts steps whose loss or gradient is not finite, without waiting for the device.

    Looking at a step's flag waits for the step, so it is looked at when the next one has been sent
    to the device. Only the step that would be the last of a row is waited for: nothing may follow
    it, so that the state that it was taken from can be saved.

    Args:
      limit: number of such steps in a row that ends the run; 0 for none.
      total: number of such steps so far.

    Attributes:
      total: number of such steps.
    """

    def __init__(self, limit: int, total: int = 0) -> None:
        self.total = total
        self._limit, self._row = limit, 0
        self._pending: tuple[int, Mapping[str, Any], np.ndarray] | None = None

    def add(self, step: int, metrics: Mapping[str, Any], image_ids: np.ndarray) -> str | None:
        """Looks at the step before, and at this one if it may be the last of a row.

        Returns:
          A description of the step if the run must end; else None.
        """
        self.flush()
        self._pending = (step, metrics, image_ids)
        return self.flush() if self._row + 1 == self._limit else None

    def flush(self) -> str | None:
        """Looks at the last step too, such as before a checkpoint; returns as `add`."""
        pending, self._pending = self._pending, None
        if pending is None:
            return None
        if bool(pending[1]["finite"]):
            self._row = 0
            return None
        self._row, self.total = self._row + 1, self.total + 1
        words = _not_finite(*pending)
        if self._row == self._limit:
            return words
        say(f"{words}. The step changed no parameter and is skipped; {self.total} so far")
        return None


def _not_finite(step: int, metrics: Mapping[str, Any], image_ids: np.ndarray) -> str:
    values = ", ".join(
        f"{name} {float(value):g}"
        for name, value in sorted(metrics.items(), key=lambda item: item[0] == "grad_norm")
        if name.startswith("loss") or name == "grad_norm"
    )
    return f"step {step} is not finite: {values}; image ids {image_ids.tolist()}"
