import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.config import OptimConfig, TrainConfig
from segjax.data.config import DataConfig
from segjax.models.variables import init_variables, start_from
from segjax.results.classes import Classes
from segjax.train.checkpoint import Checkpoints
from segjax.train.loop import initial_variables
from segjax.train.manifest import write_manifest
from segjax.train.optim import make_optimizer
from segjax.train.runs import load_run, save_run
from segjax.train.state import init_state
from tests.support.toy import SemanticToy, Toy


@pytest.fixture(scope="module")
def state():
    optimizer = make_optimizer(OptimConfig(), 10, ("stem",))
    return init_state(init_variables(Toy(), jax.random.key(0)), optimizer)


def at(state, step):
    params = jax.tree.map(lambda p: p + step, state.params)
    return dataclasses.replace(state, step=jnp.int32(step), params=params)


def test_keeps_the_best_and_the_newest(tmp_path, state):
    scores = {1: 0.1, 2: 0.9, 3: math.nan, 4: 0.3, 5: None, 6: 0.2}
    with Checkpoints(tmp_path, "segm/AP", keep_last=2) as checkpoints:
        for step, score in scores.items():
            metrics = None if score is None else {"segm/AP": score, "box/AP": 0.0}
            checkpoints.save(at(state, step), {"next_index": step}, metrics)
        checkpoints.wait()
        assert checkpoints.steps == (2, 5, 6)
        assert (checkpoints.best_step, checkpoints.latest_step) == (2, 6)
    with Checkpoints(tmp_path, "segm/AP", keep_last=2) as again:
        assert (again.best_step, again.latest_step) == (2, 6)


@pytest.mark.parametrize("data_state", [{"next_index": 3, "epoch": [1, None]}, None])
def test_restores_every_bit_and_the_place_in_the_data(tmp_path, state, data_state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(state, 3), data_state)
        restored, restored_data = checkpoints.restore(state)
        variables = checkpoints.restore_variables(jax.eval_shape(lambda: state.variables))
    assert restored_data == data_state
    jax.tree.map(np.testing.assert_array_equal, restored, at(state, 3))
    jax.tree.map(np.testing.assert_array_equal, variables, at(state, 3).variables)
    assert jax.tree.structure(restored) == jax.tree.structure(state)


def test_collections_and_averages_of_a_state_are_kept(tmp_path, state):
    counters = {"images": jnp.int32(12), "kept": jnp.array([True, False])}
    collections = {**state.collections, "counters": counters}
    ema = jax.tree.map(lambda p: p / 2, state.params)
    full = dataclasses.replace(at(state, 3), collections=collections, ema=ema)
    template = jax.tree.map(jnp.zeros_like, full)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(full, None)
        restored, _ = checkpoints.restore(template)
        variables = checkpoints.restore_variables(template.variables)
        words = r"3 holds collections, ema, opt_state, params; this run keeps coll.*, opt_state, pa"
        with pytest.raises(ValueError, match=words):
            checkpoints.restore(dataclasses.replace(template, ema=None))
    assert {path.name for path in (tmp_path / "checkpoints/3").iterdir() if path.is_dir()} >= {
        "params",
        "collections",
        "opt_state",
        "ema",
    }
    jax.tree.map(np.testing.assert_array_equal, restored, full)
    jax.tree.map(np.testing.assert_array_equal, variables, full.for_eval())
    np.testing.assert_array_equal(variables["params"]["head"]["bias"], ema["head"]["bias"])


@pytest.mark.parametrize("collections", [{}, {"batch_stats": {}}])
def test_a_state_without_collections_is_kept(tmp_path, state, collections):
    bare = dataclasses.replace(at(state, 2), collections=collections)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(bare, None)
        restored, _ = checkpoints.restore(bare)
        variables = checkpoints.restore_variables(bare.variables)
    assert restored.collections == collections
    assert variables.keys() == {"params"} | collections.keys()


def test_checkpoints_of_another_version_are_refused(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(state, 1), None)
        checkpoints.wait()
        (tmp_path / "checkpoints/1/params").rename(tmp_path / "checkpoints/1/variables")
        write_manifest(tmp_path / "checkpoints/1")
        with pytest.raises(ValueError, match="variables, but no params: another version of segjax"):
            checkpoints.restore(state)


