"""Every zoo model follows the contract, a box-free model fits it, and callers need nothing else."""

import dataclasses
import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import segjax
from segjax.data import rle
from segjax.models.variables import variable_shapes
from segjax.ops.soft_masks import BoxMasks, CanvasMasks
from segjax.predict.predictor import Predictor
from segjax.protocols import (
    Backbone,
    ClassCounts,
    Model,
    Padding,
    PanopticModel,
    as_model,
    layer_of,
)
from segjax.types import Detections
from segjax.zoo.table import ENTRIES
from tests.support.fakes import FakeModel

SOURCE = Path(segjax.__file__).parent
TOGETHER = {
    repr(entry.make()): entry for entry in ENTRIES.values()
}  # rows that differ only in their schedule are one model


@pytest.mark.parametrize("entry", TOGETHER.values(), ids=lambda entry: entry.name)
def test_every_row_of_the_zoo_keeps_the_contract(entry):
    model = entry.make()
    if entry.kind == "backbone":
        assert isinstance(model, Backbone) and not isinstance(model, Model)
        assert_maps_are_what_the_backbone_says(model)
        return
    assert as_model(model) is model
    assert isinstance(model, PanopticModel) == ("panoptic" in model.tasks)
    assert model.classes == model.with_classes().classes
    side = model.padding.init_side
    assert side % model.padding.divisor == 0
    found, variables = jax.eval_shape(
        model.init_with_output,
        jax.random.key(0),
        jax.ShapeDtypeStruct((2, side, side, 3), jnp.uint8),
        jax.ShapeDtypeStruct((2, 2), jnp.int32),
    )
    assert (found.masks is not None) == ("masks" in model.tasks)
    assert (found.semantic_logits is not None) == ("semantic" in model.tasks)
    assert found.boxes.shape == (*found.scores.shape, 4)
    if found.semantic_logits is not None:
        assert found.semantic_logits.shape[-1] == model.classes.pixels
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    layers = {layer_of(model, path) for path in paths}
    assert layers == {None, *range(model.backbone.num_layers)}


def assert_maps_are_what_the_backbone_says(backbone):
    side = 2 * backbone.size_divisor
    maps = jax.eval_shape(
        backbone.apply,
        variable_shapes(backbone),
        jax.ShapeDtypeStruct((1, side, side, 3), "float32"),
    )
    wanted = [
        (1, side // stride, side // stride, channels)
        for stride, channels in zip(backbone.strides, backbone.channels, strict=True)
    ]
    assert [m.shape for m in maps] == wanted


@dataclasses.dataclass(frozen=True)
class Query(FakeModel):
    """Full-image masks without boxes: one bright and one dark object."""

    stride: int = 4
    tasks = frozenset({"masks"})
    classes = ClassCounts(things=2)
    padding = Padding(8)

    def apply(self, variables, images, image_sizes, *, method):
        assert method == "predict"
        grey = images.astype(jnp.float32).mean(-1)[:, :: self.stride, :: self.stride] - 128
        logits = jnp.stack([grey, -grey], axis=1)
        batch = len(images)
        return Detections(
            boxes=None,
            scores=jnp.broadcast_to(jnp.array([[0.9, 0.8]]), (batch, 2)),
            classes=jnp.broadcast_to(jnp.array([[0, 1]]), (batch, 2)),
            valid=jnp.ones((batch, 2), bool),
            masks=CanvasMasks.of(logits, image_sizes, self.stride),
        )


def test_a_model_without_boxes_and_rpn_predicts():
    data = segjax.DataConfig(resize="none")
    image = np.full((40, 56, 3), 20, np.uint8)
    image[8:24, 16:40] = 230
    found = Predictor(Query(), {}, data=data, pad_multiple=8)(image)
    bright, dark = (found.mask(i) for i in range(2))
    assert found.boxes.shape == (2, 4)
    x0, y0, x1, y1 = rle.to_bbox(found.mask_rles[0])
    np.testing.assert_array_equal(found.boxes[0], [x0, y0, x1, y1])
    # A cell is 4 pixels, so edges are accurate to half a cell.
    assert bright[10:22, 18:38].all() and not bright[:5].any() and not bright[:, 43:].any()
    assert dark[:5].all() and (bright ^ dark).mean() > 0.95


def test_canvas_masks_are_resized_as_their_images():
    random = np.random.default_rng(0)
    logits = jnp.asarray(random.normal(size=(1, 3, 8, 12)), jnp.float32)
    inside, original = np.array([[26, 41]], np.int32), np.array([[52, 82]], np.int32)
    masks = CanvasMasks.of(logits, jnp.asarray(inside), 4).to_original(
        jnp.asarray(inside), jnp.asarray(original)
    )
    one = jax.tree.map(lambda leaf: leaf[0], masks)
    whole = np.asarray(one.paste(52, 82))
    up = jax.image.resize(logits[0], (3, 32, 48), "bilinear")[:, :26, :41]
    wanted = np.asarray(jax.image.resize(up, (3, 52, 82), "bilinear"))
    clear = np.abs(wanted) > 1e-4
    np.testing.assert_array_equal(whole[clear], wanted[clear] >= 0)
    origin = jnp.array([[5, 7]] * 3, jnp.int32)
    np.testing.assert_array_equal(one.paste(20, 30, origin), whole[:, 7:27, 5:35])
    beyond = np.asarray(one.paste(60, 90))
    assert not beyond[:, 52:].any() and not beyond[:, :, 82:].any()


def test_masks_over_boxes_paste_windows_of_the_whole():
    random = np.random.default_rng(0)
    boxes = jnp.asarray([[3.0, 4.0, 30.0, 35.0], [10.0, 2.0, 22.0, 39.0]])
    for padded in (False, True):
        masks = BoxMasks(jnp.asarray(random.random((2, 7, 7)), jnp.float32), boxes, padded)
        whole = np.asarray(masks.paste(48, 40))
        window = masks.paste(20, 25, jnp.array([[6, 9]] * 2, jnp.int32))
        np.testing.assert_array_equal(window, whole[:, 9:29, 6:31])


def test_what_is_no_model_is_told_what_it_lacks():
    with pytest.raises(ValueError, match=r"Dense is no model: it has no .*padding.*tasks"):
        as_model(nn.Dense(3))


def test_nobody_looks_into_a_model():
    """No caller types a model as Any or looks up a model's attribute by name."""
    strange = re.compile(r"\bmodel: Any\b|(?:getattr|hasattr)\((?:\w+\.)?model\b")
    found = [
        f"{path.relative_to(SOURCE)}: {line.strip()}"
        for path in sorted(SOURCE.rglob("*.py"))
        for line in path.read_text().splitlines()
        if strange.search(line)
    ]
    assert found == []
