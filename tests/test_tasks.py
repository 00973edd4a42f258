"""Semantic and panoptic models on the command line, and errors for unsuitable data."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from segjax import cli
from segjax.config import TrainConfig
from segjax.data.config import DataConfig
from segjax.data.segments import PanopticCategory
from segjax.models import PanopticFPN, PanopticMerge, SemanticFPN
from segjax.models.variables import init_variables
from segjax.nn.heads.semantic import SemanticFPNHead
from segjax.results.classes import Classes
from segjax.results.draw import maps as viz_maps
from segjax.results.result import Result
from segjax.train.checks import check_same_run
from segjax.train.classes import read_classes, save_classes
from segjax.train.resolve import best_metric, resolve
from segjax.train.runs import load_run, save_run
from tests.support import tiny

HEAD = SemanticFPNHead(0, features=8, norm=tiny.NORM)
CATEGORIES = (PanopticCategory(1, "disc", True), PanopticCategory(7, "sand", False))


def tiny_panoptic(num_classes=0, things=0):
    merge = PanopticMerge(score_threshold=0.0, stuff_area=16, things=things)
    return PanopticFPN(
        detector=tiny.mask_rcnn(num_classes=num_classes), semantic_head=HEAD, merge=merge
    )


def tiny_semantic():
    whole = tiny.mask_rcnn()
    return SemanticFPN(
        preprocess=whole.preprocess, backbone=whole.backbone, fpn=whole.fpn, semantic_head=HEAD
    )


CONFIG = '''
"""A run of seconds."""
from segjax.config import OptimConfig, TrainConfig
from tests.support.knowing import data_config
from tests.test_tasks import tiny_panoptic, tiny_semantic

def get_config():
    return TrainConfig(
        model=MODEL, data=data_config(FOLDER, CHANGES), optim=OptimConfig(learning_rate=0.01),
        steps=2, log_every=1, num_pictures=1, parallel="jit", checkpoint_every=1,
    )
'''


def trained(folder, model, changes=""):
    """Trains a run of two steps."""
    config = folder / "tiny.py"
    text = CONFIG.replace("MODEL", model).replace("CHANGES", changes)
    config.write_text(text.replace("FOLDER", repr(str(folder))))
    run = folder / "run"
    assert cli.main(["train", "--config", str(config), "--workdir", str(run)]) == 0
    return run


def last_metrics(run):
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])


@pytest.mark.slow
def test_a_panoptic_model_is_trained_evaluated_and_predicts(tmp_path, capsys):
    run = trained(tmp_path, "tiny_panoptic()")
    assert {"segm/AP", "panoptic/PQ", "semantic/mIoU"} <= set(last_metrics(run))
    assert "panoptic/PQ 0." in capsys.readouterr().out
    assert len(list((run / "pictures").iterdir())) == 1
    classes = load_run(run).classes
    assert classes.semantic_names[0] == "things" and len(classes.names) == 4
    assert len(classes.panoptic_categories) == 3 + len(classes.names) - 1

    results = tmp_path / "found.json"
    arguments = ["evaluate", "--checkpoint", str(run), "--results", str(results)]
    assert cli.main([*arguments, "--boundary", "--max-detections", "1", "10", "20"]) == 0
    text = capsys.readouterr().out
    words = ("maxDets= 20", "boundary AP", "mIoU", "Stuff", "found_panoptic.json")
    assert all(word in text for word in (*words, "left out of panoptic maps"))
    assert len(json.loads((tmp_path / "found_panoptic.json").read_text())["annotations"]) == 5

    out, pictures = tmp_path / "out", sorted((tmp_path / "shapes/val").iterdir())[:2]
    assert (
        cli.main(["predict", "--checkpoint", str(run), "--out", str(out), *map(str, pictures)]) == 0
    )
    assert sorted(p.name for p in out.iterdir()) == sorted(
        ["detections.json", "panoptic", "panoptic.json"]
        + [f"{p.stem}_panoptic{'.png' if p.suffix == '.png' else '.jpg'}" for p in pictures]
    )
    content = json.loads((out / "panoptic.json").read_text())
    for entry in content["annotations"]:
        rgb = np.array(Image.open(out / "panoptic" / entry["file_name"])).astype(int)
        assert set(np.unique(rgb[..., 0])) - {0} == {s["id"] for s in entry["segments_info"]}
    ids = {c.id for c in classes.panoptic_categories}
    assert {c["id"] for c in content["categories"]} == ids
    drawn = ["predict", "--checkpoint", str(run), str(pictures[0])]
    for kind in ("instances", "semantic"):
        assert cli.main([*drawn, "--draw", kind, "--out", str(tmp_path / kind)]) == 0
        assert len(list((tmp_path / kind).glob(f"*_{kind}.*"))) == 1
    assert cli.main([*drawn, "--score-threshold=1.1", "--out", str(tmp_path / "none")]) == 0
    assert "1 pictures, 0 objects drawn" in capsys.readouterr().out
    assert cli.main([*arguments, "--data.semantic=none", "--data.merge-things=no"]) == 0
    assert "panoptic quality is not scored: --data.semantic=none" in capsys.readouterr().out


@pytest.mark.slow
def test_a_semantic_model_is_trained_evaluated_and_predicts(tmp_path, capsys):
    run = trained(tmp_path, "tiny_semantic()", 'merge_things="no", instances=False, masks=False')
    assert "semantic/mIoU" in last_metrics(run) and "segm/AP" not in last_metrics(run)
    text = capsys.readouterr().out
    assert "6 classes" in text and "semantic/mIoU 0." in text
    loaded = load_run(run)
    assert (loaded.classes.names, loaded.classes.category_ids) == ((), ())
    assert len(loaded.classes.semantic_names) == 6

    arguments = ["evaluate", "--checkpoint", str(run)]
    assert cli.main([*arguments, "--results", str(tmp_path / "found.json")]) == 0
    assert "mIoU" in capsys.readouterr().out
    assert len(list((tmp_path / "found_semantic").iterdir())) == 5
    assert cli.main([*arguments, "--data.merge-things=first"]) == 1
    assert "6 semantic classes, the labels of" in capsys.readouterr().err

    out, pictures = tmp_path / "out", sorted((tmp_path / "shapes/val").iterdir())[:2]
    predict = ["predict", "--checkpoint", str(run), "--out", str(out)]
    assert cli.main([*predict, *map(str, pictures)]) == 0
    assert f"2 pictures; results in {out}/semantic, " in capsys.readouterr().out
    names = (out / "semantic.txt").read_text().splitlines()
    assert tuple(names) == loaded.classes.semantic_names
    labels = np.array(Image.open(out / "semantic" / f"{pictures[0].stem}.png"))
    assert labels.shape == (64, 64) and labels.max() < 6
    assert not (out / "detections.json").exists()


def config_of(model, **data):
    return TrainConfig(model=model, data=DataConfig(root="here", **data))


NAMES = ("things", "sand", "sea")
PANOPTIC = {"semantic": "panoptic", "merge_things": "first"}


@pytest.mark.parametrize(
    ("model", "data", "words"),
    [
        (tiny_semantic(), PANOPTIC, r"knows no objects.*set --data\.instances=False"),
        (
            tiny_panoptic(),
            PANOPTIC | {"instances": False},
            r"--data\.instances=False leaves out the objects.*set --data\.instances=True",
        ),
        (
            tiny_panoptic(),
            PANOPTIC | {"merge_things": "last"},
            r"takes label 0 for the things, --data\.merge-things=last .*set --data\.merge-things=f",
        ),
        (tiny_panoptic(things=-1), PANOPTIC, r"takes label -1 .*set --data\.merge-things=last"),
        (
            tiny_panoptic(things=None),
            {"semantic": "panoptic"},
            r"takes no label.*set --data\.merge-things=first and --model\.merge\.things=0",
        ),
        (tiny_panoptic(), {"semantic": "none"}, r"--data\.semantic=none gives it nothing"),
    ],
)
def test_models_and_data_that_do_not_fit_are_refused(model, data, words):
    with pytest.raises(ValueError, match=words):
        resolve(config_of(model, **data), ("disc", "box"), NAMES)


def test_the_data_decide_all_classes():
    model = resolve(config_of(tiny_panoptic(), **PANOPTIC), ("disc", "box"), NAMES).model
    assert (model.classes.things, model.classes.pixels) == (2, 3)
    data = PANOPTIC | {"instances": False, "masks": False}
    model = resolve(config_of(tiny_semantic(), **data), (), NAMES).model
    assert (model.classes.things, model.classes.pixels) == (None, 3)
    last = PANOPTIC | {"merge_things": "last"}
    for things in (2, -1):
        resolve(config_of(tiny_panoptic(things=things), **last), ("disc",), NAMES)


def test_the_best_checkpoint_goes_by_what_the_model_is_for():
    assert best_metric(config_of(tiny_panoptic(), **PANOPTIC)) == "panoptic/PQ"
    assert best_metric(config_of(tiny_panoptic(), semantic="stuffthingmaps")) == "segm/AP"
    assert best_metric(config_of(tiny_semantic(), semantic="folder")) == "semantic/mIoU"
    assert best_metric(config_of(tiny.faster_rcnn())) == "box/AP"
    assert best_metric(config_of(tiny.htc(), semantic="panoptic")) == "segm/AP"
    chosen = dataclasses.replace(config_of(tiny_panoptic()), keep_best="box/AP")
    assert best_metric(chosen) == "box/AP"


def test_the_classes_of_a_run_are_kept(tmp_path):
    classes = Classes(("disc",), (1,), ("things", "sand"), CATEGORIES)
    save_classes(tmp_path, classes)
    assert read_classes(tmp_path) == classes
    (tmp_path / "classes.json").write_text('{"names": ["disc"], "category_ids": [1]}')
    assert read_classes(tmp_path) == Classes(("disc",), (1,))
    # An old run without this record may be resumed; one with other labels may not.
    check_same_run(tmp_path, config_of(tiny_panoptic()), classes, 1)
    save_classes(tmp_path, dataclasses.replace(classes, semantic_names=("things", "sea")))
    with pytest.raises(ValueError, match=r"semantic classes things, sea \(2\), the data have"):
        check_same_run(tmp_path, config_of(tiny_panoptic()), classes, 1)


def test_semantic_weights_are_saved_as_a_run(tmp_path):
    model = tiny_semantic().with_classes(pixels=2)
    shapes = jax.eval_shape(lambda: init_variables(model, jax.random.key(0)))
    variables = jax.tree.map(lambda s: np.full(s.shape, 0.25, s.dtype), shapes)
    config = config_of(model, semantic="folder", instances=False)
    with pytest.raises(ValueError, match=r"set --data\.instances=False"):
        save_run(tmp_path, config_of(model), variables, Classes())
    with pytest.raises(ValueError, match="has no classes, but there are 1 names"):
        save_run(tmp_path, config, variables, Classes(("disc",), (1,)))
    with pytest.raises(ValueError, match="2 semantic classes, but there are 3 semantic names"):
        save_run(tmp_path, config, variables, Classes(semantic_names=NAMES))
    save_run(tmp_path, config, variables, Classes(semantic_names=("sand", "sea")))
    run = load_run(tmp_path)
    assert (run.model, run.classes) == (model, Classes(semantic_names=("sand", "sea")))


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="neither instances nor maps"):
        viz_maps.draw_result(np.zeros((4, 5, 3), np.uint8), Result((4, 5)))
