"""Untrusted files: refused by name, quickly and without executing anything."""

import json
import pickletools
import subprocess
import sys
from pathlib import Path

import pytest

from segjax.zoo.reading import read_checkpoint
from segjax.zoo.reading.machine import _BY_NAME
from tests.support import forge, good_files, hostile

CASES = hostile.cases()
NAMES = [case[0] for case in CASES]


def probed(folder, contents):
    """Results of reading each file in a separate process."""
    for index, data in enumerate(contents):
        (folder / f"{index:04}.pth").write_bytes(data)
    command = [sys.executable, "-m", "tests.support.hostile_probe", str(folder)]
    root = Path(__file__).parents[2]
    found = subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=300, check=False
    )
    assert found.returncode == 0, found.stderr
    return [report for _, report in sorted(json.loads(found.stdout).items())]


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    return probed(tmp_path_factory.mktemp("hostile"), [data for _, data, _ in CASES])


def test_there_are_many_and_each_has_a_name():
    assert len(CASES) == len(set(NAMES)) >= 200


@pytest.mark.parametrize("index", range(len(CASES)), ids=NAMES)
def test_hostile_files_are_refused_by_name(reports, index):
    report, (_, _, culprit) = reports[index], CASES[index]
    assert report["kind"] in ("ValueError", "UnsafeFileError")
    assert culprit in report["text"]
    assert f"{index:04}.pth: " in report["text"]
    assert report["seconds"] < 1
    assert report["growth"] < 100e6
    # Nothing is imported, compiled, called or opened; the file is only mapped.
    assert {event for event, _ in report["events"]} <= {"mmap.__new__"}
    assert not Path("/tmp/was_here").exists()


def test_files_that_repeat_themselves_cost_no_more_than_they_hold(tmp_path):
    names, contents = zip(*hostile.wasteful(), strict=True)
    for name, data, report in zip(names, contents, probed(tmp_path, contents), strict=True):
        assert report["kind"] == "NoneType", (name, report["text"])
        assert report["seconds"] < 1, name
        assert report["growth"] < 60e6 + 4 * len(data), name


def test_the_probe_sees_what_python_does(tmp_path):
    """Checks that the audit hook works: with Python's own unpickler it reports the call."""
    script = "import os, pickle, sys; from tests.support import hostile_probe as p\n"
    script += "p.read_checkpoint = lambda path: pickle.loads(path.read_bytes())\n"
    script += "sys.addaudithook(p.watch); print(p.probe(p.Path(sys.argv[1]))['events'])"
    path = tmp_path / "x.pkl"
    path.write_bytes(forge.program(forge.call("os.system", forge.text("true"))))
    command = [sys.executable, "-c", script, str(path)]
    seen = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    ).stdout
    assert "'pickle.find_class'" in seen and "'os.system'" in seen


def test_instructions_that_make_objects_are_not_known():
    known = {op.name for op in pickletools.opcodes}
    # NEWOBJ leaves a placeholder for classes of trainers and is refused for all others.
    made = {"INST", "OBJ", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER"}
    assert made | set(_BY_NAME) <= known
    assert not made & set(_BY_NAME)


@pytest.mark.parametrize("places", [40, pytest.param(1000, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("form", good_files.FORMS)
def test_a_byte_changed_anywhere_gives_numbers_or_a_value_error(tmp_path, form, places):
    path = tmp_path / "file"
    data = good_files.make(form)
    step = max(len(data) // places, 1)
    for at in range(0, len(data), step):
        for change in (0x01, 0x80, data[at] ^ ord(".")):
            path.write_bytes(data[:at] + bytes([data[at] ^ change]) + data[at + 1 :])
            try:
                read_checkpoint(path)
            except ValueError as error:
                assert str(error).startswith(f"{path}: ")
