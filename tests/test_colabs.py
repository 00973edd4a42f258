"""The notebooks run from top to bottom."""

import os
import time
from pathlib import Path

import nbclient
import nbformat
import pytest

FOLDER = Path(__file__).parent.parent / "colabs"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.slow  # trains a model; .ci/run selects it by name
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, monkeypatch, tmp_path):
    monkeypatch.setenv("XLA_FLAGS", "")  # one device, as for readers
    monkeypatch.delenv("MPLBACKEND", raising=False)  # figures are drawn in the notebook
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    started = time.monotonic()
    nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": tmp_path}}
    ).execute()
    minutes = (time.monotonic() - started) / 60
    kept = os.environ.get("SEGJAX_KEEP_NOTEBOOKS")
    if kept:
        nbformat.write(notebook, Path(kept) / path.name)
    print(f"{path.name}: {minutes:.1f} minutes")
    text = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    assert "Average Precision" in text
    figures = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in figures)
