"""Every published config that the models cover has a row in the goldens' models."""

import json

import numpy as np
import pytest

from segjax.config_json import to_json
from segjax.models import (
    CascadeMaskRCNN,
    CascadeRCNN,
    FasterRCNN,
    HybridTaskCascade,
    MaskRCNN,
    PanopticFPN,
)
from segjax.train.checks import differing_fields
from segjax.zoo.convert import RULES
from tests.support.golden_models import CONFIGS, find, row
from tests.test_goldens import FILES

# Library, config, model, blocks of the third stage, groups.
KNOWN = [
    ("torchvision", "fasterrcnn_resnet50_fpn", FasterRCNN, 6, 1),
    ("torchvision", "fasterrcnn_resnet50_fpn_v2", FasterRCNN, 6, 1),
    ("torchvision", "maskrcnn_resnet50_fpn_v2", MaskRCNN, 6, 1),
    ("detectron2", "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml", FasterRCNN, 6, 1),
    ("detectron2", "COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x.yaml", FasterRCNN, 23, 32),
    ("detectron2", "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x.yaml", MaskRCNN, 23, 1),
    ("detectron2", "COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x.yaml", MaskRCNN, 23, 32),
    ("detectron2", "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml", CascadeMaskRCNN, 6, 1),
    ("detectron2", "COCO-PanopticSegmentation/panoptic_fpn_R_101_3x.yaml", PanopticFPN, 23, 1),
    ("mmdet", "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py", FasterRCNN, 6, 1),
    ("mmdet", "faster_rcnn/faster-rcnn_r50-caffe_fpn_1x_coco.py", FasterRCNN, 6, 1),
    ("mmdet", "mask_rcnn/mask-rcnn_x101-64x4d_fpn_ms-poly_3x_coco.py", MaskRCNN, 23, 64),
    ("mmdet", "mask_rcnn/mask-rcnn_x101-32x4d_fpn_1x_coco.py", MaskRCNN, 23, 32),
    ("mmdet", "faster_rcnn/faster-rcnn_r50-tnr-pre_fpn_1x_coco.py", FasterRCNN, 6, 1),
    ("mmdet", "faster_rcnn/faster-rcnn_r50_fpn_amp-1x_coco.py", FasterRCNN, 6, 1),
    ("mmdet", "cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py", CascadeRCNN, 6, 1),
    ("mmdet", "cascade_rcnn/cascade-rcnn_r101-caffe_fpn_1x_coco.py", CascadeRCNN, 23, 1),
    ("mmdet", "cascade_rcnn/cascade-rcnn_x101_64x4d_fpn_20e_coco.py", CascadeRCNN, 23, 64),
    (
        "mmdet",
        "cascade_rcnn/cascade-mask-rcnn_x101-32x4d_fpn_20e_coco.py",
        CascadeMaskRCNN,
        23,
        32,
    ),
    ("mmdet", "htc/htc_r101_fpn_20e_coco.py", HybridTaskCascade, 23, 1),
    ("mmdet", "htc/htc_x101-64x4d_fpn_16xb1-20e_coco.py", HybridTaskCascade, 23, 64),
    ("mmdet", "panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py", PanopticFPN, 6, 1),
]
OTHERS = [
    ("mmdet", "faster_rcnn/faster-rcnn_r50_fpn_giou_1x_coco.py"),
    ("mmdet", "htc/htc_x101-64x4d-dconv-c3-c5_fpn_ms-400-1400-16xb1-20e_coco.py"),
    ("detectron2", "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml"),
    ("torchvision", "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"),
]


def meta(library, config):
    return {"source": f"{library} 1.0", "config": config, "num_classes": 80, "sampling": "all"}


@pytest.mark.parametrize(
    ("library", "config", "kind", "blocks", "groups"), KNOWN, ids=[row[1] for row in KNOWN]
)
def test_the_model_of_a_config(library, config, kind, blocks, groups):
    peer, model = find(meta(library, config))
    assert type(model) is kind
    detector = model.detector if kind is PanopticFPN else model
    assert (detector.backbone.stage_sizes[2], detector.backbone.groups) == (blocks, groups)
    assert any("mask" in loss for loss in peer.losses) == ("masks" in model.tasks)
    assert ("loss_semantic" in peer.losses.values()) == (model.classes.pixels is not None)


@pytest.mark.parametrize("known", KNOWN, ids=[known[1] for known in KNOWN])
def test_the_zoo_has_weights_of_a_config(known):
    found = row(meta(known[0], known[1]))
    assert found is not None
    assert type(found.make()) is known[2]


@pytest.mark.parametrize(("library", "config"), OTHERS)
def test_configs_of_other_models_have_none(library, config):
    with pytest.raises(KeyError, match="add it to tests/support/golden_models"):
        find(meta(library, config))


def test_no_config_fits_two_lines():
    patterns = [(library, pattern) for library, pattern, _, _ in CONFIGS]
    assert len(patterns) == len(set(patterns))


# Fields in which the models of the files differ from the published ones.
SET_FOR_THE_FILES = {
    "num_classes",
    "num_samples",
    "score_threshold",
    "stuff_area",
    "averaged",
    "kind",  # torchvision v2's norms stay in eval mode
    "frozen_stages",
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_zoos_row_is_the_files_model(file):
    meta = json.loads(str(np.load(file)["meta"]))
    (peer, model), found = find(meta), row(meta)
    if found is None:
        assert "without-semantic" in meta["config"]  # weights were never published
        return
    assert RULES[found.peer] is peer.rules
    ours, theirs = (json.loads(json.dumps(to_json(m))) for m in (model, found.make()))
    fields = {line.split(" was ")[0].rpartition(".")[2] for line in differing_fields(theirs, ours)}
    assert fields <= SET_FOR_THE_FILES
