import json

import cv2
import numpy as np

from segjax import cli
from segjax.data.config import DataConfig
from segjax.data.statistics import describe_dataset
from tests.support import fakes


def test_counts_are_those_of_the_file(tmp_path):
    content = fakes.write_folder(tmp_path)
    found = describe_dataset(DataConfig(root=str(tmp_path))).splits["val"]
    assert found.sizes.tolist() == [list(size) for size in fakes.SIZES]
    assert found.objects.tolist() == [len(fakes.masks_of(i)) for i in range(len(fakes.SIZES))]
    assert found.areas.tolist() == [a["area"] for a in content["annotations"]]
    assert found.classes == {"disc": 4, "box": 8, "none": 0}
    assert found.crowds == found.without_mask == 0


def test_crowds_and_objects_without_masks_are_counted_apart(tmp_path):
    content = fakes.write_folder(tmp_path)
    content["annotations"][0]["iscrowd"] = 1
    del content["annotations"][1]["segmentation"]
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(content))
    found = describe_dataset(DataConfig(root=str(tmp_path))).splits["val"]
    assert (found.crowds, found.without_mask, found.objects[0]) == (1, 1, 2)


def test_pictures_that_splits_share_are_named(tmp_path, capsys):
    fakes.write_folder(tmp_path)
    rng = np.random.default_rng(0)
    for split in ("train", "val"):  # fakes has the same pictures in both
        for number, (height, width) in enumerate(fakes.SIZES):
            picture = cv2.resize(rng.integers(0, 255, (6, 6, 3)).astype(np.uint8), (width, height))
            cv2.imwrite(str(tmp_path / split / f"picture {number}.png"), picture)
    same = cv2.imread(str(tmp_path / "train" / "picture 2.png"))
    cv2.imwrite(str(tmp_path / "val" / "picture 2.png"), np.clip(same.astype(int) + 1, 0, 255))
    assert describe_dataset(DataConfig(root=str(tmp_path))).shared == (
        ("train/picture 2.png", "val/picture 2.png"),
    )
    assert cli.main(["check-data", str(tmp_path), "--stats"]) == 0
    out = capsys.readouterr().out
    assert "1 pictures are in more than one split" in out
    assert "train/picture 2.png, val/picture 2.png" in out
    assert any(line.split() == ["box", "8", "8"] for line in out.splitlines())
    assert any(line.split() == ["1", "more", "classes", "0", "0"] for line in out.splitlines())
