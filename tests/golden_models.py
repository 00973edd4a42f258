"""What a golden file's peer is here: the model, the converter, and the peer's names for things."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from segjax.models import MaskRCNN, mask_rcnn_resnet_fpn
from segjax.models.flavours import TORCHVISION_V2
from segjax.nn.norm import NormSpec
from segjax.zoo.convert import RULES


def _last_class_first(logits: np.ndarray) -> np.ndarray:
    return np.roll(logits, 1, axis=-1)


def _as_is(x: np.ndarray) -> np.ndarray:
    return x


@dataclasses.dataclass(frozen=True)
class Peer:
    """How one library names and orders what a golden file holds.

    Attributes:
      rules: the converter's table.
      losses: the file's loss names -> ours.
      stage_suffix: what follows `roi_class_logits` and the like.
      mask_suffix: what follows `roi_mask_logits`.
      class_order: our class logits -> the peer's order.
      first_box_column: columns of the peer's box deltas before this belong to
        the background and are not converted.
      first_class: label of our class 0.
      first_mask: the peer's mask channel of our class 0.
    """

    rules: list
    losses: dict[str, str]
    stage_suffix: str = ""
    mask_suffix: str = ""
    class_order: Callable[[np.ndarray], np.ndarray] = _as_is
    first_box_column: int = 0
    first_class: int = 0
    first_mask: int = 0


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
DETECTRON2 = Peer(
    RULES["detectron2"],
    {
        "loss_rpn_cls": "loss_rpn_cls",
        "loss_rpn_loc": "loss_rpn_box",
        "loss_cls": "loss_cls",
        "loss_box_reg": "loss_box",
        "loss_mask": "loss_mask",
    },
    stage_suffix="/0",
)
MMDET = Peer(
    RULES["mmdet"],
    {
        "loss_rpn_cls": "loss_rpn_cls",
        "loss_rpn_bbox": "loss_rpn_box",
        "loss_cls": "loss_cls",
        "loss_bbox": "loss_box",
        "loss_mask": "loss_mask",
    },
    stage_suffix="/0",
    mask_suffix="/0",
)


def _torchvision_v2() -> Any:
    # The file's norm layers stay in eval mode with trained scale and bias.
    norm = NormSpec("batch_eval")
    return dataclasses.replace(TORCHVISION_V2, backbone_norm=norm, head_norm=norm)


# (library, variant or config) -> peer, number of classes, depth, style. Every config of a
# library that the models cover has its line here; a file that none fits fails its test.
CONFIGS: dict[tuple[str, str], tuple[Peer, int, Any]] = {
    ("torchvision", "maskrcnn_resnet50_fpn"): (TORCHVISION, 50, "torchvision"),
    ("torchvision", "maskrcnn_resnet50_fpn_v2"): (TORCHVISION, 50, _torchvision_v2()),
} | {
    (library, config.format(depth=depth, times=times)): (peer, depth, library)
    for depth in (50, 101)
    for times in (1, 3)
    for library, peer, config in (
        (
            "detectron2",
            DETECTRON2,
            "COCO-InstanceSegmentation/mask_rcnn_R_{depth}_FPN_{times}x.yaml",
        ),
        ("mmdet", MMDET, "mask_rcnn/mask-rcnn_r{depth}_fpn_{times}x_coco.py"),
    )
}


def find(meta: dict[str, Any]) -> tuple[Peer, MaskRCNN]:
    """The peer and the model of a golden file.

    Raises:
      KeyError: for a config that no line of `CONFIGS` fits.
    """
    library = meta["source"].split()[0]
    config = meta.get("variant") or meta["config"]
    if (library, config) not in CONFIGS:
        raise KeyError(f"no model for {library} {config}; add it to tests/golden_models.py")
    peer, depth, style = CONFIGS[library, config]
    classes = meta.get("num_classes") or meta["num_classes_with_background"] - 1
    return peer, _take_every_sample(mask_rcnn_resnet_fpn(classes, depth=depth, style=style), meta)


def _take_every_sample(model: MaskRCNN, meta: dict[str, Any]) -> MaskRCNN:
    """The file's samplers are so large that every anchor and every proposal is taken."""
    if meta["sampling"] != "all":
        raise KeyError(f"sampling is {meta['sampling']!r}; only 'all' is known")
    return model.clone(
        rpn=dataclasses.replace(model.rpn, num_samples=meta.get("rpn_batch_size_per_image", 10**6)),
        sampler=dataclasses.replace(
            model.sampler, num_samples=meta.get("roi_batch_size_per_image", 10**6)
        ),
    )
