"""Third-party checkpoints: other numbers of classes, prefixes and objects of trainers."""

import dataclasses
import pickle

import numpy as np
import pytest

import segjax
from segjax import cli
from segjax.data.config import DataConfig
from segjax.models.variables import flatten_variables, variable_shapes
from segjax.nn.norm import NormSpec
from segjax.results.classes import Classes
from segjax.zoo import hub, table
from segjax.zoo.convert import RULES, export
from segjax.zoo.entry import Entry, Weights
from segjax.zoo.memory import remembered
from tests.support import tiny


@pytest.fixture(scope="module")
def model():
    small = tiny.mask_rcnn("torchvision", norm=NormSpec("batch"), num_classes=5)
    # The conversion tables assume the library's 7 x 7 cells.
    return small.clone(box_pooler=dataclasses.replace(small.box_pooler, output_size=7))


@pytest.fixture(scope="module")
def variables(model):
    rng = np.random.default_rng(0)

    def draw(tree):
        if isinstance(tree, dict):
            return {name: draw(value) for name, value in tree.items()}
        return rng.normal(size=tree.shape).astype(np.float32)

    shapes = variable_shapes(model)
    return {name: draw(dict(tree)) for name, tree in shapes.items()}


@pytest.fixture
def state(variables):
    return export(variables, RULES["torchvision"])


@pytest.fixture
def entry(model, monkeypatch):
    """A row of the files' architecture and number of classes."""
    row = Entry(
        name="mask_rcnn_tiny.tv",
        make=lambda: model,
        peer="torchvision",
        weights=Weights("https://example.org/model_final.pkl"),
        kind="detector",
        published={},
        source="https://example.org",
        licence="BSD-3-Clause",
        classes=Classes(tuple("abcde"), (1, 2, 3, 4, 5)),
        data=DataConfig(short_side=(64,)),
    )
    monkeypatch.setitem(table.ENTRIES, row.name, row)
    return row


@pytest.fixture
def three(model, entry, monkeypatch):
    """The row with three classes, of which the files have five."""
    known = Classes(("a", "b", "c"), (1, 2, 3))
    row = dataclasses.replace(entry, make=lambda: model.with_classes(things=3), classes=known)
    monkeypatch.setitem(table.ENTRIES, row.name, row)
    return row


def written(tmp_path, value):
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps(value))
    return path


def same(ours, theirs):
    ours, theirs = flatten_variables(ours), flatten_variables(theirs)
    for name in ours.keys() | theirs.keys():
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_files_of_the_row_s_classes_keep_their_names(tmp_path, entry, state):
    found = hub.read_as(written(tmp_path, {"model": state}), entry)
    assert found.classes == entry.classes


def test_the_number_of_classes_is_read_off_the_file(tmp_path, three, state, variables):
    found = hub.read_as(written(tmp_path, {"model": state}), three)
    assert found.model.classes.things == 5
    assert found.classes == Classes()  # the row's names belong to other classes
    same(found.variables, variables)


def test_names_go_with_it_there_and_back_by_the_commands(tmp_path, three, state, capsys):
    path = written(tmp_path, {"model": state})
    ours, back = tmp_path / "ours", tmp_path / "back.safetensors"
    arguments = ["convert", str(path), "--as", three.name, "--out", str(ours)]
    assert cli.main([*arguments, "--names", "u,v,w,x,y"]) == 0
    assert segjax.pretrained(ours).classes.names == ("u", "v", "w", "x", "y")
    assert cli.main(["convert", str(ours), "--to", "torchvision", "--out", str(back)]) == 0
    again = hub.read_as(back, three, names=("u", "v", "w", "x", "y"))
    same(again.variables, segjax.load(ours)[1])
    (tmp_path / "names.txt").write_text("u\nv\n")
    capsys.readouterr()
    assert cli.main([*arguments, "--names", str(tmp_path / "names.txt")]) == 1
    assert "there are 2 names of classes, the model has 5" in capsys.readouterr().err
    assert cli.main([*arguments, "--num-classes", "4"]) == 1
    assert "does not fit" in capsys.readouterr().err


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module.model."])
def test_prefixes_of_trainers_are_taken_off_and_named(
    tmp_path, entry, state, variables, caplog, prefix
):
    names = {prefix + name: array for name, array in state.items()}
    names["criterion.weight"] = np.ones(3, np.float32)
    found = hub.read_as(written(tmp_path, {"state_dict": names}), entry)
    same(found.variables, variables)
    assert f'took the weights under "state_dict" and "{prefix}", left out 1 others' in caplog.text


