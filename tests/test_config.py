import dataclasses
import functools
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import pytest

from segjax.config import OptimConfig, TrainConfig, load_config, override
from segjax.config_json import from_json, read_config, save_config, to_json
from segjax.data.config import DataConfig
from segjax.models import mask_rcnn, resnet
from segjax.nn.norm import NormSpec
from segjax.optim import AdamW, LayerDecay, ParamRule, Steps
from segjax.recipes import find_config, recipes, summary
from segjax.types import Dtype
from tests.support.fakes import FakeModel
from tests.support.toy import Toy


def swish(x):
    return x * nn.sigmoid(x)


class Inner(nn.Module):
    width: int = 4
    act: Callable[..., Any] = swish


class Outer(nn.Module, FakeModel):
    inner: Inner = dataclasses.field(default_factory=Inner)
    dtype: Dtype = "float32"
    stages: tuple[int, ...] = (3, 4, 6, 3)
    num_classes: int = 0


CONFIGS = Path(__file__).parent.parent / "configs"
CONFIG = TrainConfig(model=Outer(), data=DataConfig(root="here"), steps=100)


@pytest.mark.parametrize(
    ("flags", "path", "value"),
    [
        (["--steps=7"], "steps", 7),
        (["--data.root=elsewhere"], "data.root", "elsewhere"),
        (["--optim.learning-rate", "0.5"], "optim.learning_rate", 0.5),
        (["--optim.learning_rate=0.5"], "optim.learning_rate", 0.5),
        (["--optim.schedule.milestones", "3", "4"], "optim.schedule.milestones", (3, 4)),
        (["--optim.clip-norm=10"], "optim.clip_norm", 10.0),
        (["--optim.schedule.gamma=0.5"], "optim.schedule.gamma", 0.5),
        (["--optim.optimizer.momentum", "0.5"], "optim.optimizer.momentum", 0.5),
        (["--optim.warmup.steps=5"], "optim.warmup.steps", 5),
        (["--optim.warmup.form=mmdet"], "optim.warmup.form", "mmdet"),
        (["--model.num-classes", "3"], "model.num_classes", 3),
        (["--model.inner.width", "9"], "model.inner.width", 9),
        (["--model.dtype=bfloat16"], "model.dtype", "bfloat16"),
        (["--model.stages", "2", "2"], "model.stages", (2, 2)),
        (["--data.flip=False"], "data.flip", False),
        (["--data.shapes.num-train=5"], "data.shapes.num_train", 5),
        (["--keep-best=None"], "keep_best", None),
    ],
)
def test_every_field_has_a_flag(flags, path, value):
    from segjax.data.shapes import ShapesConfig

    data = dataclasses.replace(CONFIG.data, shapes=ShapesConfig())
    changed = override(dataclasses.replace(CONFIG, data=data), flags)
    found = functools.reduce(getattr, path.split("."), changed)
    assert found == value
    assert type(found) is type(value)
    assert changed.data.max_instances == CONFIG.data.max_instances
    assert changed.model.inner.act is swish


@pytest.mark.parametrize(
    "flags",
    [["--stepz=3"], ["--steps=many"], ["--optim.warmup.form=poly"], ["--model.dtype=int8"], ["3"]],
)
def test_unknown_and_ill_typed_flags_are_errors(flags, capsys):
    with pytest.raises(ValueError, match=flags[0].split("=")[0].lstrip("-")) as error:
        override(CONFIG, flags)
    assert not set("│╭╰") & set(str(error.value))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_an_unknown_flag_names_those_that_come_near(monkeypatch, encoding):
    # tyro draws its boxes with characters that the terminal supports.
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    with pytest.raises(ValueError, match=r"--data\.rot=x; did you mean --data\.root\?"):
        override(CONFIG, ["--data.rot=x"])


def test_help_names_model_fields_but_not_linens_own(capsys):
    with pytest.raises(SystemExit):
        override(CONFIG, ["--help"])
    text = capsys.readouterr().out
    assert "--model.inner.width" in text
    assert "--model.inner.act" not in text, "no flag can say a function"
    assert "--model.parent" not in text
    assert "--model.name" not in text


