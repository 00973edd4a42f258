"""Malicious files and the expected part of each error; no reader may execute or trust them."""

import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable

import numpy as np

from tests.support.forge import (
    array,
    call,
    entry,
    glob,
    group,
    mapping,
    number,
    op,
    patched,
    program,
    raw,
    safetensors,
    storage,
    tensor,
    text,
    torch_legacy,
    torch_tar,
    torch_zip,
)

_RUNS = """
os.system posix.system nt.system builtins.eval builtins.exec builtins.compile
builtins.getattr builtins.setattr builtins.__import__ builtins.open builtins.globals
__builtin__.eval __builtin__.execfile __builtin__.apply subprocess.Popen subprocess.check_output
importlib.import_module runpy.run_path marshal.loads pickle.loads _pickle.loads types.CodeType
types.FunctionType functools.partial functools.reduce operator.attrgetter operator.methodcaller
copyreg._reconstructor copyreg.__newobj__ copyreg.add_extension copy_reg._reconstructor
ctypes.CDLL shutil.rmtree pty.spawn webbrowser.open timeit.timeit code.InteractiveInterpreter
numpy.load numpy.save numpy.fromfile numpy.memmap numpy.f2py.crackfortran.myeval
numpy.f2py.diagnose.run numpy.testing._private.utils.runstring numpy.matrix numpy.core.multiarray
torch.load torch.hub.load torch.jit.load torch.serialization.load torch.storage._load_from_bytes
torch._utils._rebuild_qtensor torch._utils._rebuild_sparse_tensor torch.nn.modules.linear.Linear
torch._utils._rebuild_wrapper_subclass collections.defaultdict collections.namedtuple
builtins.bytearray builtins.set builtins.object numpy.ndarray.tofile
"""


def _calls():
    for name in _RUNS.split():
        value = call(name, text("touch /tmp/was_here"))
        yield f"calls {name}", program(value), name
    for name in ("os.system", "builtins.eval", "torch.storage._load_from_bytes", "numpy.load"):
        value = mapping(w=call(name, text("1")))
        yield f"zip calls {name}", torch_zip(value), name
        yield f"legacy calls {name}", torch_legacy(value), name
        yield f"tar calls {name}", torch_tar(value), name


def _instructions():
    nested = mapping(model=mapping(w=array(content=call("os.system", text("id")))))
    yield "nested call", program(nested), "os.system"
    names = text("os") + op("MEMOIZE") + text("system") + op("MEMOIZE")
    yield "stack global", program(names, op("STACK_GLOBAL"), group(text("id")), op("REDUCE")), "os"
    fetched = names + op("BINGET", b"\0") + op("BINGET", b"\1") + op("STACK_GLOBAL")
    yield "stack global from memo", program(fetched), "'os.system'"
    made = call("_codecs.encode", text("os"), text("latin1")) + text("system")
    yield "stack global of bytes", program(made, op("STACK_GLOBAL")), "global by b'os'"
    yield "global of a huge name", program(text("a" * 10**6) * 2, op("STACK_GLOBAL")), "global by"
    yield "inst", program(op("MARK"), text("id"), op("INST", b"os\nsystem\n")), "INST of os.system"
    yield "obj", program(op("MARK"), glob("numpy.ndarray"), op("OBJ")), "OBJ"
    new = glob("numpy.ndarray") + group(group(number(10**12)))
    yield "newobj", program(new, op("NEWOBJ")), "NEWOBJ of numpy.ndarray"
    yield "newobj_ex", program(new, op("EMPTY_DICT"), op("NEWOBJ_EX")), "NEWOBJ_EX"
    for name, code in (("EXT1", b"\1"), ("EXT2", b"\1\0"), ("EXT4", b"\1\0\0\0")):
        yield name, program(op(name, code)), name
    yield "persid", program(op("PERSID", b"secret\n")), "'secret'"
    yield "binpersid", program(text("secret"), op("BINPERSID")), "'secret'"
    yield "next_buffer", program(op("NEXT_BUFFER")), "NEXT_BUFFER"
    yield "dup", program(op("EMPTY_LIST"), op("DUP")), "DUP"
    state = mapping(__setstate__=text("x"), __class__=text("y"))
    yield "state of a dict", program(op("EMPTY_DICT"), state, op("BUILD")), "state of a dict"
    yield "state of a class", program(glob("numpy.ndarray"), state, op("BUILD")), "numpy.ndarray"
    yield "calls a class", program(call("numpy.ndarray", group(number(9)))), "numpy.ndarray"
    yield "calls a text", program(text("eval"), group(), op("REDUCE")), "calls 'eval'"
    yield "stack underflow", program(op("TUPLE3")), "damaged at byte 2"
    yield "no mark", program(op("TUPLE")), "damaged at byte 2"
    yield "unknown instruction", program(b"\xff"), "0xff"
    yield "two values", program(op("NONE"), op("NONE")), "damaged"
    yield "trailing bytes", program(mapping(w=array())) + b"import os", "9 bytes follow"


