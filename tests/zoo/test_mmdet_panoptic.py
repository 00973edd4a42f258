"""A plain version of MMDetection's Panoptic FPN against ours with converted weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models import panoptic_fpn, resnet
from segjax.nn.heads.semantic import SemanticFPNHead
from segjax.ops.panoptic import merge_panoptic
from segjax.zoo.convert import RULES, convert, export
from tests.oracles.oracle_resize import oracle as resized

THINGS, STUFF = 3, 4
CHANNELS, FEATURES, GROUPS = 6, 64, 32
SIZES = [(16, 24), (8, 12), (4, 6), (2, 3)]
STYLE = panoptic_fpn(resnet(50), num_classes=THINGS, semantic_classes=STUFF + 1, flavour="mmdet")


def state_dict(seed=0):
    """Names and shapes of `PanopticFPNHead`: level i has max(i, 1) convolutions."""
    random = np.random.default_rng(seed)
    state = {}
    for level in range(4):
        for i in range(max(level, 1)):
            stem = f"semantic_head.conv_upsample_layers.{level}.conv.{i}"
            inputs = FEATURES if i else CHANNELS
            state[f"{stem}.conv.weight"] = random.normal(size=(FEATURES, inputs, 3, 3)) / 10
            state[f"{stem}.gn.weight"] = random.uniform(0.5, 1.5, FEATURES)
            state[f"{stem}.gn.bias"] = random.normal(size=FEATURES) / 10
    state["semantic_head.conv_logits.weight"] = random.normal(size=(STUFF + 1, FEATURES, 1, 1))
    state["semantic_head.conv_logits.bias"] = random.normal(size=STUFF + 1)
    return {name: array.astype(np.float32) for name, array in state.items()}


# ---- The head: models/seg_heads/panoptic_fpn_head.py, models/layers/conv_upsample.py --------


def plain_head(state, levels):
    """Maps levels [B, C, h, w] to logits [B, K, h, w] at the first level's size."""
    total = 0
    for i, level in enumerate(levels):
        x = level
        for j in range(max(i, 1)):
            stem = f"semantic_head.conv_upsample_layers.{i}.conv.{j}"
            x = conv(x, state[f"{stem}.conv.weight"])
            x = group_norm(x, state[f"{stem}.gn.weight"], state[f"{stem}.gn.bias"])
            x = np.maximum(x, 0)
            if i > 0:
                size = (2 * x.shape[2], 2 * x.shape[3])
                last = resized(x.transpose(0, 2, 3, 1), size, align_corners=False)
                x = last.transpose(0, 3, 1, 2)
        total = total + x
    weight = state["semantic_head.conv_logits.weight"][:, :, 0, 0]
    bias = state["semantic_head.conv_logits.bias"]
    return np.einsum("bchw,kc->bkhw", total, weight) + bias[None, :, None, None]


def conv(x, weight):
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = x.shape[2:]
    return sum(
        np.einsum("bchw,fc->bfhw", padded[:, :, i : i + height, j : j + width], weight[:, :, i, j])
        for i in range(3)
        for j in range(3)
    )


