"""The README's figures are those of the files of results."""

import re
from pathlib import Path

from benchmarks import tables

ROOT = Path(__file__).parent.parent


def test_tables_are_those_of_the_results():
    text = tables.README.read_text()
    assert tables.filled(text) == text, "run `python -m benchmarks.tables`"


def test_files_that_the_texts_name_exist():
    for name in ("README.md", "CONTRIBUTING.md", ".ci/run"):
        text = (ROOT / name).read_text()
        paths = re.findall(r"(?<![\w/])(?:segjax|configs|tests|benchmarks|colabs)/[\w/.]+\w", text)
        assert paths
        for path in paths:
            assert (ROOT / path).exists(), f"{name} names {path}"
