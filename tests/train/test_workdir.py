"""Exclusive ownership of a run's folder."""

import json
import os
import subprocess
import sys

import pytest

from segjax.train.workdir import LOCK, OWNER, claimed

HOLD = """
import sys, time
from pathlib import Path
from segjax.train.workdir import claimed
with claimed(Path(sys.argv[1])):
    print("holds", flush=True)
    time.sleep(60)
"""


def test_another_process_is_refused_by_name_and_free_after_a_kill(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds\n"
        words = rf"run is in use: process {holder.pid} on .*, since .* trains there"
        with pytest.raises(ValueError, match=words), claimed(folder):
            pass
        holder.kill()
    with claimed(folder):
        assert json.loads((folder / OWNER).read_text())["process"] == os.getpid()


def test_a_folder_that_stays_empty_is_removed_again(tmp_path):
    (tmp_path / "runs").mkdir()
    with pytest.raises(KeyError), claimed(tmp_path / "runs/a/b"):
        raise KeyError
    assert list((tmp_path / "runs").iterdir()) == []
    with pytest.raises(KeyError), claimed(tmp_path / "runs/kept"):
        (tmp_path / "runs/kept/metrics.jsonl").touch()
        raise KeyError
    assert [p.name for p in (tmp_path / "runs/kept").iterdir()] == ["metrics.jsonl"]


def test_nothing_of_the_claim_is_left(tmp_path):
    with claimed(tmp_path):
        assert (tmp_path / LOCK).exists()
    assert list(tmp_path.iterdir()) == []