def _sizes():
    for name, length in (("BINBYTES8", 2**62), ("BINUNICODE8", 2**63), ("BYTEARRAY8", 2**64 - 1)):
        yield name, program(op(name, struct.pack("<Q", length))), "announces"
    yield "BINSTRING", program(op("BINSTRING", struct.pack("<i", -5))), "announces -5"
    yield "LONG4", program(op("LONG4", struct.pack("<i", 2**31 - 1))), "number has 2147483647"
    yield "digits", program(op("INT", b"9" * 10**6 + b"\n")), "1000000 letters"
    yield "recalls nothing", program(op("LONG_BINGET", b"\xff" * 4)), "object 4294967295"
    whole = program(mapping(w=array((1000,), raw(bytes(4000)))))
    for cut in (3, 60, len(whole) // 2, len(whole) - 1):
        yield f"cut at {cut}", whole[:cut], "cut off"
    nest = op("EMPTY_TUPLE") + op("TUPLE1") * 200_000
    yield "deep tuples", program(nest), "holds a tuple"
    yield "deep key", program(op("EMPTY_DICT"), nest, op("NONE"), op("SETITEM")), "for a key"
    yield "deep lists", program(op("EMPTY_LIST") * 100_000, op("APPEND") * 99_999), "holds a list"
    twice = op("BINPUT", b"\0") + op("BINGET", b"\0") + op("TUPLE2")
    laughs = text("ha") + twice * 200
    yield "billion laughs", program(laughs), "holds a tuple"
    keyed = op("EMPTY_DICT") + laughs + op("NONE") + op("SETITEM")
    yield "billion laughs as a key", program(keyed), "for a key"
    yield "a million instructions", program(op("NONE") * 10**6), "more instructions"
    many = (op("LONG1", b"\x14", (k * (2**61 - 1)).to_bytes(20, "little")) for k in range(1, 9999))
    items = b"".join(key + op("NONE") for key in many)
    yield "equal hashes", program(op("EMPTY_DICT"), op("MARK"), items, op("SETITEMS")), "for a key"


def _bombs():
    big = text("a" * 10**6) + op("BINPUT", b"\0")
    again = call("_codecs.encode", op("BINGET", b"\0"), text("latin1"))
    yield "encodes again and again", program(big, op("MARK"), again * 5000, op("LIST")), "memory"
    share = raw(bytes(10**6)) + op("BINPUT", b"\0")
    copies = array((250_000,), op("BINGET", b"\0")) * 300
    yield "arrays of the same bytes", program(share, op("MARK"), copies, op("LIST")), "memory"
    inner = group(text("a"), number(1))
    pairs = op("MARK") + inner * 20_000 + op("LIST") + op("BINPUT", b"\0")
    dicts = call("collections.OrderedDict", op("BINGET", b"\0")) * 2000
    yield "dicts of the same items", program(pairs, op("MARK"), dicts), "more instructions"
    yield "Counter of a text", program(call("collections.Counter", text("abc"))), "Counter"
    start = group(number(10**12))
    yield "array starts large", program(array(start=start)), "starts from [1000000000000]"
    yield "shape beyond bytes", program(array((10**12,))), "takes 4000000000000 bytes"
    yield "negative shape", program(array((-2,))), "[-2]"
    yield "array shape overflows", program(array((2**40, 2**40, 0, 3))), "damaged"
    yield "many dimensions", program(array((1,) * 100)), "shape"
    yield "object dtype", program(array(kind=call("numpy.dtype", text("O8")))), "'O8'"
    yield "void dtype", program(array(kind=call("numpy.dtype", text("V9999999999")))), "'V99"
    objects = np.array([{}, "x"], dtype=object)
    yield "object array", pickle.dumps({"model": {"w": objects}}, 2), "'O8'"
    yield "object array of protocol 5", pickle.dumps({"w": objects}, 5), "'O8'"
    fields = np.zeros(2, [("a", "f4"), ("b", "i4")])
    yield "structured array", pickle.dumps({"w": fields}, 4), "'V8'"
    content = op("MARK") + text("x") + op("LIST")
    yield "array of a list", program(mapping(w=array(content=content))), "content is ['x']"
    twin = op("EMPTY_DICT") + op("MARK") + array() + op("BINPUT", b"\0")
    keys = b"".join(text(str(i)) + op("BINGET", b"\0") for i in range(20_001))
    shared = array() + op("BINPUT", b"\0") + op("EMPTY_DICT") + op("MARK") + keys + op("SETITEMS")
    yield "20,001 tensors", program(mapping(model=group(shared))), "no tensors"
    first = text("w") + array() + op("BINPUT", b"\0")
    flood = op("EMPTY_DICT") + op("MARK") + first + keys + op("SETITEMS")
    yield "20,002 tensors", program(flood), "20002 tensors"
    del twin
    for name in ("../../etc/passwd", "/etc/passwd", "a\\b", "C:x", "x\0y", "y" * 5000):
        yield f"tensor named {name[:20]!r}", program(mapping(**{name: array()})), "tensor named"
    yield "no tensors", program(mapping(model=text("x"), epoch=number(3))), "no tensors"


def _zips():
    good = torch_zip(mapping(w=tensor()))
    for name in ("../../evil", "/etc/evil", "x\\..\\evil", "x/../../evil", "C:evil"):
        data = torch_zip(mapping(w=tensor()), {"x/data/0": bytes(8), name: b"1"})
        yield f"zip member {name}", data, "member named"
    deflated = {"x/data/0": bytes(50_000_000)}
    bomb = torch_zip(mapping(w=tensor((10,))), deflated, zipfile.ZIP_DEFLATED)
    yield "zip bomb", bomb, "compressed"
    twice = {"x/data/0": bytes(8), "x/data/1": bytes(8)}
    double = patched(torch_zip(mapping(w=tensor()), twice), b"x/data/1", b"x/data/0")
    yield "zip with a member twice", double, "twice"
    encrypted = bytearray(good)
    encrypted[good.index(b"PK\1\2") + 8] |= 1
    yield "encrypted zip", bytes(encrypted), "encrypted"
    at = good.rindex(b"PK\1\2")
    yield "zip member elsewhere", good[: at + 42] + struct.pack("<I", 5) + good[at + 46 :], "not"
    renamed = patched(good, b"x/data.pkl", b"y/data.pkl", 1)
    yield "zip of two names", renamed, "elsewhere"
    # The last member's header points to the first, so both would be read from the same bytes.
    first = good[: at + 42] + struct.pack("<I", 0) + good[at + 46 :]
    yield "zip with overlapping members", first, "member"
    long = patched(good[at:], struct.pack("<II", 8, 8), struct.pack("<II", 2**31, 2**31), 1)
    yield "zip member beyond the end", good[:at] + long, "beyond the end"
    yield "zip cut off", good[: len(good) // 2], "cut off"
    yield "zip damaged", good.replace(bytes(8), b"\0\0\0\0\0\0\0\1", 1), "check sum"
    many = io.BytesIO()
    with zipfile.ZipFile(many, "w") as archive:
        for index in range(40_000):
            archive.writestr(f"x/data/{index}", b"")
    yield "zip of 40,000 members", many.getvalue(), "more members"
    yield "zip64 of two directories", two_directories(50_000), "zip64 record is not where it says"
    script = {"x/data/0": bytes(8), "x/code/__torch__.py": b"import os"}
    yield "TorchScript", torch_zip(mapping(w=tensor()), script), "TorchScript"
    empty = io.BytesIO()
    np.savez(empty, w=np.zeros(2))
    yield "npz", empty.getvalue(), "without torch's data.pkl"
    yield "big endian", patched(good, b"little", b"bigbig"), "check sum"
    for name, value in _wrong_tensors():
        yield f"zip: {name[0]}", torch_zip(mapping(w=value)), name[1]
        yield f"legacy: {name[0]}", torch_legacy(mapping(w=value)), name[1]


def two_directories(members):
    """Builds a zip whose locator points to a short directory, with a long one placed before it.

    Older versions of `zipfile` read the record directly before the locator.
    """
    good = torch_zip(mapping(w=tensor()))
    start, at = good.index(b"PK\1\2"), good.rindex(b"PK\1\2")
    directory = good[at : good.rindex(b"PK\5\6")] * members

    def record(size):
        sizes = (members, members, size, start)
        return struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, *sizes)

    place = start + len(directory)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, place, 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, *[2**16 - 1] * 2, *[2**32 - 1] * 2, 0)
    records = record(100) + record(len(directory) + 56)
    return good[:start] + directory + records + locator + end


