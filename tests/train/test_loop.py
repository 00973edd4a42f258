import dataclasses
import json
import os
import shutil
import signal
import sys
import threading

import jax
import numpy as np
import pytest

from segjax import cli
from segjax.config import OptimConfig, TrainConfig
from segjax.data import pipeline
from segjax.data.config import DataConfig
from segjax.data.shapes import ShapesConfig
from segjax.optim import Cosine, Warmup
from segjax.train import loop
from segjax.train.checkpoint import Checkpoints
from segjax.train.interrupts import TrainingInterrupted
from segjax.train.loop import train
from segjax.train.replay import replay
from segjax.train.runs import load_run
from tests.support import tiny
from tests.support.toy import SemanticToy, Toy

RECORDS = ("config.json", "classes.json")


TOY = ("tests.support.toy",)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    shapes = ShapesConfig(image_size=32, num_train=20, num_val=4, min_side=8, max_side=16)
    data = DataConfig(
        name="shapes",
        shapes=shapes,
        root=str(cache / "shapes"),
        cache_dir=str(cache),
        resize="none",
        batch_size=4,
        eval_batch_size=4,
        max_instances=2,  # fewer than many images have
        overflow="drop_smallest",
        masks=False,
    )
    optim = OptimConfig(learning_rate=0.05, schedule=Cosine(), warmup=Warmup(2))
    return TrainConfig(
        model=Toy(num_classes=0, frozen=()),
        data=data,
        optim=optim,
        steps=8,
        log_every=2,
        eval_every=4,
        checkpoint_every=3,
        num_pictures=2,
        parallel="jit",
    )


@pytest.fixture(scope="module")
def straight(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    return train(dataclasses.replace(config, workdir=str(folder)))


def records(folder, name):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[name] for line in lines if name in line}


def test_the_data_decide_the_classes(straight):
    assert straight.classes.names == ("disc", "box", "triangle", "star")
    assert straight.model.num_classes == 4
    assert straight.variables["params"]["head"]["kernel"].shape == (8, 4)


def test_what_a_run_leaves_behind(straight, config):
    names = {path.name for path in straight.workdir.iterdir()}
    expected = {
        "config.json",
        "classes.json",
        "log.txt",
        "metrics.jsonl",
        "checkpoints",
        "pictures",
    }
    assert names == expected
    assert len(list((straight.workdir / "pictures").glob("*.png"))) == config.num_pictures
    assert sorted(records(straight.workdir, "loss")) == [1, 2, 4, 6, 8]
    assert sorted(records(straight.workdir, "box/AP")) == [4, 8]
    assert "box/AP50" in straight.metrics
    assert straight.compilations == 1
    record = json.loads((straight.workdir / "config.json").read_text())
    assert record["versions"]["jax"] == jax.__version__
    assert all(np.isfinite(list(records(straight.workdir, "images_per_second").values())))


class StopsAfter:
    """A data iterator that fails, as when a machine goes down."""

    def __init__(self, iterator, batches):
        self._iterator, self._left = iterator, batches

    def __next__(self):
        if not self._left:
            raise ConnectionError("the machine went down")
        self._left -= 1
        return next(self._iterator)

    def __getattr__(self, name):
        return getattr(self._iterator, name)


