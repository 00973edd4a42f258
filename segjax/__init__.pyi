"""Public names and the modules that define them; `__init__.py` imports each on first use."""

from . import figure_ground as figure_ground
from . import optim as optim
from .aot.compile import CompileReport as CompileReport
from .aot.compile import compile_for as compile_for
from .config import OptimConfig as OptimConfig
from .config import TrainConfig as TrainConfig
from .config import load_config as load_config
from .data.config import DataConfig as DataConfig
from .data.segments import PanopticCategory as PanopticCategory
from .eval.mean_iou import MeanIou as MeanIou
from .eval.panoptic_quality import PanopticQuality as PanopticQuality
from .eval.runner import evaluate as evaluate
from .losses.semantic import SemanticLoss as SemanticLoss
from .models import CascadeMaskRCNN as CascadeMaskRCNN
from .models import CascadeRCNN as CascadeRCNN
from .models import FasterRCNN as FasterRCNN
from .models import HybridTaskCascade as HybridTaskCascade
from .models import MaskRCNN as MaskRCNN
from .models import PanopticFPN as PanopticFPN
from .models import PanopticMerge as PanopticMerge
from .models import SemanticFPN as SemanticFPN
from .models import cascade_mask_rcnn as cascade_mask_rcnn
from .models import cascade_rcnn as cascade_rcnn
from .models import faster_rcnn as faster_rcnn
from .models import htc as htc
from .models import mask_rcnn as mask_rcnn
from .models import panoptic_fpn as panoptic_fpn
from .models import semantic_fpn as semantic_fpn
from .nn.backbones.efficientnet import efficientnet_lite as efficientnet_lite
from .nn.backbones.resnet import resnet as resnet
from .nn.backbones.swin import swin as swin
from .predict.predictor import Predictor as Predictor
from .predict.predictor import predict as predict
from .results.classes import Classes as Classes
from .results.detections import ImageDetections as ImageDetections
from .results.draw.maps import draw_panoptic as draw_panoptic
from .results.draw.maps import draw_semantic as draw_semantic
from .results.draw.objects import draw as draw
from .results.maps import PanopticMap as PanopticMap
from .results.maps import SemanticMap as SemanticMap
from .results.result import Result as Result
from .train.loop import train as train
from .train.runs import load_run as load_run
from .train.runs import save_run as save_run
from .train.weights import load as load
from .train.weights import pretrained as pretrained
from .types import Batch as Batch
from .types import Detections as Detections
from .zoo.hub import Pretrained as Pretrained
from .zoo.hub import save as save
from .zoo.table import list_models as list_models

__version__: str
xla_flags_added: str