def wasteful():
    """Yields (name, bytes) of files that are valid but expensive for a careless reader."""
    names = op("EMPTY_DICT") + op("MARK") + text("w")
    again = b"".join(text(f"w{i}") + op("BINGET", b"\0") for i in range(3000))
    half = call("numpy.dtype", text("f2"), number(0), number(1))
    array_of_half = array((500_000,), raw(bytes(10**6)), half) + op("BINPUT", b"\0")
    yield "one half array of 3,000 names", program(names, array_of_half, again, op("SETITEMS"))
    held = storage(500_000, "0", "torch.HalfStorage") + op("BINPUT", b"\1")
    twins = tensor((500_000,), held=held)
    twins += b"".join(
        text(f"w{i}") + tensor((500_000,), held=op("BINGET", b"\1")) for i in range(3000)
    )
    yield (
        "one half storage of 3,000 tensors",
        torch_zip(names + twins + op("SETITEMS"), {"x/data/0": bytes(10**6)}),
    )
    small = array() + op("BINPUT", b"\0")
    long = "module." * 140
    many = b"".join(text(f"{long}{i}") + op("BINGET", b"\0") for i in range(19_000))
    first = op("EMPTY_DICT") + op("MARK") + text(f"{long}w")
    yield "prefixes upon prefixes", program(first, small, many, op("SETITEMS"))
    momenta = b"".join(text(f"{i}_momentum") + op("BINGET", b"\0") for i in range(100_000))
    yield (
        "100,000 momenta",
        program(mapping(blobs=names + small + momenta + op("SETITEMS"))),
    )


