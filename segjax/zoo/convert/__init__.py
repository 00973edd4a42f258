"""Converters from the peers' parameter names and layouts, one table for each."""

from segjax.zoo.convert.detectron2 import CASCADE_RULES as DETECTRON2_CASCADE_RULES
from segjax.zoo.convert.detectron2 import PANOPTIC_RULES as DETECTRON2_PANOPTIC_RULES
from segjax.zoo.convert.detectron2 import RULES as DETECTRON2_RULES
from segjax.zoo.convert.mmdet import RULES as MMDET_RULES
from segjax.zoo.convert.rules import convert as convert
from segjax.zoo.convert.rules import path_of as path_of
from segjax.zoo.convert.torchvision import RULES as TORCHVISION_RULES

RULES = {
    "torchvision": TORCHVISION_RULES,
    "detectron2": DETECTRON2_RULES,
    "detectron2_cascade": DETECTRON2_CASCADE_RULES,
    "detectron2_panoptic": DETECTRON2_PANOPTIC_RULES,
    "mmdet": MMDET_RULES,
}
