"""Checkpoint files assembled from parts: pickles by instruction, archives by member."""

import io
import json
import pickle
import pickletools
import struct
import tarfile
import zipfile

MAGIC = 0x1950A86A20F9469CFC6C


def op(name, *parts):
    """Encodes one pickle instruction, by its name in `pickletools`."""
    code = next(o.code for o in pickletools.opcodes if o.name == name)
    return code.encode("latin-1") + b"".join(parts)


def text(value):
    data = value.encode("utf-8")
    return op("BINUNICODE", struct.pack("<I", len(data)), data)


def raw(value):
    return op("BINBYTES", struct.pack("<I", len(value)), value)


def number(value):
    return op("LONG1", bytes([9]), value.to_bytes(9, "little", signed=True))


def glob(name):
    module, _, attribute = name.rpartition(".")
    return op("GLOBAL", f"{module}\n{attribute}\n".encode())


def group(*items):
    return op("MARK") + b"".join(items) + op("TUPLE")


def call(name, *arguments):
    return glob(name) + group(*arguments) + op("REDUCE")


def mapping(**items):
    inside = b"".join(text(key) + value for key, value in items.items())
    return op("EMPTY_DICT") + op("MARK") + inside + op("SETITEMS")


def program(*parts):
    return op("PROTO", b"\2") + b"".join(parts) + op("STOP")


def dtype(code="f4"):
    order = group(number(3), text("<"), *[op("NONE")] * 3, number(-1), number(-1), number(0))
    return call("numpy.dtype", text(code), number(0), number(1)) + order + op("BUILD")


def array(shape=(2,), content=None, kind=None, start=None):
    """Encodes an array the way numpy pickles it, with arbitrary parts."""
    content = raw(bytes(8)) if content is None else content
    start = group(number(0)) if start is None else start
    made = call("numpy.core.multiarray._reconstruct", glob("numpy.ndarray"), start, raw(b"b"))
    sides = group(*map(number, shape))
    state = group(number(1), sides, kind or dtype(), op("NEWFALSE"), content)
    return made + state + op("BUILD")


def storage(count=2, key="0", kind="torch.FloatStorage", *more):
    name = group(text("storage"), glob(kind), text(key), text("cpu"), number(count), *more)
    return name + op("BINPERSID")


def tensor(shape=(2,), strides=(1,), offset=0, held=None):
    return call(
        "torch._utils._rebuild_tensor_v2",
        held or storage(),
        number(offset),
        group(*map(number, shape)),
        group(*map(number, strides)),
        op("NEWFALSE"),
        call("collections.OrderedDict"),
    )


def torch_zip(value, members=None, compression=zipfile.ZIP_STORED, folder="x"):
    """Builds a zip in the format of torch.save from pickle instructions."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr(f"{folder}/data.pkl", program(value))
        archive.writestr(f"{folder}/byteorder", "little")
        for name, data in (members or {"x/data/0": bytes(8)}).items():
            archive.writestr(name, data)
    return file.getvalue()


def torch_legacy(value, keys=("0",), storages=(bytes(8),), counts=None):
    """Builds the format of torch before 1.6: five pickles, then bytes."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    head = b"".join(pickle.dumps(part, 2) for part in (MAGIC, 1001, system))
    tail = pickle.dumps(list(keys), 2)
    for index, data in enumerate(storages):
        tail += struct.pack("<q", counts[index] if counts else len(data) // 4) + data
    return head + program(value) + tail


def torch_tar(value=None, *, kind=tarfile.REGTYPE, extra=(), dims=None, size=8, views=()):
    """Builds a tar file as the first versions of torch did, with one tensor of two numbers."""
    storages = pickle.dumps(1, 2) + program(
        group(number(7), text("cpu"), glob("torch.FloatStorage"))
    )
    storages += struct.pack("<q", 2) + struct.pack("<2f", 1.5, -2.0) + pickle.dumps(list(views), 2)
    tensors = pickle.dumps(1, 2) + program(group(number(8), number(7), glob("torch.FloatTensor")))
    tensors += struct.pack("<i4x", 1 if dims is None else dims) + struct.pack("<qqq", 2, 1, 0)
    default = mapping(w=text("8") + op("BINPERSID"))
    parts = {"sys_info": b"", "storages": storages, "tensors": tensors}
    parts["pickle"] = program(default if value is None else value)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in [*parts.items(), *extra]:
            info = tarfile.TarInfo(name)
            info.size, info.type = len(data), kind
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def safetensors(header, data=bytes(8), length=None):
    packed = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(packed) if length is None else length) + packed + data


def entry(kind="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": kind, "shape": list(shape), "data_offsets": list(offsets)}


def patched(data, old, new, times=-1):
    assert old in data
    return data.replace(old, new, times)
