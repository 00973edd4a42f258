"""Flags spelled as in other libraries."""

import dataclasses

import pytest

from segjax import spellings, startup
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