def _wrong_tensors():
    yield ("offset beyond", "reaches to number"), tensor(offset=1)
    yield ("huge offset", "starts at"), tensor(offset=2**60)
    yield ("shape beyond", "reaches to number"), tensor((10**9,))
    yield ("negative stride", "strides are [-1]"), tensor(strides=(-1,))
    yield ("broadcast bomb", "memory"), tensor((10**6, 10**6), (0, 0))
    yield ("strides of another length", "has strides [1]"), tensor((2, 1), (1,))
    yield ("huge storage", "storage"), tensor(held=storage(2**40))
    yield ("storage of another path", "storage"), tensor(held=storage(2, "../../data/0"))
    yield (
        ("type that is a function", "type of a storage"),
        tensor(held=storage(2, "0", "_codecs.encode")),
    )
    module = group(text("module"), glob("torch.FloatTensor"), text("a.py"), text("import os"))
    yield ("source code", "outside of it"), module + op("BINPERSID")
    both = storage() + storage(1)
    yield ("storage of two sizes", "8 bytes and also 4"), op("MARK") + both + op("LIST")


def _legacies():
    good = mapping(w=tensor())
    yield "legacy cut off", torch_legacy(good)[:-3], "storages take"
    yield "legacy counts wrongly", torch_legacy(good, counts=[2**60]), "said to hold"
    yield "legacy counts negatively", torch_legacy(good, counts=[-2]), "said to hold"
    yield "legacy with more", torch_legacy(good) + b"\0" * 5, "5 bytes follow"
    yield "legacy without storages", torch_legacy(good, keys=()), "list of its storages"
    yield "legacy with others", torch_legacy(good, keys=("0", "1")), "list of its storages"
    yield "legacy with keys of dicts", torch_legacy(good, keys=({},)), "list of its storages"


def _tars():
    good = torch_tar()
    yield "tar link", torch_tar(kind=tarfile.SYMTYPE), "kind b'2'"
    yield "tar device", torch_tar(kind=tarfile.CHRTYPE), "kind b'3'"
    yield "tar path", patched_tar("../../evil"), "evil"
    yield "tar of two", torch_tar(extra=[("pickle", b"")]), "'pickle'"
    yield "tar dimensions", torch_tar(dims=10**6), "1000000 dimensions"
    yield "tar view beyond", torch_tar(views=[(9, 7, 1, 5)]), "numbers 1 to 6 of 2"
    yield "tar view of nothing", torch_tar(views=[(9, 70, 1, 5)]), "storage 70"
    yield "tar damaged", b"x" + good[1:], "damaged"
    yield "tar cut off", good[:1050], "beyond the end"
    yield "tar of others", _other_tar(), "not of torch"
    lost = mapping(w=text("99") + op("BINPERSID"))
    yield "tar persistent id", torch_tar(lost), "'99'"


