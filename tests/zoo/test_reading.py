"""Valid checkpoints: every format returns the numbers that were saved."""

import json
import pickle
import struct
import subprocess
import sys
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest

from segjax.zoo.reading import UnsafeFileError, read_checkpoint
from tests.support import forge, good_files
from tests.support.forge import group, mapping, number, op, storage, tensor, text

W = np.array([1.5, -2.0], np.float32)


def read(tmp_path, data, name="file"):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else pickle.dumps(data))
    return read_checkpoint(path)


def assert_same(found, wanted):
    assert found.dtype == wanted.dtype.newbyteorder("=")
    assert found.shape == wanted.shape
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", good_files.arrays())
def test_arrays_of_every_type_and_order_round_trip(tmp_path, protocol, name):
    array = good_files.arrays()[name]
    found = read(tmp_path, pickle.dumps({"w": array}, protocol))
    assert found.form == "pickle"
    assert_same(found.tensors["w"], array)
    assert not found.tensors["w"].flags.writeable


@pytest.mark.parametrize("protocol", range(6))
def test_models_of_detectron2_keep_order_and_say_who_made_them(tmp_path, protocol):
    tensors = {f"layer{i}.weight": np.full((2, i), i, np.float32) for i in range(5)}
    names = ["car", "tree"]
    notes = {"__author__": "Detectron2 Model Zoo", "matching_heuristics": True, "names": names}
    found = read(tmp_path, pickle.dumps({"model": tensors, **notes}, protocol))
    assert list(found.tensors) == list(tensors)
    assert found.meta == notes
    for name, array in tensors.items():
        assert_same(found.tensors[name], array)


def python2_string(data, protocol):
    if protocol == 0:
        return op("STRING", "'{}'\n".format("".join(f"\\x{b:02x}" for b in data)).encode())
    return op("BINSTRING", struct.pack("<i", len(data)), data)


@pytest.mark.parametrize("protocol", [0, 2])
def test_pickles_of_python_2_hold_bytes_as_strings(tmp_path, protocol):
    w = np.array([[1.5, -2.25], [1e30, -7.0]], "<f4")
    numbers = python2_string(w.tobytes(), protocol)
    code, order = python2_string(b"f4", protocol), python2_string(b"<", protocol)
    kind = forge.call("numpy.dtype", code, number(0), number(1))
    kind += group(number(3), order, *[op("NONE")] * 3, number(-1), number(-1), number(0))
    kind += op("BUILD")
    items = []
    for name in (b"conv1_w", b"conv1_w_momentum", b"fc_b_momentum"):
        items += [python2_string(name, protocol), forge.array((2, 2), numbers, kind)]
    blobs = op("MARK") + b"".join(items) + op("DICT")
    rate = python2_string(b"lr", protocol) + op("FLOAT", b"0.02\n")
    data = op("MARK") + python2_string(b"blobs", protocol) + blobs + rate + op("DICT") + op("STOP")
    found = read(tmp_path, data)
    assert list(found.tensors) == ["conv1_w"]
    assert_same(found.tensors["conv1_w"], w)
    assert found.meta == {"lr": 0.02, "momentum_blobs": 2}


def test_text_of_protocol_0_may_hold_any_letter(tmp_path):
    value = {"w": W, "model": "é\n\\u20ac \U0001f600", "epoch": 10**20}
    found = read(tmp_path, pickle.dumps({"state_dict": {"w": W}, **value}, 0))
    assert found.meta["model"] == value["model"] and found.meta["epoch"] == 10**20


@pytest.mark.parametrize("form", ["torch zip", "torch legacy", "torch tar"])
def test_forms_of_torch(tmp_path, form):
    found = read(tmp_path, good_files.make(form))
    assert found.form == form
    assert list(found.tensors) == ["w"]
    assert_same(found.tensors["w"], W)


@pytest.mark.parametrize("compose", [forge.torch_zip, forge.torch_legacy])
@pytest.mark.parametrize(
    "kind, dtype, wanted",
    [
        ("Double", "<f8", "f8"),
        ("Half", "<f2", "f4"),
        ("BFloat16", ml_dtypes.bfloat16, "f4"),
        ("Long", "<i8", "i8"),
        ("Int", "<i4", "i4"),
        ("Short", "<i2", "i2"),
        ("Char", "i1", "i1"),
        ("Byte", "u1", "u1"),
        ("Bool", "?", "?"),
        ("ComplexFloat", "<c8", "c8"),
        ("ComplexDouble", "<c16", "c16"),
    ],
)
def test_types_of_torch(tmp_path, compose, kind, dtype, wanted):
    values = np.array([1.5, 0, 77], np.float32).astype(dtype)
    held = storage(3, "0", f"torch.{kind}Storage")
    state = mapping(w=tensor((3,), (1,), held=held))
    if compose is forge.torch_zip:
        data = compose(state, {"x/data/0": values.tobytes()})
    else:
        data = compose(state, storages=(values.tobytes(),), counts=(3,))
    assert_same(read(tmp_path, data).tensors["w"], values.astype(wanted))


