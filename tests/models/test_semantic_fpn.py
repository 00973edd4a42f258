"""Semantic segmentation alone: the choice of head, and training."""

import jax
import numpy as np
import pytest

from segjax.models import resnet, semantic_fpn
from segjax.nn.heads.semantic import FCNHead, SemanticFPNHead
from tests.support import tiny
from tests.support.run import Run


def test_the_head_is_chosen_by_name():
    assert semantic_fpn(resnet(50), semantic_classes=7).semantic_head == SemanticFPNHead(7)
    assert semantic_fpn(resnet(50), semantic_classes=7, head="fpn") == semantic_fpn(
        resnet(50), semantic_classes=7
    )
    model = semantic_fpn(resnet(50), semantic_classes=7, head="fcn", dtype="bfloat16")
    assert model.semantic_head == FCNHead(7, dtype="bfloat16")
    assert model.with_classes(pixels=9).semantic_head.num_classes == 9
    with pytest.raises(ValueError, match=r"head is 'unet': wanted one of .'fcn', 'fpn'."):
        semantic_fpn(resnet(50), semantic_classes=7, head="unet")


@pytest.mark.parametrize("concat_input", [False, True])
def test_the_fcn_head_learns(concat_input):
    parts = tiny.mask_rcnn()
    model = semantic_fpn(resnet(50), semantic_classes=tiny.CLASSES + 1, head="fcn")
    model = model.clone(
        preprocess=parts.preprocess,
        backbone=parts.backbone,
        fpn=parts.fpn,
        semantic_head=model.semantic_head.clone(
            features=8, concat_input=concat_input, norm=tiny.NORM
        ),
    )
    run, batch, keys = Run(model), tiny.batch(), tiny.keys()
    params, losses = run.variables["params"], []
    start = params
    for _ in range(10):
        run.variables = {**run.variables, "params": params}
        total, terms, _, grads = run.losses(batch, keys)
        assert set(terms) == {"loss_semantic"}
        losses.append(float(total))
        params = jax.tree.map(lambda p, g: p - 0.3 * g, params, grads)
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.7 * losses[0]
    assert ("conv_cat" in params["semantic_head"]) == concat_input
    moved = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max()), params["semantic_head"], start["semantic_head"]
    )
    assert all(value > 0 for value in jax.tree.leaves(moved)), moved
