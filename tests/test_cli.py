"""The command line, from a config file to scores and pictures."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import segjax
from segjax import cli
from segjax.models.parts.rois import with_max_detections
from segjax.train import load_run
from segjax.train.weights import pretrained_run
from segjax.zoo import hub
from tests.support import tiny
from tests.support.map_samples import make_everything
from tests.support.toy import Toy

CONFIG = '''
"""A run of seconds."""
from segjax.config import OptimConfig, TrainConfig
from segjax.data.config import DataConfig
from segjax.data.shapes import ShapesConfig
from tests.support.tiny import mask_rcnn
from tests.support.toy import Toy

def get_config():
    shapes = ShapesConfig(image_size=64, num_train=8, num_val=3, min_side=16, max_side=32)
    return TrainConfig(
        model=MODEL,
        data=DataConfig(name="shapes", shapes=shapes, resize="none", batch_size=2,
                        eval_batch_size=2, max_instances=4, overflow="drop_smallest",
                        mask_size=14),
        optim=OptimConfig(learning_rate=0.01),
        steps=4, log_every=2, num_pictures=1, parallel="jit",
    )
'''


MODELS = {"toy": "Toy(num_classes=0, frozen=())", "mask_rcnn": "mask_rcnn(num_classes=0)"}


TOY = ("tests.support.toy",)
TRUST = ("--trust", *TOY)


@pytest.fixture(scope="module", params=["toy", pytest.param("mask_rcnn", marks=pytest.mark.slow)])
def trained(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    config, run = folder / "tiny.py", folder / "run"
    config.write_text(CONFIG.replace("MODEL", MODELS[request.param]))
    shared = [f"--data.cache-dir={folder}/cache", f"--data.root={folder}/shapes"]
    flags = ["--steps", "3", "--optim.learning_rate=0.005", *shared]
    assert cli.main(["train", "--config", str(config), "--workdir", str(run), *flags]) == 0
    return run


def test_train(trained):
    config = json.loads((trained / "config.json").read_text())["config"]["fields"]
    assert config["steps"] == 3
    assert config["optim"]["fields"]["learning_rate"] == 0.005
    last = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()][-1]
    assert "box/AP" in last
    assert len(list((trained / "pictures").iterdir())) == 1


def test_evaluate(trained, tmp_path, capsys):
    results = tmp_path / "results.json"
    flags = ["--data.eval-batch-size=2", "--max-detections", "1", "10", "50"]
    arguments = [
        "evaluate",
        *TRUST,
        "--checkpoint",
        str(trained),
        "--results",
        str(results),
        *flags,
    ]
    assert cli.main(arguments) == 0
    text = capsys.readouterr().out
    assert "step 3, val split" in text
    assert "Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets= 50 ]" in text
    assert "triangle" in text
    assert isinstance(json.loads(results.read_text()), list)
    masks = any("mask" in key for key in load_run(trained, trust=TOY).variables["params"])
    assert cli.main([*arguments, "--boundary"]) == (0 if masks else 1)
    said = capsys.readouterr()
    assert ("boundary AP" in said.out) if masks else ("boundary=True scores masks and" in said.err)
    assert cli.main([*arguments, "--refine-masks"]) == (0 if masks else 1)
    said = capsys.readouterr()
    assert ("segm AP" in said.out) if masks else ("no masks to refine" in said.err)


def test_a_model_of_ones_own_wants_trust(trained, tmp_path, capsys):
    if "tests.support.toy" not in (trained / "config.json").read_text():
        return  # a model of the library itself
    refusal = "names tests.support.toy:Toy, which is not of segjax's models"
    flags = [f"--data.cache-dir={tmp_path}/cache", f"--data.root={tmp_path}/shapes", "--steps=1"]
    flags += ["--num-pictures=0", f"--init-from={trained}"]
    start = ["train", "--config", str(trained.parent / "tiny.py"), f"--workdir={tmp_path}/run"]
    for arguments in (["evaluate", "--checkpoint", str(trained)], [*start, *flags]):
        assert cli.main(arguments) == 1
        said = capsys.readouterr().err
        assert refusal in said
        assert "or --trust tests on the command line" in said
    assert cli.main([*start, "--trust", "unheard_of", *TRUST, *flags]) == 0
    assert f"weights from {trained}, step 3" in capsys.readouterr().out


def test_a_saved_model_is_evaluated_and_predicts_as_its_run(trained, tmp_path, capsys):
    folder = hub.write_folder(tmp_path / "mine", pretrained_run(trained, trust=TOY))
    assert cli.main(["evaluate", *TRUST, "--checkpoint", str(trained)]) == 0
    of_run = capsys.readouterr().out.splitlines()
    data, cache = str(trained.parent / "shapes"), f"--data.cache-dir={tmp_path}"
    assert cli.main(["evaluate", *TRUST, "--model", str(folder), "--data", data, cache]) == 0
    of_folder = capsys.readouterr().out.splitlines()
    assert [line for line in of_run if " = " in line] == [
        line for line in of_folder if " = " in line
    ]
    picture = str(next((trained.parent / "shapes/val").iterdir()))
    out = tmp_path / "out"
    assert cli.main(["predict", *TRUST, "--model", str(folder), picture, "--out", str(out)]) == 0
    assert (out / "detections.json").exists()
    assert cli.main(["evaluate", *TRUST, "--model", str(folder), "--step", "3"]) == 1
    assert "--step chooses a checkpoint of --checkpoint" in capsys.readouterr().err


def test_a_split_that_is_missing_is_named(trained, tmp_path, capsys):
    shutil.copytree(trained.parent / "shapes", tmp_path / "shapes")
    shutil.rmtree(tmp_path / "shapes" / "val")
    (tmp_path / "shapes/annotations/instances_val.json").unlink()
    flags = [
        "--data.name=folder",
        f"--data.root={tmp_path}/shapes",
        f"--data.cache-dir={tmp_path}/cache",
    ]
    config, workdir = str(trained.parent / "tiny.py"), str(tmp_path / "run")
    assert cli.main(["train", "--config", config, "--workdir", workdir, *flags]) == 1
    assert f'{tmp_path}/shapes has no split "val", only' in capsys.readouterr().err
    assert cli.main(["evaluate", *TRUST, "--checkpoint", str(trained), *flags]) == 1
    assert f'{tmp_path}/shapes has no split "val", only' in capsys.readouterr().err


def test_what_reading_the_data_found_is_printed(trained, tmp_path, capsys):
    shutil.copytree(trained.parent / "shapes", tmp_path / "shapes")
    first = min((tmp_path / "shapes/val").iterdir())
    first.write_bytes(b"not a picture")
    flags = [f"--data.root={tmp_path}/shapes", f"--data.cache-dir={tmp_path}/cache"]
    flags += ["--data.name=folder", "--data.on-bad-image=skip"]
    assert cli.main(["evaluate", *TRUST, "--checkpoint", str(trained), *flags]) == 0
    text = capsys.readouterr().out
    assert "val: ERROR bad_image: 1; first:" in text
    assert first.name in text


def test_more_detections_are_asked_of_the_model_too():
    model = tiny.mask_rcnn()
    raised = with_max_detections(model, 300).detections
    assert (raised.max_detections, raised.num_candidates) == (300, 300)
    assert with_max_detections(model, 5) is model
    assert with_max_detections(Toy(), 300) == Toy()


def test_predict(trained, tmp_path, capsys):
    images = sorted((trained.parent / "shapes" / "val").iterdir())[:2]
    out = tmp_path / "out"
    arguments = [
        "predict",
        *TRUST,
        "--checkpoint",
        str(trained),
        "--out",
        str(out),
        *map(str, images),
    ]
    assert cli.main([*arguments[:5], "--score-threshold", "0.1", *arguments[5:]]) == 0
    assert "2 pictures" in capsys.readouterr().out
    assert len(list(out.glob("*_instances.png"))) == 2
    assert isinstance(json.loads((out / "detections.json").read_text()), list)
    (tmp_path / "broken.png").write_bytes(b"nothing")
    assert cli.main([*arguments, str(tmp_path / "broken.png")]) == 1
    assert "broken.png" in capsys.readouterr().out
    masks = any("mask" in key for key in load_run(trained, trust=TOY).variables["params"])
    assert cli.main([*arguments, "--refine-masks"]) == (0 if masks else 1)
    assert masks or "no masks to refine" in capsys.readouterr().err


def test_check_data(trained, capsys):
    assert cli.main(["check-data", str(trained.parent / "shapes")]) == 0
    text = capsys.readouterr().out
    assert "train: " in text
    assert "val: " in text


def test_check_data_of_semantic_labels(tmp_path, capsys):
    make_everything(tmp_path)
    for semantic in ("stuffthingmaps", "panoptic", "folder", "instances"):
        assert cli.main(["check-data", str(tmp_path), "--semantic", semantic]) == 0
    (tmp_path / "stuffthingmaps" / "train" / "1.png").unlink()
    arguments = ["check-data", str(tmp_path), "--semantic=stuffthingmaps"]
    capsys.readouterr()
    assert cli.main(arguments) == 1
    assert (
        "ERROR missing_map: 1; first: image 1 (1.png) has no label map" in capsys.readouterr().out
    )
    (tmp_path / "stuffthingmaps").rename(tmp_path / "apart")
    assert cli.main(arguments) == 1
    assert "found none of" in capsys.readouterr().err
    assert cli.main([*arguments, f"--semantic-root={tmp_path}/apart"]) == 1
    assert "missing_map: 1" in capsys.readouterr().out


def test_check_data_of_images_and_labels_alone(tmp_path, capsys):
    make_everything(tmp_path)
    shutil.rmtree(tmp_path / "annotations")
    arguments = ["check-data", str(tmp_path), "--semantic=folder"]
    assert cli.main(arguments) == 0
    assert "train: images without annotations\nno defects\n" in capsys.readouterr().out
    (tmp_path / "labels/classes.txt").write_text("road\nkerb\ngrass\nsea\n")
    assert cli.main(arguments) == 1
    text = capsys.readouterr().out
    assert "ERROR bad_map: 2; first: image 1: " in text
    assert "holds the value 4: wanted 0..3, the lines of classes.txt" in text
    assert cli.main([*arguments, "--semantic-ignore=4"]) == 0
    assert cli.main(["check-data", str(tmp_path)]) == 1
    assert "no COCO annotations" in capsys.readouterr().err


def test_data_of_other_classes_are_refused(trained, tmp_path, capsys):
    folder = tmp_path / "other"
    for split in ("train", "val"):
        (folder / split).mkdir(parents=True)
        source = trained.parent / "shapes" / split
        content = json.loads((source.parent / f"annotations/instances_{split}.json").read_text())
        for category in content["categories"]:
            category["name"] += "s"
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / f"annotations/instances_{split}.json").write_text(json.dumps(content))
        for image in source.iterdir():
            (folder / split / image.name).write_bytes(image.read_bytes())
    flags = ["--data.name=folder", f"--data.root={folder}", f"--data.cache-dir={tmp_path}"]
    assert cli.main(["evaluate", *TRUST, "--checkpoint", str(trained), *flags]) == 1
    assert "the data also have discs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--config", "nowhere.py"], "no config file nowhere.py"),
        (["evaluate", "--checkpoint", "nowhere"], "no config.json in nowhere"),
        (["predict", "--checkpoint", "nowhere", "a.png", "--out", "x"], "no config.json"),
        (["check-data", "nowhere"], "no COCO annotations"),
    ],
)
def test_errors_are_one_line_and_status_1(arguments, words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "--checkpoint", "x", "a.png", "--out", "y", "--stepz=3"],
        ["predict", "--checkpoint", "x", "a.png", "--out", "y", "--max-detections", "-1"],
        ["fly"],
        [],
        ["predict"],
    ],
)
def test_wrong_usage_is_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(arguments)
    assert error.value.code == 2


def test_a_missing_extra_is_one_line(monkeypatch, capsys):
    def missing(*_):
        raise ModuleNotFoundError("tensorboard=True needs tensorboardX")

    monkeypatch.setattr(cli, "_train", missing)
    assert cli.main(["train"]) == 1
    assert capsys.readouterr().err == (
        "segjax: ModuleNotFoundError: tensorboard=True needs tensorboardX\n"
    )


def test_unknown_fields_are_refused(tmp_path, capsys):
    (tmp_path / "tiny.py").write_text(CONFIG.replace("MODEL", MODELS["toy"]))
    assert cli.main(["train", "--config", str(tmp_path / "tiny.py"), "--optim.speed=3"]) == 1
    assert "Unrecognized options: --optim.speed=3" in capsys.readouterr().err


def test_recipes_are_listed(capsys):
    assert cli.main(["configs", "lite"]) == 0
    text = capsys.readouterr().out
    assert "lite_coco_format" in text and "EfficientNet-Lite0" in text
    assert cli.main(["configs", "nothing"]) == 1


def test_models_are_found_by_a_part_of_their_name(capsys):
    assert cli.main(["models", "swin"]) == 0
    assert "swin" in capsys.readouterr().out
    assert cli.main(["models", "no such thing"]) == 1


def test_epochs_are_counted_in_steps(tmp_path, capsys, monkeypatch):
    (tmp_path / "tiny.py").write_text(CONFIG.replace("MODEL", MODELS["toy"]))
    monkeypatch.chdir(tmp_path)
    importlib.import_module("segjax.train.loop")
    seen = []
    monkeypatch.setattr(
        sys.modules["segjax.train.loop"], "train", lambda config, **_: seen.append(config)
    )
    arguments = ["train", "--config", str(tmp_path / "tiny.py"), f"--data.cache-dir={tmp_path}"]
    arguments += [f"--data.root={tmp_path}/shapes", "--batch-size=2", "--lr", "0.5"]
    assert cli.main([*arguments, "--epochs=3"]) == 0
    (config,) = seen
    assert (config.data.batch_size, config.optim.learning_rate) == (2, 0.5)
    text = capsys.readouterr().out
    images = int(text.split("3 epochs of ")[1].split()[0])
    assert config.steps == -(-3 * images // 2)
    assert cli.main([*arguments, "--epochs=0"]) == 1
    assert "wanted a number above 0" in capsys.readouterr().err


def test_errors_of_the_device_are_sentences(monkeypatch, capsys):
    def full(*_):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 3 bytes.")

    monkeypatch.setattr(cli, "_train", full)
    assert cli.main(["train"]) == 1
    assert "out of memory: lower --data.batch-size" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error():
    command = f"{sys.executable} -m segjax models | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert done.stdout.splitlines()[-1] in ("0", "141")


def test_train_without_config_explains_itself(capsys):
    assert cli.main(["train"]) == 2
    assert cli.main(["train", "--help"]) == 0
    assert "Every field of the config is a flag" in capsys.readouterr().out


def run_python(*arguments):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
        cwd=Path(__file__).parent.parent,
    ).stdout


def test_module_and_version():
    assert run_python("-m", "segjax", "--version").strip() == segjax.__version__


def test_import_touches_nothing():
    loaded = run_python("-c", "import segjax, sys; print(*sys.modules)").split()
    heavy = {"jax", "flax", "numpy", "tensorflow", "orbax", "grain", "tensorflow_datasets"}
    assert not heavy & set(loaded)


def test_public_names():
    for name in segjax.__all__:
        assert getattr(segjax, name) is not None
    assert callable(segjax.predict)
    assert callable(segjax.train)
    assert "train" in dir(segjax)
    with pytest.raises(AttributeError, match="No segjax attribute trian"):
        _ = segjax.trian
