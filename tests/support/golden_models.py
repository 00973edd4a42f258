"""Counterparts of the golden files' peers: model, converter and naming."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from segjax.models import (
    FasterRCNN,
    HybridTaskCascade,
    MaskRCNN,
    PanopticFPN,
    cascade_mask_rcnn,
    cascade_rcnn,
    faster_rcnn,
    htc,
    mask_rcnn,
    panoptic_fpn,
    resnet,
)
from segjax.models.flavours.cascades import MMDET_CASCADE_CAFFE
from segjax.models.flavours.libraries import DETECTRON2_X101_32X8D, MMDET_CAFFE, TORCHVISION_V2
from segjax.nn.norm import NormSpec
from segjax.ops.panoptic import PanopticSegments
from segjax.zoo.convert import RULES
from segjax.zoo.table import ENTRIES, Entry


def _last_class_first(logits: np.ndarray) -> np.ndarray:
    return np.roll(logits, 1, axis=-1)


def _as_is(x: np.ndarray) -> np.ndarray:
    return x


def _mmdet_panoptic_map(found: PanopticSegments) -> np.ndarray:
    """Encodes class + 1000 x instance, and 133 for void; stuff classes follow the 80 things."""
    ids = np.where(found.is_thing, found.classes + 1000 * found.segment_ids, found.classes + 80)
    numbers = np.full(found.ids.max() + 1, 133, np.int32)
    numbers[found.segment_ids] = np.where(found.segment_ids > 0, ids, 133)
    return numbers[found.ids]


def _mmdet_stuff_first(labels: np.ndarray) -> np.ndarray:
    """Maps 80 things and 53 stuff classes to the labels of mmdet's Panoptic FPN, things last."""
    things = labels < 80
    return np.where(labels == 255, 255, np.where(things, 53, labels - 80)).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Peer:
    """A library's names and orders in golden files.

    Attributes:
      rules: conversion table.
      losses: map from the file's loss names to ours.
      class_order: reorders our class logits to the peer's order.
      first_box_column: number of leading columns of the peer's box deltas that belong to the
        background. They are not converted.
      first_class: the peer's label of our class 0.
      first_mask: the peer's mask channel of our class 0.
      semantic_draws: candidates for the semantic ground truth, each as a number of classes (None
        for the
        model's own) and a map from the drawn labels to ours.
      panoptic_map: converts our segments to a map with the peer's numbers, for files without a list
        of
        segments.
    """

    rules: list
    losses: dict[str, str]
    class_order: Callable[[np.ndarray], np.ndarray] = _as_is
    first_box_column: int = 0
    first_class: int = 0
    first_mask: int = 0
    semantic_draws: tuple[tuple[int | None, Callable[[np.ndarray], np.ndarray]], ...] = (
        (None, _as_is),
    )
    panoptic_map: Callable[[PanopticSegments], np.ndarray] | None = None

    def without_masks(self) -> "Peer":
        """Returns the naming of the same library's models without a mask branch."""
        losses = {theirs: ours for theirs, ours in self.losses.items() if "mask" not in theirs}
        return dataclasses.replace(self, losses=losses)