def test_tensors_share_and_turn_storages(tmp_path):
    numbers = np.arange(12, dtype=np.float32)
    whole, again = storage(12) + op("BINPUT", b"\1"), op("BINGET", b"\1")
    state = mapping(
        rows=tensor((3, 4), (4, 1), held=whole),
        turned=tensor((4, 3), (1, 4), held=again),
        part=tensor((2,), (5,), 1, held=again),
        tied=tensor((3, 4), (4, 1), held=again),
        one=tensor((), (), 7, held=again),
        none=tensor((0, 3), (3, 1), held=again),
        repeated=tensor((2, 3), (0, 0), 5, held=again),
    )
    found = read(tmp_path, forge.torch_zip(state, {"x/data/0": numbers.tobytes()})).tensors
    assert_same(found["rows"], numbers.reshape(3, 4))
    assert_same(found["turned"], numbers.reshape(3, 4).T)
    assert_same(found["part"], numbers[[1, 6]])
    assert_same(found["one"], numbers[7])
    assert_same(found["none"], np.zeros((0, 3), np.float32))
    assert_same(found["repeated"], np.full((2, 3), 5, np.float32))
    assert found["tied"] is found["rows"]


def test_storages_of_torch_1_0_may_be_parts_of_others(tmp_path):
    view = group(text("part"), number(1), number(2))
    held = storage(3, "0", "torch.FloatStorage", view)
    numbers = np.array([5, 1.5, -2], np.float32)
    data = forge.torch_legacy(mapping(w=tensor(held=held)), storages=(numbers.tobytes(),))
    assert_same(read(tmp_path, data).tensors["w"], W)
    tar = forge.torch_tar(views=[(9, 7, 0, 1)])
    assert_same(read(tmp_path, tar).tensors["w"], W)


def test_a_tensor_with_a_dtype_of_its_own_lies_in_bytes(tmp_path):
    values = np.array([1.5, -2], ml_dtypes.float8_e4m3fn)
    hooks = forge.call("collections.OrderedDict")
    state = mapping(
        w=forge.call(
            "torch._utils._rebuild_tensor_v3",
            storage(2, "0", "torch.storage.UntypedStorage"),
            *(number(0), group(number(2)), group(number(1)), op("NEWFALSE"), hooks),
            forge.glob("torch.float8_e4m3fn"),
        )
    )
    data = forge.torch_zip(state, {"x/data/0": values.tobytes()})
    assert_same(read(tmp_path, data).tensors["w"], W)


def test_parameters_are_their_tensors(tmp_path):
    hooks = forge.call("collections.OrderedDict")
    made = forge.call("torch._utils._rebuild_parameter", tensor(), op("NEWTRUE"), hooks)
    data = forge.torch_zip(mapping(w=made), {"x/data/0": W.tobytes()})
    assert_same(read(tmp_path, data).tensors["w"], W)


