"""The still-picture degradations that CodeFormer was trained with: blind chain, colour faults, brush-stroke holes.

Pictures are (S, S, 3) float32 RGB in [0, 1]. The chain, in this order:
    Gaussian blur (isotropic or not, equal odds) -> linear resize to int(S // scale) -> Gaussian noise of each sample,
    clipped -> JPEG -> linear resize to S.

Source:
    Zhou et al. 2022, section 4, with the ranges of the released training code (:data:`LARGE`, :data:`SMALL`) and those
    of the paper (:data:`PAPER`). Written anew; the video faults are in :mod:`vidrestore.train.degrade`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from vidrestore.train.degrade import Picture, compress_jpeg

__all__ = [
    "LARGE",
    "PAPER",
    "SMALL",
    "BlindLevel",
    "BlindRecipe",
    "BrushOptions",
    "ColourFaults",
    "ColourRecipe",
    "Jitter",
    "apply_blind",
    "apply_colour",
    "blind_kernel",
    "blur_kernel",
    "brush_strokes",
    "degrade_blind",
    "disturb_colour",
    "draw_blind",
    "draw_colour",
    "punch_holes",
]

Jitter = Literal["brightness", "contrast", "saturation", "hue"]
"""A change of all colours."""

_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # Rec. 601, as OpenCV's grey


@dataclass(frozen=True, slots=True)
class BlindLevel:
    """The ranges of one severity; each pair is (lowest, highest), drawn uniformly. Defaults are :data:`LARGE`."""

    blur: tuple[float, float] = (1.0, 15.0)
    """Standard deviation of the blur in pixels of the whole picture."""
    scale: tuple[float, float] = (4.0, 30.0)
    """Picture's side over the side that it is shrunk to."""
    noise: tuple[float, float] = (0.0, 20.0)
    """Standard deviation of the noise on the scale of 8 bits."""
    quality: tuple[float, float] = (30.0, 80.0)
    """JPEG quality, truncated to a whole number."""
    taps: int = 41
    """Side of the blur kernel, odd."""

    def __post_init__(self) -> None:
        """Checks order and bounds."""
        for name in ("blur", "scale", "noise", "quality"):
            low, high = getattr(self, name)
            if not low <= high:
                raise ValueError(f"{name} must be (lowest, highest), got {(low, high)}")
        if self.blur[0] <= 0.0 or self.scale[0] < 1.0 or self.noise[0] < 0.0 or self.taps % 2 == 0:
            raise ValueError(f"blur must be above 0, scale at least 1, noise at least 0, taps odd, got {self}")


LARGE = BlindLevel()
"""Released code: stage II, colorization, and the large degradation of stage III."""

SMALL = BlindLevel(blur=(0.1, 10.0), scale=(1.0, 12.0), noise=(0.0, 15.0), quality=(60.0, 100.0))
"""Released code: the small degradation of stage III."""

PAPER = BlindLevel(blur=(1.0, 15.0), scale=(1.0, 30.0), noise=(0.0, 20.0), quality=(30.0, 90.0))
"""The paper's single range, for all of its stages."""


@dataclass(frozen=True, slots=True)
class ColourFaults:
    """What happens to the colours of a degraded picture (colorization); the defaults are the released ones."""

    shift_share: float = 0.3
    """Probability of an offset of each channel."""
    shift: float = 20.0
    """Largest offset, on the scale of 8 bits."""
    grey_share: float = 0.01
    """Probability of a grey picture."""
    jitter_share: float = 0.3
    """Probability of brightness, contrast, saturation and hue changes, in random order."""
    brightness: tuple[float, float] = (0.5, 1.5)
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.0, 1.5)
    hue: tuple[float, float] = (-0.1, 0.1)
    """In turns of the colour circle."""


@dataclass(frozen=True, slots=True)
class BrushOptions:
    """Strokes that hide parts of a picture (inpainting); widths are for 512 pixels and grow with the side."""

    strokes: tuple[int, int] = (1, 3)
    """Fewest and most strokes."""
    vertices: tuple[int, int] = (8, 27)
    """Fewest and most corners of a stroke after its start."""
    width: tuple[float, float] = (30.0, 70.0)
    """Pixels of a picture of 512."""


