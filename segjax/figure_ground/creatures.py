"""Synthetic deformable class: images of four-legged creatures on cluttered ground, and of clutter.

Creatures face left, like the horses of Borenstein and Ullman ("Class-specific, top-down
segmentation", ECCV 2002). Their joints bend, and their size, position, colours and stripes vary.
The ground has regions of different colour and texture. It is cluttered with bars and blobs in the
colours and stripes of coats, so that only shape distinguishes figure from ground, not colour or
contrast. Masks are for evaluation. All images are determined by the seed.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

# Number of fractional bits of coordinates in cv2's drawing calls.
_SHIFT = 4


@dataclasses.dataclass(frozen=True)
class CreaturesConfig:
    """Settings of the drawings.

    Attributes:
      image_size: side of the square images, in pixels.
      num_creatures: number of images with one creature each.
      num_grounds: number of images without a creature.
      bend: standard deviation of joint angles, in radians.
      clutter: number of bars and blobs on every ground.
      seed: seed of all random choices.
    """

    image_size: int = 96
    num_creatures: int = 60
    num_grounds: int = 60
    bend: float = 0.2
    clutter: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.image_size < 32:
            raise ValueError(f"image_size is {self.image_size}: legs need 32 pixels or more")
        if min(self.num_creatures, self.num_grounds, self.clutter, self.bend) < 0:
            raise ValueError(
                f"num_creatures {self.num_creatures}, num_grounds {self.num_grounds}, clutter "
                f"{self.clutter}, bend {self.bend}: wanted 0 or more of each"
            )


class Creatures(NamedTuple):
    """Images with and without the class.

    Attributes:
      images: RGB images with one creature each.
      masks: True for pixels of the creature; for evaluation only.
      grounds: RGB images without a creature.
    """

    images: UInt8[np.ndarray, "N h w 3"]
    masks: Bool[np.ndarray, "N h w"]
    grounds: UInt8[np.ndarray, "M h w 3"]


class _Part(NamedTuple):
    """Body part, drawn as a tapered capsule.

    Attributes:
      start: (x, y) of the first end, in pixels.
      end: (x, y) of the second end, in pixels.
      widths: diameters at both ends, in pixels.
    """

    start: Float[np.ndarray, "2"]
    end: Float[np.ndarray, "2"]
    widths: tuple[float, float]


def generate(config: CreaturesConfig, *, stream: int = 0) -> Creatures:
    """Draws images with and without creatures.

    Args:
      config: settings of the drawings.
      stream: index of an independent set of images of the same kind, such as a test set.

    Returns:
      The images. Image i only depends on the seed, the stream and i, not on the counts.
    """
    side = config.image_size
    images = np.zeros((config.num_creatures, side, side, 3), np.uint8)
    masks = np.zeros((config.num_creatures, side, side), bool)
    grounds = np.zeros((config.num_grounds, side, side, 3), np.uint8)
    for i in range(config.num_creatures):
        images[i], masks[i] = draw_creature(config, np.random.default_rng([config.seed, stream, i]))
    for i in range(config.num_grounds):
        # The longer key keeps grounds different from those of the images with creatures.
        grounds[i] = draw_ground(config, np.random.default_rng([config.seed, stream, i, 1]))
    return Creatures(images, masks, grounds)


def draw_creature(
    config: CreaturesConfig, rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]:
    """Draws one creature on a ground.

    Args:
      config: settings of the drawings.
      rng: random generator.

    Returns:
      The RGB image, and the mask of the creature.
    """
    side = config.image_size
    image = draw_ground(config, rng)
    length = side * rng.uniform(0.32, 0.38)  # length of the torso
    reach = np.array([0.95, 0.80]) * length
    centre = np.array([side / 2, 0.47 * side]) + rng.uniform(-1, 1, 2) * np.maximum(
        side / 2 - 1.15 * reach, 0.02 * side
    )
    parts = _skeleton(centre, length, config.bend, rng)
    mask = np.zeros((side, side), bool)
    for part in parts:
        mask |= _raster(part, side)
    _paint(image, mask, _coat(side, centre[1], length, rng))
    return image, mask


def draw_ground(config: CreaturesConfig, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Draws a ground with clutter.

    Args:
      config: settings of the drawings.
      rng: random generator.

    Returns:
      The RGB image.
    """
    side = config.image_size
    image = np.zeros((side, side, 3), np.uint8)
    count = int(rng.integers(3, 6))
    y, x = np.mgrid[:side, :side] / side
    distances = [
        np.hypot(y - cy, x - cx) + 0.15 * _smooth(side, 5, rng)
        for cy, cx in rng.uniform(0, 1, (count, 2))
    ]
    regions = np.argmin(distances, axis=0)
    for region in range(count):
        levels = rng.uniform(40, 150) + rng.uniform(-25, 25, 3)
        grain = rng.uniform(5, 25) * _smooth(side, int(rng.integers(6, side // 3)), rng)
        _paint(image, regions == region, levels[None, None] + grain[..., None])
    for _ in range(config.clutter):
        _strew(image, rng)
    noise = rng.normal(0, 4, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def _skeleton(
    centre: Float[np.ndarray, "2"], length: float, bend: float, rng: np.random.Generator
) -> list[_Part]:
    """Poses a creature around the centre of its torso; angles run from right to down."""
    tilt = np.pi + rng.normal(0, 0.3 * bend)  # direction of the spine, from hip to shoulder
    hip, shoulder = centre - 0.5 * length * _way(tilt), centre + 0.5 * length * _way(tilt)
    thick = length * rng.uniform(0.40, 0.48)
    parts = [_Part(hip, shoulder, (0.95 * thick, thick))]
    drop = np.array([0, 0.15 * thick])
    for joint, side in ((shoulder, -1), (hip, 1)):
        for spread in (-0.25, 0.25):
            parts += _leg(joint + drop, side, spread, length, bend, rng)
    neck_angle = tilt + 0.85 + rng.normal(0, bend)
    neck = _Part(shoulder, shoulder + 0.55 * length * _way(neck_angle), (0.7 * thick, 0.5 * thick))
    head_angle = neck_angle - 1.35 + rng.normal(0, bend)
    head = _Part(neck.end, neck.end + 0.42 * length * _way(head_angle), (0.5 * thick, 0.28 * thick))
    ear_angle = neck_angle + 0.3 + rng.normal(0, bend)
    ear = _Part(neck.end, neck.end + 0.28 * length * _way(ear_angle), (0.25 * thick, 1.0))
    tail_angle = tilt + np.pi + 0.6 + rng.normal(0, bend)
    tail = _Part(hip, hip + 0.45 * length * _way(tail_angle), (0.5 * thick, 0.14 * thick))
    tuft_angle = tail_angle + 0.7 + rng.normal(0, 1.5 * bend)
    tuft = _Part(tail.end, tail.end + 0.35 * length * _way(tuft_angle), (0.14 * thick, 0.2 * thick))
    return [*parts, neck, head, ear, tail, tuft]


def _leg(
    joint: Float[np.ndarray, "2"],
    side: int,
    spread: float,
    length: float,
    bend: float,
    rng: np.random.Generator,
) -> list[_Part]:
    """Thigh and shin; `side` is 1 for hind legs, and `spread` the angle from straight down."""
    thigh_angle = np.pi / 2 + spread + rng.normal(0, bend)
    knee = joint + 0.48 * length * _way(thigh_angle)
    shin_angle = thigh_angle + 0.2 * side + rng.normal(0, bend)
    foot = knee + 0.42 * length * _way(shin_angle)
    widths = np.array([0.24, 0.13, 0.10]) * length
    return [
        _Part(joint, knee, (float(widths[0]), float(widths[1]))),
        _Part(knee, foot, (float(widths[1]), float(widths[2]))),
    ]


def _coat(
    side: int, height: float, length: float, rng: np.random.Generator
) -> Float[np.ndarray, "h w 3"]:
    """Colour levels of a coat, brighter on the legs than on the back, with stripes or spots."""
    y, x = np.mgrid[:side, :side].astype(np.float64)
    levels = rng.uniform(150, 185) + rng.uniform(-30, 30, 3)
    shade = 18 * np.tanh((y - height) / length)
    return levels[None, None] + (shade + _pattern(side, x, y, length, rng))[..., None]


def _pattern(
    side: int,
    x: Float[np.ndarray, "h w"],
    y: Float[np.ndarray, "h w"],
    length: float,
    rng: np.random.Generator,
) -> Float[np.ndarray, "h w"]:
    """Stripes or spots of random strength, in grey levels; stripes have a random phase."""
    strength = rng.uniform(10, 38)
    if rng.random() < 0.5:
        turn = rng.uniform(-0.6, 0.6)
        wave = 2 * np.pi / (length * rng.uniform(0.2, 0.35))
        along = np.cos(turn) * x + np.sin(turn) * y + 0.1 * length * _smooth(side, 6, rng)
        return strength * np.sign(np.sin(wave * along + rng.uniform(0, 2 * np.pi)))
    cells = max(int(side / (0.18 * length)), 4)
    return -2 * strength * (_smooth(side, cells, rng) > 0.3)


def _strew(image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator) -> None:
    """Draws a bar or a blob with the colours and pattern of a coat, or a dark version of them."""
    side = image.shape[0]
    length = side * rng.uniform(0.1, 0.3)
    start = rng.uniform(0, side, 2)
    end = start + length * _way(rng.uniform(0, 2 * np.pi))
    widths = rng.uniform(0.04, 0.16, 2) * side
    mask = _raster(_Part(start, end, (float(widths[0]), float(widths[1]))), side)
    levels = _coat(side, float(start[1]), length, rng)
    _paint(image, mask, levels - rng.choice([0, 90]))


def _paint(
    image: UInt8[np.ndarray, "h w 3"],
    mask: Bool[np.ndarray, "h w"],
    levels: Float[np.ndarray, "h w 3"],
) -> None:
    image[mask] = np.clip(levels, 0, 255)[mask]


def _raster(part: _Part, side: int) -> Bool[np.ndarray, "h w"]:
    """Rasterises a part: a disc at each end, and the quadrilateral between them."""
    import cv2

    mask = np.zeros((side, side), np.uint8)
    along = part.end - part.start
    across = np.array([-along[1], along[0]]) / max(float(np.hypot(*along)), 1e-6)
    corners = []
    for point, width, sign in ((part.start, part.widths[0], 1), (part.end, part.widths[1], -1)):
        radius = max(width / 2, 0.5)
        at = np.round(point * 2**_SHIFT).astype(int).tolist()
        cv2.circle(mask, at, round(radius * 2**_SHIFT), 1, -1, shift=_SHIFT)
        corners += [point + sign * radius * across, point - sign * radius * across]
    outline = np.round(np.array(corners) * 2**_SHIFT).astype(np.int32)
    cv2.fillPoly(mask, [outline], 1, shift=_SHIFT)
    return mask.astype(bool)


def _way(angle: float) -> Float[np.ndarray, "2"]:
    return np.array([np.cos(angle), np.sin(angle)])


def _smooth(side: int, cells: int, rng: np.random.Generator) -> Float[np.ndarray, "h w"]:
    """Smooth noise in -1..1 with `cells` x `cells` cells."""
    import cv2

    coarse = rng.uniform(-1, 1, (cells, cells))
    return np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_LINEAR), np.float64)
