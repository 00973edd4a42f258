"""Models by name, folder and file: round trips are exact, and mismatches are reported."""

import dataclasses
import hashlib
import json
import logging
import pickle
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import segjax
from segjax import cli
from segjax.config import TrainConfig, load_config
from segjax.data.config import DataConfig
from segjax.models.variables import (
    flatten_variables,
    init_variables,
    matching,
    variable_shapes,
)
from segjax.nn.norm import NormSpec
from segjax.results.classes import Classes
from segjax.train.runs import save_run
from segjax.train.weights import start_weights
from segjax.zoo import hub, table
from segjax.zoo.convert import RULES, export
from segjax.zoo.entry import Entry, Weights
from segjax.zoo.export import export_file, table_of
from segjax.zoo.fit import check_same_inputs
from tests.support import tiny
from tests.support.toy import Toy

NAMES, IDS = ("cat", "dog", "cow"), (17, 18, 21)


@pytest.fixture(scope="module")
def frozen():
    """A model with Detectron2's norms, as its files have."""
    full = segjax.mask_rcnn(segjax.resnet(50), num_classes=len(NAMES), flavour="detectron2")
    small = tiny.mask_rcnn(norm=full.backbone.norm)
    return small.clone(
        backbone=small.backbone.clone(frozen_stages=2, stride_in_1x1=True),
        box_pooler=full.box_pooler,  # the conversion tables assume 7 x 7 cells
    )


@pytest.fixture(scope="module")
def variables(frozen):
    return jax.device_get(tiny.init(frozen))


@pytest.fixture
def row(frozen, variables, tmp_path, monkeypatch):
    """A row of the table, with its file in place of a download."""
    file = tmp_path / "model_final_abcdef.pkl"
    state = export(variables, RULES["detectron2"])
    file.write_bytes(pickle.dumps({"model": state, "__author__": "us"}))
    entry = Entry(
        name="mask_rcnn_tiny.d2",
        make=lambda: frozen,
        peer="detectron2",
        weights=Weights("https://example.org/model_final_abcdef.pkl"),
        kind="detector",
        published={"box/AP": 1.5},
        source="https://example.org",
        licence="CC BY-SA 3.0",
        classes=Classes(NAMES, IDS),
        data=DataConfig(short_side=(64,), long_side=128),
    )
    monkeypatch.setitem(table.ENTRIES, entry.name, entry)
    monkeypatch.setattr(hub, "fetch", lambda url, **_: file)
    return entry, file


def same(ours, theirs):
    ours, theirs = flatten_variables(ours), flatten_variables(theirs)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_load_by_name(row, frozen, variables):
    loaded, arrays = segjax.load(row[0].name)
    assert loaded == frozen
    same(arrays, variables)
    found = segjax.pretrained(row[0].name)
    assert (found.classes.names, found.data.short_side) == (NAMES, (64,))
    assert found.origin["licence"] == "CC BY-SA 3.0"
    assert row[0].name in segjax.list_models("mask_rcnn_tiny*")


def test_an_unknown_name_says_which_come_near():
    with pytest.raises(ValueError, match=r"did you mean .*mask_rcnn_resnet50_fpn\.d2_3x"):
        segjax.load("mask_rcnn_resnet50_fpn.d2_3")


def test_save_and_load(tmp_path, frozen, variables):
    folder = segjax.save(
        tmp_path / "mine",
        frozen,
        variables,
        classes=Classes(NAMES, IDS),
        data=DataConfig(short_side=(96,)),
    )
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    loaded, arrays = segjax.load(folder)
    assert loaded == frozen
    same(arrays, variables)
    found = segjax.pretrained(folder)
    assert found.classes.category_ids == IDS and found.data.short_side == (96,)
    assert "3: cat, dog, cow" in (folder / "README.md").read_text()


def test_load_the_folder_of_a_run(tmp_path, frozen, variables):
    config = TrainConfig(model=frozen, data=DataConfig(short_side=(64,)))
    save_run(tmp_path / "run", config, variables, Classes(NAMES, IDS))
    loaded, arrays = segjax.load(tmp_path / "run")
    assert loaded == frozen
    same(arrays, variables)


