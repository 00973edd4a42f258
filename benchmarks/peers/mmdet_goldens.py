"""Makes a golden file of an MMDetection model.

    pip install "setuptools<81" torch==2.14.1 torchvision==0.29.1
    pip install mmengine mmcv-lite==2.2.0 mmdet==3.3.0
    python -m benchmarks.peers.mmdet_goldens mask_rcnn/mask-rcnn_r101_fpn_1x_coco.py \
        mm_mask_rcnn_r101_fpn

The lite build of mmcv lacks compiled operators, so torchvision's equivalent NMS and RoIAlign
replace them. `torch.sort` is made stable, as it is on CUDA and was on CPUs when mmdet 3.3.0 came
out. In torch 2.14 on x86 the order of equal scores depends on the vector width, and with random
weights hundreds of RPN probabilities are equal.
"""

import functools
import importlib
import sys
import types
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
import torchvision

from benchmarks.peers.golden_file import HEIGHT, WIDTH, GoldenFile, arguments, level

STUFF_MAP_CLASSES, PANOPTIC_CLASSES, THINGS, STUFF = 183, 133, 80, 53


class _NoOperators(types.ModuleType):
    """Replacement of mmcv's compiled module: accepts any name, but implements only NMS."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return functools.partial(self._missing, name)

    @staticmethod
    def _missing(name: str, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(f"{name}: mmcv-lite has no operators; give it torchvision's here")

    @staticmethod
    def nms(
        boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float, offset: int
    ) -> torch.Tensor:
        assert offset == 0, "torchvision knows no pixels that count as one"
        return torchvision.ops.nms(boxes, scores, iou_threshold)


def _roi_align(
    features: torch.Tensor,
    rois: torch.Tensor,
    output_size: Any,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    pool_mode: str = "avg",
    aligned: bool = True,
) -> torch.Tensor:
    assert pool_mode == "avg"
    return torchvision.ops.roi_align(
        features, rois, output_size, spatial_scale, sampling_ratio, aligned
    )


def import_mmdet() -> None:
    """Imports mmdet 3.3.0 alongside mmcv-lite 2.2.0 and makes sorting stable."""
    sys.modules["mmcv._ext"] = _NoOperators("mmcv._ext")
    version, mmcv.__version__ = mmcv.__version__, "2.1.0"  # mmdet's check refuses 2.2.0
    importlib.import_module("mmdet")

    mmcv.__version__ = version
    import mmdet.structures.mask.structures as mask_structures
    from mmdet.utils import register_all_modules

    register_all_modules()
    pooling = importlib.import_module("mmcv.ops.roi_align").RoIAlign
    pooling.forward = lambda self, x, rois: _roi_align(
        x, rois, self.output_size, self.spatial_scale, self.sampling_ratio, "avg", self.aligned
    )
    mask_structures.roi_align = _roi_align
    torch.Tensor.sort = functools.partialmethod(torch.Tensor.sort, stable=True)


def build(config: str) -> torch.nn.Module:
    """Builds the config's model without pretrained weights, with samplers that keep everything."""
    import mmdet
    from mmdet.models.task_modules.samplers import RandomSampler
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    path = Path(mmdet.__path__[0]) / ".mim" / "configs" / config
    model_config = Config.fromfile(path).model
    init_default_scope("mmdet")
    model_config.backbone.init_cfg = None
    model = MODELS.build(model_config)
    heads = model.roi_head.bbox_sampler
    samplers = [model.rpn_head.sampler, *(heads if isinstance(heads, list) else [heads])]
    for sampler in samplers:
        if isinstance(sampler, RandomSampler):
            sampler.num = 10**6
    return model