TORCHVISION = Peer(
    RULES["torchvision"],
    {
        "loss_objectness": "loss_rpn_cls",
        "loss_rpn_box_reg": "loss_rpn_box",
        "loss_classifier": "loss_cls",
        "loss_box_reg": "loss_box",
        "loss_mask": "loss_mask",
    },
    class_order=_last_class_first,
    first_box_column=4,
    first_class=1,
    first_mask=1,
)
_DETECTRON2_RPN = {"loss_rpn_cls": "loss_rpn_cls", "loss_rpn_loc": "loss_rpn_box"}
DETECTRON2 = Peer(
    RULES["detectron2"],
    _DETECTRON2_RPN
    | {"loss_cls": "loss_cls", "loss_box_reg": "loss_box", "loss_mask": "loss_mask"},
)
DETECTRON2_CASCADE = Peer(
    RULES["detectron2_cascade"],
    _DETECTRON2_RPN
    | {f"loss_cls_stage{t}": f"loss_cls_stage{t + 1}" for t in range(3)}
    | {f"loss_box_reg_stage{t}": f"loss_box_stage{t + 1}" for t in range(3)}
    | {"loss_mask": "loss_mask_stage1"},
)
DETECTRON2_PANOPTIC = Peer(
    RULES["detectron2_panoptic"], DETECTRON2.losses | {"loss_sem_seg": "loss_semantic"}
)
_MMDET_RPN = {"loss_rpn_cls": "loss_rpn_cls", "loss_rpn_bbox": "loss_rpn_box"}
_MMDET_HEADS = {"loss_cls": "loss_cls", "loss_bbox": "loss_box", "loss_mask": "loss_mask"}
MMDET = Peer(RULES["mmdet"], _MMDET_RPN | _MMDET_HEADS)
MMDET_CASCADE = Peer(
    RULES["mmdet"],
    _MMDET_RPN
    | {
        f"s{t}.{theirs}": f"{ours}_stage{t + 1}"
        for t in range(3)
        for theirs, ours in _MMDET_HEADS.items()
    },
)
MMDET_HTC = Peer(RULES["mmdet"], MMDET_CASCADE.losses | {"loss_semantic_seg": "loss_semantic"})
MMDET_PANOPTIC = Peer(
    RULES["mmdet_panoptic"],
    MMDET.losses | {"loss_seg": "loss_semantic"},
    semantic_draws=((None, _as_is), (133, _mmdet_stuff_first)),
    panoptic_map=_mmdet_panoptic_map,
)


# The files' norm layers are in eval mode with trained scale and bias.
_EVAL = NormSpec("batch_eval")
_TV_V2 = dataclasses.replace(TORCHVISION_V2, backbone_norm=_EVAL, head_norm=_EVAL)
_D2_32X8D = DETECTRON2_X101_32X8D

# Backbones by the depth and width in config names.
_BACKBONES = {
    "50": resnet(50),
    "101": resnet(101),
    "X_101_32x8d": resnet(101, groups=32, group_width=8),
    "x101-32x4d": resnet(101, groups=32, group_width=4),
    "x101-64x4d": resnet(101, groups=64, group_width=4),
    "x101_64x4d": resnet(101, groups=64, group_width=4),  # spelling of a single file
}


def _in_style(factory: Callable[..., Any], flavour: Any) -> Callable[..., Any]:
    return lambda backbone, classes: factory(backbone, num_classes=classes, flavour=flavour)


def _htc(semantic: bool) -> Callable[..., Any]:
    def make(backbone: Any, classes: int) -> HybridTaskCascade:
        model = htc(backbone, num_classes=classes, semantic=semantic, semantic_classes=183)
        # mmdet 3's behaviour, used by the files.
        return model.clone(mask_head=model.mask_head.clone(averaged="last"))

    return make


def _detectron2_panoptic(backbone: Any, classes: int) -> PanopticFPN:
    model = panoptic_fpn(backbone, num_classes=classes, semantic_classes=54)
    # Settings used to make the file, because random weights produce low scores and small areas.
    merge = dataclasses.replace(model.merge, score_threshold=0.15, stuff_area=256)
    return model.clone(merge=merge)


def _mmdet_panoptic(backbone: Any, classes: int) -> PanopticFPN:
    model = panoptic_fpn(backbone, num_classes=classes, semantic_classes=54, flavour="mmdet")
    # The file's detections are those above mmdet's `score_thr`.
    filtered = dataclasses.replace(model.detector.detections, score_threshold=0.6)
    return model.clone(detector=model.detector.clone(detections=filtered))


_faster, _mask = faster_rcnn, mask_rcnn
_cascade, _cascade_mask = cascade_rcnn, cascade_mask_rcnn
_D2 = r"R_(50|101)_FPN_\dx\.yaml"
_D2_X101 = r"(X_101_32x8d)_FPN_\dx\.yaml"
# Schedules, augmentations and origins of the backbone ("rsb-pre") do not change a model. Other
# words (giou, dconv) do.
_MM_SCHEDULE = r"_fpn_(?:(?:ms|poly|amp|16xb1)[-_])*(?:\d+[xe]|90k)_coco\.py"
_MM = r"r?(50|101|x101-32x4d|x101[-_]64x4d)(?:-(?:rsb|tnr)-pre)?" + _MM_SCHEDULE
_CAFFE = r"r(50|101)-caffe" + _MM_SCHEDULE