def test_variables_of_another_model_are_not_saved(tmp_path, frozen, variables):
    other = frozen.with_classes(things=7)
    with pytest.raises(ValueError, match=r"not this model's: params/box_head/box_deltas"):
        segjax.save(tmp_path / "mine", other, variables)
    assert not (tmp_path / "mine").exists()


def test_a_model_of_ones_own_is_read_by_trust_or_with_the_model(tmp_path):
    variables = init_variables(Toy(), jax.random.key(0))
    folder = segjax.save(tmp_path / "mine", Toy(), variables, classes=Classes(("a", "b", "c")))
    with pytest.raises(
        ValueError, match=r"names tests\.support\.toy:Toy, .* pass trust=\('tests',\)"
    ):
        segjax.load(folder)
    for given in ({"trust": ("tests",)}, {"model": Toy()}):
        model, found = segjax.load(folder, **given)
        assert model == Toy()
        jax.tree.map(np.testing.assert_array_equal, found, variables)
        assert segjax.pretrained(folder, **given).classes.names == ("a", "b", "c")
    with pytest.raises(
        ValueError, match=r"the arrays are not the model's: .*\(8,\), wanted \(4,\)"
    ):
        segjax.pretrained(folder, model=Toy(features=4))
    name = segjax.list_models()[0]
    with pytest.raises(ValueError, match=f"{name} is a name of the zoo, whose model is known"):
        segjax.pretrained(name, model=Toy())


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{"), "is not JSON"),
        (lambda folder: (folder / "config.json").write_text("{}"), "not of this version"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(
                (folder / "model.safetensors").read_bytes()[:-9]
            ),
            "model.safetensors",
        ),
    ],
)
def test_a_damaged_folder_is_named(tmp_path, frozen, variables, break_it, message):
    folder = segjax.save(tmp_path / "mine", frozen, variables)
    break_it(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        segjax.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": [1]}, "classes is a list"),
        ({"classes": {"names": ["cat"]}}, "1 names of classes, the model has 3"),
        ({"classes": {"category_ids": [1, 2]}}, "2 ids of categories, the model has 3"),
        ({"model": 5}, "model is a int"),
        ({"model": {"class": "segjax.ops.preprocess:Preprocess"}}, "KeyError: 'fields'"),
        ({"model": {"class": "segjax.nn.necks.fpn:FPN", "fields": {}}}, ""),
        ({"data": None}, "data is a NoneType"),
        ({"preprocess": 3}, "preprocess is a int"),
        ({"origin": 7}, "origin is a int"),
    ],
)
def test_a_config_of_other_kinds_is_named(tmp_path, frozen, variables, change, message):
    folder = segjax.save(tmp_path / "mine", frozen, variables)
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(record | change))
    with pytest.raises(ValueError, match=rf"config\.json describes no model: .*{message}"):
        segjax.load(folder)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [("backbone", "stage_sizes", [10**9, 1, 1, 1]), ("mask_head/head", "num_convs", 10**9)],
)
def test_a_config_of_a_billion_layers_is_given_up(tmp_path, frozen, variables, part, field, value):
    folder = segjax.save(tmp_path / "mine", frozen, variables)
    record = json.loads((folder / "config.json").read_text())
    place = record["model"]
    for name in part.split("/"):
        place = place["fields"][name]
    assert field in place["fields"]
    place["fields"][field] = value
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"config\.json describes no model: .*far more layers"):
        segjax.load(folder)


def test_a_config_of_many_bytes_is_not_read(tmp_path, frozen, variables):
    folder = segjax.save(tmp_path / "mine", frozen, variables)
    with (folder / "config.json").open("r+b") as file:
        file.truncate(5 << 30)  # sparse, takes no disk space
    with pytest.raises(ValueError, match=r"config\.json has 5368709120 bytes, more than"):
        segjax.load(folder)


