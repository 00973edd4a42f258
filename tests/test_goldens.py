"""Compares results with torchvision, Detectron2 and mmdet, key by key.

    pytest -m "golden and not slow"    # as in CI: one file per peer in full, others forward only
    pytest -m golden                   # all files in full

Golden files are in the folders of SEGJAX_GOLDENS (separated by os.pathsep; default tests/goldens).
Each holds a peer's numbers for weights that are drawn by name, so that converter, network,
post-processing, losses and gradients are compared at once. Every key of a file is checked; unknown
keys or configs fail. Forward-only runs skip everything that needs gradients: the gradient norms of
the first step, and all losses except those of the first step.
"""

import dataclasses
import fcntl
import functools
import json
import os
import pickle
import re
import tempfile
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy

from segjax.config import OptimConfig
from segjax.models import CascadeMaskRCNN, HybridTaskCascade, PanopticFPN
from segjax.models.variables import variable_shapes
from segjax.ops.resize import resize_bilinear
from segjax.optim import SGD, Constant
from segjax.train.optim import learning_rate, make_optimizer
from segjax.train.state import init_state
from segjax.train.step import image_keys, make_step, reduce_losses
from segjax.types import Batch
from segjax.zoo.convert import convert, path_of
from segjax.zoo.reading import read_checkpoint
from tests.support import golden_recipe as recipe
from tests.support.golden_models import find, heads

pytestmark = pytest.mark.golden

FOLDERS = os.environ.get("SEGJAX_GOLDENS", str(Path(__file__).parent / "goldens"))
FILES = [
    file for folder in FOLDERS.split(os.pathsep) for file in sorted(Path(folder).glob("*.npz"))
]

KEEP = os.environ.get("SEGJAX_GOLDEN_RESULTS")

RELATIVE_TO_RMS = 1e-4  # features, logits, deltas
BOX, SCORE = 0.1, 1e-3  # tolerances of a pair: each side in pixels, and the score
PROPOSALS, DETECTIONS = 0.995, 0.99  # minimum shares of pairs
MASK_IOU = 0.99
PIXELS = 0.99
FIRST_LOSS, TRAJECTORY = 1e-4, 5e-3  # relative
GRADIENT, MEDIAN_GRADIENT = 1e-2, 1e-4  # relative

# One per peer, tested in full even in short runs. Detectron2's includes its Mask R-CNN.
IN_FULL = ("tv_mask_rcnn_r50_fpn", "d2_panoptic_fpn_r50", "mm_cascade_mask_rcnn_r50_fpn")
TRAINED = ("grad_names", "grad_norms")


def test_there_are_files():
    assert FILES, f"no .npz file in {FOLDERS}"


@pytest.fixture
def forgotten_afterwards():
    """Frees the programs of a file, which take gigabytes and are not reused by other files."""
    yield
    jax.clear_caches()


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(file, id=file.stem, marks=[] if file.stem in IN_FULL else [pytest.mark.slow])
        for file in FILES
    ],
)
@pytest.mark.usefixtures("forgotten_afterwards")
def test_golden(file):
    compare(Golden(file))


@pytest.mark.parametrize("file", [f for f in FILES if f.stem not in IN_FULL], ids=lambda f: f.stem)
@pytest.mark.usefixtures("forgotten_afterwards")
def test_golden_forward(file):
    compare(Golden(file, in_full=False))


def compare(golden):
    """Checks every key and prints each deviation next to its bound."""
    unknown, rows = [], []
    for key in golden.keys:
        check = golden.check_for(key)
        if check is None:
            unknown.append(key)
        else:
            rows += [(key, *row) for row in check]
    print(f"\n{golden.name}")
    for key, what, value, bound, holds in rows:
        print(f"  {key:28s} {what:34s} {value:10.3g}  bound {bound:g}{'' if holds else '  FAILS'}")
    if KEEP and golden.in_full:
        keep(golden.name, rows)
    assert not unknown, f"keys that no check knows: {unknown}"
    assert all(row[-1] for row in rows), [row for row in rows if not row[-1]]


