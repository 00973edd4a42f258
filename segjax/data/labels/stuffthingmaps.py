"""COCO-Stuff label maps (1612.03716): PNGs whose values are COCO category ids minus one."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from segjax.data.coco import Category, ImageRecord
from segjax.data.images import IGNORE
from segjax.data.labels.base import (
    LabelArchive,
    LabelFiles,
    LabelNumbers,
    Labels,
    MapError,
    find_first,
    png_name,
    read_map,
)
from segjax.data.store import FolderStore, ImageStore, ZipStore

# Address from COCO-Stuff's README; COCO's own server does not host the maps.
URL = (
    "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/"
    "stuffthingmaps_trainval2017.zip"
)

# Class names by pixel value, from labels.txt of github.com/nightrome/cocostuff. Its id 0,
# "unlabeled", is 255 in the maps; every other id is stored minus one. The maps only use values up
# to 181, but heads trained on them have 183 outputs: 182 is "other" (id 183) of the stuff
# annotations.
_NAMES = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light,
fire hydrant, street sign, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow,
elephant, bear, zebra, giraffe, hat, backpack, umbrella, shoe, eye glasses, handbag, tie,
suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
surfboard, tennis racket, bottle, plate, wine glass, cup, fork, knife, spoon, bowl, banana,
apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch,
potted plant, bed, mirror, dining table, window, desk, toilet, door, tv, laptop, mouse, remote,
keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, blender, book, clock, vase,
scissors, teddy bear, hair drier, toothbrush, hair brush, banner, blanket, branch, bridge,
building-other, bush, cabinet, cage, cardboard, carpet, ceiling-other, ceiling-tile, cloth,
clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt, door-stuff, fence, floor-marble,
floor-other, floor-stone, floor-tile, floor-wood, flower, fog, food-other, fruit,
furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat, metal,
mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow, plant-other, plastic,
platform, playingfield, railing, railroad, river, road, rock, roof, rug, salad, sand, sea,
shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw, structural-other, table,
tent, textile-other, towel, tree, vegetable, wall-brick, wall-concrete, wall-other, wall-panel,
wall-stone, wall-tile, wall-wood, water-other, waterdrops, window-blind, window-other, wood
"""

STUFF_NAMES = (*(name.strip() for name in _NAMES.replace("\n", " ").split(", ")), "other")
# Classes before "banner", the first stuff class, are things.
NUM_STUFF_MAP_THINGS = STUFF_NAMES.index("banner")


class StuffThingMaps:
    """The label source "stuffthingmaps": 183 classes of things and stuff."""

    title = "COCO-stuff's maps"
    hint = (
        "reads COCO-stuff's PNGs in stuffthingmaps/train2017/ below root, or in train2017/ below "
        "semantic_root"
    )
    has_files = True
    needs_objects = True
    knows_things = True
    has_segments = False

    def find(self, base: Path, split: str, *, apart: bool) -> LabelFiles:
        """Finds the folder of a split; raises `CocoError` if there is none."""
        forms = ("stuffthingmaps/{}", "stuffthingmaps/{}2017", *(("{}", "{}2017") if apart else ()))
        return LabelFiles(FolderStore(find_first(base, forms, split, Path.is_dir)))

    def archive(self, base_url: str) -> LabelArchive:
        """Returns the archive on COCO-Stuff's own server; `base_url` is not used."""
        return LabelArchive(URL, lambda path, _, split: LabelFiles(ZipStore(path, f"{split}2017")))

    def open(
        self,
        categories: Sequence[Category],
        files: Mapping[str, LabelFiles],
        splits: Sequence[str],
        numbers: LabelNumbers,
    ) -> Labels:
        """Opens the maps; only `files` is used."""
        readers = {split: StuffThingReader(found.store) for split, found in files.items()}
        is_thing = tuple(label < NUM_STUFF_MAP_THINGS for label in range(len(STUFF_NAMES)))
        return Labels(STUFF_NAMES, readers, is_thing)


class StuffThingReader:
    """Reads the labels of a split.

    Args:
      store: store with one PNG per image, named after it.
    """

    def __init__(self, store: ImageStore) -> None:
        self._store = store

    def read(self, image: ImageRecord) -> UInt8[np.ndarray, "h w"]:
        """Returns the labels of an image.

        Raises:
          MapError: if the map is missing, damaged, differs in size or holds an unknown value.
        """
        name = png_name(image)
        labels = read_map(self._store, name, image, 1)
        wrong = labels[(labels >= len(STUFF_NAMES)) & (labels != IGNORE)]
        if wrong.size:
            raise MapError(
                f"image {image.id}: {self._store.where(name)} holds the value {wrong[0]}: wanted "
                f"0..{len(STUFF_NAMES) - 1}, COCO's category id less one, or {IGNORE} for unlabeled"
            )
        return labels
