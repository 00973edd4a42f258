"""Flags spelled as in other libraries."""

import dataclasses
import re
import subprocess
import sys

import pytest

from segjax import cli, spellings, startup
from segjax.config import load_config
from segjax.spellings import split_flag, understood


def test_flags_of_other_libraries_are_understood():
    given = ["--batch_size=8", "--lr", "0.1", "--imgsz=320", "--data=x", "--steps=3", "--workers=2"]
    assert understood(given) == [
        *("--data.batch-size=8", "--optim.learning-rate", "0.1"),
        *("--data.size", "320", "320", "--data.root=x", "--steps=3", "--data.num-workers=2"),
    ]


def test_every_flag_that_is_named_exists():
    """Targets of the tables are fields of a config or flags of the command."""
    config = load_config("lite_coco_format")
    for ours in {*spellings._SAME.values()} - {"--workdir"}:
        value = config
        for name in ours.lstrip("-").replace("-", "_").split("."):
            assert name in {field.name for field in dataclasses.fields(value)}, ours
            value = getattr(value, name)


@pytest.mark.parametrize("flag", sorted(spellings._ANSWERS))
def test_the_others_are_answered(flag):
    with pytest.raises(ValueError, match=f"{flag} is not a flag of segjax: "):
        understood([flag])


def test_a_flag_is_taken_out_of_others():
    assert split_flag(["--a=1", "--epochs", "3", "x"], "--epochs") == ("3", ["--a=1", "x"])
    assert split_flag(["--epochs=4"], "--epochs") == ("4", [])
    assert split_flag(["--b"], "--epochs") == (None, ["--b"])
    with pytest.raises(ValueError, match="--epochs wants a value"):
        split_flag(["--epochs"], "--epochs")


@pytest.mark.parametrize(
    ("name", "platform", "visible"),
    [("cpu", "cpu", None), ("gpu", "cuda", None), ("0,1", "cuda", "0,1"), ("cuda:2", "cuda", "2")],
)
def test_devices_are_chosen_before_jax_starts(monkeypatch, name, platform, visible):
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    import os

    startup.choose_device(name)
    assert os.environ["JAX_PLATFORMS"] == platform
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible
    with pytest.raises(ValueError, match="device is 'npu': wanted cpu, cuda, tpu"):
        startup.choose_device("npu")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


MISTAKES = {
    "train --config lite_coco_format --data.roott=/x": "--data.roott is not a field of the data; "
    "did you mean --data.root",
    "train --config lite_coco_format --data.root /nowhere": "--data.root=/nowhere: there is no",
    "predict --checkpoint /nowhere a.jpg --out out": "no config.json in /nowhere",
    "evaluate --checkpoint RUN --data.val-jso=3": "--data.val-jso is not a field",
    "evaluate --checkpoint RUN --data.val_json=/nowhere": "--data.val-json=/nowhere: there is no",
}


def test_mistakes_in_paths_and_flags_are_answered_before_jax_is_imported(tmp_path):
    # One process for all, as starting Python is most of the time.
    (tmp_path / "config.json").write_text("{}")
    arguments = [line.replace("RUN", str(tmp_path)).split() for line in MISTAKES]
    program = (
        "import sys\nfrom segjax import cli\n"
        f"for line in {arguments!r}:\n"
        "    print(cli.main(line), 'jax' in sys.modules, file=sys.stderr)\n"
    )
    made = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    lines = [line for line in made.stderr.splitlines() if line.startswith(("segjax:", "1", "0"))]
    for words, said, status in zip(MISTAKES.values(), lines[::2], lines[1::2], strict=True):
        assert words in said
        assert status == "1 False"


def test_all_flags_of_the_data_pass(tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--config", "lite_coco_format", "--help"])
    listed = re.findall(r"--data\.[\w.:-]+", capsys.readouterr().out)
    assert len(listed) > 40
    startup.check_places([f"{flag}={tmp_path}" for flag in listed])


def test_the_root_of_drawn_and_own_data_may_be_new(tmp_path):
    new = f"--data.root={tmp_path}/new"
    startup.check_places([new])
    with pytest.raises(FileNotFoundError, match="new: there is no such file or folder"):
        startup.check_places([new], root=True)
    startup.check_places(["--data.root", str(tmp_path)], root=True)