@pytest.mark.parametrize("place", ["", "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
def test_tensors_are_found_where_programs_put_them(tmp_path, place, prefix):
    state = {f"{prefix}a.weight": W, f"{prefix}module.b": W + 1}
    found = read(tmp_path, {place: state, "epoch": 3} if place else state)
    assert set(found.tensors) == {"a.weight", "module.b"}
    assert found.meta == ({"epoch": 3} if place else {})


def test_a_prefix_that_some_names_lack_stays(tmp_path):
    assert set(read(tmp_path, {"module.a": W, "b": W}).tensors) == {"module.a", "b"}


def test_what_mmdet_saves_beside_the_tensors(tmp_path):
    meta = {"CLASSES": ("cat", "dog"), "epoch": 12, "best": np.float64(0.5), "odd": np.ones(3)}
    optimizer = {"state": {0: {"momentum_buffer": W}}, "param_groups": [{"lr": 0.1}]}
    value = {"meta": meta, "state_dict": OrderedDict(w=W), "optimizer": optimizer}
    found = read(tmp_path, value)
    assert found.meta == {"meta": {"CLASSES": ("cat", "dog"), "epoch": 12, "best": 0.5}}
    assert found.left_out == ("optimizer", "meta.odd")
    assert list(found.tensors) == ["w"]


def test_what_is_no_tensor_among_tensors_is_left_out_by_name(tmp_path):
    found = read(tmp_path, {"w": W, "steps": 3, "note": "x", "nested": {"v": W}})
    assert list(found.tensors) == ["w"]
    assert found.left_out == ("steps", "note", "nested")


def test_notes_that_are_shared_too_often_or_nested_too_deeply_are_left_out(tmp_path):
    laughs = "ha"
    for _ in range(60):
        laughs = [laughs, laughs]
    deep = []
    for _ in range(100):
        deep = [deep]
    wide = [[0] * 1000] * 200
    value = {"state_dict": {"w": W}, "good": [1], "laughs": laughs, "deep": deep, "wide": wide}
    found = read(tmp_path, value)
    assert found.left_out == ("laughs", "deep", "wide")
    assert found.meta["good"] == [1]


def test_a_memo_of_huge_numbers_takes_no_memory(tmp_path):
    data = forge.program(
        op("EMPTY_DICT"), op("LONG_BINPUT", b"\xff" * 4), text("w"), forge.array(), op("SETITEM")
    )
    assert list(read(tmp_path, data).tensors) == ["w"]


@pytest.mark.parametrize("kind, dtype", list(good_files.SAFETENSORS.items()))
def test_types_of_safetensors(tmp_path, kind, dtype):
    values = np.array([1.5, 0, 77], np.float32).astype(dtype)
    header = {"w": forge.entry(kind, (3,), (0, values.nbytes))}
    narrow = kind.startswith(("F8", "F16", "BF16"))
    found = read(tmp_path, forge.safetensors(header, values.tobytes())).tensors["w"]
    assert_same(found, values.astype(np.float32) if narrow else values)
    assert not found.flags.writeable


def test_safetensors_of_its_own_package(tmp_path):
    package = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    wanted = {
        name: np.ascontiguousarray(array)
        for name, array in good_files.arrays().items()
        if name not in ("c16", ">f4", ">i2", "single")
    }
    path = tmp_path / "x.bin"
    package.save_file(wanted, path, metadata={"format": "np", "note": "é"})
    found = read_checkpoint(path)
    assert found.form == "safetensors" and found.meta == {"format": "np", "note": "é"}
    assert set(found.tensors) == set(wanted)
    for name, array in wanted.items():
        assert_same(found.tensors[name], array)


def test_safetensors_without_tensors_or_numbers(tmp_path):
    assert read(tmp_path, forge.safetensors({}, b"")).tensors == {}
    header = {"w": forge.entry("F32", (0, 5), (0, 0)), "v": forge.entry("U8", (), (0, 1))}
    found = read(tmp_path, forge.safetensors(json.dumps(header).encode() + b"  ", b"\7")).tensors
    assert found["w"].shape == (0, 5) and found["v"] == 7


def test_suffixes_say_nothing(tmp_path):
    for form in good_files.FORMS:
        kind = "pickle" if form.startswith("pickle") else form
        assert read(tmp_path, good_files.make(form), "weights.safetensors").form == kind


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "none.pth")
    with pytest.raises(ValueError, match="is not a file"):
        read_checkpoint(tmp_path)


def test_errors_say_file_and_advice(tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(forge.program(forge.call("os.system", text("true"))))
    with pytest.raises(UnsafeFileError) as error:
        read_checkpoint(path)
    for part in (str(path), "'os.system'", "byte 2", "nothing of it was run", "safetensors"):
        assert part in str(error.value)


def test_reading_imports_no_torch_and_runs_nothing_of_jax():
    script = "import sys, segjax.zoo.reading; "
    script += "print(*{'torch', 'safetensors', 'jax', 'cv2', 'tensorflow'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert found.stdout.split() == []


def torch_state(torch):
    torch.manual_seed(0)
    base = torch.randn(4, 5, 6)
    image = torch.randn(2, 3, 4, 4)
    return OrderedDict(
        base=base,
        turned=base.transpose(0, 2),
        part=base[1:3, ::2],
        empty=torch.zeros(0, 3),
        count=torch.tensor(3),
        half=base.half(),
        brain=base.bfloat16(),
        flags=torch.tensor([True, False]),
        parameter=torch.nn.Parameter(base),
        numbers=torch.tensor([1.0 + 2.0j]),
        repeated=torch.ones(1).expand(3, 3),
        last=image.to(memory_format=torch.channels_last),
    )


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_reads_the_same(tmp_path, zipped):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    state = torch_state(torch)
    state._metadata = OrderedDict(version=1)
    path = tmp_path / "x.pth"
    value = {"state_dict": state, "meta": {"epoch": 3}}
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    found = read_checkpoint(path)
    assert found.form == ("torch zip" if zipped else "torch legacy")
    assert found.meta == {"meta": {"epoch": 3}}
    wanted = torch.load(path, weights_only=True)["state_dict"]
    assert list(found.tensors) == list(wanted)
    for name, one in wanted.items():
        wide = one.float() if one.dtype in (torch.float16, torch.bfloat16) else one
        assert_same(found.tensors[name], wide.detach().numpy())


def test_torch_reads_the_tar_files_of_the_tests(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    path = tmp_path / "x.pth"
    path.write_bytes(forge.torch_tar())
    with pytest.raises(Exception, match=r"legacy \.tar format"):
        torch.load(path, weights_only=True)
    found = torch.load(path, weights_only=False)  # written by this test
    assert_same(found["w"].numpy(), W)