@dataclass(frozen=True, slots=True)
class BlindRecipe:
    """The drawn numbers of one chain."""

    blur: tuple[float, float, float]
    """Standard deviations along and across, in pixels of the whole picture, and the angle in radians."""
    taps: int
    """Side of the blur kernel, odd."""
    size: int
    """Side that the picture is shrunk to, in pixels."""
    noise: float
    """Standard deviation on the scale of 8 bits."""
    quality: int
    """Of JPEG."""


def draw_blind(rng: np.random.Generator, level: BlindLevel, *, side: int) -> BlindRecipe:
    """The numbers of one chain.

    Args:
        rng: source of randomness.
        level: ranges.
        side: of the picture, in pixels.
    """
    blur, size = _draw_optics(rng, level, side)
    return BlindRecipe(blur, level.taps, size, *_draw_signal(rng, level))


def _draw_optics(rng: np.random.Generator, level: BlindLevel, side: int) -> tuple[tuple[float, float, float], int]:
    along = rng.uniform(*level.blur)
    across, angle = along, 0.0
    if rng.random() < 0.5:
        across, angle = rng.uniform(*level.blur), rng.uniform(-math.pi, math.pi)
    return (along, across, angle), max(1, int(side // rng.uniform(*level.scale)))


def _draw_signal(rng: np.random.Generator, level: BlindLevel) -> tuple[float, int]:
    return rng.uniform(*level.noise), int(rng.uniform(*level.quality))


def degrade_blind(picture: Picture, level: BlindLevel, rng: np.random.Generator) -> Picture:
    """Draws a recipe and its noise and applies it; see :func:`apply_blind`."""
    blur, size = _draw_optics(rng, level, picture.shape[0])
    noise = rng.standard_normal((size, size, 3), np.float32)  # in between, as ever: a seed keeps its picture
    return apply_blind(picture, BlindRecipe(blur, level.taps, size, *_draw_signal(rng, level)), noise)


def apply_blind(picture: Picture, recipe: BlindRecipe, noise: NDArray[np.float32]) -> Picture:
    """The picture after the chain, rounded to 8 bits, on its old grid.

    Args:
        picture: (S, S, 3) RGB in [0, 1].
        recipe: the chain.
        noise: (size, size, 3) of deviation 1, on the recipe's size.
    """
    side = picture.shape[0]
    blurred = cv2.filter2D(picture, -1, blind_kernel(recipe), borderType=cv2.BORDER_REFLECT_101)
    small = cv2.resize(blurred, (recipe.size, recipe.size), interpolation=cv2.INTER_LINEAR)
    small = small + noise * np.float32(recipe.noise / 255.0)
    small = compress_jpeg(np.clip(small, 0.0, 1.0), recipe.quality)
    return _rounded(np.asarray(cv2.resize(small, (side, side), interpolation=cv2.INTER_LINEAR), dtype=np.float32))


def blur_kernel(level: BlindLevel, rng: np.random.Generator) -> NDArray[np.float32]:
    """(taps, taps) Gaussian of sum 1: round, or with two deviations turned by an angle within plus and minus pi."""
    return blind_kernel(draw_blind(rng, level, side=512))


def blind_kernel(recipe: BlindRecipe) -> NDArray[np.float32]:
    """(taps, taps) Gaussian of sum 1, of the recipe's blur."""
    radius = recipe.taps // 2
    along, across, angle = recipe.blur
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float64)
    u, v = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
    kernel = np.exp(-0.5 * ((u / along) ** 2 + (v / across) ** 2))
    return np.asarray(kernel / kernel.sum(), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class ColourRecipe:
    """The drawn colour faults of one picture."""

    shift: tuple[float, float, float] | None
    """Offset of each channel, in [0, 1]."""
    is_grey: bool
    jitters: tuple[tuple[Jitter, float], ...]
    """Changes in order: of brightness, contrast and saturation a factor, of hue a share of the colour circle."""


def draw_colour(rng: np.random.Generator, faults: ColourFaults) -> ColourRecipe:
    """The faults of one picture, each with its probability."""
    shift: tuple[float, float, float] | None = None
    if rng.random() < faults.shift_share:
        red, green, blue = (rng.uniform(-faults.shift, faults.shift, 3) / 255.0).tolist()
        shift = red, green, blue
    is_grey = bool(rng.random() < faults.grey_share)
    jitters: list[tuple[Jitter, float]] = []
    if rng.random() < faults.jitter_share:
        ranges: tuple[tuple[Jitter, tuple[float, float]], ...] = (
            ("brightness", faults.brightness),
            ("contrast", faults.contrast),
            ("saturation", faults.saturation),
            ("hue", faults.hue),
        )
        for change in rng.permutation(4):
            name, (low, high) = ranges[change]
            jitters.append((name, rng.uniform(low, high)))
    return ColourRecipe(shift, is_grey, tuple(jitters))


def disturb_colour(picture: Picture, faults: ColourFaults, rng: np.random.Generator) -> Picture:
    """Draws colour faults and applies them; see :func:`apply_colour`."""
    return apply_colour(picture, draw_colour(rng, faults))


def apply_colour(picture: Picture, recipe: ColourRecipe) -> Picture:
    """The picture with colours shifted, gone or changed; rounded to 8 bits."""
    if recipe.shift is not None:
        picture = np.clip(picture + np.array(recipe.shift, np.float32), 0.0, 1.0)
    if recipe.is_grey:
        picture = np.repeat(_grey(picture), 3, axis=2)
    for name, amount in recipe.jitters:
        picture = _jitter(picture, name, amount)
    return _rounded(picture)


def _jitter(picture: Picture, name: Jitter, amount: float) -> Picture:
    if name == "brightness":
        changed = picture * np.float32(amount)
    elif name == "contrast":
        mean = np.float32(_grey(picture).mean())
        changed = mean + (picture - mean) * np.float32(amount)
    elif name == "saturation":
        grey = _grey(picture)
        changed = grey + (picture - grey) * np.float32(amount)
    else:
        hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV)  # hue in degrees
        hsv[..., 0] = (hsv[..., 0] + np.float32(360.0 * amount)) % 360.0
        changed = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), dtype=np.float32)
    return np.asarray(np.clip(changed, 0.0, 1.0), dtype=np.float32)