def _in(folder: str) -> str:
    """Matches mmdet's folder of a model's configs, or that of configs based on RSB weights."""
    return f"(?:{folder}|resnet_strikes_back)"


def _rows(library: str, *rows: tuple[str, Peer, Callable[..., Any], Any]) -> list[Any]:
    return [
        (library, pattern, peer, _in_style(factory, style) if style else factory)
        for pattern, peer, factory, style in rows
    ]


# (library, pattern of the variant or config, peer, model). Every config that the models cover
# matches one row; a file without a match fails its test.
CONFIGS: list[tuple[str, str, Peer, Callable[..., Any]]] = [
    *_rows(
        "torchvision",
        (r"fasterrcnn_resnet(50)_fpn", TORCHVISION.without_masks(), _faster, "torchvision"),
        (r"fasterrcnn_resnet(50)_fpn_v2", TORCHVISION.without_masks(), _faster, _TV_V2),
        (r"maskrcnn_resnet(50)_fpn", TORCHVISION, _mask, "torchvision"),
        (r"maskrcnn_resnet(50)_fpn_v2", TORCHVISION, _mask, _TV_V2),
    ),
    *_rows(
        "detectron2",
        (f"COCO-Detection/faster_rcnn_{_D2}", DETECTRON2.without_masks(), _faster, "detectron2"),
        (f"COCO-Detection/faster_rcnn_{_D2_X101}", DETECTRON2.without_masks(), _faster, _D2_32X8D),
        (f"COCO-InstanceSegmentation/mask_rcnn_{_D2}", DETECTRON2, _mask, "detectron2"),
        (f"COCO-InstanceSegmentation/mask_rcnn_{_D2_X101}", DETECTRON2, _mask, _D2_32X8D),
        (f"Misc/cascade_mask_rcnn_{_D2}", DETECTRON2_CASCADE, _cascade_mask, "detectron2"),
        (
            r"COCO-PanopticSegmentation/panoptic_fpn_R_(50|101)_\dx\.yaml",
            DETECTRON2_PANOPTIC,
            _detectron2_panoptic,
            None,
        ),
    ),
    *_rows(
        "mmdet",
        (f"{_in('faster_rcnn')}/faster-rcnn_{_MM}", MMDET.without_masks(), _faster, "mmdet"),
        (f"{_in('mask_rcnn')}/mask-rcnn_{_MM}", MMDET, _mask, "mmdet"),
        (f"cascade_rcnn/cascade-rcnn_{_MM}", MMDET_CASCADE.without_masks(), _cascade, "mmdet"),
        (f"{_in('cascade_rcnn')}/cascade-mask-rcnn_{_MM}", MMDET_CASCADE, _cascade_mask, "mmdet"),
        (f"faster_rcnn/faster-rcnn_{_CAFFE}", MMDET.without_masks(), _faster, MMDET_CAFFE),
        (f"mask_rcnn/mask-rcnn_{_CAFFE}", MMDET, _mask, MMDET_CAFFE),
        (
            f"cascade_rcnn/cascade-rcnn_{_CAFFE}",
            MMDET_CASCADE.without_masks(),
            _cascade,
            MMDET_CASCADE_CAFFE,
        ),
        (
            f"cascade_rcnn/cascade-mask-rcnn_{_CAFFE}",
            MMDET_CASCADE,
            _cascade_mask,
            MMDET_CASCADE_CAFFE,
        ),
        (f"htc/htc_{_MM}", MMDET_HTC, _htc(True), None),
        (f"htc/htc-without-semantic_{_MM}", MMDET_CASCADE, _htc(False), None),
        (f"panoptic_fpn/panoptic-fpn_{_MM}", MMDET_PANOPTIC, _mmdet_panoptic, None),
    ),
]


def find(meta: dict[str, Any]) -> tuple[Peer, Any]:
    """Returns the peer and the model of a golden file.

    Raises:
      KeyError: if no row of `CONFIGS` matches the config.
    """
    library = meta["source"].split()[0]
    config = meta.get("variant") or meta["config"]
    classes = meta.get("num_classes") or meta["num_classes_with_background"] - 1
    for candidate, pattern, peer, make in CONFIGS:
        match = re.fullmatch(pattern, config)
        if candidate == library and match:
            return peer, _take_every_sample(make(_BACKBONES[match[1]], classes), meta)
    raise KeyError(f"no model for {library} {config}; add it to tests/support/golden_models.py")