@pytest.mark.parametrize("batches", [4, 7])
def test_a_resumed_run_is_bitwise_the_straight_one(
    straight, config, tmp_path, monkeypatch, batches
):
    config = dataclasses.replace(config, workdir=str(tmp_path))
    make = pipeline.train_iterator
    with monkeypatch.context() as patch:
        patch.setattr(
            loop.pipeline, "train_iterator", lambda *a, **k: StopsAfter(make(*a, **k), batches)
        )
        with pytest.raises(ConnectionError):
            train(config)
    resumed = train(config)
    jax.tree.map(np.testing.assert_array_equal, resumed.variables, straight.variables)
    with Checkpoints(tmp_path) as ours, Checkpoints(straight.workdir) as theirs:
        template = load_state(config, straight)
        mine, my_data = ours.restore(template)
        other, other_data = theirs.restore(template)
    jax.tree.map(np.testing.assert_array_equal, mine, other)
    assert my_data == other_data
    assert records(tmp_path, "loss")[8] == records(straight.workdir, "loss")[8]
    for name in ("truncated", "dropped_degenerate"):
        assert records(tmp_path, name)[8] == records(straight.workdir, name)[8]
    assert records(tmp_path, "truncated")[8] > records(tmp_path, "truncated")[2] > 0
    assert resumed.metrics.keys() == straight.metrics.keys()
    for name, value in straight.metrics.items():
        np.testing.assert_equal(resumed.metrics[name], value)  # nan equals nan here


def load_state(config, results):
    optimizer = loop.make_optimizer(config.optim, config.steps, results.model.frozen_paths())
    return loop.init_state(results.variables, optimizer)


def test_a_finished_run_is_only_evaluated(straight, config, capsys):
    again = train(dataclasses.replace(config, workdir=str(straight.workdir)))
    assert "going on from step 8 of 8" in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, again.variables, straight.variables)
    assert again.compilations == 0


def test_the_model_is_rebuilt_from_its_folder(straight):
    run = load_run(straight.workdir, step=8, trust=TOY)
    assert run.model == straight.model
    assert (run.classes, run.step) == (straight.classes, 8)
    assert run.classes.category_ids == (1, 3, 4, 8)
    jax.tree.map(np.testing.assert_array_equal, run.variables, straight.variables)


def test_random_variables_are_listed_by_part():
    names = ["params/a/x", "params/a/y", "batch_stats/a/m", "params/b/x", "params/b/y"]
    assert loop._by_part(names[:4], names) == ["a", "params/b/x"]
    assert loop._by_part([], names) == []


def test_starting_from_another_runs_weights(straight, config, tmp_path, capsys):
    config = dataclasses.replace(
        config,
        model=Toy(num_classes=0),  # the stem is frozen
        workdir=str(tmp_path),
        init_from=str(straight.workdir),
        steps=1,
        num_pictures=0,
    )
    with pytest.raises(ValueError, match=r"pass trust=\('tests',\), or --trust tests"):
        train(config)
    started = train(config, trust=TOY)
    text = capsys.readouterr().out
    assert f"weights from {straight.workdir}" in text
    assert "at random: none" in text
    source = load_run(straight.workdir, trust=TOY)
    jax.tree.map(
        np.testing.assert_array_equal,
        started.variables["params"]["stem"],
        source.variables["params"]["stem"],
    )
    resumed = train(dataclasses.replace(config, init_from="a folder that is gone", steps=2))
    assert resumed.compilations == 1, "going on needs no init_from"


def test_frozen_weights_must_have_been_trained(config, tmp_path):
    config = dataclasses.replace(config, model=Toy(num_classes=0), workdir=str(tmp_path))
    with pytest.raises(ValueError, match=r"stem are frozen, but .*--init-from=RUN"):
        train(config)


