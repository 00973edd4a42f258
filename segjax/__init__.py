"""Instance segmentation in JAX: a pure-functional model zoo in Flax linen."""

import importlib
from typing import TYPE_CHECKING, Any

from segjax._xla_flags import avoid_known_faults

if TYPE_CHECKING:
    from segjax import figure_ground as figure_ground
    from segjax.aot.compile import CompileReport as CompileReport
    from segjax.aot.compile import compile_for as compile_for
    from segjax.config import OptimConfig as OptimConfig
    from segjax.config import TrainConfig as TrainConfig
    from segjax.config import load_config as load_config
    from segjax.data.config import DataConfig as DataConfig
    from segjax.data.segments import PanopticCategory as PanopticCategory
    from segjax.eval.detections import ImageDetections as ImageDetections
    from segjax.eval.maps import PanopticMap as PanopticMap
    from segjax.eval.maps import SemanticMap as SemanticMap
    from segjax.eval.mean_iou import MeanIou as MeanIou
    from segjax.eval.panoptic_quality import PanopticQuality as PanopticQuality
    from segjax.eval.result import Result as Result
    from segjax.eval.runner import evaluate as evaluate
    from segjax.models import CascadeMaskRCNN as CascadeMaskRCNN
    from segjax.models import CascadeRCNN as CascadeRCNN
    from segjax.models import FasterRCNN as FasterRCNN
    from segjax.models import HybridTaskCascade as HybridTaskCascade
    from segjax.models import MaskRCNN as MaskRCNN
    from segjax.models import PanopticFPN as PanopticFPN
    from segjax.models import PanopticMerge as PanopticMerge
    from segjax.models import SemanticFPN as SemanticFPN
    from segjax.models import cascade_mask_rcnn_resnet_fpn as cascade_mask_rcnn_resnet_fpn
    from segjax.models import cascade_rcnn_resnet_fpn as cascade_rcnn_resnet_fpn
    from segjax.models import faster_rcnn_resnet_fpn as faster_rcnn_resnet_fpn
    from segjax.models import htc_resnet_fpn as htc_resnet_fpn
    from segjax.models import mask_rcnn_efficientnet_lite_fpn as mask_rcnn_efficientnet_lite_fpn
    from segjax.models import mask_rcnn_resnet_fpn as mask_rcnn_resnet_fpn
    from segjax.models import models as models
    from segjax.models import panoptic_fpn_resnet as panoptic_fpn_resnet
    from segjax.models import semantic_fpn_resnet as semantic_fpn_resnet
    from segjax.models.semantic import SemanticLoss as SemanticLoss
    from segjax.predict import Predictor as Predictor
    from segjax.predict import predict as predict
    from segjax.train import load_run as load_run
    from segjax.train import save_run as save_run
    from segjax.train import train as train
    from segjax.train.weights import load as load
    from segjax.train.weights import pretrained as pretrained
    from segjax.types import Batch as Batch
    from segjax.types import Detections as Detections
    from segjax.viz import draw as draw
    from segjax.viz_maps import draw_panoptic as draw_panoptic
    from segjax.viz_maps import draw_semantic as draw_semantic
    from segjax.zoo.hub import Pretrained as Pretrained
    from segjax.zoo.hub import save as save

__version__ = "0.1.0"

# The one effect of importing segjax: XLA's flags, which must stand before JAX starts.
_xla_flags_added = avoid_known_faults()

# Public names and where they live: imported on first use, so that `import segjax` is cheap
# and touches no device.
_HOMES = {
    "Batch": "segjax.types",
    "CascadeMaskRCNN": "segjax.models",
    "CompileReport": "segjax.aot.compile",
    "CascadeRCNN": "segjax.models",
    "DataConfig": "segjax.data.config",
    "Detections": "segjax.types",
    "FasterRCNN": "segjax.models",
    "HybridTaskCascade": "segjax.models",
    "ImageDetections": "segjax.eval.detections",
    "MaskRCNN": "segjax.models",
    "MeanIou": "segjax.eval.mean_iou",
    "OptimConfig": "segjax.config",
    "PanopticCategory": "segjax.data.segments",
    "PanopticFPN": "segjax.models",
    "PanopticMap": "segjax.eval.maps",
    "PanopticMerge": "segjax.models",
    "PanopticQuality": "segjax.eval.panoptic_quality",
    "Predictor": "segjax.predict",
    "Pretrained": "segjax.zoo.hub",
    "Result": "segjax.eval.result",
    "SemanticFPN": "segjax.models",
    "SemanticLoss": "segjax.models.semantic",
    "SemanticMap": "segjax.eval.maps",
    "TrainConfig": "segjax.config",
    "cascade_mask_rcnn_resnet_fpn": "segjax.models",
    "cascade_rcnn_resnet_fpn": "segjax.models",
    "compile_for": "segjax.aot.compile",
    "draw": "segjax.viz",
    "draw_panoptic": "segjax.viz_maps",
    "draw_semantic": "segjax.viz_maps",
    "evaluate": "segjax.eval.runner",
    "faster_rcnn_resnet_fpn": "segjax.models",
    "figure_ground": "segjax.figure_ground",
    "htc_resnet_fpn": "segjax.models",
    "load": "segjax.train.weights",
    "load_config": "segjax.config",
    "load_run": "segjax.train",
    "mask_rcnn_efficientnet_lite_fpn": "segjax.models",
    "mask_rcnn_resnet_fpn": "segjax.models",
    "models": "segjax.models",
    "panoptic_fpn_resnet": "segjax.models",
    "predict": "segjax.predict",
    "pretrained": "segjax.train.weights",
    "save": "segjax.zoo.hub",
    "save_run": "segjax.train",
    "semantic_fpn_resnet": "segjax.models",
    "train": "segjax.train",
}

__all__ = [
    "Batch",
    "CascadeMaskRCNN",
    "CascadeRCNN",
    "CompileReport",
    "DataConfig",
    "Detections",
    "FasterRCNN",
    "HybridTaskCascade",
    "ImageDetections",
    "MaskRCNN",
    "MeanIou",
    "OptimConfig",
    "PanopticCategory",
    "PanopticFPN",
    "PanopticMap",
    "PanopticMerge",
    "PanopticQuality",
    "Predictor",
    "Pretrained",
    "Result",
    "SemanticFPN",
    "SemanticLoss",
    "SemanticMap",
    "TrainConfig",
    "__version__",
    "cascade_mask_rcnn_resnet_fpn",
    "cascade_rcnn_resnet_fpn",
    "compile_for",
    "draw",
    "draw_panoptic",
    "draw_semantic",
    "evaluate",
    "faster_rcnn_resnet_fpn",
    "figure_ground",
    "htc_resnet_fpn",
    "load",
    "load_config",
    "load_run",
    "mask_rcnn_efficientnet_lite_fpn",
    "mask_rcnn_resnet_fpn",
    "models",
    "panoptic_fpn_resnet",
    "predict",
    "pretrained",
    "save",
    "save_run",
    "semantic_fpn_resnet",
    "train",
]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Imports a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'segjax' has no attribute {name!r}")
    value = importlib.import_module(_HOMES[name])
    if name not in ("figure_ground", "models", "predict", "train"):  # modules
        value = getattr(value, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
