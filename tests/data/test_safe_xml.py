"""XML that nobody vouches for."""

import time

import pytest

from segjax.data import safe_xml
from segjax.data.coco import CocoError
from segjax.data.safe_xml import numbers_of, parse_xml, size_of, text_of

LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 12))


@pytest.mark.parametrize(
    "text",
    [
        f'<!DOCTYPE a [<!ENTITY l0 "lol">{LAUGHS}]><a>&l11;</a>',
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><a>&x;</a>',
        '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd"><a/>',
        '<!DOCTYPE a [<!ENTITY % p SYSTEM "file:///etc/hostname"> %p;]><a/>',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused_before_they_are_read(tmp_path, text, encoding):
    path = tmp_path / "a.xml"
    path.write_bytes(text.encode(encoding))
    started = time.monotonic()
    with pytest.raises(CocoError, match=r"a\.xml declares a document type \('a'\)"):
        parse_xml(path)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "text", ["", "<a>", "<a>&b;</a>", '<?xml version="1.0" encoding="x"?><a/>']
)
def test_what_is_no_xml_is_named(tmp_path, text):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(CocoError, match=r"a\.xml is not valid XML"):
        parse_xml(tmp_path / "a.xml")


def test_missing_and_huge_files_are_named(tmp_path, monkeypatch):
    with pytest.raises(CocoError, match="no annotation file at"):
        parse_xml(tmp_path / "a.xml")
    (tmp_path / "a.xml").write_text("<a/>")
    monkeypatch.setattr(safe_xml, "MAX_XML_BYTES", 3)
    with pytest.raises(CocoError, match="more than 3 bytes"):
        parse_xml(tmp_path / "a.xml")


def test_texts_and_numbers(tmp_path):
    (tmp_path / "a.xml").write_text("<a><b><c> x </c><d/></b></a>", encoding="utf-8-sig")
    root = parse_xml(tmp_path / "a.xml")
    assert [text_of(root, path) for path in ("b/c", "b/d", "e")] == ["x", "", ""]
    assert text_of(None, "b") == ""
    assert numbers_of(["1", " 2.5 ", "-3e1"]) == [1, 2.5, -30]
    assert size_of("20", "40") == (20, 40)
    assert [size_of(*pair) for pair in (("0", "4"), (None, "4"), ("-1", "4"), ("1.0", "4"))] == [
        None
    ] * 4
    for text in ("", "x", "inf", "nan", "1e10"):
        with pytest.raises(ValueError, match="is not a"):
            numbers_of(["1", text])