def test_missing_checkpoints_are_named(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(FileNotFoundError, match="no checkpoint in"):
            checkpoints.restore(state)
        checkpoints.save(at(state, 4), None)
        with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 7 .*\[4\]"):
            checkpoints.restore(state, 7)


def files(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


def test_readers_leave_the_folder_as_it_is(tmp_path, state):
    with Checkpoints(tmp_path, "segm/AP", keep_last=2) as checkpoints:
        for step, score in ((1, 0.9), (2, 0.1)):
            checkpoints.save(at(state, step), None, {"segm/AP": score})
    unfinished = tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp"
    unfinished.mkdir()
    (unfinished / "half").write_text("of a checkpoint that is being written")
    before = files(tmp_path)
    with Checkpoints(tmp_path, "segm/AP", read_only=True) as reader:
        assert (reader.best_step, reader.latest_step, reader.steps) == (1, 2, (1, 2))
        variables = reader.restore_variables(jax.eval_shape(lambda: state.variables), 1)
    jax.tree.map(np.testing.assert_array_equal, variables, at(state, 1).variables)
    assert files(tmp_path) == before


def test_readers_make_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint in .*checkpoints"):
        Checkpoints(tmp_path, read_only=True)
    assert files(tmp_path) == []


TOY = ("tests.support.toy",)
CONFIG = TrainConfig(model=Toy(), data=DataConfig(root="here"))


def converted(model):
    """Returns variables as from a converter: numpy arrays, none at its initial value."""
    shapes = jax.eval_shape(lambda: init_variables(model, jax.random.key(0)))
    return jax.tree.map(lambda s: np.full(s.shape, 0.25, s.dtype), shapes)


def test_converted_weights_are_saved_as_a_run_to_start_from(tmp_path, state):
    variables = converted(Toy())
    save_run(tmp_path, CONFIG, variables, Classes(("a", "b", "c"), (1, 5, 7)))
    run = load_run(tmp_path, trust=TOY)
    assert (run.model, run.step) == (Toy(), 0)
    assert run.classes == Classes(("a", "b", "c"), (1, 5, 7))
    jax.tree.map(np.testing.assert_array_equal, run.variables, variables)
    config = dataclasses.replace(CONFIG, model=Toy(num_classes=5), init_from=str(tmp_path))
    started = initial_variables(config, jax.random.key(3), trust=TOY)
    fresh = init_variables(Toy(num_classes=5), jax.random.key(3))
    for path, leaf in jax.tree_util.tree_leaves_with_path(started):
        if "head" not in jax.tree_util.keystr(path):
            np.testing.assert_array_equal(leaf, 0.25)
    jax.tree.map(np.testing.assert_array_equal, started["params"]["head"], fresh["params"]["head"])
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match="weights alone"):
        checkpoints.restore(state)


def test_a_run_of_ones_own_model_is_loaded_by_trust_or_with_the_model(tmp_path):
    variables = converted(Toy())
    save_run(tmp_path, CONFIG, variables, Classes(("a", "b", "c"), (1, 5, 7)))
    words = r"names tests\.support\.toy:Toy, which is not of .*pass trust=\('tests',\), or --trust"
    with pytest.raises(ValueError, match=words):
        load_run(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["config"]["fields"]["model"] = {"class": "nowhere:Gone", "fields": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    run = load_run(tmp_path, model=Toy(num_classes=0))
    assert (run.model, run.config.model) == (Toy(), Toy())
    jax.tree.map(np.testing.assert_array_equal, run.variables, variables)
    with pytest.raises(ValueError, match=r"does not exist here"):
        load_run(tmp_path, trust=("nowhere",))
    with pytest.raises(ValueError, match="5 classes, but there are 3 names"):
        load_run(tmp_path, model=Toy(num_classes=5))


def test_a_run_is_saved_only_whole_and_once(tmp_path):
    variables, known = converted(Toy()), Classes(("a", "b", "c"), (1, 2, 3))
    other = dataclasses.replace(CONFIG, model=Toy(features=4))
    with pytest.raises(ValueError, match=r"batch_stats/norm/mean is \(8,\), wanted \(4,\)"):
        save_run(tmp_path, other, variables, known)
    with pytest.raises(ValueError, match="3 classes, but there are 2 names and 3 category ids"):
        save_run(tmp_path, CONFIG, variables, dataclasses.replace(known, names=("a", "b")))
    assert files(tmp_path) == []
    save_run(tmp_path, CONFIG, variables, known)
    with pytest.raises(FileExistsError, match=r"has checkpoints \[0\] already"):
        save_run(tmp_path, CONFIG, variables, known)


def test_a_run_is_saved_with_its_semantic_classes(tmp_path):
    model = SemanticToy(semantic_classes=7)
    variables, known = converted(model), Classes(("a", "b", "c"), (1, 2, 3))
    open_config = dataclasses.replace(CONFIG, model=SemanticToy())
    with pytest.raises(ValueError, match=r"number of classes to the data: .*classes\(pixels=183\)"):
        save_run(tmp_path, open_config, variables, known)
    save_run(tmp_path, dataclasses.replace(CONFIG, model=model), variables, known)
    assert load_run(tmp_path, trust=TOY).model == model


def test_another_model_is_refused(tmp_path, state):
    other = init_variables(Toy(features=4), jax.random.key(0))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(state, 1), None)
        with pytest.raises(ValueError, match="shape"):
            checkpoints.restore_variables(other)


def test_weights_of_other_shapes_are_drawn_and_named():
    trained = init_variables(Toy(num_classes=3), jax.random.key(2))
    model = Toy(num_classes=5)
    merged, drawn = start_from(trained, model, jax.random.key(1))
    assert sorted(drawn) == ["params/head/bias", "params/head/kernel"]
    np.testing.assert_array_equal(
        merged["params"]["conv"]["kernel"], trained["params"]["conv"]["kernel"]
    )
    fresh = init_variables(model, jax.random.key(1))
    np.testing.assert_array_equal(
        merged["params"]["head"]["kernel"], fresh["params"]["head"]["kernel"]
    )
    with pytest.raises(ValueError, match="no weight of this model"):
        start_from({"params": {"other": jnp.zeros(2)}}, model, jax.random.key(1))