def test_averaged_weights_are_taken_before_the_last(tmp_path, entry, state, variables, caplog):
    last = {name: array + 1 for name, array in state.items() if array.dtype == np.float32}
    both = {f"model.{n}": a for n, a in {**state, **last}.items()}
    both |= {f"ema_model.module.{n}": a for n, a in state.items()}
    found = hub.read_as(written(tmp_path, {"state_dict": both}), entry)
    same(found.variables, variables)
    assert '"ema_model.module."' in caplog.text
    caplog.clear()
    places = {"state_dict": {**state, **last}, "state_dict_ema": state}
    same(hub.read_as(written(tmp_path, places), entry).variables, variables)
    assert 'under "state_dict_ema"' in caplog.text
    # MMEngine swaps the two when it saves: its "average" holds the last weights.
    places = {"state_dict": state, "ema_state_dict": {**state, **last}}
    same(hub.read_as(written(tmp_path, places), entry).variables, variables)


@dataclasses.dataclass
class Trainer:
    """An object that a trainer stores next to the tensors."""

    epoch: int


def test_objects_of_trainers_are_skipped_unread(tmp_path, entry, state, variables):
    value = {"model": state, "trainer": Trainer(3), "optimizer": {"lr": 0.1}, "iteration": 9}
    same(hub.read_as(written(tmp_path, value), entry).variables, variables)


def test_a_loaded_model_is_saved_with_its_names_and_resizing(tmp_path, entry, state):
    found = hub.read_as(written(tmp_path, {"model": state}), entry, names=tuple("uvwxy"))
    first = hub.write_folder(tmp_path / "first", found)
    loaded, arrays = segjax.load(first)
    second = segjax.save(tmp_path / "second", loaded, arrays)
    again = segjax.pretrained(second)
    assert again.classes.names == tuple("uvwxy")
    assert again.data.short_side == (64,)
    assert again.origin["architecture"] == entry.name
    other = segjax.save(tmp_path / "third", loaded, arrays, Classes(tuple("abcde")))
    assert segjax.pretrained(other).classes.names == tuple("abcde")
    # An equal module that was not loaded has none of these.
    assert remembered(dataclasses.replace(loaded)).classes == Classes()


def test_no_classes_are_refused_by_a_sentence(tmp_path, entry, state):
    found = hub.read_as(written(tmp_path, {"model": state}), entry)
    folder = hub.write_folder(tmp_path / "first", found)
    with pytest.raises(ValueError, match="num_classes is 0: wanted 1 or more"):
        segjax.load(folder, num_classes=0)


def test_a_whole_pickled_model_says_what_to_save_instead(tmp_path, entry):
    with pytest.raises(ValueError, match=r"holds an object of .*Trainer.*save its state_dict"):
        hub.read_as(written(tmp_path, Trainer(3)), entry)


def test_a_tensor_of_another_rank_is_named(tmp_path, entry, state):
    name = next(name for name in state if name.endswith("cls_score.weight"))
    odd = {**state, name: state[name].ravel()}
    with pytest.raises(ValueError, match=r"cls_score\.weight: .* (does not fit|cannot become)"):
        hub.read_as(written(tmp_path, {"model": odd}), entry)
