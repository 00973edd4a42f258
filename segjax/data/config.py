"""Configuration of the dataset and the input pipeline: one frozen dataclass."""

import dataclasses
import re
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
    """Dataset and input pipeline of a run.

    Attributes:
      root: folder of the data, or an exported file. COCO's folders have `train/`, `val/` and
        `annotations/instances_{train,val}.json`; COCO's own names (`train2017/`,
        `instances_train2017.json`) work too. Unused with `name="2017"`; with `name="shapes"`, the
        folder to write images to, if not empty.
      name: format of the data, a row of `segjax.data.formats.FORMATS`: "folder" reads `root`
        in COCO format, or in another format that it recognises; "2017" downloads COCO 2017;
        "shapes" draws synthetic images. See the table in docs/data.md.
      train_json: COCO annotation file of the training split, used instead of the one in `root`;
        its file names are relative to `image_root`.
      val_json: annotation file of the validation split, as `train_json`.
      test_json: annotation file of the test split, as `train_json`; optional.
      image_root: folder of the images in these files, or of formats that keep images elsewhere;
        "" uses `root`.
      val_fraction: fraction of the images of train that become val, for data without a split
        "val"; 0 for none. Equal and nearly equal images, and Roboflow's variants of one image, stay
        together.
      val_seed: seed of this choice.
      val_group: regular expression for file names. Images with the same match, or the same first
        group of it, stay together too: "clip[0-9]+" for frames of videos.
      shapes: settings of the synthetic dataset "shapes".
      cache_dir: folder for prepared datasets, downloads and synthetic images.
      base_url: address of `zips/` and `annotations/` for "2017".
      semantic: semantic labels to train on, "none" or a row of `segjax.data.labels.LABELS`:
        "stuffthingmaps", "panoptic", "folder" or "instances". See the table in docs/data.md.
      semantic_root: folder of the label maps ("stuffthingmaps" and "folder": `train/`; "panoptic":
        the json and its folder), if they are not in `root`.
      semantic_ignore: value to ignore in the PNGs of "folder", in addition to 255.
      semantic_values: values in the PNGs of "folder" that represent the classes 0, 1, ..., in
        order, if these are not 0, 1, ... themselves: (0, 255) for black and white masks. A value
        listed here is a class even if it equals `semantic_ignore` or 255.
      merge_things: treatment of things in the semantic labels, for models that separate things by
        instance: "first" maps things to class 0 and stuff to 1..S, as in Detectron2's panoptic
        FPN; "last" maps stuff to 0..S-1 and things to S, as in MMDetection; "no" keeps the labels,
        for Hybrid Task Cascade and purely semantic models. Applied when batches are made, so that
        the prepared dataset stays the same.
      instances: provide boxes and masks of objects. False is for purely semantic models: training
        uses every image, a single empty row replaces the objects, and `semantic="folder"` works
        without `instances_*.json`.
      on_bad_image: action for images that cannot be decoded or whose size differs from the
        annotations: raise an error, or skip and count them. Bad label maps always raise.
      exif: orientation of images with an EXIF tag, such as photos from phones: pixels as "stored",
        which COCO's tools annotate, or "upright", as viewers and most annotation tools show them.
      max_image_pixels: largest image that is read, height x width.
      follow_links: read images through links that point outside their folder.
      rebuild: prepare the dataset again even if nothing seems to have changed.
      batch_size: training images per step, over all processes.
      eval_batch_size: evaluation images per step, over all processes.
      resize: "shortest_edge" scales the short side to `short_side` unless the long side would
        exceed `long_side`; "fit" scales to fit into `size`; "stretch" scales to `size` without
        preserving the aspect ratio; "none" keeps the size.
      short_side: length of the short side in pixels; if there are several, each training image
        draws one at random.
      eval_short_side: length of the short side in evaluation, in pixels; None uses the largest
        `short_side`.
      long_side: upper limit on the long side, in pixels.
      size: (height, width) in pixels for "fit" and "stretch".
      size_rounding: rounding of resized sides: "nearest" is Detectron2's and MMDetection's
        `int(x + 0.5)`, "floor" is torchvision's.
      interpolation: "cv2" is bilinear without antialiasing (MMDetection, torchvision); "pil"
        antialiases when it shrinks (Detectron2) and takes ten times as long.
      flip: flip half of the training images horizontally.
      buckets: (height, width) canvases, multiples of `size_divisor`; None derives one for
        landscape and one for portrait images from the data.
      size_divisor: number of pixels that the sides of canvases are multiples of.
      max_instances: number of rows for objects per image, G.
      overflow: action for training images with more objects.
      masks: provide masks; False leaves 1 x 1 zeros, for models without a mask head.
      mask_size: side of the mask rasters, Mh = Mw.
      mask_frame: area that a mask raster covers: the object's "box", or the whole "image" at full
        resolution, as in the peers, which takes `max_instances` canvases of memory per image.
      min_box_size: side in input pixels up to which training drops objects.
      filter_empty: train only on images with at least one non-crowd object.
      num_workers: number of worker processes; 0 loads in threads, which is faster on few cores.
      prefetch: number of batches to prepare ahead, per worker.
      seed: seed of shuffling and augmentation.
      transforms: transforms of an image, in order: values from `segjax.data.transforms` or custom
        ones that follow `segjax.data.protocols`. They replace `resize`, `short_side`,
        `eval_short_side`, `long_side`, `size`, `size_rounding`, `interpolation` and `flip`. None
        derives them from those fields, see `steps`. Can only be set from Python.
    """

    root: str = ""
    name: str = "folder"
    train_json: str = ""
    val_json: str = ""
    test_json: str = ""
    image_root: str = ""
    val_fraction: float = 0.0
    val_seed: int = 0
    val_group: str = ""
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
        """Returns `transforms`, or resizing and flipping as set by the individual fields.

        Without a random generator, as in evaluation and prediction, the same steps only resize.
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
        """Checks the names of format and labels against the tables, which users can extend."""
        from segjax.data.formats import FORMATS  # imports this module

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
        if not 0 <= self.val_fraction < 1:
            raise ValueError(
                f"val_fraction is {self.val_fraction}: wanted a fraction of train, 0 <= f < 1"
            )
        try:
            re.compile(self.val_group)
        except re.error as error:
            raise ValueError(f"val_group is {self.val_group!r}: {error}") from None
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
