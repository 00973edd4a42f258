"""Named defects of a dataset, counted."""

import dataclasses
from collections.abc import Sequence

# Kinds that the format's own datasets show and that training deals with.
HARMLESS = {
    "area_mismatch": "area differs from the mask's by more than 1%",
    "bbox_mismatch": "bbox differs from the mask's by more than 2 pixels",
    "box_outside": "bbox reaches outside the image; clipped",
    "category_gap": "category ids are not consecutive",
    "crowd_polygon": "a crowd given as polygons",
    "duplicate_category_name": "two categories of one name",
    "empty_mask": "segmentation without a pixel; dropped in mask training",
    "image_without_objects": "no annotation",
    "missing_area": "no area; the mask's or the box's is taken",
    "missing_bbox": "no bbox; the mask's is taken",
    "missing_segmentation": "no segmentation; dropped in mask training",
    "short_polygon": "a polygon of fewer than 3 points; that part is left out",
    "zero_size_box": "bbox without area; dropped in training",
}


@dataclasses.dataclass
class Problems:
    """Counts named defects and keeps the first five places of each."""

    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    examples: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def add(self, name: str, where: str) -> None:
        """Counts one more defect `name`, found at `where`."""
        self.counts[name] = self.counts.get(name, 0) + 1
        places = self.examples.setdefault(name, [])
        if len(places) < 5:
            places.append(where)

    def fatal(self) -> dict[str, int]:
        """Returns the counts of the kinds that forbid training."""
        return {name: n for name, n in self.counts.items() if name not in HARMLESS}

    def lines(self, names: Sequence[str] | None = None) -> list[str]:
        """Describes the defects (or those of `names`), one a line, the forbidding ones first."""
        chosen = sorted(names or self.counts, key=lambda name: (name in HARMLESS, name))
        return [
            f"{'note ' if name in HARMLESS else 'ERROR'} {name}: {self.counts[name]}"
            + (f" ({HARMLESS[name]})" if name in HARMLESS else "")
            + f"; first: {'; '.join(self.examples[name])}"
            for name in chosen
        ]
