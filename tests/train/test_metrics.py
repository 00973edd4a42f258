import json
import math
import sys
import threading
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from segjax.train.metrics import Progress, RunLog, Window, Writer, metrics_line, say
from segjax.train.prefetch import Prefetch
from tests.support import tiny

METRICS = {
    "loss": 1.5,
    "loss/class": 1.0,
    "loss/size": 0.5,
    "grad_norm": 2.0,
    "learning_rate": 0.01,
    "images_per_second": 8.0,
    "steps_per_second": 2.0,
}


def test_metrics_are_json_lines_that_a_second_run_goes_on_with(tmp_path):
    for step in (1, 2):
        writer = Writer(tmp_path, first=step - 1)
        writer.write(step, {"loss": 0.5, "segm/AP": math.nan})
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()  # before it is closed
        writer.close()
    records = [json.loads(line) for line in lines]
    assert [(r["step"], r["loss"], r["segm/AP"]) for r in records] == [
        (1, 0.5, None),
        (2, 0.5, None),
    ]


def test_records_of_steps_that_are_taken_again_are_replaced(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = Writer(tmp_path)
    for step in (1, 2, 3, 4):
        writer.write(step, {"loss": float(step)})
    writer.close()
    with path.open("a") as file:
        file.write('{"step": 5, "lo')  # the process was killed here
    writer = Writer(tmp_path, first=2)
    writer.write(3, {"loss": 30.0})
    writer.close()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(r["step"], r["loss"]) for r in records] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_tensorboard_files(tmp_path):
    writer = Writer(tmp_path, tensorboard=True)
    writer.write(1, {"loss": 0.5})
    writer.close()
    assert list((tmp_path / "tensorboard").iterdir())


def test_tensorboard_gets_no_numbers_that_are_none(tmp_path, monkeypatch):
    added = []
    writer = Writer(tmp_path)
    monkeypatch.setattr(writer, "_events", SimpleNamespace(add_scalar=lambda *a: added.append(a)))
    writer.write(3, {"loss": 1.0, "box/APl": float("nan"), "x": float("inf")})
    assert added == [("loss", 1.0, 3)]


def test_a_log_keeps_all_lines_once_the_run_is_accepted(tmp_path):
    path = tmp_path / "log.txt"
    with RunLog() as log:
        say("before")
        assert not path.exists()
        log.keep(path)
        say("after")
    say("of another run")
    assert [line.split(" ", 2)[2] for line in path.read_text().splitlines()] == ["before", "after"]


def test_tensorboard_without_its_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'segjax\[tensorboard\]'"):
        Writer(tmp_path, tensorboard=True)


def test_a_line_tells_loss_terms_speed_and_time_left():
    line = metrics_line(40, 100, METRICS)
    assert line.startswith("step 40/100  loss 1.5000  class 1.0000  size 0.5000")
    assert line.endswith("8.00 images/s  left 00:30")


@pytest.mark.parametrize("terminal", [True, False])
def test_the_bar_is_for_terminals(terminal, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    progress = Progress(100, 0)
    progress.advance()
    progress.report(1, METRICS)
    progress.close()
    captured = capsys.readouterr()
    assert ("loss 1.5000, 8.0 images/s" in captured.err) == terminal
    assert ("step 1/100" in captured.out) != terminal


def test_a_window_gives_means_and_starts_anew():
    window = Window()
    for loss, rate in ((1.0, 0.1), (3.0, 0.2)):
        window.add({"loss": jnp.float32(loss), "learning_rate": jnp.float32(rate)}, images=4)
    means = window.read()
    assert means["loss"] == 2.0
    assert means["learning_rate"] == pytest.approx(0.2)
    assert means["images_per_second"] == pytest.approx(4 * means["steps_per_second"])
    window.add({"loss": jnp.float32(5.0), "learning_rate": jnp.float32(0.1)}, images=4)
    assert window.read()["loss"] == 5.0


class Counting:
    """An iterator over numbered batches that fails at `until`."""

    def __init__(self, until=1000):
        self.taken, self.until, self.closed = 0, until, False

    def __next__(self):
        if self.taken == self.until:
            raise OSError("the disk is gone")
        self.taken += 1
        return {"image_ids": np.array([self.taken]), "images": np.zeros((1, 2, 2, 3), np.uint8)}

    def get_state(self):
        return {"next": self.taken}

    def close(self):
        self.closed = True


def test_prefetch_gives_each_batch_the_state_after_it():
    source, batch = Counting(), tiny.batch()
    prefetch = Prefetch(source, lambda host: batch, size=2)
    for number in (1, 2, 3):
        item = next(prefetch)
        assert (item.host["image_ids"].tolist(), item.data_state) == ([number], {"next": number})
        assert "images" not in item.host, "pixels are not kept on the host"
    prefetch.close()
    assert source.closed
    assert source.taken <= 7, "reads no further ahead than told"
    assert not [t for t in threading.enumerate() if t.name == "prefetch"]


def test_prefetch_passes_on_what_the_source_raised():
    batch = tiny.batch()
    prefetch = Prefetch(Counting(until=1), lambda host: batch)
    next(prefetch)
    with pytest.raises(OSError, match="the disk is gone"):
        next(prefetch)
    prefetch.close()
