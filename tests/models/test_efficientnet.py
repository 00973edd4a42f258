"""Detectors with an EfficientNet-Lite backbone."""

import json

import jax
import numpy as np
import pytest

import segjax
from segjax.config import TrainConfig, override
from segjax.config_json import from_json, to_json
from segjax.data.config import DataConfig
from segjax.models import panoptic_fpn, resnet, semantic_fpn
from segjax.models.variables import init_variables, matching, variable_shapes
from segjax.nn.backbones.efficientnet import LITE_PREPROCESS, EfficientNetLite, efficientnet_lite
from segjax.nn.norm import NormSpec
from segjax.train.optim import frozen_mask
from tests.support import tiny
from tests.support.run import Run, assert_finite

LITE = EfficientNetLite(0.25, 0.3, norm=tiny.NORM)


def on_lite(model, **changes):
    """Returns the model on a small EfficientNet-Lite."""
    if hasattr(model, "detector"):
        return model.clone(detector=on_lite(model.detector, **changes))
    return model.clone(backbone=LITE.clone(**changes), preprocess=LITE_PREPROCESS)


MODELS = {
    "faster_rcnn": tiny.faster_rcnn,
    "mask_rcnn": tiny.mask_rcnn,
    "cascade_rcnn": tiny.cascade_rcnn,
    "cascade_mask_rcnn": tiny.cascade_mask_rcnn,
    "htc": tiny.htc,
    "panoptic_fpn": lambda: panoptic_fpn(resnet(50), num_classes=3, semantic_classes=4),
    "semantic_fpn": lambda: semantic_fpn(resnet(50), semantic_classes=4),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_takes_the_backbone(name):
    model = on_lite(MODELS[name](), frozen_stages=2)
    params = variable_shapes(model)["params"]
    prefix = "detector/" if hasattr(model, "detector") else ""
    body = params["detector"]["backbone"] if prefix else params["backbone"]
    assert body["block1"]["depthwise_conv"]["kernel"].shape == (3, 3, 1, 48)
    frozen = {f"{prefix}backbone/{name}" for name in ("stem_conv", "stem_norm", "block0", "block1")}
    assert set(model.frozen_paths()) == frozen
    frozen_mask(params, model.frozen_paths())
    assert from_json(json.loads(json.dumps(to_json(model)))) == model


@pytest.mark.slow
def test_it_learns_all_over():
    run = Run(on_lite(tiny.mask_rcnn()))
    total, terms, _, grads = run.losses(tiny.batch(), tiny.keys())
    assert_finite((total, terms, grads))
    still = [
        jax.tree_util.keystr(path)
        for path, grad in jax.tree_util.tree_leaves_with_path(grads)
        if not np.asarray(grad).any()
    ]
    assert not still, f"no gradient reaches {still}"
    assert_finite(run.predict(run.variables, tiny.batch().images, tiny.batch().image_sizes))


def test_the_factory_has_the_weights_pixels_and_norm():
    model = segjax.mask_rcnn(segjax.efficientnet_lite(1), num_classes=5)
    assert model.backbone == efficientnet_lite(1, frozen_stages=2)
    assert model.preprocess.mean == (127.0,) * 3 and model.preprocess.std == (128.0,) * 3
    on_resnet = segjax.mask_rcnn(segjax.resnet(50), num_classes=5)
    same = {"backbone": on_resnet.backbone, "preprocess": on_resnet.preprocess}
    assert model.clone(**same) == on_resnet


def test_flags_reach_the_backbone():
    config = TrainConfig(segjax.mask_rcnn(segjax.efficientnet_lite(0), num_classes=5), DataConfig())
    flags = ["--model.backbone.frozen-stages=0", "--model.backbone.norm.kind=batch"]
    changed = override(config, flags).model.backbone
    norm = NormSpec("batch", epsilon=1e-3, momentum=0.99)
    assert changed == efficientnet_lite(0, norm=norm, frozen_stages=0)


@pytest.mark.parametrize("kinds", [("frozen", "batch"), ("batch_eval", "frozen")])
def test_weights_of_a_backbone_start_one_with_another_norm(kinds):
    # Scale and bias are statistics in one model and parameters in the other.
    theirs, ours = (NormSpec(kind, epsilon=1e-3) for kind in kinds)
    body = init_variables(LITE.clone(norm=theirs), jax.random.key(0))
    detector = variable_shapes(on_lite(tiny.mask_rcnn(), norm=ours))
    taken, lacking = matching(body, detector)
    assert lacking and not any("backbone" in name for name in lacking)
    found = {name: array for name, array in taken.items() if array is not None}
    assert len(found) == len(jax.tree.leaves(body))
    place = "params" if kinds[1] == "batch" else "batch_stats"
    assert f"{place}/backbone/block3/project_norm/scale" in found