def test_a_failing_evaluation_loses_no_training(config, tmp_path, monkeypatch):
    def fails(self, variables):
        raise RuntimeError("no memory to evaluate")

    config = dataclasses.replace(config, workdir=str(tmp_path), checkpoint_every=0, eval_every=0)
    with monkeypatch.context() as patch:
        patch.setattr(loop.Evaluator, "__call__", fails)
        with pytest.raises(RuntimeError, match="no memory"):
            train(config)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps == (8,)
    again = train(config)
    assert again.compilations == 0
    assert "box/AP" in again.metrics


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"model": Toy(num_classes=0, frozen=(), features=4)},
            "another model: model.features was 8 and is 4: give another --workdir",
        ),
        ({}, r"on the classes disc, box, triangle, star \(4\), the data have"),
        ({"steps": 3}, "holds a run of 8 steps already, and steps is 3: give at least 8"),
        ({"seed": 5}, "resume with the same data, seed and batch size"),
    ],
)
def test_another_run_does_not_take_over_the_folder(straight, config, monkeypatch, changes, words):
    if not changes:  # the data changes, not the config
        opened = pipeline.open_dataset(config.data)
        other = dataclasses.replace(opened, class_names=("disc", "box", "triangle", "ring"))
        monkeypatch.setattr(loop.pipeline, "open_dataset", lambda _: other)
    before = {name: (straight.workdir / name).read_text() for name in RECORDS}
    with pytest.raises(ValueError, match=words):
        train(dataclasses.replace(config, workdir=str(straight.workdir), **changes))
    assert {name: (straight.workdir / name).read_text() for name in RECORDS} == before


def test_what_may_change_is_named_with_the_value_that_holds(straight, config, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(straight.workdir, folder)
    optim = dataclasses.replace(config.optim, clip_norm=7.0)
    train(
        dataclasses.replace(config, workdir=str(folder), optim=optim, log_every=3, num_pictures=0)
    )
    text = capsys.readouterr().out
    assert "optim.clip_norm was None and is 7.0: the new value holds from step 9 on" in text
    assert "log_every was" in text and "model" not in text.partition("from step 9")[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_step_and_the_same_command_goes_on(
    straight, config, tmp_path, monkeypatch, number
):
    make = pipeline.train_iterator

    class Signals(StopsAfter):
        def __next__(self):
            if self._left == 4:
                os.kill(os.getpid(), number)
            return super().__next__()

    config = dataclasses.replace(config, workdir=str(tmp_path), checkpoint_every=0, eval_every=0)
    with monkeypatch.context() as patch:
        patch.setattr(loop.pipeline, "train_iterator", lambda *a, **k: Signals(make(*a, **k), 9))
        with pytest.raises(TrainingInterrupted, match=r"saved at step \d of 8; the same command"):
            train(config)
    with Checkpoints(tmp_path) as checkpoints:
        assert 1 <= checkpoints.latest_step < 8
    again = train(config)
    jax.tree.map(np.testing.assert_array_equal, again.variables, straight.variables)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".train")]


def in_compilation(patch):
    announce = loop._announce
    patch.setattr(loop, "_announce", lambda *a: (send(), announce(*a)))


def in_evaluation(patch):
    make = pipeline.eval_iterator

    class Signals(StopsAfter):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._iterator.close()

        def __iter__(self):
            for batch in self._iterator:
                send()
                yield batch

    patch.setattr(loop.pipeline, "eval_iterator", lambda *a, **k: Signals(make(*a, **k), 0))


def in_saving(patch):
    save = Checkpoints.save
    patch.setattr(Checkpoints, "save", lambda *a, **k: (save(*a, **k), send()))


def send():
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # the second would end the tests
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("moment", "step"), [(in_compilation, 1), (in_evaluation, 4), (in_saving, 4)]
)
def test_a_signal_saves_at_any_moment(straight, config, tmp_path, monkeypatch, moment, step):
    config = dataclasses.replace(config, workdir=str(tmp_path), checkpoint_every=0)
    with monkeypatch.context() as patch:
        moment(patch)
        with pytest.raises(TrainingInterrupted, match=f"saved at step {step} of 8"):
            train(config)
    marker = json.loads((tmp_path / "preempted.json").read_text())
    assert (marker["step"], marker["signal"]) == (step, "SIGTERM")
    again = train(config)
    assert not (tmp_path / "preempted.json").exists()
    jax.tree.map(np.testing.assert_array_equal, again.variables, straight.variables)
    for name in ("loss", "box/AP"):  # and each only once
        assert records(tmp_path, name) == records(straight.workdir, name)
    with Checkpoints(tmp_path, "box/AP") as checkpoints, Checkpoints(straight.workdir) as other:
        assert set(checkpoints.steps) >= {checkpoints.best_step, 8}
        assert other.latest_step == 8