def test_arrays_of_other_kinds_are_named(tmp_path, frozen, variables):
    folder = segjax.save(tmp_path / "mine", frozen, variables)
    arrays = flatten_variables(variables)
    name = next(iter(arrays))
    save_file(arrays | {name: arrays[name].astype(np.int32)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=f"{name} is int32, wanted float32"):
        segjax.load(folder)
    save_file(arrays | {"params/backbone": np.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="params/backbone"):
        segjax.load(folder)


def test_as_many_names_as_classes_are_saved(tmp_path, frozen, variables):
    with pytest.raises(ValueError, match="2 names of classes, the model has 3"):
        segjax.save(tmp_path / "mine", frozen, variables, classes=Classes(("cat", "dog")))
    assert not (tmp_path / "mine").exists()


def test_save_load_save_gives_the_same_bytes(tmp_path, frozen, variables):
    first = segjax.save(tmp_path / "we[i]rd *", frozen, variables, classes=Classes(NAMES))
    second = hub.write_folder(tmp_path / "second", segjax.pretrained(first))
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name


def test_a_folders_config_executes_nothing(tmp_path, frozen, variables):
    folder = segjax.save(tmp_path / "mine", frozen, variables)
    record = json.loads((folder / "config.json").read_text())
    record["model"]["fields"]["backbone"] = {"function": "os:system"}
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="os:system"):
        segjax.load(folder)


def test_other_classes_keep_all_but_the_layers_of_classes(row, variables, caplog):
    with caplog.at_level(logging.WARNING, "segjax"):
        model, arrays = segjax.load(row[0].name, num_classes=5)
    assert model.num_classes == 5
    ours, theirs = flatten_variables(arrays), flatten_variables(variables)
    changed = {name for name in ours if ours[name].shape != theirs[name].shape}
    assert changed == {
        "params/box_head/box_deltas/bias",
        "params/box_head/box_deltas/kernel",
        "params/box_head/class_logits/bias",
        "params/box_head/class_logits/kernel",
        "params/mask_head/logits_bias",
        "params/mask_head/logits_kernel",
    }
    for name in ours.keys() - changed:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert all(name in caplog.text for name in changed)
    assert model.frozen_paths() == row[0].make().frozen_paths() != ()


def test_weights_of_other_inputs_are_refused(row, frozen):
    weights, where = start_weights(row[0].name, frozen.with_classes(things=2))
    assert where == row[0].name and "params" in weights
    other = frozen.clone(preprocess=dataclasses.replace(frozen.preprocess, bgr=False))
    with pytest.raises(ValueError, match=r"preprocess\.bgr is False, wanted True"):
        start_weights(row[0].name, other)
    strided = frozen.clone(backbone=frozen.backbone.clone(stride_in_1x1=False))
    with pytest.raises(ValueError, match=r"backbone\.stride_in_1x1 is False, wanted True"):
        start_weights(row[0].name, strided)


def test_a_backbones_weights_start_a_detector(frozen, variables, tmp_path):
    body = {
        "params": variables["params"]["backbone"],
        "batch_stats": variables["batch_stats"]["backbone"],
    }
    found = hub.Pretrained(frozen.backbone, body, preprocess=frozen.preprocess)
    folder = hub.write_folder(tmp_path / "body", found)
    weights, _ = start_weights(str(folder), frozen)
    for wanted in (variables, {name: {"detector": tree} for name, tree in variables.items()}):
        taken, lacking = matching(weights, wanted)
        assert lacking and not any("backbone" in name for name in lacking)
        assert sum(array is not None for array in taken.values()) == len(jax.tree.leaves(body))
    taken, lacking = matching(variables, {"params": {"detector": variables["params"]}})
    assert not lacking
    with pytest.raises(ValueError, match=r"preprocess\.bgr"):
        other = dataclasses.replace(frozen.preprocess, bgr=False)
        start_weights(str(folder), frozen.clone(preprocess=other))


@pytest.mark.parametrize(("library", "suffix"), [("detectron2", ".pkl"), ("mmdet", ".safetensors")])
def test_export_and_read_back(tmp_path, frozen, variables, row, library, suffix):
    model, arrays = frozen, variables
    if library == "mmdet":  # its norms have parameters
        full = segjax.mask_rcnn(segjax.resnet(50), num_classes=len(NAMES), flavour="mmdet")
        model = tiny.mask_rcnn(style="mmdet", norm=full.backbone.norm)
        model = model.clone(box_pooler=full.box_pooler)
        arrays = jax.device_get(tiny.init(model))
    found = hub.Pretrained(model, arrays)
    path = export_file(found, library, tmp_path / f"out{suffix}")
    entry = dataclasses.replace(row[0], make=lambda: model, peer=table_of(model, library))
    same(hub.read_as(path, entry).variables, arrays)


@pytest.mark.parametrize("classes", [None, 5])
def test_what_only_the_peer_reads_goes_through_a_folder(tmp_path, classes):
    model = tiny.mask_rcnn("torchvision", norm=NormSpec("batch"))
    model = model.clone(box_pooler=dataclasses.replace(model.box_pooler, output_size=7))
    rules = RULES["torchvision"]
    state = export(jax.device_get(tiny.init(model)), rules)
    counter = next(name for name in state if name.endswith("tracked"))
    state[counter] = np.array(9, np.int64)
    for name in ("box_predictor.bbox_pred.weight", "mask_predictor.mask_fcn_logits.bias"):
        state[f"roi_heads.{name}"][0] = 3.5
    save_file(state, tmp_path / "theirs.safetensors")
    entry = dataclasses.replace(table.find("mask_rcnn_resnet50_fpn.tv_coco_v1"), make=lambda: model)
    entry = dataclasses.replace(entry, classes=Classes())
    found = hub.read_as(tmp_path / "theirs.safetensors", entry).adapted(classes)
    again = segjax.pretrained(hub.write_folder(tmp_path / "ours", found))
    path = export_file(again, "torchvision", tmp_path / "back.safetensors")
    back = load_file(path)
    assert back.keys() == state.keys()
    if classes:  # the rest belonged to layers that were initialised again
        assert back[counter] == 0 and not back["roi_heads.box_predictor.bbox_pred.weight"][:4].any()
    else:
        for name, array in state.items():
            assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(back[name], array, err_msg=name)


def test_export_says_what_it_cannot(tmp_path, frozen, variables):
    found = hub.Pretrained(frozen, variables)
    with pytest.raises(ValueError, match=r"ends in '\.pth': detectron2 reads \.pkl"):
        export_file(found, "detectron2", tmp_path / "out.pth")


def test_the_commands(row, tmp_path, capsys, monkeypatch):
    entry, file = row
    assert cli.main(["models", "--like", "mask_rcnn_tiny*"]) == 0
    assert "box/AP 1.5" in capsys.readouterr().out
    assert cli.main(["models", "--like", "nothing*"]) == 1
    out, back = tmp_path / "ours", tmp_path / "back.pkl"
    assert cli.main(["convert", str(file), "--as", entry.name, "--out", str(out)]) == 0
    text = (out / "README.md").read_text()  # licence and figures belong to another file
    assert "| converted from | model_final_abcdef.pkl |" in text and "CC BY-SA" not in text
    digits = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()[:6]
    own = dataclasses.replace(entry, weights=dataclasses.replace(entry.weights, md5=digits))
    monkeypatch.setitem(table.ENTRIES, entry.name, own)
    assert cli.main(["convert", str(file), "--as", entry.name, "--out", str(out)]) == 0
    text = (out / "README.md").read_text()
    assert "licence of the weights | CC BY-SA 3.0" in text and "box AP 1.5" in text
    assert cli.main(["convert", str(out), "--to", "detectron2", "--out", str(back)]) == 0
    first, second = (pickle.loads(path.read_bytes())["model"] for path in (file, back))
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    assert cli.main(["convert", str(file), "--out", str(out)]) == 1
    assert "give --as NAME" in capsys.readouterr().err
    assert cli.main(["convert", str(file), "--as", "htc_resnet50_fpn.mm_1x", "--out", "x"]) == 1
    assert "no rule for" in capsys.readouterr().err


RECIPES = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_start_from_weights_that_fit(path):
    config = load_config(path)
    published = path.stem.endswith("_coco") and "finetune" not in path.stem
    assert (config.init_from is not None) or not published
    if config.init_from is not None:
        entry = table.find(config.init_from)
        found = hub.Pretrained(entry.make(), {}, preprocess=entry.preprocess)
        check_same_inputs(found, config.model)


@pytest.mark.parametrize(
    "name",
    ["mask_rcnn_r50_fpn_1x_coco", "cascade_mask_rcnn_r50_fpn_20e_coco", "lite_coco_format"],
)
def test_a_recipes_whole_backbone_is_taken(name):
    config = load_config(RECIPES[0].parent / f"{name}.py")
    entry = table.find(config.init_from)
    given, wanted = (variable_shapes(model) for model in (entry.make(), config.model.backbone))
    _, lacking = matching(given, {kind: {"backbone": tree} for kind, tree in wanted.items()})
    assert not lacking  # constant and trained norms store scale and bias differently
