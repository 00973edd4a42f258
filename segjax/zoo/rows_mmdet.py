"""Detectors of MMDetection 3.3.

Files and scores come from each `metafile.yml` in its configs; the weights are of version 2. Models
with deformable convolutions, losses on decoded boxes or no FPN are omitted, and so are files whose
configs of versions 2 and 3 disagree on pixel normalisation.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from segjax.data.labels.stuffthingmaps import STUFF_NAMES
from segjax.models import (
    cascade_mask_rcnn,
    cascade_rcnn,
    faster_rcnn,
    htc,
    mask_rcnn,
    panoptic_fpn,
    resnet,
)
from segjax.models.flavours.cascades import MMDET_CASCADE_CAFFE
from segjax.models.flavours.libraries import MMDET_CAFFE
from segjax.results.classes import Classes
from segjax.zoo.coco_classes import COCO_IDS, COCO_NAMES, PANOPTIC_CATEGORIES, THINGS_LAST_NAMES
from segjax.zoo.entry import Entry, Weights

URL = "https://download.openmmlab.com/mmdetection/v2.0/"
SOURCE = "https://github.com/open-mmlab/mmdetection/blob/v3.3.0/configs/"
LICENCE = "Apache-2.0"

# Backbone in a file's name -> our name and module.
_BACKBONES = {
    "r50": ("resnet50", resnet(50)),
    "r101": ("resnet101", resnet(101)),
    "x101_32x4d": ("resnext101_32x4d", resnet(101, groups=32, group_width=4)),
    "x101_64x4d": ("resnext101_64x4d", resnet(101, groups=64, group_width=4)),
}
# Schedule in a file's name -> our tag.
_TAGS = {
    "1x": "1x",
    "2x": "2x",
    "20e": "20e",
    "16x1_20e": "20e",
    "mstrain_2x": "ms_2x",
    "mstrain_3x": "ms_3x",
    "mstrain-poly_2x": "ms_2x",
    "mstrain-poly_3x": "ms_3x",
    "fp16_1x": "fp16_1x",
    "rsb-pretrain_1x": "rsb_1x",
    "tnr-pretrain_1x": "tnr_1x",
}
# Schedules with weights in a folder other than their model's.
_FOLDERS = {"fp16_1x": "fp16", "rsb-pretrain_1x": "resnet_strikes_back"}
# The same for configs. Mixed precision does not change the model, so fp16 is not listed.
_CONFIG_FOLDERS = {"rsb-pretrain_1x": "resnet_strikes_back"}


@dataclasses.dataclass(frozen=True)
class _Family:
    """Rows of one architecture.

    Attributes:
      file: prefix of the file names.
      folder: folder of the files and configs.
      architecture: our name of the architecture, with a placeholder for the backbone.
      make: the factory with all arguments except for the backbone.
      rows: backbone and schedule, the rest of the file's name, and scores, one model per line.
      caffe: flavour of the models with "caffe" backbones.
      metrics: names of the scores.
      peer: key of the converter's table.
      semantic_names: names of the pixel classes; () if there are none.
      panoptic: True if the models predict COCO's panoptic categories.
    """

    file: str
    folder: str
    architecture: str
    make: functools.partial
    rows: str
    caffe: Any = None
    metrics: tuple[str, ...] = ("box/AP", "segm/AP")
    peer: str = "mmdet"
    semantic_names: tuple[str, ...] = ()
    panoptic: bool = False

    def entries(self) -> Iterator[Entry]:
        """Yields one entry per row."""
        for line in self.rows.strip().splitlines():
            yield self._entry(*line.split())

    def _entry(self, run: str, rest: str, *figures: str) -> Entry:
        backbone, schedule = run.split("_fpn_")
        caffe = backbone.endswith("_caffe")
        ours, module = _BACKBONES[backbone.removesuffix("_caffe")]
        flavour = {"flavour": self.caffe} if caffe else {}
        run = f"{self.file}_{run}_coco"
        folder = _FOLDERS.get(schedule, self.folder)
        tag = f"mm_{'caffe_' if caffe else ''}{_TAGS[schedule]}"
        return Entry(
            name=f"{self.architecture.format(ours)}.{tag}",
            make=functools.partial(self.make, module, **flavour),
            peer=self.peer,
            weights=Weights.sha256_in_name(f"{URL}{folder}/{run}/{run}_{rest}.pth"),
            kind="detector",
            published=dict(zip(self.metrics, map(float, figures), strict=True)),
            source=f"{SOURCE}{_CONFIG_FOLDERS.get(schedule, self.folder)}/metafile.yml",
            licence=LICENCE,
            classes=Classes(
                COCO_NAMES,
                COCO_IDS,
                semantic_names=self.semantic_names,
                panoptic_categories=PANOPTIC_CATEGORIES if self.panoptic else (),
            ),
        )


_THINGS = len(COCO_NAMES)

_FASTER_RCNN = _Family(
    file="faster_rcnn",
    folder="faster_rcnn",
    architecture="faster_rcnn_{}_fpn",
    make=functools.partial(faster_rcnn, num_classes=_THINGS, flavour="mmdet"),
    caffe=MMDET_CAFFE,
    metrics=("box/AP",),
    rows="""
        r50_fpn_1x                20200130-047c8118                          37.4
        r50_fpn_2x                bbox_mAP-0.384_20200504_210434-a5d8aa15    38.4
        r50_fpn_mstrain_3x        20210524_110822-e10bd31c                   40.3
        r50_fpn_fp16_1x           20200204-d4dc1471                          37.5
        r50_fpn_rsb-pretrain_1x   20220113_162229-32ae82a9                   40.8
        r50_fpn_tnr-pretrain_1x   20220320_085147-efedfda4                   40.2
        r50_caffe_fpn_1x          bbox_mAP-0.378_20200504_180032-c5925ee5    37.8
        r50_caffe_fpn_mstrain_2x  bbox_mAP-0.397_20200504_231813-10b2de58    39.7
        r50_caffe_fpn_mstrain_3x  20210526_095054-1f77628b                   39.9
        r101_fpn_1x               20200130-f513f705                          39.4
        r101_fpn_2x               bbox_mAP-0.398_20200504_210455-1d2dac9c    39.8
        r101_fpn_mstrain_3x       20210524_110822-4d4d2ca8                   41.8
        r101_caffe_fpn_1x         bbox_mAP-0.398_20200504_180057-b269e9dd    39.8
        x101_32x4d_fpn_1x         20200203-cff10310                          41.2
        x101_32x4d_fpn_2x         bbox_mAP-0.412_20200506_041400-64a12c0b    41.2
        x101_32x4d_fpn_mstrain_3x 20210524_124151-16b9b260                   42.5
        x101_64x4d_fpn_1x         20200204-833ee192                          42.1
        x101_64x4d_fpn_2x         20200512_161033-5961fa95                   41.6
        x101_64x4d_fpn_mstrain_3x 20210524_124528-26c63de6                   43.1
    """,
)
_MASK_RCNN = _Family(
    file="mask_rcnn",
    folder="mask_rcnn",
    architecture="mask_rcnn_{}_fpn",
    make=functools.partial(mask_rcnn, num_classes=_THINGS, flavour="mmdet"),
    caffe=MMDET_CAFFE,
    rows="""
        r50_fpn_1x               20200205-d4b0c5d6                                        38.2 34.7
        r50_fpn_2x               bbox_mAP-0.392__segm_mAP-0.354_20200505_003907-3e542a40  39.2 35.4
        r50_fpn_mstrain-poly_3x  20210524_201154-21b550bb                                 40.9 37.1
        r50_fpn_fp16_1x          20200205-59faf7e4                                        38.1 34.7
        r50_fpn_rsb-pretrain_1x  20220113_174054-06ce8ba0                                 41.2 38.2
        r50_caffe_fpn_1x         bbox_mAP-0.38__segm_mAP-0.344_20200504_231812-0ebd1859   38.0 34.4
        r50_caffe_fpn_mstrain-poly_2x bbox_mAP-0.403__segm_mAP-0.365_20200504_231822-a75c98ce 40.3 36.5
        r50_caffe_fpn_mstrain-poly_3x bbox_mAP-0.408__segm_mAP-0.37_20200504_163245-42aa3d00 40.8 37.0
        r101_fpn_1x              20200204-1efe0ed5                                        40.0 36.1
        r101_fpn_2x              bbox_mAP-0.408__segm_mAP-0.366_20200505_071027-14b391c7  40.8 36.6
        r101_fpn_mstrain-poly_3x 20210524_200244-5675c317                                 42.7 38.5
        r101_caffe_fpn_1x        20200601_095758-805e06c1                                 40.4 36.4
        x101_32x4d_fpn_1x        20200205-478d0b67                                        41.9 37.5
        x101_32x4d_fpn_2x        bbox_mAP-0.422__segm_mAP-0.378_20200506_004702-faef898c  42.2 37.8
        x101_32x4d_fpn_mstrain-poly_3x 20210524_201410-abcd7859                           43.6 39.0
        x101_64x4d_fpn_1x        20200201-9352eb0d                                        42.8 38.4
        x101_64x4d_fpn_2x        20200509_224208-39d6f70c                                 42.7 38.1
        x101_64x4d_fpn_mstrain-poly_3x 20210526_120447-c376f129                           44.5 39.7
    """,  # noqa: E501
)
_CASCADE_RCNN = _Family(
    file="cascade_rcnn",
    folder="cascade_rcnn",
    architecture="cascade_rcnn_{}_fpn",
    make=functools.partial(cascade_rcnn, num_classes=_THINGS, flavour="mmdet"),
    caffe=MMDET_CASCADE_CAFFE,
    metrics=("box/AP",),
    rows="""
        r50_fpn_1x          20200316-3dc56deb                          40.3
        r50_fpn_20e         bbox_mAP-0.41_20200504_175131-e9872a90     41.0
        r50_caffe_fpn_1x    bbox_mAP-0.404_20200504_174853-b857be87    40.4
        r101_fpn_1x         20200317-0b6a2fbf                          42.0
        r101_fpn_20e        bbox_mAP-0.425_20200504_231812-5057dcc5    42.5
        r101_caffe_fpn_1x   bbox_mAP-0.423_20200504_175649-cab8dbd5    42.3
        x101_32x4d_fpn_1x   20200316-95c2deb6                          43.7
        x101_32x4d_fpn_20e  20200906_134608-9ae0a720                   43.7
        x101_64x4d_fpn_1x   20200515_075702-43ce6a30                   44.7
        x101_64x4d_fpn_20e  20200509_224357-051557b1                   44.5
    """,
)
_CASCADE_MASK_RCNN = _Family(
    file="cascade_mask_rcnn",
    folder="cascade_rcnn",
    architecture="cascade_mask_rcnn_{}_fpn",
    make=functools.partial(cascade_mask_rcnn, num_classes=_THINGS, flavour="mmdet"),
    caffe=MMDET_CASCADE_CAFFE,
    rows="""
        r50_fpn_1x               20200203-9d4dcb24                                        41.2 35.9
        r50_fpn_20e              bbox_mAP-0.419__segm_mAP-0.365_20200504_174711-4af8e66e  41.9 36.5
        r50_fpn_mstrain_3x       20210628_164719-5bdc3824                                 44.3 38.5
        r50_fpn_rsb-pretrain_1x  20220113_193636-8b9ad50f                                 44.8 39.9
        r50_caffe_fpn_1x         bbox_mAP-0.412__segm_mAP-0.36_20200504_174659-5004b251   41.2 36.0
        r50_caffe_fpn_mstrain_3x 20210707_002651-6e29b3a6                                 44.0 38.1
        r101_fpn_1x              20200203-befdf6ee                                        42.9 37.3
        r101_fpn_20e             bbox_mAP-0.434__segm_mAP-0.378_20200504_174836-005947da  43.4 37.8
        r101_fpn_mstrain_3x      20210628_165236-51a2d363                                 45.5 39.6
        r101_caffe_fpn_1x        bbox_mAP-0.432__segm_mAP-0.376_20200504_174813-5c1e9599  43.2 37.6
        r101_caffe_fpn_mstrain_3x 20210707_002620-a5bd2389                                45.4 39.5
        x101_32x4d_fpn_1x        20200201-0f411b1f                                        44.3 38.3
        x101_32x4d_fpn_20e       20200528_083917-ed1f4751                                 45.0 39.0
        x101_32x4d_fpn_mstrain_3x 20210706_225234-40773067                                46.3 40.1
        x101_64x4d_fpn_1x        20200203-9a2db89d                                        45.3 39.2
        x101_64x4d_fpn_20e       20200512_161033-bdb5126a                                 45.6 39.5
        x101_64x4d_fpn_mstrain_3x 20210719_210311-d3e64ba0                                46.6 40.3
    """,
)
# The scores are for the average of the three mask heads, as in version 2 and by our default.
_HTC = _Family(
    file="htc",
    folder="htc",
    architecture="htc_{}_fpn",
    make=functools.partial(
        htc, num_classes=_THINGS, semantic_classes=len(STUFF_NAMES), flavour="mmdet"
    ),
    semantic_names=STUFF_NAMES,
    rows="""
        r50_fpn_1x               20200317-7332cf16  42.3 37.4
        r50_fpn_20e              20200319-fe28c577  43.3 38.3
        r101_fpn_20e             20200317-9b41b48f  44.8 39.6
        x101_32x4d_fpn_16x1_20e  20200318-de97ae01  46.1 40.5
        x101_64x4d_fpn_16x1_20e  20200318-b181fd7a  47.0 41.4
    """,
)
_PANOPTIC_FPN = _Family(
    file="panoptic_fpn",
    folder="panoptic_fpn",
    architecture="panoptic_fpn_{}",
    make=functools.partial(
        panoptic_fpn,
        num_classes=_THINGS,
        semantic_classes=len(THINGS_LAST_NAMES),
        flavour="mmdet",
    ),
    metrics=("panoptic/PQ",),
    peer="mmdet_panoptic",
    semantic_names=THINGS_LAST_NAMES,
    panoptic=True,
    rows="""
        r50_fpn_1x           20210821_101153-9668fd13  40.2
        r50_fpn_mstrain_3x   20210824_171155-5650f98b  42.5
        r101_fpn_1x          20210820_193950-ab9157a2  42.2
        r101_fpn_mstrain_3x  20210823_114712-9c99acc4  44.1
    """,
)

ROWS = tuple(
    entry
    for family in (
        _FASTER_RCNN,
        _MASK_RCNN,
        _CASCADE_RCNN,
        _CASCADE_MASK_RCNN,
        _HTC,
        _PANOPTIC_FPN,
    )
    for entry in family.entries()
)
