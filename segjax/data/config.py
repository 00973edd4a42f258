"""Settings of the data and of feeding them: one frozen dataclass."""

import dataclasses
from typing import Literal

from segjax.data.images import MAX_IMAGE_PIXELS
from segjax.data.labels import LABELS
from segjax.data.protocols import Mix, Transform
from segjax.data.shapes import ShapesConfig
from segjax.data.transforms import (
    Fit,
    Flip,
    Interpolation,
    NoResize,
    Rounding,
    ShortSide,
    Stretch,
)

MergeThings = Literal["no", "first", "last"]
_SIZES = ("batch_size", "eval_batch_size", "long_side", "size_divisor", "max_image_pixels")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Data of a run.

    Attributes:
      root: folder in COCO format: `train/`, `val/` and `annotations/instances_{train,val}.json`;
        COCO's own names (`train2017/`, `instances_train2017.json`) are found too. Not used by
        `name="2017"`; where `name="shapes"` writes its images, if not empty.
      name: format of the data, a row of `segjax.data.formats.FORMATS`: "folder" reads `root`;
        "2017" downloads COCO 2017; "shapes" makes pictures of shapes.
      train_json: COCO annotation file of the training split, in place of the one that `root` would
        have; file names in it are below `image_root`.
      val_json: annotation file of the validation split, likewise.
      test_json: annotation file of the test split, likewise; optional.
      image_root: folder of the images of these files; "" takes `root`.
      shapes: what "shapes" makes.
      cache_dir: where prepared datasets, downloads and made pictures are kept.
      base_url: where "2017" finds `zips/` and `annotations/`.
      semantic: semantic labels to train on, "none" or a row of `segjax.data.labels.LABELS`:
        "stuffthingmaps", "panoptic", "folder" or "instances"; docs/data.md has a table of them.
      semantic_root: folder with the maps ("stuffthingmaps" and "folder": `train/`; "panoptic": the
        json and its folder) where they do not lie below `root`.
      semantic_ignore: number in the PNGs of "folder" that is ignored, in addition to 255.
      semantic_values: numbers in the PNGs of "folder" that are the classes 0, 1, ..., in order,
        where they are not 0, 1, ... themselves: (0, 255) for black and white masks. Then
        `semantic_ignore` counts for nothing unless it is one of them.
      merge_things: what becomes of the things among the semantic labels, for models that tell them
        apart by instances: "first" makes all of them class 0 and stuff 1..S, as Detectron2's
        panoptic FPN wants it; "last" makes stuff 0..S-1 and all things S, as MMDetection's does;
        "no" leaves the labels as they are, for models of semantic segmentation alone and Hybrid
        Task Cascade. It is done when batches are made: the prepared dataset is the same.
      instances: give boxes and masks of objects. False is for models of semantic labels alone:
        every image is trained on, one empty row stands for its objects, and with
        `semantic="folder"` there need be no `instances_*.json`.
      on_bad_image: what to do with image files that cannot be decoded or whose size differs from
        the annotations: stop, or leave them out and count them. Bad label maps always stop.
      exif: how images with an EXIF orientation, such as phones write, are read: pixels as "stored",
        which COCO's tools annotate, or "upright", as viewers and most annotation tools show them.
      max_image_pixels: largest image that is read, height x width.
      follow_links: read images through links that lead out of their folder.
      rebuild: prepare the dataset again even if nothing seems to have changed.
      batch_size: training images a step, over all processes.
      eval_batch_size: evaluation images a step, over all processes.
      resize: "shortest_edge" scales the short side to `short_side` unless the long side would
        exceed `long_side`; "fit" scales to fit into `size`; "stretch" scales to `size` whatever
        the ratio; "none" leaves images as they are.
      short_side: pixels; several values are drawn from at random for each training image.
      eval_short_side: pixels; None takes the largest of `short_side`.
      long_side: pixels.
      size: (height, width) in pixels for "fit" and "stretch".
      size_rounding: "nearest" is Detectron2's and MMDetection's `int(x + 0.5)`, "floor"
        torchvision's.
      interpolation: "cv2" is bilinear without antialiasing (MMDetection, torchvision); "pil"
        antialiases where it shrinks (Detectron2) and takes ten times as long.
      flip: flip half of the training images horizontally.
      buckets: (height, width) canvases, multiples of `size_divisor`; None derives one for
        landscape and one for portrait images from the data.
      size_divisor: canvases are multiples of this many pixels.
      max_instances: rows for objects, G.
      overflow: what to do in training with images of more objects.
      masks: give masks; False leaves 1 x 1 zeros, for models without mask head.
      mask_size: side of the mask rasters, Mh = Mw.
      mask_frame: what a raster covers: its object's "box", or the whole "image" pixel by pixel,
        as the peers do, at `max_instances` canvases of memory an image.
      min_box_size: training drops objects with a side of at most this many input pixels.
      filter_empty: train only on images with an object that is not a crowd.
      num_workers: worker processes; 0 loads in threads, which is faster on few cores.
      prefetch: batches prepared ahead, for each worker.
      seed: seed of shuffling and augmentation.
      transforms: what happens to an image, in order, in place of what `resize`, `short_side`,
        `eval_short_side`, `long_side`, `size`, `size_rounding`, `interpolation` and `flip` say:
        values of `segjax.data.transforms`, or others that follow `segjax.data.protocols`. Only
        Python can set it; None makes them of those fields, see `steps`.
    """

    root: str = ""
    name: str = "folder"
    train_json: str = ""
    val_json: str = ""
    test_json: str = ""
    image_root: str = ""
    shapes: ShapesConfig | None = None
    cache_dir: str = "~/.cache/segjax"
    base_url: str = "http://images.cocodataset.org"
    semantic: str = "none"
    semantic_root: str = ""
    semantic_ignore: int = 255
    semantic_values: tuple[int, ...] = ()
    merge_things: MergeThings = "no"
    instances: bool = True
    on_bad_image: Literal["raise", "skip"] = "raise"
    exif: Literal["stored", "upright"] = "stored"
    max_image_pixels: int = MAX_IMAGE_PIXELS
    follow_links: bool = False
    rebuild: bool = False
    batch_size: int = 16
    eval_batch_size: int = 8
    resize: Literal["shortest_edge", "fit", "stretch", "none"] = "shortest_edge"
    short_side: tuple[int, ...] = (800,)
    eval_short_side: int | None = None
    long_side: int = 1333
    size: tuple[int, int] | None = None
    size_rounding: Rounding = "nearest"
    interpolation: Interpolation = "cv2"
    flip: bool = True
    buckets: tuple[tuple[int, int], ...] | None = None
    size_divisor: int = 32
    max_instances: int = 100
    overflow: Literal["error", "drop_smallest"] = "error"
    masks: bool = True
    mask_size: int = 112
    mask_frame: Literal["box", "image"] = "box"
    min_box_size: float = 1e-2
    filter_empty: bool = True
    num_workers: int = 0
    prefetch: int = 2
    seed: int = 0
    transforms: tuple[Transform | Mix, ...] | None = None

    def steps(self) -> tuple[Transform | Mix, ...]:
        """Returns `transforms`, or those that the short fields stand for: resizing, then flipping.

        Without a generator, as in evaluation and prediction, the same steps only resize.
        """
        if self.transforms is not None:
            return self.transforms
        return (self._resizing(), *((Flip(),) if self.flip else ()))

    def _resizing(self) -> Transform:
        if self.resize == "none":
            return NoResize()
        if self.resize == "shortest_edge":
            return ShortSide(
                self.short_side,
                self.long_side,
                self.eval_short_side,
                self.size_rounding,
                self.interpolation,
            )
        assert self.size is not None
        if self.resize == "stretch":
            return Stretch(self.size, self.interpolation)
        return Fit(self.size, self.size_rounding, self.interpolation)

    def _check_names(self) -> None:
        """Compares the names of format and labels with the tables, which others can extend."""
        from segjax.data.formats import FORMATS  # whose rows read configs

        for field, known in (("name", FORMATS), ("semantic", {"none": None, **LABELS})):
            value = getattr(self, field)
            if value not in known:
                raise ValueError(
                    f'{field} is "{value}": wanted one of {", ".join(map(repr, known))}'
                )

    def __post_init__(self) -> None:
        for name in (*_SIZES, "max_instances", "mask_size", "prefetch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not 0 <= self.semantic_ignore <= 255:
            raise ValueError(
                f"semantic_ignore is {self.semantic_ignore}: wanted a value of 8 bits, 0..255"
            )
        values = self.semantic_values
        if len(set(values)) < len(values) or any(not 0 <= value <= 255 for value in values):
            raise ValueError(
                f"semantic_values are {values}: wanted different numbers of 8 bits, 0..255"
            )
        self._check_names()
        if self.semantic != "none" and self.merge_things != "no":
            labels = LABELS[self.semantic]
            if not labels.knows_things:
                raise ValueError(
                    f'merge_things="{self.merge_things}" needs to know which classes are things, '
                    f"which {labels.title} do not say: write labels whose things are merged, or "
                    'take semantic="panoptic"'
                )
        if not self.short_side or min(self.short_side) < 1:
            raise ValueError(f"short_side is {self.short_side}: wanted positive pixels")
        if self.resize in ("fit", "stretch") and self.size is None:
            raise ValueError(f'resize="{self.resize}" needs size=(height, width)')
        for canvas in self.buckets or ():
            if any(side < 1 or side % self.size_divisor for side in canvas):
                raise ValueError(
                    f"bucket {canvas} is no multiple of size_divisor {self.size_divisor}"
                )
