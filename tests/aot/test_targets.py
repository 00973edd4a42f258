"""Names and descriptions of targets."""

import pytest

from segjax.aot import targets
from segjax.aot.targets import CHIPS, compile_only_devices, gpu_target_config, parse_target


@pytest.mark.parametrize(
    ("text", "topology", "devices"),
    [
        ("h100", (1,), 1),
        ("h100:8", (8,), 8),
        ("v5e:4x4", (4, 4), 16),
        ("v5e", (1, 1), 1),
        ("v5p:2x2x1", (2, 2, 1), 4),
        ("v6e:2x2", (2, 2), 4),
        ("cpu:2", (2,), 2),
    ],
)
def test_a_target_is_read_and_named(text, topology, devices):
    target = parse_target(text)
    assert (target.topology, target.num_devices, target.name) == (topology, devices, text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("b100", "the kinds of devices are a100, cpu, h100"),
        ("v5e:4", "write how many as in v5e:2x2"),
        ("v5p:2x2", "write how many as in v5p:2x2x2"),
        ("h100:2x2", "write how many as in h100:8"),
        ("h100:0", "write how many as in h100:8"),
        ("h100:", "write how many as in h100:8"),
        ("h100:x", "write how many as in h100:8"),
    ],
)
def test_a_wrong_target_is_answered_by_what_there_is(text, wanted):
    with pytest.raises(ValueError, match=wanted):
        parse_target(text)


def test_programs_may_use_three_quarters_of_a_gpu_and_less_than_all_of_a_tpu():
    assert CHIPS["h100"].memory == 84942979072 * 3 // 4
    assert 15 * 2**30 < CHIPS["v5e"].memory < 16 * 2**30
    assert parse_target("cpu").chip.memory > 2**30


def test_a_gpu_is_described_in_the_text_form_of_its_proto():
    text = gpu_target_config(CHIPS["a100"])
    assert 'device_description_str: "NVIDIA A100-SXM4-80GB"' in text
    assert "cuda_compute_capability { major: 8 minor: 0 }" in text
    assert "fpus_per_core: 64" in text
    assert text.count("{") == text.count("}")


@pytest.mark.parametrize(("target", "extra"), [("h100", "aot"), ("v5e", "tpu")])
def test_a_missing_compiler_is_named_with_its_extra(target, extra, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'segjax\[{extra}\]'"):
        compile_only_devices(parse_target(target))


def test_cpu_devices_are_those_of_this_machine():
    devices = compile_only_devices(parse_target("cpu:2"))
    assert [device.platform for device in devices] == ["cpu", "cpu"]
    assert targets.GIB == 1024**3