def write(folder: Path, text: str) -> Path:
    path = folder / "config.py"
    path.write_text(text)
    return path


def test_a_config_file_is_python(tmp_path):
    path = write(
        tmp_path,
        "from segjax.config import *\nfrom segjax.data.config import DataConfig\n"
        "from tests.support.toy import Toy\n"
        "def get_config():\n    return TrainConfig(model=Toy(), data=DataConfig(root='x'))\n",
    )
    config = load_config(path, ["--seed=3"])
    assert (config.seed, config.data.root, config.model) == (3, "x", Toy())


@pytest.mark.parametrize(
    ("text", "words"),
    [("x = 1", "defines no get_config"), ("def get_config():\n    return 1", "not a TrainConfig")],
)
def test_a_wrong_config_file_is_named(tmp_path, text, words):
    with pytest.raises(ValueError, match=words):
        load_config(write(tmp_path, text))


def test_a_missing_config_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config file .*nothing\.py"):
        load_config(tmp_path / "nothing.py")


def test_impossible_numbers_are_refused():
    with pytest.raises(ValueError, match="log_every is 0; it must be at least 1"):
        dataclasses.replace(CONFIG, log_every=0)


def test_json_round_trip(tmp_path):
    config = TrainConfig(
        model=mask_rcnn(resnet(18, norm=NormSpec(kind="group", epsilon=1e-3)), dtype="bfloat16"),
        data=DataConfig(root="here", short_side=(640, 800)),
        optim=OptimConfig(
            optimizer=AdamW(eps=1e-6),
            schedule=Steps((3, 4)),
            rules=(ParamRule("norm", decay=0.0), LayerDecay(0.8)),
            clip_norm=1e-3,
        ),
    )
    save_config(tmp_path / "config.json", config, {"jax": "1"})
    assert read_config(tmp_path / "config.json") == config
    assert json.loads((tmp_path / "config.json").read_text())["versions"] == {"jax": "1"}


@pytest.mark.parametrize(
    "value",
    [
        jnp.bfloat16,
        nn.sigmoid,
        {"a": (1, None)},
        functools.partial(nn.gelu, approximate=False),
        nn.BatchNorm(momentum=0.5),
        0.1,
    ],
)
def test_json_of_values(value):
    found = from_json(json.loads(json.dumps(to_json(value))))
    if isinstance(value, functools.partial):
        assert (found.func, found.keywords) == (value.func, value.keywords)
    else:
        assert found == value


def test_json_refuses_what_has_no_name():
    with pytest.raises(TypeError, match="define it at module level"):
        to_json({"f": lambda x: x})
    with pytest.raises(TypeError, match="cannot be written"):
        to_json(object())


def partial_of(record, *args):
    return {"partial": record, "args": list(args), "keywords": {"dict": {}}}


@pytest.mark.parametrize(
    "record",
    [
        {"function": "os:system"},
        {"class": "subprocess:Popen", "fields": {"args": ["true"]}},
        {"partial": {"function": "os:system"}, "args": ["true"], "keywords": {"dict": {}}},
        {"class": "segjax.config:load_config", "fields": {"path": "x"}},
        {"class": "segjax.config:runpy.run_path", "fields": {"path_name": "x"}},
        {"function": "segjax.config:runpy.run_path"},
        {"function": "segjax.cli:os.system"},
        {"function": "segjax.config:runpy"},
        {"function": "segjax.config:load_config.__globals__"},
        {"function": "segjax.config:Path"},
        {"function": "segjax.config:OptimConfig"},
        {"function": "segjax.__main__:main"},
        {"function": "segjax.nn:nothing_of_this_name"},
        {"function": "jax.nn_evil:x"},
        {"function": "jax.nn.nothing:x"},
        {"function": "jax:jit"},
        partial_of({"function": "segjax.config:dataclasses.builtins.max"}, 1, 2),
        partial_of({"function": "segjax.config:runpy.run_path"}, "x.py"),
        partial_of({"function": "segjax.config:load_config"}, "x.py"),
        partial_of({"function": "segjax.data.shapes:generate"}, None, "x"),
        partial_of({"class": "segjax.config:OptimConfig", "fields": {}}, 1),
        partial_of({"partial": {"function": "os:system"}}, "true"),
        {"class": "segjax.config:OptimConfig", "fields": {"learning_rate": "fast"}},
        {"class": "segjax.optim:Steps", "fields": {"milestones": [1, None]}},
        {"class": "segjax.optim:Warmup", "fields": {"form": "poly"}},
        {"class": "segjax.config:OptimConfig", "fields": {"optimizer": "adagrad"}},
        {"class": "segjax.config:OptimConfig", "fields": {"speed": 1}},
        {"class": "segjax.config:TrainConfig", "fields": {"model": 1, "data": None}},
        {"class": "segjax.data.config:DataConfig", "fields": {"batch_size": True}},
        {"class": "segjax.nn.norm:Norm", "fields": {}},
        {"class": "segjax.nn.norm:Norm", "fields": {"parent": None}},
        {"dtype": "str"},
        {"strange": 1},
    ],
)
def test_reading_a_config_runs_no_code_of_its_author(record):
    with pytest.raises(ValueError, match="a config"):
        from_json(record)


