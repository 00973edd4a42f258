"""torchvision's modules strictly load exported weights and compute the same results."""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

from torchvision.models import detection  # noqa: E402
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor  # noqa: E402
from torchvision.ops.misc import FrozenBatchNorm2d  # noqa: E402

from segjax.models import faster_rcnn, mask_rcnn  # noqa: E402
from segjax.nn.backbones.resnet import resnet  # noqa: E402
from segjax.nn.norm import NormSpec  # noqa: E402
from segjax.zoo.convert import RULES, convert, export  # noqa: E402
from tests.zoo.test_export import backbone_shapes, detector_shapes, drawn  # noqa: E402

CLASSES = 4


def frozen(model):
    """Builds the model with frozen norms as in released v1 weights; only downloads have these."""
    body = torchvision.models.resnet50(norm_layer=FrozenBatchNorm2d)
    return model(_resnet_fpn_extractor(body, 3), CLASSES + 1)


def detector(build):
    return build(weights=None, weights_backbone=None, num_classes=CLASSES + 1)


DETECTORS = {
    "mask, frozen": (lambda: frozen(detection.MaskRCNN), mask_rcnn, "torchvision"),
    "faster, frozen": (lambda: frozen(detection.FasterRCNN), faster_rcnn, "torchvision"),
    "mask, v2": (
        lambda: detector(detection.maskrcnn_resnet50_fpn_v2),
        mask_rcnn,
        "torchvision_v2",
    ),
    "faster, v2": (
        lambda: detector(detection.fasterrcnn_resnet50_fpn_v2),
        faster_rcnn,
        "torchvision_v2",
    ),
}


@pytest.mark.parametrize("which", DETECTORS)
def test_detectors_load_strictly_and_convert(which):
    build, factory, style = DETECTORS[which]
    theirs, shapes = build(), detector_shapes(factory(CLASSES, style=style))
    state = export(drawn(shapes), RULES["torchvision"])
    assert_loads(theirs, state)
    own = {name: value.numpy() for name, value in theirs.state_dict().items()}
    back = convert(own, RULES["torchvision"], shapes)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(drawn(shapes)), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize(
    "build", [detection.maskrcnn_resnet50_fpn, detection.fasterrcnn_resnet50_fpn]
)
def test_untrained_v1_models_load_it_too(build):
    """Models built without weights have batch norms, whose counters may be missing."""
    has_masks = build is detection.maskrcnn_resnet50_fpn
    factory = mask_rcnn if has_masks else faster_rcnn
    shapes = detector_shapes(factory(CLASSES, style="torchvision"))
    theirs = detector(build)
    assert "backbone.body.bn1.num_batches_tracked" in theirs.state_dict()
    theirs.load_state_dict(tensors(export(drawn(shapes), RULES["torchvision"])), strict=True)


@pytest.mark.filterwarnings("error")
def test_read_only_arrays_are_written():
    """Weights read from a file are views of its buffer."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    array.flags.writeable = False
    writing = pytest.importorskip("segjax.zoo.export")  # needs all of segjax's dependencies
    found = writing.Pretrained(None, {})
    written = io.BytesIO(writing._pth({"w": array}, found, "torchvision"))
    np.testing.assert_array_equal(torch.load(written, weights_only=True)["w"].numpy(), array)


def assert_loads(theirs, state):
    own = theirs.state_dict()
    assert set(own) == set(state)
    for name, value in own.items():
        assert (tuple(value.shape), value.numpy().dtype) == (state[name].shape, state[name].dtype)
    theirs.load_state_dict(tensors(state), strict=True)


def tensors(state):
    return {name: torch.from_numpy(array) for name, array in state.items()}


BACKBONES = {
    "resnet18": functools.partial(resnet, 18),
    "resnet50": functools.partial(resnet, 50),
    "resnet101": functools.partial(resnet, 101),
    "resnext50_32x4d": functools.partial(resnet, 50, groups=32, group_width=4),
    "resnext101_32x8d": functools.partial(resnet, 101, groups=32, group_width=8),
}


def headless(name):
    model = getattr(torchvision.models, name)(weights=None)
    model.fc = torch.nn.Identity()
    return model.eval()


@pytest.mark.parametrize(
    ("name", "kind"), [("resnet18", "batch"), *((name, "frozen") for name in BACKBONES)]
)
def test_backbones_load_strictly(name, kind):
    shapes = backbone_shapes(BACKBONES[name](norm=NormSpec(kind)))
    state = export(drawn(shapes), RULES["torchvision_backbone"])
    assert_loads(headless(name), state)
    classifier = {"fc.weight": np.ones((2, 3)), "fc.bias": np.ones(2)}
    convert(state | classifier, RULES["torchvision_backbone"], shapes)


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
def test_backbones_compute_the_same(name):
    torch.manual_seed(0)
    theirs, model = headless(name), BACKBONES[name]()
    state = {key: value.numpy() for key, value in theirs.state_dict().items()}
    variables = convert(state, RULES["torchvision_backbone"], backbone_shapes(model))
    x = np.random.default_rng(0).normal(size=(1, 64, 96, 3)).astype(np.float32)
    ours = jax.jit(model.apply)(jax.tree.map(jnp.asarray, variables), jnp.asarray(x))
    with torch.no_grad():
        y = torch.from_numpy(x.transpose(0, 3, 1, 2))
        y = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(y))))
        for stage, layer in zip(
            ours, (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4), strict=True
        ):
            y = layer(y)
            wanted = y.numpy().transpose(0, 2, 3, 1)
            np.testing.assert_allclose(stage, wanted, atol=1e-4 * np.abs(wanted).max())
