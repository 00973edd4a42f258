"""The class experiment's functions on tiny data; scores and rules on handmade maps."""

import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import class_crops, class_experiment
from segjax.figure_ground.creatures import CreaturesConfig, generate
from segjax.figure_ground.fragments import TopDownConfig
from tests.support.trees import tree


def test_a_tiny_experiment():
    config = CreaturesConfig(image_size=64, num_creatures=16, num_grounds=16, clutter=3)
    task = class_experiment.Task(
        generate(config),
        generate(config, stream=1),
        TopDownConfig(sizes=(8, 12), candidates=30, max_fragments=20, label_rounds=1),
    )
    results = class_experiment.run(task, seed=0)
    json.dumps(results)  # the results file requires JSON
    assert (results["train_images"], results["test_images"]) == ([16, 16], 16)
    assert 0 < results["fragments"] <= 20
    scores = {name: s["iou"] for name, s in results["scores"].items()}
    assert scores["nothing_is_figure"] == 0
    assert scores["bottom_up_best_rule"] == max(results["bottom_up_rules_iou"].values())
    assert scores["bottom_up_best_rule"] >= scores["bottom_up"] > 0
    best = scores["best_labels_of_finest_segments"]
    assert 0.1 < scores["top_down"] < best
    assert 0.1 < scores["combined"] < best


def test_scores():
    masks = np.zeros((2, 4, 4), bool)
    masks[:, :2] = True
    maps = masks.copy()
    maps[1, 1:3] = ~maps[1, 1:3]
    assert class_experiment.score(maps, masks) == {
        "pixel_accuracy": 0.75,
        "iou": pytest.approx((1 + 4 / 12) / 2, abs=1e-4),
    }


def test_rules():
    labels = np.zeros((6, 6), int)
    labels[2:4, 2:5] = 1
    labels[1, 2] = 2
    labels[5, 3] = 3
    np.testing.assert_array_equal(class_experiment.inside(labels), (labels == 1) | (labels == 2))
    image = np.where(labels == 1, 200, 30)[..., None].repeat(3, axis=2).astype(np.uint8)
    np.testing.assert_array_equal(class_experiment.bright(labels, image), labels == 1)
    np.testing.assert_array_equal(class_experiment.unlike_frame(labels, 255 - image), labels == 1)
    means = class_experiment.means(labels, np.arange(36.0).reshape(6, 6))
    assert means[2, 2] == pytest.approx(np.mean([14, 15, 16, 20, 21, 22]))


def test_salient_segments_are_chosen_in_order_and_never_at_the_frame():
    leaf = np.zeros((6, 6), np.int32)
    leaf[1:3, 1:3], leaf[3:5, 3:5], leaf[5, 5] = 1, 2, 3
    hierarchy = tree(
        (4, 1),
        [4, 4, 4, 4, 4],
        size=[27, 4, 4, 1, 36],
        saliency=[0.0, 0.5, 0.2, 0.0, 0.0],
        leaf=jnp.asarray(leaf),
    )
    nodes = [np.asarray(hierarchy.segments(level)) for level in range(2)]
    one, two = (class_experiment.salient(hierarchy, nodes, 0.05, 0.9, n) for n in (1, 2))
    np.testing.assert_array_equal(one, leaf == 2)
    np.testing.assert_array_equal(two, (leaf == 1) | (leaf == 2))


def test_best_labels_are_the_majority_of_each_segment():
    leaf = np.array([[0, 0, 0, 1, 1, 1]], np.int32)
    hierarchy = tree(
        (2, 1), [2, 2, 2], size=[3, 3, 6], saliency=[0.0, 0, 0], leaf=jnp.asarray(leaf)
    )
    batch = jax.tree.map(lambda values: values[None], hierarchy)
    masks = np.array([[[True, True, False, False, False, True]]])
    np.testing.assert_array_equal(class_experiment.majority(batch, masks), leaf[None] == 0)


@pytest.fixture
def folder(tmp_path):
    """A folder with one image of a square of the class and another square, in COCO format."""
    image = np.zeros((80, 100, 3), np.uint8)
    image[20:40, 10:30] = 255
    image[50:70, 70:90] = 128
    boxes = {1: [10, 20, 20, 20], 2: [70, 50, 20, 20]}
    annotations = [
        {
            "id": category,
            "image_id": 1,
            "category_id": category,
            "bbox": [x, y, w, h],
            "area": w * h,
            "iscrowd": 0,
            "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        }
        for category, (x, y, w, h) in boxes.items()
    ]
    data = {
        "images": [{"id": 1, "file_name": "1.png", "height": 80, "width": 100}],
        "categories": [{"id": 1, "name": "white"}, {"id": 2, "name": "grey"}],
        "annotations": annotations,
    }
    (tmp_path / "train").mkdir()
    (tmp_path / "annotations").mkdir()
    cv2.imwrite(str(tmp_path / "train" / "1.png"), image)
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(data))
    return tmp_path


def test_crops_hold_the_class_or_nothing_of_it(folder):
    crops = class_crops.Crops("white", side=30, context=1.5, least_side=10)
    cut = class_crops.cut(folder, "train", crops)
    assert cut.images.shape == (1, 30, 30, 3)
    np.testing.assert_array_equal(cut.masks[0], cut.images[0, ..., 0] > 127)
    assert cut.masks[0].mean() == pytest.approx(400 / 900, abs=0.01)
    assert 1 <= len(cut.grounds) <= crops.per_image
    assert cut.grounds.max() < 200  # grey, not white


def test_too_small_objects_are_no_examples(folder):
    crops = class_crops.Crops("white", side=30, context=1.5, least_side=21)
    with pytest.raises(ValueError, match="0 crops with white"):
        class_crops.cut(folder, "train", crops)
