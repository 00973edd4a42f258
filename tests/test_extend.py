"""docs/extend.md: a custom package trains, is read back, evaluates and predicts."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "extend.md"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Writes the page's files to a folder."""
    folder = tmp_path_factory.mktemp("extend")
    blocks = re.findall(r"```python\n# ([\w/]+\.py)\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert [name for name, _ in blocks] == [
        "my_parts/backbone.py",
        "my_parts/masks.py",
        "my_parts/losses.py",
        "config.py",
    ]
    for name, code in blocks:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(code)
    (folder / "my_parts" / "__init__.py").touch()
    return folder


def run(package, *command):
    """Runs a command in the folder, as a user would."""
    path = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        command,
        cwd=package,
        env={**os.environ, "PYTHONPATH": path, "XLA_FLAGS": "", "HOME": str(package)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow  # compiles in three processes; .ci/run selects it by name
def test_the_commands_of_the_page(package):
    lines = re.findall(r"^segjax (.*)$", PAGE.read_text(), flags=re.MULTILINE)
    assert [line.split()[0] for line in lines] == ["train", "evaluate", "predict"]
    for line in lines:
        words = line.split()
        if "IMAGES..." in words:
            words[words.index("IMAGES...")] = str(
                sorted(package.glob(".cache/segjax/shapes-*/val/*"))[0]
            )
        done = run(package, sys.executable, "-m", "segjax", *words)
        assert done.returncode == 0, done.stdout + done.stderr
    config = json.loads((package / "run" / "config.json").read_text())
    assert config["config"]["fields"]["model"]["fields"]["box_loss"] == {
        "class": "my_parts.losses:LogCosh",
        "fields": {"weight": 0.5},
    }
    assert (
        "Average Precision"
        in run(package, sys.executable, "-m", "segjax", *lines[1].split()).stdout
    )
    assert isinstance(json.loads((package / "pictures" / "detections.json").read_text()), list)

    code = (
        "import segjax; a = segjax.load_run('run', trust=('my_parts',));"
        "b = segjax.load_run('run', model=a.model); print(type(a.model.backbone).__name__, a.step);"
        "assert a.model == b.model"
    )
    done = run(package, sys.executable, "-c", code)
    assert done.stdout.split() == ["TinyBackbone", "2"], done.stderr

    refused = run(package, sys.executable, "-m", "segjax", "evaluate", "--checkpoint", "run")
    assert refused.returncode == 1
    assert "my_parts" in refused.stderr and "--trust my_parts" in refused.stderr
