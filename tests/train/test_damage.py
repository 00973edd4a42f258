"""Damaged checkpoints are found, and the last good one is used instead."""

import dataclasses
import json
import logging
import random
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import cli
from segjax.config import OptimConfig
from segjax.models.variables import init_variables
from segjax.train.checkpoint import Checkpoints
from segjax.train.manifest import MANIFEST, differences, write_manifest
from segjax.train.optim import make_optimizer
from segjax.train.state import init_state
from tests.support.toy import Toy


@pytest.fixture(scope="module")
def state():
    optimizer = make_optimizer(OptimConfig(), 10, ("stem",))
    return init_state(init_variables(Toy(), jax.random.key(0)), optimizer)


def at(state, step):
    params = jax.tree.map(lambda p: p + step, state.params)
    return dataclasses.replace(state, step=jnp.int32(step), params=params)


@pytest.fixture(scope="module")
def run(tmp_path_factory, state):
    """A folder with checkpoints of the steps 1 to 3; the second is the best."""
    folder = tmp_path_factory.mktemp("run")
    with Checkpoints(folder, "segm/AP", keep_last=3) as checkpoints:
        for step, score in ((1, 0.1), (2, 0.9), (3, 0.2)):
            checkpoints.save(at(state, step), {"next": step}, {"segm/AP": score})
    return folder


def damage(folder, rng):
    """Damages a random file below a folder in one of five ways; returns what was done."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = rng.choice(files)
    data = path.read_bytes()
    kind = rng.choice(("flip", "flip", "truncate", "delete", "swap", "grow"))
    if kind == "flip" and data:
        place = rng.randrange(len(data))
        flipped = data[place] ^ (1 << rng.randrange(8))
        path.write_bytes(data[:place] + bytes([flipped]) + data[place + 1 :])
    elif kind == "truncate" and data:
        path.write_bytes(data[: rng.randrange(len(data))])
    elif kind == "swap":
        other = rng.choice([file for file in files if file.read_bytes() != data])
        path.write_bytes(other.read_bytes())
        other.write_bytes(data)
    elif kind == "grow":
        path.write_bytes(data + b"\0")
    else:
        path.unlink()
    return f"{kind} {path.relative_to(folder)}"


def count_seen(run, tmp_path, number):
    rng = random.Random(0)
    copy = tmp_path / "copy"
    for _ in range(number):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(run / "checkpoints/3", copy)
        assert differences(copy) == []
        done = damage(copy, rng)
        assert differences(copy), done


def test_damage_is_seen(run, tmp_path):
    count_seen(run, tmp_path, 100)


@pytest.mark.nightly
def test_a_thousand_damages_are_seen(run, tmp_path):
    count_seen(run, tmp_path, 1000)


def test_additional_files_and_links_are_seen(run, tmp_path):
    shutil.copytree(run / "checkpoints/3", tmp_path / "copy")
    (tmp_path / "copy/params/more").write_text("")
    assert differences(tmp_path / "copy") == ["params/more is not of the checkpoint"]
    (tmp_path / "copy/params/more").unlink()
    (tmp_path / "copy/loose").symlink_to("/nowhere")
    assert differences(tmp_path / "copy") == ["loose is not of the checkpoint"]


def test_the_manifest_is_that_of_sha256sum(run):
    command = ["sha256sum", "--check", "--quiet", MANIFEST]
    assert subprocess.run(command, cwd=run / "checkpoints/3", check=False).returncode == 0


@pytest.mark.parametrize("seed", range(3))
def test_the_last_good_checkpoint_is_used(run, state, tmp_path, caplog, seed):
    shutil.copytree(run, tmp_path / "run")
    done = damage(tmp_path / "run/checkpoints/3", random.Random(seed))
    with Checkpoints(tmp_path / "run", "segm/AP", keep_last=3) as checkpoints:
        with caplog.at_level(logging.WARNING, "segjax"):
            restored, place = checkpoints.restore(state)
        assert "checkpoint of step 3" in caplog.text, done
        with pytest.raises(ValueError, match=r"checkpoint of step 3 in .* is broken: "):
            checkpoints.restore(state, 3)
        jax.tree.map(np.testing.assert_array_equal, restored, at(state, 2))
        assert place == {"next": 2}
        # The run goes on, and saves the step again.
        checkpoints.set_aside_broken()
        assert checkpoints.steps == (1, 2)
        assert (tmp_path / "run/broken/3").is_dir()
        checkpoints.save(at(state, 3), {"next": 3}, {"segm/AP": 0.3})
        assert checkpoints.newest_good() == 3
        assert checkpoints.best_step == 2


def test_a_folder_of_broken_checkpoints_is_refused(run, state, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    for step in (1, 2, 3):
        (tmp_path / f"run/checkpoints/{step}" / MANIFEST).unlink()
    with (
        Checkpoints(tmp_path / "run") as checkpoints,
        pytest.raises(ValueError, match=r"every checkpoint in .* is broken; the newest: MANIFEST"),
    ):
        checkpoints.restore(state)


def test_check_run_lists_what_is_broken(run, tmp_path, capsys):
    assert cli.main(["check-run", str(run)]) == 0
    assert capsys.readouterr().out.count("complete") == 3
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/checkpoints/2/params/_METADATA").unlink()
    (tmp_path / "run/checkpoints/5.orbax-checkpoint-tmp").mkdir()
    assert cli.main(["check-run", str(tmp_path / "run")]) == 1
    text = capsys.readouterr().out
    assert "step 2: broken: params/_METADATA is missing" in text
    assert "5.orbax-checkpoint-tmp: not complete or being deleted" in text
    assert cli.main(["check-run", str(tmp_path)]) == 1
    assert "no checkpoint in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p.astype(jnp.bfloat16), r"stored float32 \[.*\], wanted bfloat16 \["),
        (
            lambda p: p[..., None],
            r"head/bias: stored float32 \[3\], wanted float32 \[3, 1\]",
        ),
    ],
)
def test_other_dtypes_and_shapes_are_named(run, state, change, words):
    other = dataclasses.replace(state, params=jax.tree.map(change, state.params))
    with Checkpoints(run) as checkpoints:
        with pytest.raises(ValueError, match=words):
            checkpoints.restore(other)
        with pytest.raises(ValueError, match=words):
            checkpoints.restore_variables(other.variables)


def test_names_that_are_missing_are_named(run, state):
    other = {"params": {**state.params, "extra": jnp.zeros(3)}, **state.collections}
    with Checkpoints(run) as checkpoints, pytest.raises(ValueError, match="params/extra: stored n"):
        checkpoints.restore_variables(other)


def test_a_checkpoint_is_written_again_with_its_scores(state, tmp_path):
    with Checkpoints(tmp_path, "segm/AP", keep_last=2) as checkpoints:
        checkpoints.save(at(state, 1), None)
        assert not checkpoints.has_scores(checkpoints.find(1))
        checkpoints.save(at(state, 1), None, {"segm/AP": 0.5})  # it stays
        assert not checkpoints.has_scores(checkpoints.find(1))
        checkpoints.save(at(state, 1), None, {"segm/AP": 0.5}, again=True)
        assert checkpoints.has_scores(checkpoints.find(1))
        assert checkpoints.best_step == 1


def test_a_manifest_lists_names_of_all_kinds(tmp_path):
    for name in ("a b", "ü", "x/#", "x/y/z"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    write_manifest(tmp_path)
    assert differences(tmp_path) == []
    (tmp_path / "x/#").write_text("other")
    assert differences(tmp_path) == ["x/# has changed since it was written"]
    assert json.dumps(differences(tmp_path))