def sample(golden: GoldenFile | None = None) -> Any:
    """Returns the image's data sample with the ground truth for `golden`'s model."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData, PixelData

    size = (HEIGHT, WIDTH)
    shapes = dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), size)
    result = DetDataSample(metainfo=shapes | {"scale_factor": (1.0, 1.0)})
    if golden is None:
        return result
    boxes, labels, masks = golden.ground_truth()
    bitmaps = BitmapMasks(masks.astype(np.uint8), HEIGHT, WIDTH)
    result.gt_instances = InstanceData(bboxes=boxes, labels=labels.long(), masks=bitmaps)
    result.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
    panoptic = hasattr(golden.model, "panoptic_fusion_head")
    classes = PANOPTIC_CLASSES if panoptic else STUFF_MAP_CLASSES
    result.gt_sem_seg = PixelData(sem_seg=golden.semantic(classes)[None])
    return result


def add_heads(golden: GoldenFile, features: tuple[torch.Tensor, ...]) -> None:
    """Adds box and mask head outputs of every stage on the fixed regions."""
    head = golden.model.roi_head
    rois = torch.cat([torch.zeros(48, 1), golden.rois()], dim=1)
    cascaded = hasattr(head, "num_stages")
    fused = {}
    if getattr(head, "semantic_head", None) is not None:
        logits, embedded = head.semantic_head(features)
        golden.add("semantic_logits", logits[0, ::12, ::2, ::2])
        golden.add("semantic_feature", level(embedded))
        fused = {"semantic_feat": embedded}
    for stage in range(head.num_stages if cascaded else 1):
        first = (stage, features) if cascaded else (features,)
        box = head._bbox_forward(*first, rois, **fused)
        golden.add_box_head(stage, box["cls_score"], box["bbox_pred"])
        if head.with_mask:
            # Uses HTC's training form, as its inference form returns only the last stage's masks.
            masks = head._mask_forward(*first, rois[:8], **fused)["mask_preds"]
            golden.add(f"roi_mask_logits/{stage}", masks[:, ::9])
    pooler = head.bbox_roi_extractor[0] if cascaded else head.bbox_roi_extractor
    golden.add("roi_feature", pooler(features[: pooler.num_inputs], rois[:8])[:, ::16])


def add_panoptic(golden: GoldenFile, features: tuple[torch.Tensor, ...], instances: Any) -> None:
    """Adds the semantic branch's logits and the merged map."""
    model = golden.model
    logits = model.semantic_head(features)["seg_preds"]
    golden.add("semantic_logits", logits[0, ::6, ::2, ::2])
    maps = model.semantic_head.predict(features, [sample().metainfo], rescale=False)
    merged = model.panoptic_fusion_head.predict([instances], maps, rescale=False)[0]
    golden.add("panoptic/segments", merged.sem_seg[0].int())
    golden.add("semantic_argmax", maps[0].argmax(0).to(torch.uint8))


@torch.no_grad()
def add_inference(golden: GoldenFile, images: torch.Tensor, samples: list[Any]) -> None:
    """Adds every output that needs no ground truth."""
    model = golden.model
    features = model.extract_feat(images)
    golden.add_features(enumerate(features))
    golden.add_rpn(*model.rpn_head(features))
    proposals = model.rpn_head.predict(features, samples, rescale=False)
    golden.add("proposals", proposals[0].bboxes)
    add_heads(golden, features)
    found = model.roi_head.predict(features, proposals, samples, rescale=False)[0]
    golden.add_detections(found.bboxes, found.scores, found.labels, found.get("masks"))
    if hasattr(model, "panoptic_fusion_head"):
        add_panoptic(golden, features, found)


def main() -> None:
    """Writes the golden file of the config named on the command line."""
    args = arguments(__doc__)
    import_mmdet()
    model = build(args.config)
    golden = GoldenFile(model, args, source="mmdet 3.3.0 / mmcv 2.2.0", sort="stable")
    data = {"inputs": [golden.image_bgr()], "data_samples": [sample()]}
    data = model.data_preprocessor(data, training=False)
    add_inference(golden, data["inputs"], data["data_samples"])

    def losses() -> dict[str, torch.Tensor]:
        found = model.loss(data["inputs"], [sample(golden)])
        terms = {name: value for name, value in found.items() if "loss" in name}
        return {
            name: sum(value) if isinstance(value, list | tuple) else value
            for name, value in terms.items()
        }

    golden.train(losses)
    golden.write()


if __name__ == "__main__":
    main()
