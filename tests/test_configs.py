"""Every file in configs/ loads, and its model can be built."""

import json
from pathlib import Path

import jax
import pytest

from segjax.config import load_config
from segjax.config_json import from_json, to_json
from segjax.train.loop import with_dtype
from segjax.train.optim import frozen_mask, learning_rate, weight_decays
from segjax.train.state import init_variables

FOLDER = Path(__file__).parent.parent / "configs"
CONFIGS = sorted(path.name for path in FOLDER.glob("*.py"))
RECIPES = [name for name in CONFIGS if name.endswith("_coco.py")]


@pytest.mark.parametrize("name", CONFIGS)
def test_config_builds(name):
    config = load_config(FOLDER / name)
    model = config.model if config.model.num_classes else config.model.with_num_classes(3)
    variables = jax.eval_shape(lambda key: init_variables(model, key), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) > 10_000
    frozen_mask(variables["params"], model.frozen_paths())
    weight_decays(config.optim, variables["params"])
    assert from_json(json.loads(json.dumps(to_json(config)))) == config
    assert f"segjax train --config configs/{name}" in (FOLDER / name).read_text()


def test_all_published_recipes_are_there():
    assert (
        sorted(
            f"{kind}_rcnn_r{depth}_fpn_{schedule}_coco.py"
            for kind in ("faster", "mask")
            for depth in (50, 101)
            for schedule in ("1x", "3x")
        )
        == RECIPES
    )


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_the_published_schedule(name):
    config = load_config(FOLDER / name)
    steps = 90_000 if "_1x_" in name else 270_000
    first, second = (60_000, 80_000) if "_1x_" in name else (210_000, 250_000)
    rate = learning_rate(config.optim, config.steps)
    at = (0, 1000, first - 1, first, second, steps - 1)
    found = [float(rate(step)) for step in at]
    assert found == pytest.approx([2e-5, 0.02, 0.02, 2e-3, 2e-4, 2e-4], rel=1e-5)
    assert (config.steps, config.data.batch_size) == (steps, 16)
    assert config.model.has_masks == config.data.masks == name.startswith("mask")


def test_compute_dtype_reaches_every_part():
    model = with_dtype(load_config(FOLDER / "shapes_mask_rcnn.py").model, "bfloat16")
    parts = [model.backbone, model.fpn, model.rpn_head, model.box_head, model.mask_head]
    assert {part.dtype for part in parts} == {"bfloat16"}
