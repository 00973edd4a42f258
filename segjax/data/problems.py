"""Counts of the named defects of a dataset."""

import dataclasses
from collections.abc import Sequence

# Defects that training can handle. Even COCO has many of them.
HARMLESS = {
    "area_mismatch": "area differs from the mask's by more than 1%",
    "bbox_mismatch": "bbox differs from the mask's by more than 2 pixels",
    "bbox_replaced": "bbox overlaps its mask's by less than half; the mask's is taken",
    "box_outside": "bbox reaches outside the image; clipped",
    "category_gap": "category ids are not consecutive",
    "class_only_in_val": "a class without an object in train: its AP stays 0",
    "class_without_objects": "a class without an object in any split",
    "crowd_object": "iscrowd=1: not learned from, and what is found there counts for nothing",
    "crowd_polygon": "a crowd given as polygons",
    "empty_mask": "segmentation without a pixel; dropped in mask training",
    "exif_orientation": "shown turned (EXIF); labels are taken as of the stored pixels, "
    "--data.exif=upright takes them as of the picture as it is shown",
    "ignored_pixels": "label PNGs hold the number that counts for nothing",
    "image_without_objects": "no annotation; left out of training unless --data.filter-empty=False",
    "label_without_pixels": "a class of the label PNGs that no pixel has",
    "matched_by_name": "splits number a class differently; train's number is taken for its name",
    "missing_area": "no area; the mask's or the box's is taken",
    "missing_bbox": "no bbox; the mask's is taken",
    "missing_segmentation": "no segmentation; dropped in mask training",
    "objects_over_cap": "more objects in an image than --data.max-instances; the smallest are left "
    "out of training",
    "recognised": "the format of the data, by their files",
    "short_polygon": "a polygon of fewer than 3 points; that part is left out",
    "size_from_file": "no size in the json; the image file's is taken",
    "unused_duplicate_category": "two categories of one name, one without objects",
    "zero_size_box": "bbox without area; dropped in training",
}


@dataclasses.dataclass
class Problems:
    """Counts named defects, and keeps the first five places of each."""

    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    examples: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def add(self, name: str, where: str) -> None:
        """Counts a defect `name` found at `where`."""
        self.counts[name] = self.counts.get(name, 0) + 1
        places = self.examples.setdefault(name, [])
        if len(places) < 5:
            places.append(where)

    def update(self, other: "Problems") -> None:
        """Adds the counts and places of `other`."""
        for name, count in other.counts.items():
            for where in other.examples[name]:
                self.add(name, where)
            self.counts[name] += count - len(other.examples[name])

    def fatal(self) -> dict[str, int]:
        """Returns the counts of the defects that prevent training."""
        return {name: n for name, n in self.counts.items() if name not in HARMLESS}

    def lines(self, names: Sequence[str] | None = None) -> list[str]:
        """Describes all defects, or those in `names`, one kind per line, errors before notes."""
        chosen = sorted(names or self.counts, key=lambda name: (name in HARMLESS, name))
        return [
            f"{'note ' if name in HARMLESS else 'ERROR'} {name}: {self.counts[name]}"
            + (f" ({HARMLESS[name]})" if name in HARMLESS else "")
            + f"; first: {'; '.join(self.examples[name])}"
            for name in chosen
        ]
