"""Paths named in the README and its pages exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_files_that_the_texts_name_exist():
    for name in ("README.md", "CONTRIBUTING.md", ".ci/run"):
        text = (ROOT / name).read_text()
        paths = re.findall(r"(?<![\w/])(?:segjax|configs|tests|benchmarks|colabs)/[\w/.]+\w", text)
        assert paths
        for path in paths:
            assert (ROOT / path).exists(), f"{name} names {path}"


def test_links_of_all_pages_lead_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert "://" in link or (page.parent / link).exists(), f"{page.name} links to {link}"
