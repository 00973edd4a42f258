"""The pages under docs/: code runs, pictures exist and tables are up to date."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import tables
from segjax.aot.compile import CompileReport
from segjax.aot.targets import parse_target
from segjax.cli import main

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(DOCS.glob("*.md"))


@pytest.mark.parametrize("page", tables.PAGES)
def test_tables_are_those_of_the_results(page):
    assert tables.filled(page) == (tables.ROOT / page).read_text(), (
        "run `python -m benchmarks.tables`"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pictures_and_files_exist(page):
    text = page.read_text()
    for picture in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text):
        assert (DOCS / picture).exists(), f"{page.name} shows {picture}"
    for path in re.findall(r"(?<![\w/])(?:segjax|tests|benchmarks)/[\w/.]*\w", text):
        assert (DOCS.parent / path).exists(), f"{page.name} names {path}"


def test_pictures_are_shown_and_small():
    assert "](figure_ground/combined.png)" in (DOCS / "figure_ground.md").read_text()
    assert sum(path.stat().st_size for path in DOCS.rglob("*.png")) < 300_000


def test_the_commands_of_programs_are_understood(monkeypatch):
    """Parses each line's recipe, flags and target; compilation is tested elsewhere."""
    monkeypatch.chdir(DOCS.parent)
    asked = []
    monkeypatch.setattr(
        "segjax.aot.compile.compile_for",
        lambda *a, **k: asked.append((a, k)) or CompileReport((), {}),
    )
    lines = re.findall(
        r"^segjax (compile .*)$", (DOCS / "programs.md").read_text(), flags=re.MULTILINE
    )
    assert len(lines) >= 3
    for line in lines:
        assert main(line.split()) == 0
    assert [parse_target(target).name for (_, target), _ in asked] == ["h100:8", "v5e", "l4"]
    assert asked[0][0][0].compute_dtype == "bfloat16"
    assert asked[1][1]["image_size"] == (512, 512)


def test_the_code_of_figure_ground_runs(tmp_path, monkeypatch):
    (code,) = re.findall(
        r"```python\n(.*?)```", (DOCS / "figure_ground.md").read_text(), flags=re.DOTALL
    )
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, "docs/figure_ground.md", "exec"), names)
    assert (tmp_path / "creatures.fragments").exists()
    assert names["result"].map.shape == (64, 64)
    images, masks = names["test"].images[:12], names["test"].masks[:12]
    maps = np.asarray(jax.vmap(names["segment"])(jnp.asarray(images)).map)
    ious = (maps & masks).sum((1, 2)) / (maps | masks).sum((1, 2))
    # Labelling everything as figure scores 0.18.
    assert ious.mean() > 0.45