def test_an_evaluation_that_a_signal_ended_last_is_made_up_for(
    straight, config, tmp_path, monkeypatch
):
    config = dataclasses.replace(config, workdir=str(tmp_path), eval_every=0)
    with monkeypatch.context() as patch:
        in_evaluation(patch)
        with pytest.raises(TrainingInterrupted, match="saved at step 8 of 8"):
            train(config)
    again = train(config)
    assert again.metrics == straight.metrics
    assert records(tmp_path, "box/AP") == {8: records(straight.workdir, "box/AP")[8]}
    with Checkpoints(tmp_path, "box/AP") as checkpoints:
        assert checkpoints.has_scores(8)


def test_nothing_stays_open_without_the_tensorboard_extra(config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    closed = []
    make = pipeline.train_iterator

    class Closing(StopsAfter):
        def close(self):
            closed.append(True)
            self._iterator.close()

    monkeypatch.setattr(loop.pipeline, "train_iterator", lambda *a, **k: Closing(make(*a, **k), 9))
    with pytest.raises(ModuleNotFoundError, match="tensorboardX"):
        train(dataclasses.replace(config, workdir=str(tmp_path), tensorboard=True))
    assert closed
    assert not [t for t in threading.enumerate() if t.name == "prefetch"]


def test_masks_must_be_given_to_a_model_with_masks(config):
    config = dataclasses.replace(config, model=tiny.mask_rcnn(num_classes=0))
    with pytest.raises(ValueError, match=r"--data\.masks=False leaves out"):
        loop.resolve(config, ("a", "b"))


def with_semantic(config, model, semantic):
    data = dataclasses.replace(config.data, semantic=semantic)
    return dataclasses.replace(config, model=model, data=data)


def test_the_data_decide_the_semantic_classes(config, tmp_path, capsys):
    model = SemanticToy(num_classes=0, frozen=())
    config = with_semantic(config, model, "instances")
    config = dataclasses.replace(
        config, workdir=str(tmp_path), steps=3, checkpoint_every=2, num_pictures=0, log_every=1
    )
    trained = train(config)
    assert trained.model.classes.pixels == 5
    assert trained.variables["params"]["frequency"].shape == (5,)
    text = capsys.readouterr().out
    assert "semantic labels: 'instances' (things only), 5 classes" in text
    losses = records(tmp_path, "loss/semantic")
    np.testing.assert_allclose(losses[1], np.log(5), rtol=1e-5)
    assert losses[3] < losses[1]
    # Most pixels do not belong to an object.
    assert trained.variables["params"]["frequency"].argmax() == 4
    assert load_run(tmp_path, trust=TOY).model == trained.model
    assert train(dataclasses.replace(config, steps=4)).compilations == 1


def test_labels_are_not_read_for_a_model_without_branch(straight, config, tmp_path, capsys):
    config = with_semantic(config, config.model, "instances")
    results = train(dataclasses.replace(config, workdir=str(tmp_path), num_pictures=0))
    assert "'instances' are not read: the model has no semantic branch" in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, results.variables, straight.variables)


def test_a_semantic_branch_needs_labels(config):
    model = SemanticToy(num_classes=0)
    ways = (
        r"--data\.semantic=stuffthingmaps \(COCO.*=panoptic \(from.*=folder \(plain.*"
        r"=instances \(things only\)"
    )
    with pytest.raises(ValueError, match=rf"--data\.semantic=none gives it nothing.*{ways}"):
        loop.resolve(with_semantic(config, model, "none"), ("a", "b"))
    wrong = with_semantic(config, SemanticToy(semantic_classes=183), "panoptic")
    words = r"183 semantic classes, the labels of --data\.semantic=panoptic have 133: leave"
    with pytest.raises(ValueError, match=words):
        loop.resolve(wrong, ("a", "b", "c"), ["a class"] * 133)
    resolved = loop.resolve(wrong, ("a", "b", "c"), ["a class"] * 183)
    assert resolved.model == wrong.model


