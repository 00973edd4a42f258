"""Programs lowered for a config, without data."""

import dataclasses

import jax
import pytest

from segjax.aot import programs
from segjax.aot.worker import compute_dtype
from segjax.config import OptimConfig, TrainConfig
from segjax.data.config import DataConfig
from segjax.data.shapes import ShapesConfig
from segjax.models import htc, resnet, semantic_fpn
from tests.support import tiny
from tests.support.small_runs import FAMILIES, small_run


@pytest.mark.parametrize(
    ("data", "canvas"),
    [
        (DataConfig(short_side=(640, 800), long_side=1333), (800, 1344)),
        (DataConfig(resize="fit", size=(250, 256)), (256, 256)),
        (DataConfig(buckets=((1344, 800), (800, 1088), (800, 1344))), (800, 1344)),
        (DataConfig(resize="none", shapes=ShapesConfig(image_size=100)), (128, 128)),
        (DataConfig(short_side=(512,), long_side=512, size_divisor=64), (512, 512)),
    ],
)
def test_the_canvas_is_that_of_landscape_images(data, canvas):
    assert programs.usual_canvas(data) == canvas


def test_a_canvas_that_only_the_data_know_is_asked_for():
    with pytest.raises(ValueError, match="give --image-size"):
        programs.usual_canvas(DataConfig(resize="none"))


def test_classes_that_the_data_would_decide_are_cocos():
    config = TrainConfig(model=tiny.mask_rcnn(num_classes=0), data=DataConfig())
    assert programs.completed(config).model.num_classes == 80
    config = TrainConfig(
        model=semantic_fpn(resnet(50), semantic_classes=0),
        data=DataConfig(semantic="panoptic", instances=False),
    )
    assert programs.completed(config).model.classes.pixels == 133
    config = TrainConfig(
        model=htc(resnet(50), num_classes=7, semantic_classes=183),
        data=DataConfig(semantic="stuffthingmaps"),
    )
    model = programs.completed(config).model
    assert (model.classes.things, model.classes.pixels) == (7, 183)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_small_run_that_is_complete(family):
    config = programs.completed(small_run(family))
    assert compute_dtype(config.model) == "bfloat16"
    names = programs.programs_of(config)
    assert names[:2] == ("train", "predict")
    assert ("maps" in names) == (family in ("panoptic_fpn", "semantic_fpn"))


def test_programs_that_a_model_does_not_have_are_named():
    config = small_run("faster_rcnn")
    with pytest.raises(ValueError, match="no program 'refine': of this config there are train"):
        programs.check_programs(config, ["train", "refine"])
    programs.check_programs(small_run("mask_rcnn"), ["refine", "bottom_up"])


def test_the_batch_of_a_device_is_the_configs():
    config = TrainConfig(model=tiny.mask_rcnn(), data=DataConfig(batch_size=16, eval_batch_size=8))
    assert programs.per_device_batch(config, "train", 8) == 2
    assert programs.per_device_batch(config, "predict", 8) == 8
    with pytest.raises(ValueError, match="16 images cannot be split over 3 devices"):
        programs.per_device_batch(config, "train", 3)


def test_modes_that_cannot_be_compiled_ahead_are_refused():
    config = TrainConfig(model=tiny.mask_rcnn(), data=DataConfig(), optim=OptimConfig())
    devices = jax.devices()
    assert programs.mesh_devices(config, devices[:1]).mode == "jit"
    assert programs.mesh_devices(config, devices[:2]).mode == "shard_map"
    with pytest.raises(ValueError, match="pmap"):
        programs.mesh_devices(dataclasses.replace(config, parallel="pmap"), devices)
    with pytest.raises(ValueError, match='"jit" runs on one device'):
        programs.mesh_devices(dataclasses.replace(config, parallel="jit"), devices)


def test_the_lowered_step_is_the_one_that_trains():
    """The program's flattened arguments are those of the state, the batch and the key."""
    config = programs.completed(small_run("mask_rcnn", "float32"))
    devices = programs.mesh_devices(config, jax.devices()[:2])
    lowered = programs.lower_train(config, devices, programs.Shapes(1, (128, 192)))
    state, batch, key = lowered.args_info[0]
    assert batch.images.shape == (2, 128, 192, 3)
    assert batch.gt_semantic is None
    assert state.params["rpn_head"]["conv1"]["kernel"].donated
    assert not batch.images.donated
    assert key.shape == ()
