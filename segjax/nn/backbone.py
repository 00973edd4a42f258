"""What can stand below a feature pyramid."""

from segjax.nn.backbones.efficientnet import EfficientNetLite
from segjax.nn.backbones.resnet import ResNet

# Each gives C2..C5 at strides 4, 8, 16, 32 and names its frozen children (`frozen_paths`).
Backbone = ResNet | EfficientNetLite