def group_norm(x, scale, bias):
    grouped = x.reshape(x.shape[0], GROUPS, -1)
    mean, var = grouped.mean(2, keepdims=True), grouped.var(2, keepdims=True)
    x = ((grouped - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)
    return x * scale[None, :, None, None] + bias[None, :, None, None]


def test_the_head_is_its_definition():
    random = np.random.default_rng(1)
    levels = [random.normal(size=(2, *size, CHANNELS)).astype(np.float32) for size in SIZES]
    head = SemanticFPNHead(STUFF + 1, features=FEATURES, norm=STYLE.semantic_head.norm)
    assert head.clone(features=128, dtype="float32") == STYLE.semantic_head
    shapes = jax.eval_shape(head.init, jax.random.key(0), [jnp.asarray(x) for x in levels])
    shapes = {"params": {"semantic_head": shapes["params"]}}
    state = state_dict()
    variables = convert(state, RULES["mmdet_panoptic"], shapes)
    back = export(variables, RULES["mmdet_panoptic"])
    assert set(back) == set(state)
    params = jax.tree.map(jnp.asarray, variables["params"]["semantic_head"])
    got = jax.jit(head.apply)({"params": params}, [jnp.asarray(x) for x in levels])
    wanted = plain_head(state, [x.transpose(0, 3, 1, 2).astype(np.float64) for x in levels])
    np.testing.assert_allclose(got, wanted.transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-4)


# ---- The loss: `PanopticFPNHead.loss`, models/losses/cross_entropy_loss.py ------------------


@pytest.mark.parametrize("canvas", [(64, 96), (96, 96)])
def test_the_loss_is_a_mean_over_all_cells(canvas):
    random = np.random.default_rng(2)
    sizes = np.array([[64, 96], [50, 70]])
    labels = np.full((2, *canvas), 255, np.uint8)
    for one, (height, width) in zip(labels, sizes, strict=True):
        one[:height, :width] = random.choice([0, 1, STUFF, 255], (height, width))
    logits = random.normal(size=(2, canvas[0] // 4, canvas[1] // 4, STUFF + 1))
    term = STYLE.semantic_loss(
        jnp.asarray(logits, jnp.float32), jnp.asarray(labels), jnp.asarray(sizes, jnp.int32), 32
    )["loss_semantic"]
    total = 0.0
    for b, i, j in np.ndindex(logits.shape[:3]):
        label, cell = labels[b, 4 * i, 4 * j], logits[b, i, j]
        if label != 255:
            total += np.log(np.exp(cell).sum()) - cell[label]
    # On its own, an image is padded to a multiple of 32; a larger canvas does not change that.
    cells = 16 * 24 + 16 * 24
    np.testing.assert_allclose(term.sum / term.count, 0.5 * total / cells, rtol=1e-5)


# ---- The map: models/seg_heads/panoptic_fusion_heads/heuristic_fusion_head.py ---------------


def plain_map(masks, scores, classes, semantic):
    """Returns [h, w] of (class, instance number); (THINGS + label, 0) for stuff, None for void."""
    height, width = semantic.shape
    owner = np.zeros((height, width), int)
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        area, taken = masks[i].sum(), (masks[i] & (owner > 0)).sum()
        if scores[i] <= 0.6 or area == 0 or taken / (area + 1e-5) > 0.5:
            continue
        kept.append(classes[i])
        owner[masks[i] & (owner == 0)] = len(kept)
    result = np.full((height, width), None)
    for y, x in np.ndindex(height, width):
        if owner[y, x]:
            result[y, x] = (kept[owner[y, x] - 1], owner[y, x])
    for label in range(STUFF):  # the last class is all things, which is void
        left = (owner == 0) & (semantic == label)
        if left.sum() >= 6:
            for y, x in np.argwhere(left):
                result[y, x] = (THINGS + label, 0)
    return result


@jax.jit
def device_map(masks, scores, classes, valid, semantic):
    how = STYLE.merge
    assert (how.stuff_area, how.overlap) == (4096, 0.5)
    return merge_panoptic(
        masks,
        scores,
        classes,
        valid,
        semantic,
        num_semantic=STUFF + 1,
        things=how.things,
        score_threshold=how.score_threshold,
        overlap=how.overlap,
        stuff_area=6,  # the images are small
    )


@pytest.mark.parametrize("seed", range(8))
def test_the_map_is_its_definition(seed):
    random = np.random.default_rng(seed)
    masks = np.zeros((6, 10, 12), bool)
    for mask in masks:
        y, x, h, w = random.integers(0, 8, 4)
        mask[y : y + h, x : x + w] = True
    scores = np.sort(random.uniform(0.4, 1, 6))[::-1].astype(np.float32)
    classes = random.integers(0, THINGS, 6).astype(np.int32)
    semantic = random.integers(0, STUFF + 1, (5, 6)).repeat(2, 0).repeat(2, 1).astype(np.int32)
    found = device_map(masks, scores, classes, np.ones(6, bool), semantic)
    rows = {int(number): row for row, number in enumerate(found.segment_ids) if number}
    got = np.full(semantic.shape, None)
    for y, x in np.ndindex(*semantic.shape):
        number = int(found.ids[y, x])
        if number:
            row = rows[number]
            kind = int(found.classes[row])
            got[y, x] = (kind, number) if found.is_thing[row] else (THINGS + kind, 0)
    wanted = plain_map(masks, scores, classes, semantic)
    assert (got == wanted).all()
    assert {type(cell) for cell in wanted.flat} == {tuple, type(None)}
