"""Compares the zoo's table with the three libraries' publications, line by line.

`published.csv` was extracted by a program from torchvision 0.29's weights enums, Detectron2's
`model_zoo.py` and MODEL_ZOO.md (models with FPN, on COCO), and the `metafile.yml`s of mmdet 3.3.0's
wheel (folders of the models here). Table and test data are therefore independent.
"""

import csv
import json
import re
from pathlib import Path

from segjax.config_json import to_json
from segjax.train.checks import differing_fields
from segjax.zoo.convert import RULES
from segjax.zoo.table import ENTRIES
from tests.support.golden_models import find, row
from tests.support.rows import each_row
from tests.test_golden_models import SET_FOR_THE_FILES

with (Path(__file__).parent / "published.csv").open() as file:
    LINES = list(csv.DictReader(file))
ROWS = {entry.weights.url: entry for entry in ENTRIES.values()}
HELD = [line for line in LINES if line["url"] in ROWS]
METRICS = {
    "box_ap": "box/AP",
    "mask_ap": "segm/AP",
    "pq": "panoptic/PQ",
    "top1": "imagenet/top1",
}
# Patterns of models without a row, with reasons.
LEFT_OUT = {
    "MobileNet": "no such backbone here",
    "Wide_ResNet": "no detector of the three starts from one",
    "retinanet": "no such model here",
    "_iou|bounded-iou|giou": "losses on decoded boxes",
    "-c4|_c4|dc5": "no FPN",
    "dconv": "deformable convolutions",
    "x101-32x8d": "versions 2 and 3 disagree about the pixels' normalisation",
    "/(faster|mask)-rcnn_r101-caffe_fpn_ms": "the same",
}
# What users of the three libraries look for: architecture -> tags. Detectron2 published a 1x
# schedule only for R50.
ASKED = {
    "faster_rcnn_resnet50_fpn": "tv_coco_v1 d2_1x d2_3x",
    "faster_rcnn_resnet50_fpn_v2": "tv_coco_v1",
    "faster_rcnn_resnet101_fpn": "d2_3x",
    "faster_rcnn_resnext101_32x8d_fpn": "d2_3x",
    "mask_rcnn_resnet50_fpn": "tv_coco_v1 d2_1x d2_3x mm_1x",
    "mask_rcnn_resnet50_fpn_v2": "tv_coco_v1",
    "mask_rcnn_resnet101_fpn": "d2_3x mm_1x",
    "mask_rcnn_resnext101_32x8d_fpn": "d2_3x",
    "mask_rcnn_resnext101_32x4d_fpn": "mm_1x",
    "mask_rcnn_resnext101_64x4d_fpn": "mm_1x",
    "cascade_mask_rcnn_resnet50_fpn": "d2_1x d2_3x mm_1x mm_20e",
    "cascade_mask_rcnn_resnet101_fpn": "mm_1x mm_20e",
    "cascade_mask_rcnn_resnext101_32x4d_fpn": "mm_1x mm_20e",
    "cascade_mask_rcnn_resnext101_64x4d_fpn": "mm_1x mm_20e",
    "htc_resnet50_fpn": "mm_1x mm_20e",
    "htc_resnet101_fpn": "mm_20e",
    "htc_resnext101_32x4d_fpn": "mm_20e",
    "htc_resnext101_64x4d_fpn": "mm_20e",
    "panoptic_fpn_resnet50": "d2_1x d2_3x mm_1x",
    "panoptic_fpn_resnet101": "d2_3x",
    "resnet50": "tv_in1k_v1 tv_in1k_v2 d2_msra rsb_a1_in1k",
    "resnet101": "tv_in1k_v1 tv_in1k_v2 d2_msra",
    "resnext50_32x4d": "tv_in1k_v1 tv_in1k_v2",
    "resnext101_32x8d": "tv_in1k_v1 tv_in1k_v2 d2",
    "swin_t": "tv_in1k_v1",
    "swin_s": "tv_in1k_v1",
    "swin_b": "tv_in1k_v1",
    "efficientnet_lite0": "tf_in1k",
    "efficientnet_lite1": "tf_in1k",
    "efficientnet_lite2": "tf_in1k",
}


def test_what_was_asked_for_is_there():
    asked = {f"{name}.{tag}" for name, tags in ASKED.items() for tag in tags.split()}
    assert asked <= set(ENTRIES), sorted(asked - set(ENTRIES))


@each_row(HELD, label=lambda line: line["config"])
def test_figures_and_sizes_are_the_librarys(line):
    entry = ROWS[line["url"]]
    published = {METRICS[key]: float(line[key]) for key in METRICS if line[key]}
    assert dict(entry.published) == published
    assert entry.weights.mib == (float(line["mib"]) if line["mib"] else None)
    if line["library"] == "mmdet":
        assert entry.source.endswith(f"{line['config'].split('/')[0]}/metafile.yml")


def test_every_published_file_has_a_row_or_a_reason_to_have_none():
    for line in LINES:
        reasons = [why for words, why in LEFT_OUT.items() if re.search(words, line["config"])]
        assert len(reasons) == (line["url"] not in ROWS), line["config"]
    assert all(any(re.search(w, line["config"]) for line in LINES) for w in LEFT_OUT)


def test_every_row_was_published():
    urls = {line["url"] for line in LINES}
    others = {name for name, entry in ENTRIES.items() if entry.weights.url not in urls}
    assert others == {  # listed elsewhere
        "resnet50.d2_msra",
        "resnet101.d2_msra",
        "resnext101_32x8d.d2",
        "resnext101_32x4d.mm_in1k",
        "resnext101_64x4d.mm_in1k",
        "resnet50.rsb_a1_in1k",
        *(f"efficientnet_lite{variant}.tf_in1k" for variant in range(3)),
    }


def _meta(line):
    """Returns the metadata of a config's golden file."""
    known = {"source": f"{line['library']} 1.0", "sampling": "all", "config": line["config"]}
    if line["library"] != "torchvision":
        return known | {"num_classes": 80}
    variant = line["config"].split(".")[0].lower()
    return known | {"variant": variant, "num_classes_with_background": 91}


DETECTORS = [line for line in HELD if ROWS[line["url"]].kind == "detector"]


@each_row(DETECTORS, label=lambda line: line["config"])
def test_a_golden_file_of_a_rows_config_is_compared_with_the_rows_model(line):
    (peer, model), found = find(_meta(line)), row(_meta(line))
    assert found is ROWS[line["url"]]
    assert RULES[found.peer] is peer.rules
    ours, theirs = (json.loads(json.dumps(to_json(m))) for m in (model, found.make()))
    fields = {text.split(" was ")[0].rpartition(".")[2] for text in differing_fields(theirs, ours)}
    assert fields <= SET_FOR_THE_FILES