def brush_strokes(side: int, options: BrushOptions, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(side, side) mask, true under strokes of a broad brush that zigzags through the picture.

    Each stroke starts anywhere and turns by 2/5 of pi on average (give or take up to 2/12 of pi at either end of the
    range, drawn per stroke), every other vertex the other way; its steps are normal around ``r = diagonal / 8`` with
    a deviation of ``r // 2``, clipped to 0 to 2 r, and it stays inside the picture. Joints are round.
    """
    mask = np.zeros((side, side), np.uint8)
    step = math.hypot(side, side) / 8
    for _ in range(int(rng.integers(options.strokes[0], options.strokes[1] + 1))):
        low = 2 * math.pi / 5 - rng.uniform(0.0, 2 * math.pi / 12)
        high = 2 * math.pi / 5 + rng.uniform(0.0, 2 * math.pi / 12)
        point = rng.integers(0, side, 2).astype(np.float64)
        corners = [point]
        for i in range(int(rng.integers(options.vertices[0], options.vertices[1] + 1))):
            turn = rng.uniform(low, high)
            angle = 2 * math.pi - turn if i % 2 == 0 else turn
            length = float(np.clip(rng.normal(step, step // 2), 0.0, 2 * step))
            point = np.clip(point + length * np.array([math.cos(angle), math.sin(angle)]), 0, side - 1)
            corners.append(point)
        width = max(1, round(rng.uniform(*options.width) * side / 512))
        whole = np.rint(np.stack(corners)).astype(np.int32)
        cv2.polylines(mask, [whole], isClosed=False, color=1, thickness=width)
        for x, y in whole:
            cv2.circle(mask, (int(x), int(y)), width // 2, 1, -1)
    return mask.astype(bool)


def punch_holes(picture: Picture, mask: NDArray[np.bool_]) -> Picture:
    """The picture with pure white, which means a hole, where the mask is true."""
    return np.where(mask[..., None], np.float32(1.0), picture)


def _grey(picture: Picture) -> NDArray[np.float32]:
    return np.asarray(picture @ _GREY, dtype=np.float32)[..., None]


def _rounded(picture: Picture) -> Picture:
    return np.asarray(np.rint(np.clip(picture, 0.0, 1.0) * 255.0) / 255.0, dtype=np.float32)
