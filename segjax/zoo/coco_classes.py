"""COCO's classes in the order of each of the three libraries.

Ids and names of things come from `instances_*.json`. Those of stuff come from `panoptic_*.json`,
which joins some of COCO-Stuff's classes into "-merged" ones (panoptic_coco_categories.json of
github.com/cocodataset/panopticapi).
"""

from segjax.data.labels.stuffthingmaps import STUFF_NAMES
from segjax.data.segments import PanopticCategory
from segjax.data.things import THINGS

# Ids in COCO's list of things that were never annotated.
_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
_ALL_THINGS = tuple(range(1, 91))

COCO_IDS = tuple(number for number in _ALL_THINGS if number not in _UNUSED)
COCO_NAMES = tuple(STUFF_NAMES[number - 1] for number in COCO_IDS)

# torchvision's heads also have outputs for the unused ids.
TORCHVISION_IDS = _ALL_THINGS
TORCHVISION_NAMES = tuple(
    "N/A" if number in _UNUSED else STUFF_NAMES[number - 1] for number in TORCHVISION_IDS
)

_STUFF_IDS = """
92 93 95 100 107 109 112 118 119 122 125 128 130 133 138 141 144 145 147 148 149 151 154 155 156
159 161 166 168 171 175 176 177 178 180 181
"""
_MERGED = """
tree, fence, ceiling, sky-other, cabinet, table, floor-other, pavement, mountain, grass, dirt,
paper, food-other, building-other, rock, wall-other, rug
"""
_FIRST_MERGED = 184

_STUFF = (
    *(PanopticCategory(int(n), STUFF_NAMES[int(n) - 1], False) for n in _STUFF_IDS.split()),
    *(
        PanopticCategory(_FIRST_MERGED + i, f"{name.strip()}-merged", False)
        for i, name in enumerate(_MERGED.replace("\n", " ").split(","))
    ),
)
PANOPTIC_CATEGORIES = (
    *(
        PanopticCategory(number, name, True)
        for number, name in zip(COCO_IDS, COCO_NAMES, strict=True)
    ),
    *_STUFF,
)
# Labels of the semantic branch of panoptic models, which merges all things into one class:
# Detectron2 puts it first, MMDetection last.
THINGS_FIRST_NAMES = (THINGS, *(category.name for category in _STUFF))
THINGS_LAST_NAMES = (*(category.name for category in _STUFF), THINGS)