def written(value):
    return json.loads(json.dumps(to_json(value)))


def test_a_model_of_ones_own_comes_back_by_trust():
    model = Outer(inner=Inner(act=swish))
    assert from_json(written(model), trust=(__name__,)) == model
    assert from_json(written(model), trust=("elsewhere", "tests")).inner.act is swish
    for wrong in ((), ("test",), ("tests.test_conf",), ("tests.train",)):
        with pytest.raises(ValueError, match=rf"{__name__}:\w+, which .* pass trust=\('tests',\)"):
            from_json(written(model), trust=wrong)
    with pytest.raises(ValueError, match=r"trust is the text 'tests': give .*\('tests',\)"):
        from_json(written(model), trust="tests")


@pytest.mark.parametrize(
    "record",
    [
        {"class": "tests.test_config:swish", "fields": {}},
        {"class": "tests.test_config:Path", "fields": {}},
        {"function": "tests.test_config:Path"},
        {"function": "tests.test_config:json.loads"},
        {"function": "tests.test_config:dataclasses"},
        {"function": "tests.test_config:Inner"},
        {"class": "tests.test_config:Inner", "fields": {"width": "wide"}},
        {"class": "tests.test_config:Inner", "fields": {"act": {"function": "os:system"}}},
        {"function": "testsuite:run"},
        {"function": "os:system"},
    ],
)
def test_trust_is_for_what_a_package_defines(record):
    with pytest.raises(ValueError, match="a config"):
        from_json(record, trust=("tests",))


def test_a_given_model_takes_the_place_of_the_configs(tmp_path):
    save_config(tmp_path / "config.json", CONFIG, {})
    assert read_config(tmp_path / "config.json", ("tests",)) == CONFIG
    found = read_config(tmp_path / "config.json", model=Toy())
    assert found == dataclasses.replace(CONFIG, model=Toy())


@pytest.mark.parametrize("ready", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_every_ready_config_comes_back(ready):
    config = load_config(ready)
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_a_folder_without_config_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        read_config(tmp_path / "config.json")


def test_a_recipe_is_found_by_its_name_and_a_path_is_that_file_alone(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    recipe = tmp_path / "configs" / "mine.py"
    recipe.write_text("")
    monkeypatch.chdir(tmp_path)
    assert find_config("mine").resolve() == find_config(str(recipe)) == recipe
    for wrong in ("elsewhere/mine.py", "mine.py", "other"):
        with pytest.raises(FileNotFoundError, match=f"no config file {wrong}"):
            find_config(wrong)


def test_recipes_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("lite_coco_format") == recipes()["lite_coco_format"]
    assert load_config("lite_coco_format").steps == 600
    with pytest.raises(FileNotFoundError, match=r"did you mean lite_coco_format.*segjax configs"):
        find_config("lite_coco")
    assert set(recipes("htc")) == {name for name in recipes() if "htc" in name}
    assert set(recipes("*_r50_*")) == {name for name in recipes() if "_r50_" in name}


def test_every_recipe_has_a_summary():
    for name, path in recipes().items():
        assert 20 < len(summary(path)) < 140, name
