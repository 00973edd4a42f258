"""The pages under docs/: their code runs, their pictures and tables are there."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import tables

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(DOCS.glob("*.md"))


def test_tables_are_those_of_the_results():
    text = tables.FIGURE_GROUND.read_text()
    assert tables.filled_figure_ground(text) == text, "run `python -m benchmarks.tables`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pictures_and_files_exist(page):
    text = page.read_text()
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert pictures
    for picture in pictures:
        assert (DOCS / picture).exists(), f"{page.name} shows {picture}"
    for path in re.findall(r"(?<![\w/])(?:segjax|tests|benchmarks)/[\w/.]*\w", text):
        assert (DOCS.parent / path).exists(), f"{page.name} names {path}"


def test_pictures_are_small():
    assert sum(path.stat().st_size for path in DOCS.rglob("*.png")) < 300_000


def test_the_code_of_figure_ground_runs(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", tables.FIGURE_GROUND.read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, "docs/figure_ground.md", "exec"), names)
    assert (tmp_path / "creatures.fragments").exists()
    assert names["result"].map.shape == (64, 64)
    images, masks = names["test"].images[:12], names["test"].masks[:12]
    maps = np.asarray(jax.vmap(names["segment"])(jnp.asarray(images)).map)
    ious = (maps & masks).sum((1, 2)) / (maps | masks).sum((1, 2))
    # Calling everything figure gives 0.18.
    assert ious.mean() > 0.45