def patched_tar(name):
    return torch_tar(extra=[(name, b"1")])


def _other_tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("readme"))
    return file.getvalue()


def _safetensors():
    yield "header of 2^63", safetensors({"w": entry()}, length=2**63), "9223372036854775808"
    yield "header beyond the file", safetensors({"w": entry()}, length=500), "header should have"
    pair = {"v": entry(), "w": entry(offsets=(4, 12))}
    yield "overlap", safetensors(pair, bytes(12)), "overlaps"
    yield "hole", safetensors({"v": entry(offsets=(4, 12))}, bytes(12)), "unused"
    yield "rest", safetensors({"w": entry()}, bytes(12)), "12 follow"
    yield "bytes missing", safetensors({"w": entry()}, bytes(4)), "4 follow"
    yield "dtype lies", safetensors({"w": entry("F64")}), "takes 16 bytes"
    yield "dtype unknown", safetensors({"w": entry("PICKLE")}), "'PICKLE'"
    yield "dtype a list", safetensors({"w": entry([])}), "dtype []"
    yield "shape negative", safetensors({"w": entry(shape=(-2,))}), "[-2]"
    yield "shape huge", safetensors({"w": entry(shape=(2**62, 4))}), "shape"
    yield "shape overflows", safetensors({"w": entry(shape=(2**32, 2**32))}), "takes"
    yield "shape of floats", safetensors({"w": entry(shape=(2.0,))}), "2.0"
    yield "shape of booleans", safetensors({"w": entry("U8", (True,), (0, 1))}, b"1"), "True"
    yield "offsets swapped", safetensors({"w": entry(offsets=(8, 0))}), "[8, 0]"
    yield "offsets negative", safetensors({"w": entry(offsets=(-8, 0))}), "[-8, 0]"
    yield "offsets huge", safetensors({"w": entry(offsets=(2**63, 2**63 + 8))}), "lies at"
    million = b",".join(
        b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i for i in range(10**6)
    )
    yield "10^6 tensors", safetensors(b"{" + million + b"}", b""), "header has"
    some = {str(i): entry("U8", (0,), (0, 0)) for i in range(20_001)}
    yield "20,001 names", safetensors(some, b""), "20001 tensors"
    for name in ("../../x", "/etc/x", "\\\\host\\x", "~/x", "x\ny", ""):
        yield f"name {name!r}", safetensors({name: entry()}), "tensor named"
    same = json.dumps(entry()).encode()
    yield "name twice", safetensors(b'{"w":' + same + b',"w":' + same + b"}"), "'w' twice"
    yield "NaN", safetensors(b'{"w":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}'), "NaN"
    deep = b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    yield "deep header", safetensors(deep), "nested"
    lists = b'{"w":[' + b"[]," * 900_000 + b"0]}"
    yield "header of lists", safetensors(lists), "described by"
    yield "digits in the header", safetensors(b'{"w":' + b"9" * 10_000 + b"}"), "digits"
    yield "no JSON", safetensors(b"{'w': 1}"), "no JSON"
    yield "no text", safetensors(b'{"\xff": 1}'), "utf-8"
    yield "metadata of numbers", safetensors({"__metadata__": {"a": 1}, "w": entry()}), "texts"
    flipped = bytearray(safetensors({"w": entry()}))
    flipped[12] ^= 0x40
    yield "bit flipped", bytes(flipped), "safetensors"
    yield "other fields", safetensors({"w": {**entry(), "code": "x"}}), "described by"


def _others():
    yield "empty", b"", "empty"
    yield "web page", b"<!DOCTYPE html><html>Sign in</html>", "web page"
    yield "gzip", b"\x1f\x8b" + bytes(50), "gzip"
    yield "LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "LFS"
    yield "noise", bytes(range(70, 250)), "no form of checkpoint"
    yield "one byte", b"\x80", "no form"


def cases():
    """Yields each file's name, its bytes and a part of the expected error."""
    groups: tuple[Callable, ...] = (
        _calls, _instructions, _sizes, _bombs, _zips, _legacies, _tars, _safetensors, _others,
    )  # fmt: skip
    return [case for group_of in groups for case in group_of()]
