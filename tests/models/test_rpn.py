"""RPN proposals against the plain algorithm, including ties of probabilities."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models.flavours.libraries import DETECTRON2, MMDET, TORCHVISION
from segjax.models.parts.rpn import RPN
from segjax.nn.heads.rpn import RPNOutput

SHAPES, SIZE = [(8, 8), (4, 4), (2, 2)], (64, 64)
SETTINGS = RPN(
    anchor_sizes=(16.0, 32.0, 64.0),
    strides=(8, 16, 32),
    pre_nms_topk=(40, 30),
    post_nms_topk=(20, 25),
)


@pytest.fixture(scope="module")
def output():
    """Logits, many above 17, where the float32 sigmoid is exactly 1."""
    random = np.random.RandomState(0)
    counts = [3 * h * w for h, w in SHAPES]
    logits = [random.normal(15, 8, (1, n)).astype(np.float32) for n in counts]
    deltas = [random.normal(0, 0.2, (1, n, 4)).astype(np.float32) for n in counts]
    return RPNOutput(tuple(map(jnp.asarray, logits)), tuple(map(jnp.asarray, deltas)))


def area(box):
    return np.prod(box[2:] - box[:2])


def iou(a, b):
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    return np.prod(sides) / (area(a) + area(b) - np.prod(sides))


def greedy(boxes, threshold):
    kept = []
    for i, box in enumerate(boxes):
        if all(iou(box, boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


def plain_proposals(rpn, output, probabilities, train):
    """The papers' algorithm, one box at a time, in float64 except for the ranking."""
    found, scores = [], []
    levels = output.objectness_logits, output.box_deltas, rpn.anchors(SHAPES, SIZE)
    for logits, deltas, level in zip(*levels, strict=True):
        ranked = np.asarray(logits[0])
        if probabilities:
            ranked = (1 / (1 + np.exp(-ranked.astype(np.float64)))).astype(np.float32)
        order = np.argsort(-ranked, kind="stable")[: rpn.pre_nms_topk[0 if train else 1]]
        boxes = np.asarray(rpn.coder.decode(deltas[0][order], level[order]), np.float64)
        boxes = boxes.clip(0, SIZE[0])
        some = (boxes[:, 2:] > boxes[:, :2]).all(-1)
        boxes, ranked = boxes[some], ranked[order][some]
        kept = greedy(boxes, rpn.nms_threshold)
        found.append(boxes[kept])
        scores.append(ranked[kept])
    found, scores = np.concatenate(found), np.concatenate(scores)
    return found[np.argsort(-scores, kind="stable")[: rpn.post_nms_topk[0 if train else 1]]]


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("ranked_by", ["logits", "probabilities"])
def test_proposals_are_those_of_the_plain_algorithm(output, ranked_by, train):
    rpn = dataclasses.replace(SETTINGS, ranked_by=ranked_by)
    ours = rpn.proposals(output, rpn.anchors(SHAPES, SIZE), jnp.array([SIZE]), train=train)
    theirs = plain_proposals(rpn, output, ranked_by == "probabilities", train)
    np.testing.assert_allclose(ours.boxes[0][ours.valid[0]], theirs, atol=1e-5)


def test_the_two_rankings_differ_where_probabilities_tie(output):
    """Shows that the test above can distinguish the two rankings."""
    by_logits, by_probabilities = (
        plain_proposals(SETTINGS, output, probabilities, True) for probabilities in (False, True)
    )
    assert np.abs(by_logits - by_probabilities).max() > 1


def test_each_library_ranks_in_its_way():
    ways = [flavour.rpn.ranked_by for flavour in (TORCHVISION, DETECTRON2, MMDET)]
    assert ways == ["logits", "logits", "probabilities"]