def keep(name, rows):
    """Merges the largest deviation per kind of key into the file SEGJAX_GOLDEN_RESULTS."""
    with (Path(tempfile.gettempdir()) / "segjax_goldens.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one worker at a time
        merge(Path(KEEP), name, rows)


def merge(path, name, rows):
    results = json.loads(path.read_text()) if path.exists() else {}
    kinds = results[name] = {}
    for key, what, value, bound, _ in rows:
        kind = f"{key.split('/')[0]}: {what.split(' (')[0].split(', ')[-1]}"
        worse = min if bound > 0.5 else max
        kinds[kind] = worse(value, kinds.get(kind, value))
    path.write_text(json.dumps(dict(sorted(results.items())), indent=2) + "\n")


def at_most(what, value, bound):
    return (what, float(value), bound, bool(value <= bound))


def at_least(what, value, bound):
    return (what, float(value), bound, bool(value >= bound))


class Golden:
    """A golden file together with our results on the same inputs."""

    def __init__(self, file, in_full=True):
        self.name, self.in_full = file.stem, in_full
        self.data = np.load(file)
        self.keys = [key for key in self.data.files if in_full or key not in TRAINED]
        self.meta = json.loads(str(self.data["meta"]))
        self.height, self.width, self.seed = (self.meta[k] for k in ("height", "width", "seed"))
        self.peer, self.model = find(self.meta)

    # ---- inputs -------------------------------------------------------------------------

    @cached_property
    def variables(self):
        """Variables read through the zoo, as for a file written by the library."""
        state = recipe.state_dict(self.meta["manifest"], self.seed, self.meta.get("scaled"))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "weights"
            if self.meta["source"].startswith("detectron2"):
                path.write_bytes(pickle.dumps({"model": state, "__author__": "the recipe"}))
            else:
                safetensors.numpy.save_file(state, path)
            tensors = read_checkpoint(path).tensors
            variables = convert(tensors, self.peer.rules, variable_shapes(self.model))
        return jax.tree.map(jnp.asarray, variables)

    @cached_property
    def batch(self):
        h, w = self.height, self.width
        boxes, classes, masks = recipe.instances(h, w, 5, self.model.classes.things, self.seed)
        count = len(boxes)
        return Batch(
            images=self.images,
            image_sizes=self.image_sizes,
            gt_boxes=jnp.asarray(boxes[None]),
            gt_classes=jnp.asarray(classes[None], jnp.int32),
            gt_valid=jnp.ones((1, count), bool),
            gt_is_crowd=jnp.zeros((1, count), bool),
            gt_masks=jnp.asarray(masks[None], jnp.uint8),
            gt_mask_frames=jnp.tile(jnp.array([0, 0, w, h], jnp.float32), (1, count, 1)),
            gt_semantic=None if self.model.classes.pixels is None else self.semantic_labels(),
        )

    @cached_property
    def images(self):
        h, w = self.height, self.width
        image = recipe.image(h, w, self.seed)
        padded = np.pad(image, ((0, -h % 32), (0, -w % 32), (0, 0)))  # as in all three peers
        return jnp.asarray(padded[None])

    @property
    def image_sizes(self):
        return jnp.array([[self.height, self.width]], jnp.int32)

    def semantic_labels(self):
        """Labels of the canvas, drawn like the peer's.

        Files do not record the variant, so the one that reproduces the peer's first loss is chosen.
        """
        draws = [self.draw(*draw) for draw in self.peer.semantic_draws]
        if len(draws) == 1 or "loss_names" not in self.data.files:
            return draws[0]
        names = [self.peer.losses[str(name)] for name in self.data["loss_names"]]
        theirs = self.data["loss_trajectory"][0, names.index("loss_semantic")]
        logits = jnp.asarray(self.ours["semantic_logits"])

        def off(labels):
            loss = self.model.semantic_loss(logits, labels, self.image_sizes, 32)["loss_semantic"]
            return abs(float(loss.mean()) - theirs)

        return min(draws, key=off)

    def draw(self, number, in_our_order):
        h, w = self.height, self.width
        drawn = recipe.semantic(h, w, number or self.model.classes.pixels, self.seed)
        labels = np.full(self.images.shape[:3], 255, np.uint8)
        labels[0, :h, :w] = in_our_order(drawn)
        return jnp.asarray(labels)

    @cached_property
    def rois(self):
        return recipe.regions(self.height, self.width, 48, self.seed)

    # ---- our numbers --------------------------------------------------------------------

    @cached_property
    def ours(self):
        def compute(whole, images, image_sizes, rois):
            model = detector_of(whole)
            features = model.features(images, image_sizes)
            proposals, rpn, anchors = model.region_proposals(features, image_sizes)
            detections = whole.predict(images, image_sizes)
            return {
                "features": features,
                "rpn": rpn,
                "anchors": jnp.concatenate(anchors),
                "proposals": proposals,
                "roi_feature": model.box_pooler(features, rois[:, :8]),
                "detections": detections,
                "masks": self.masks(detections) if ("masks" in whole.tasks) else None,
                "panoptic": whole.panoptic(images, image_sizes)
                if isinstance(whole, PanopticFPN)
                else None,
            } | heads(whole, features, image_sizes, rois)

        run = jax.jit(lambda v, *args: self.model.apply(v, *args, method=compute))
        rois = jnp.asarray(self.rois)[None]
        result = run(self.variables, self.images, self.image_sizes, rois)
        return jax.tree.map(np.asarray, result)

    def masks(self, detections):
        """Returns full-size masks of the only image."""
        one = jax.tree.map(lambda leaf: leaf[0], detections.masks)
        return one.paste(self.height, self.width)

    @property
    def steps(self):
        """Number of steps: five, or fewer if the peer itself does not reproduce later ones."""
        return len(self.data["loss_trajectory"]) if self.in_full else 1

    @cached_property
    def training(self):
        """Loss terms [steps] by our names, and the first step's gradient norms by our paths."""
        for slots in (64, 256, None):  # more only if needed: the mask head is expensive
            model = with_mask_slots(self.model, slots)
            trajectory, norms = self.train(model) if self.in_full else self.first_losses(model)
            if len(trajectory) == self.steps:
                names = self.peer.losses.values()
                return {n: np.array([m[f"loss/{n}"] for m in trajectory]) for n in names}, norms
        raise AssertionError("regions were dropped although the mask head has a slot for each")

    def first_losses(self, model):
        """Returns the first step's loss terms, without gradients."""

        def losses(variables, batch):
            keys = image_keys(jax.random.fold_in(jax.random.key(0), 0), len(batch.images))
            (terms, counts), _ = model.apply(
                variables, batch, keys, method="losses", mutable=["batch_stats"]
            )
            return reduce_losses(terms, None)[1] | counts

        metrics = jax.device_get(jax.jit(losses)(self.variables, self.batch))
        return [] if metrics.get("mask_rois_dropped", 0) else [metrics], {}

    def train(self, model):
        """Runs the training program; returns metrics by step and gradient norms of the first step.

        Stops early if a step has more regions than the mask head has slots.
        """
        sgd = OptimConfig(
            optimizer=SGD(momentum=self.meta["sgd"]["momentum"]),
            learning_rate=self.meta["sgd"]["lr"],
            schedule=Constant(),
            weight_decay=self.meta["sgd"]["weight_decay"],
        )
        optimizer = make_optimizer(sgd, self.steps, model.frozen_paths())
        schedule = learning_rate(sgd, self.steps)
        step = jax.jit(
            functools.partial(
                make_step(model, optimizer, schedule, model.frozen_paths()), axis_name=None
            )
        )
        state, trajectory, norms = init_state(self.variables, optimizer), [], {}
        for _ in range(self.steps):
            before = flatten(state.params)
            state, metrics = step(state, self.batch, jax.random.key(0))
            if float(metrics.get("mask_rois_dropped", 0)):
                break
            trajectory.append(jax.device_get(metrics))
            if not norms:
                # After one step, momentum equals the gradient plus weight decay.
                momentum = flatten(optax.tree_utils.tree_get(state.opt_state, "trace"))
                norms = {
                    path: float(np.linalg.norm(m - sgd.weight_decay * before[path]))
                    for path, m in momentum.items()
                }
        return trajectory, norms

    # ---- checks: one for each kind of key -----------------------------------------------

    def check_for(self, key):
        kind, _, rest = key.partition("/")
        method = getattr(self, f"check_{kind}", None)
        return None if method is None else method(key, rest)

    def level(self, name):
        """Returns a level's index from the peer's name: p2.., 0.., or torchvision's pool."""
        if name == "pool":
            return 4
        return int(re.fullmatch(r"p?(\d)", name)[1]) - (2 if name.startswith("p") else 0)

    def check_meta(self, key, rest):
        known = {"source", "variant", "config", "seed", "height", "width", "num_classes", "sgd"}
        known |= {"num_classes_with_background", "sampling", "trainable", "norm", "manifest"}
        known |= {"rpn_batch_size_per_image", "roi_batch_size_per_image", "scaled", "sort"}
        return [at_most("unknown entries", len(set(self.meta) - known), 0)]

    def check_feature(self, key, rest):
        feature = self.ours["features"][self.level(rest)][0]
        step = max(1, feature.shape[1] // 16)
        ours = feature[::step, ::step, ::8].transpose(2, 0, 1)
        return [self.close(ours, self.data[key], self.data[f"feature_rms/{rest}"])]

    def check_feature_rms(self, key, rest):
        rms = np.sqrt((self.ours["features"][self.level(rest)].astype(np.float64) ** 2).mean())
        return [at_most("relative", abs(rms / self.data[key] - 1), RELATIVE_TO_RMS)]

    def check_rpn_logits(self, key, rest):
        return [self.rpn_map(self.ours["rpn"].objectness_logits[int(rest)], self.data[key], rest)]

    def check_rpn_deltas(self, key, rest):
        return [self.rpn_map(self.ours["rpn"].box_deltas[int(rest)], self.data[key], rest)]

    def rpn_map(self, flat, theirs, rest):
        height, width = self.ours["features"][int(rest)].shape[1:3]
        maps = flat.reshape(height, width, -1)
        step = max(1, width // 20)
        return self.close(maps[::step, ::step].transpose(2, 0, 1), theirs)

    def check_anchors_sample(self, key, rest):
        ours = self.ours["anchors"][::97]
        return [at_most("pixels", np.abs(ours - self.data[key]).max(), 0.0)]

    def check_proposals(self, key, rest):
        found = self.ours["proposals"]
        boxes = found.boxes[0][found.valid[0]]
        near = np.abs(boxes[None] - self.data[key][:, None]).max(-1) <= BOX
        share = pairs(near).sum() / max(near.shape)
        return [at_least("share paired", share, PROPOSALS)]

    def check_rois(self, key, rest):
        return [at_most("pixels", np.abs(self.rois - self.data[key]).max(), 0.0)]

    def check_roi_feature(self, key, rest):
        return [
            self.close(self.ours["roi_feature"][..., ::16].transpose(0, 3, 1, 2), self.data[key])
        ]

    def of_stage(self, kind, rest):
        """Returns our numbers of one stage, after checking that the file holds all stages."""
        stages = self.ours[kind]
        keys = [key for key in self.data.files if key.split("/")[0] == f"roi_{kind}"]
        assert len(keys) == len(stages), (keys, len(stages))
        return stages[int(rest or 0)]

    def check_roi_class_logits(self, key, rest):
        return [
            self.close(self.peer.class_order(self.of_stage("class_logits", rest)), self.data[key])
        ]

    def check_roi_box_deltas(self, key, rest):
        ours = self.of_stage("box_deltas", rest).reshape(48, -1)
        if ours.shape[1] == 4:  # class-agnostic boxes
            return [self.close(ours, self.data[key])]
        ours = np.pad(ours, ((0, 0), (self.peer.first_box_column, 0)))[:, ::7]
        skip = -(-self.peer.first_box_column // 7)  # the background's columns, never used
        return [self.close(ours[:, skip:], self.data[key][:, skip:])]

    def check_roi_mask_logits(self, key, rest):
        ours = self.of_stage("mask_logits", rest).transpose(0, 3, 1, 2)
        ours = np.pad(ours, ((0, 0), (self.peer.first_mask, 0), (0, 0), (0, 0)))[:, ::9]
        return [
            self.close(ours[:, self.peer.first_mask :], self.data[key][:, self.peer.first_mask :])
        ]

    def check_semantic_logits(self, key, rest):
        ours = self.ours["semantic_logits"]
        panoptic = isinstance(self.model, PanopticFPN)
        if panoptic and self.model.semantic_loss.full_resolution:  # Detectron2's are per pixel
            size = (self.height, self.width)
            ours = np.asarray(resize_bilinear(jnp.asarray(ours), size, align_corners=False))
            return [self.close(ours[0, ::8, ::8, ::6].transpose(2, 0, 1), self.data[key])]
        step = 6 if panoptic else 12
        return [self.close(ours[0, ::2, ::2, ::step].transpose(2, 0, 1), self.data[key])]

    def check_panoptic(self, key, rest):
        checks = {"segments": self.check_panoptic_segments, "info": self.check_panoptic_info}
        return checks[rest](self.data[key]) if rest in checks else None

    def check_panoptic_segments(self, theirs):
        found = jax.tree.map(lambda x: x[0], self.ours["panoptic"])
        listed = "panoptic/info" in self.data.files or self.peer.panoptic_map is None
        ours = found.ids if listed else self.peer.panoptic_map(found)
        ours = ours[: self.height, : self.width]
        return [at_least("share of pixels equal", (ours == theirs).mean(), PIXELS)]

    def check_panoptic_info(self, text):
        found = jax.tree.map(lambda x: x[0], self.ours["panoptic"])
        theirs = {s["id"]: s for s in json.loads(str(text))}
        rows = {int(i): row for row, i in enumerate(found.segment_ids) if i}
        assert set(rows) == set(theirs), (sorted(rows), sorted(theirs))
        wrong = [
            i
            for i, row in rows.items()
            if (bool(found.is_thing[row]), int(found.classes[row]))
            != (theirs[i]["isthing"], theirs[i]["category_id"])
        ]
        scores = [
            abs(float(found.scores[rows[i]]) - s["score"])
            for i, s in theirs.items()
            if s["isthing"]
        ]
        # Things refer to their detections; stuff has an area.
        places = [rows[i] != s["instance_id"] for i, s in theirs.items() if s["isthing"]]
        ids = found.ids[: self.height, : self.width]
        areas = [
            abs(int((ids == i).sum()) / s["area"] - 1)
            for i, s in theirs.items()
            if not s["isthing"]
        ]
        assert places and areas
        return [
            at_most("segments that differ", len(wrong), 0),
            at_most("score", max(scores, default=0.0), SCORE),
            at_most("things of another detection", sum(places), 0),
            at_most("area of stuff", max(areas), 1 - PIXELS),
        ]

    def check_semantic_argmax(self, key, rest):
        size = (self.height, self.width)
        logits = jnp.asarray(self.ours["semantic_logits"])
        labels = np.asarray(resize_bilinear(logits, size, align_corners=False)[0].argmax(-1))
        return [at_least("share of pixels equal", (labels == self.data[key]).mean(), PIXELS)]

    def check_semantic_feature(self, key, rest):
        feature = self.ours["semantic_feature"][0]
        step = max(1, feature.shape[1] // 16)
        return [self.close(feature[::step, ::step, ::8].transpose(2, 0, 1), self.data[key])]

    def check_detection(self, key, rest):
        checks = {
            "boxes": lambda: [at_least("share paired", self.share_of_detections, DETECTIONS)],
            "scores": lambda: [at_least("share paired", self.share_of_detections, DETECTIONS)],
            "labels": lambda: [at_least("share paired", self.share_of_detections, DETECTIONS)],
            "num_masks": lambda: [],  # read together with the masks
            "masks_packed": self.check_masks,
        }
        return checks[rest]() if rest in checks else None

    @cached_property
    def detection_pairs(self):
        """[n, m], True where their detection matches ours."""
        found = self.ours["detections"]
        valid = found.valid[0]
        boxes, scores, classes = (x[0][valid] for x in (found.boxes, found.scores, found.classes))
        labels = self.data["detection/labels"] - self.peer.first_class
        near = np.abs(boxes[None] - self.data["detection/boxes"][:, None]).max(-1) <= BOX
        near &= np.abs(scores[None] - self.data["detection/scores"][:, None]) <= SCORE
        return pairs(near & (classes[None] == labels[:, None]))

    @property
    def share_of_detections(self):
        return self.detection_pairs.sum() / max(self.detection_pairs.shape)

    def check_masks(self):
        count = int(self.data["detection/num_masks"])
        bits = np.unpackbits(self.data["detection/masks_packed"])
        theirs = bits[: count * self.height * self.width].astype(bool)
        theirs = theirs.reshape(count, self.height, self.width)
        ious = []
        for i, mask in enumerate(theirs):
            for j in np.flatnonzero(self.detection_pairs[i]):
                ours = self.ours["masks"][j]
                union = (mask | ours).sum()
                ious.append((mask & ours).sum() / union if union else 1.0)
        assert ious, "no detection with a mask is paired"
        return [at_least("least mask IoU", min(ious), MASK_IOU)]

    def check_gt(self, key, rest):
        ours = {"boxes": self.batch.gt_boxes, "labels": self.batch.gt_classes}
        if rest not in ours:
            return None
        return [at_most("difference", np.abs(np.asarray(ours[rest][0]) - self.data[key]).max(), 0)]

    def check_loss_names(self, key, rest):
        names = {str(name) for name in self.data[key]}
        return [at_most("names not shared", len(names ^ set(self.peer.losses)), 0)]

    def check_loss_trajectory(self, key, rest):
        rows = []
        for name, theirs in zip(self.data["loss_names"], self.data[key].T, strict=True):
            ours = self.training[0][self.peer.losses[str(name)]]
            relative = np.abs(ours / theirs[: self.steps] - 1)
            rows.append(at_most(f"{name}, first", relative[0], FIRST_LOSS))
            if self.steps > 1:
                rows.append(at_most(f"{name}, 5 steps", relative.max(), TRAJECTORY))
        return rows

    def check_grad_names(self, key, rest):
        theirs = {path_of(self.peer.rules, str(name))[0] for name in self.data[key]}
        return [at_most("names not shared", len(set(self.training[1]) ^ theirs), 0)]

    def check_grad_norms(self, key, rest):
        ours = np.array(
            [self.training[1][path_of(self.peer.rules, str(n))[0]] for n in self.data["grad_names"]]
        )
        # Layers that do not affect this image have zero gradients on both sides.
        theirs = self.data[key]
        relative = np.abs(ours - theirs) / np.where((theirs == 0) & (ours == 0), 1.0, theirs)
        worst = self.data["grad_names"][relative.argmax()]
        return [
            at_most(f"largest ({str(worst)[-24:]})", relative.max(), GRADIENT),
            at_most("median", np.median(relative), MEDIAN_GRADIENT),
        ]

    def close(self, ours, theirs, rms=None):
        assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
        rms = np.sqrt((theirs.astype(np.float64) ** 2).mean()) if rms is None else rms
        return at_most("largest / rms", np.abs(ours - theirs).max() / rms, RELATIVE_TO_RMS)


def pairs(near):
    """Matches one to one: each of theirs takes the first free one of ours nearby."""
    taken = np.zeros_like(near)
    for i, row in enumerate(near):
        free = np.flatnonzero(row & ~taken.any(0))
        if free.size:
            taken[i, free[0]] = True
    return taken


def detector_of(model):
    return model.detector if isinstance(model, PanopticFPN) else model


def with_mask_slots(model, slots):
    if "masks" not in model.tasks:
        return model
    if isinstance(model, PanopticFPN):
        return model.clone(detector=with_mask_slots(model.detector, slots))
    if isinstance(model, HybridTaskCascade):
        return model.clone(mask_head=_limited(model.mask_head, slots))
    if isinstance(model, CascadeMaskRCNN):
        return model.clone(mask_heads=tuple(_limited(head, slots) for head in model.mask_heads))
    return model.clone(mask_head=_limited(model.mask_head, slots))


def _limited(branch, slots):
    return branch.clone(targets=dataclasses.replace(branch.targets, max_rois=slots))


def flatten(tree):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(key.key for key in path): leaf for path, leaf in leaves}