def row(meta: dict[str, Any]) -> Entry | None:
    """Returns the zoo's row of a golden file's config; None if no weights have been published."""
    run = _run(meta.get("variant") or re.sub(r"\.(py|yaml)$", "", meta["config"]).split("/")[-1])
    folders = ((entry, entry.weights.url.split("/")) for entry in ENTRIES.values())
    found = [e for e, parts in folders if run in map(_run, (*parts[-3:-1], _tv_run(parts[-1])))]
    return found[0] if found else None


def _run(name: str) -> str:
    """Normalises a config name across mmdet 2 and 3, which renamed configs."""
    name = re.sub(r"-(rsb|tnr)-pre_fpn", r"_fpn_\1-pretrain", name).replace("-", "_")
    for old, new in (("mstrain", "ms"), ("fp16", "amp"), ("_16x1_", "_16xb1_")):
        name = name.replace(old, new)
    return name


def _tv_run(file: str) -> str:
    """Returns torchvision's model name, given a file name."""
    return re.sub(r"_coco-[0-9a-f]{8}\.pth$", "", file)


def _take_every_sample(model: Any, meta: dict[str, Any]) -> Any:
    """Raises the sampler sizes to the file's, which include every anchor and every proposal."""
    if meta["sampling"] != "all":
        raise KeyError(f"sampling is {meta['sampling']!r}; only 'all' is known")
    anchors = meta.get("rpn_batch_size_per_image", 10**6)
    regions = meta.get("roi_batch_size_per_image", 10**6)
    if isinstance(model, PanopticFPN):
        return model.clone(detector=_take_every_sample(model.detector, meta))
    model = model.clone(rpn=dataclasses.replace(model.rpn, num_samples=anchors))
    if isinstance(model, MaskRCNN | FasterRCNN):
        return model.clone(sampler=dataclasses.replace(model.sampler, num_samples=regions))
    return model.clone(
        stages=tuple(
            dataclasses.replace(
                stage, sampler=dataclasses.replace(stage.sampler, num_samples=regions)
            )
            for stage in model.stages
        )
    )


def heads(model: Any, features: Any, image_sizes: jax.Array, rois: jax.Array) -> dict[str, Any]:
    """Returns the head outputs in the files, as lists over stages; runs within `model.apply`.

    Args:
      model: model bound to variables.
      features: pyramid levels P2..P6.
      image_sizes: sizes of the images in the batch.
      rois: regions, [1, R, 4]; masks are computed for the first 8.
    """
    if isinstance(model, PanopticFPN):
        semantic = model.semantic_head(features)
        return heads(model.detector, features, image_sizes, rois) | {"semantic_logits": semantic}
    if isinstance(model, MaskRCNN | FasterRCNN):
        logits, deltas = model.box_outputs(features, rois)
        masks = [model.mask_head.logits(features, rois[:, :8])] if "masks" in model.tasks else []
        return {"class_logits": [logits], "box_deltas": [deltas], "mask_logits": masks}
    if isinstance(model, HybridTaskCascade):
        semantic_logits, fused = model.semantic(features, image_sizes)
        box_features = model.box_features(fused, rois)
        masks = model.mask_head.logits(model.mask_head.pool(fused, rois[:, :8]), range(3))
        extra = {"semantic_logits": semantic_logits, "semantic_feature": fused.semantic}
    else:
        box_features = model.box_pooler(features, rois)
        heads_of_masks = model.mask_heads if "masks" in model.tasks else ()
        masks = [head.logits(features, rois[:, :8]) for head in heads_of_masks]
        extra = {}
    shape = (1, rois.shape[1])
    boxes = [model.box_stage(t, box_features, shape) for t in range(len(model.stages))]
    return {
        "class_logits": [logits[0] for logits, _ in boxes],
        "box_deltas": [deltas[0] for _, deltas in boxes],
        "mask_logits": masks,
    } | extra