def whitened(steps):
    """Returns a `train_iterator` in which the second image of some steps has an infinite loss."""
    make = pipeline.train_iterator

    class White(StopsAfter):
        def __next__(self):
            batch = super().__next__()
            if 100 - self._left in steps:
                batch["images"][1] = 255
            return batch

    return lambda *a, **k: White(make(*a, **k), 100)


def test_steps_that_are_not_finite_are_skipped_and_counted(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop.pipeline, "train_iterator", whitened({2, 4, 5}))
    config = dataclasses.replace(config, model=Toy(num_classes=0, frozen=(), blow_up=True))
    train(dataclasses.replace(config, workdir=str(tmp_path)))
    assert capsys.readouterr().out.count("changed no parameter and is skipped") == 3
    assert records(tmp_path, "nonfinite_steps")[8] == 3
    assert np.isfinite(records(tmp_path, "loss")[6])
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints._data(8)["state"]["nonfinite"] == 3


def test_too_many_in_a_row_stop_the_run_and_can_be_replayed(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop.pipeline, "train_iterator", whitened({4, 5, 6}))
    config = dataclasses.replace(
        config,
        model=Toy(num_classes=0, frozen=(), blow_up=True),
        max_nonfinite=2,
        workdir=str(tmp_path),
    )
    with pytest.raises(FloatingPointError, match=r"step 5 is not finite: loss nan.*last of 2 in a"):
        train(config)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps == (3, 4), "a step that was skipped is a step"
    file = tmp_path / "nonfinite_step_5.npz"
    found = replay(file, trust=TOY)
    assert (found.step, len(found.images)) == (5, 4)
    assert np.isnan(found.losses["loss"]) and np.isnan(found.recorded["loss"])
    np.testing.assert_allclose(found.losses["loss/size"], found.recorded["loss/size"], rtol=1e-5)
    faults = list(found.images.values())
    assert [bool(terms) for terms in faults] == [False, True, False, False]
    assert "loss/class" in faults[1]
    assert "params/head/kernel" in found.gradients
    with pytest.raises(FloatingPointError, match="nan"):
        replay(file, trust=TOY, locate=True)
    mended = replay(file, trust=TOY, model=Toy(num_classes=4, frozen=()))
    assert not mended.gradients and np.isfinite(mended.losses["loss"])
    assert cli.main(["replay", str(file), "--trust", "tests"]) == 0
    text = capsys.readouterr().out
    assert "alone: loss/class" in text and "alone: finite" in text
    assert cli.main(["replay", str(tmp_path / "config.json")]) == 1
    assert "is not a step that training wrote" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"workdir": ""}, "workdir is not set"),
        ({"model": Toy(num_classes=3)}, r"the model has 3 classes, the data has 4 \(disc, box"),
        ({"parallel": "shard_map", "num_devices": 3}, "4 images cannot be split over 3 devices"),
        ({"accumulate": 3}, "4 images a device cannot be split into 3 micro-batches: choose ano"),
    ],
)
def test_configs_that_do_not_fit_are_refused(config, tmp_path, changes, words):
    config = dataclasses.replace(config, workdir=str(tmp_path))
    with pytest.raises(ValueError, match=words):
        train(dataclasses.replace(config, **changes))


def test_canvases_that_the_model_does_not_take_are_refused(config, tmp_path):
    data = dataclasses.replace(config.data, size_divisor=16)
    config = dataclasses.replace(config, data=data, workdir=str(tmp_path))
    words = "--data.size-divisor is 16, the model takes multiples of 32 pixels"
    with pytest.raises(ValueError, match=words):
        train(config)
