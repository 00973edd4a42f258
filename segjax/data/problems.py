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
    "difficult_object": "marked as difficult; learned from like any other object",
    "empty_mask": "segmentation without a pixel; dropped in mask training",
    "exif_orientation": "shown turned (EXIF); labels are taken as of the stored pixels, "
    "--data.exif=upright takes them as of the picture as it is shown",
    "further_annotation": "several annotations of one picture; one of them is used",
    "ignored_label": "a label that the format itself leaves out",
    "ignored_pixels": "label PNGs hold the number that counts for nothing",
    "image_not_annotated": "an image without an annotation of its own; left out",
    "image_without_objects": "no annotation; left out of training unless --data.filter-empty=False",
    "label_without_image": "annotations whose image is not there; left out",
    "label_without_pixels": "a class of the label PNGs that no pixel has",
    "matched_by_name": "splits number a class differently; train's number is taken for its name",
    "missing_area": "no area; the mask's or the box's is taken",
    "missing_bbox": "no bbox; the mask's is taken",
    "missing_segmentation": "no segmentation; dropped in mask training",
    "object_in_parts": "an object in several places; if the PNGs hold classes instead of objects, "
    "--data.semantic=folder reads them",
    "objects_over_cap": "more objects in an image than --data.max-instances; the smallest are left "
    "out of training",
    "other_file": "a file of another kind; left out",
    "point_outside": "a point outside the image; moved to its border",
    "recognised": "the format of the data, by their files",
    "same_picture": "images that are nearly equal, or of one source; kept in one split",
    "set_aside": "images of train that are val, by --data.val-fraction",
    "several_labels": "an object with several labels; the first is used",
    "short_polygon": "a polygon of fewer than 3 points; that part is left out",
    "size_from_file": "no size in the json; the image file's is taken",
    "unnamed_classes": "classes without names; their numbers are used",
    "unsupported_shape": "a shape without an area, such as a point or a line; left out",
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

    def copy(self) -> "Problems":
        """Returns the same counts and places, which can be added to."""
        places = {name: list(found) for name, found in self.examples.items()}
        return Problems(dict(self.counts), places)

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
