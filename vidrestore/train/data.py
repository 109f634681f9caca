"""Folders of aligned faces as training data: cache, hold-out, augmentation, pairs of degraded and clean.

Every sample is a function of (seed, sample index) alone, so a run that resumes at a step sees what the
uninterrupted run would have seen, with any number of workers.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from vidrestore.errors import ConfigError
from vidrestore.train.degrade import LEVELS, Level, Picture, apply_recipe, degrade, draw_recipe
from vidrestore.train.degrade_batch import apply_recipes, draw_any
from vidrestore.train.paper_degrade import LARGE, SMALL, BlindLevel, degrade_blind

__all__ = [
    "DAMAGE",
    "Cover",
    "FaceCache",
    "FacePairs",
    "FacePlan",
    "FacePlans",
    "Faces",
    "HeldOut",
    "Hiding",
    "Mix",
    "Recolour",
    "apply_hiding",
    "apply_recolour",
    "apply_texture",
    "augment",
    "batches",
    "draw_hiding",
    "draw_move",
    "draw_recolour",
    "draw_texture",
    "hide",
    "list_images",
    "middle_of_face",
    "move",
    "recolour",
    "roughen",
    "shade",
    "split_held_out",
    "stream",
    "texture_or_none",
    "to_bytes",
    "to_tensor",
]

_log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

_TEMPLATE = (  # FFHQ's five points in a 256-pixel crop: (p + 0.5) / 2 - 0.5 of the 512-pixel template
    np.array([[192.98138, 239.94708], [318.90277, 240.1936], [256.63416, 314.01935], [201.26117, 371.41043]]) + 0.5
) / 2 - 0.5


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """The pictures of a folder and its sub-folders, sorted by path.

    Raises:
        ConfigError: the folder is missing or holds none.
    """
    root = Path(folder)
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES) if root.is_dir() else []
    if not paths:
        raise ConfigError(f"{root}: no pictures ({', '.join(IMAGE_SUFFIXES)}) to train on")
    return paths


def split_held_out(paths: Sequence[Path], held_out: int) -> tuple[list[Path], list[Path]]:
    """(training, held out): the first ``held_out`` paths in order are never trained on.

    Of faces that :mod:`vidrestore.train.align` cut out these are the people of the first sources; the last of them may
    be on both sides.

    Raises:
        ConfigError: nothing would be left to train on.
    """
    if not 0 <= held_out < len(paths):
        raise ConfigError(f"held_out must leave a picture to train on, got {held_out} of {len(paths)}")
    return list(paths[held_out:]), list(paths[:held_out])


class FaceCache:
    """Pictures of one size as one uint8 array on disk, opened as a memory map.

    Args:
        paths: square pictures of aligned faces, any size; they are resized.
        size: side of the cached pictures in pixels.
        file: the ``.npy`` file; made anew where its list of pictures differs from ``paths``.

    Raises:
        ConfigError: a picture cannot be read or is not square.
    """

    def __init__(self, paths: Sequence[Path], size: int, file: str | os.PathLike[str]) -> None:
        self.file = Path(file)
        names = [[p.name, p.stat().st_size] for p in paths]
        listing = self.file.with_suffix(".json")
        wanted = {"size": size, "pictures": names}
        if not (self.file.is_file() and listing.is_file() and json.loads(listing.read_text("utf-8")) == wanted):
            _log.info("caching %d faces at %d px", len(paths), size)
            self.file.parent.mkdir(parents=True, exist_ok=True)
            listing.unlink(missing_ok=True)
            shape = (len(paths), size, size, 3)
            cache = np.lib.format.open_memmap(self.file, mode="w+", dtype=np.uint8, shape=shape)
            for i, path in enumerate(paths):
                cache[i] = _read(path, size)
            cache.flush()
            listing.write_text(json.dumps(wanted), "utf-8")
        self.pictures: NDArray[np.uint8] = np.load(self.file, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def side(self) -> int:
        """Of the pictures, in pixels."""
        return int(self.pictures.shape[1])

    def choose(self, seed: int, index: int) -> int:
        """The face of a sample: each once before any comes again, in a new order each time."""
        epoch, place = divmod(index, len(self))
        return int(np.random.default_rng([seed, 1, epoch]).permutation(len(self))[place])


def _read(path: Path, size: int) -> NDArray[np.uint8]:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None or picture.shape[0] != picture.shape[1]:
        shape = None if picture is None else picture.shape
        raise ConfigError(
            f"{path}: expected a square picture of an aligned face, got {shape}; `vidrestore train align` makes them"
        )
    method = cv2.INTER_AREA if picture.shape[0] > size else cv2.INTER_CUBIC
    return np.ascontiguousarray(cv2.resize(picture, (size, size), interpolation=method)[..., ::-1])


def to_tensor(picture: NDArray[np.uint8] | Picture) -> Tensor:
    """(3, H, W) float32 in [-1, 1] of an (H, W, 3) picture: uint8, or float in [0, 1]."""
    scale = 2.0 / 255.0 if picture.dtype == np.uint8 else 2.0
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float() * scale - 1.0


def augment(face: NDArray[np.uint8], size: int, rng: np.random.Generator, other: NDArray[np.uint8]) -> Picture:
    """A clean training face: moved, coloured, sometimes partly hidden.

    Args:
        face: (S, S, 3) uint8 RGB, aligned.
        size: side of the result in pixels.
        rng: source of randomness.
        other: (S, S, 3) uint8 RGB, another face, of which patches hide parts of the first.

    Returns:
        (size, size, 3) RGB in [0, 1]: turned within 6 degrees, scaled 0.88 to 1.12, shifted within 5 %
        (the errors of a five-point detector), mirrored in half of the cases.
    """
    picture = move(face, draw_move(rng, size, face.shape[0]), size)
    return recolour(hide(picture, other, rng), rng)


def hide(picture: Picture, other: NDArray[np.uint8], rng: np.random.Generator) -> Picture:
    """The picture, with something in front of the face in one of four cases: a hand, a shape, lettering, glasses.

    Args:
        picture: (S, S, 3) RGB in [0, 1].
        other: (S', S', 3) uint8 RGB, another face, of which patches hide parts of the first.
        rng: source of randomness.
    """
    return apply_hiding(picture, other, draw_hiding(rng, picture.shape[0], other.shape[0]))


def draw_move(rng: np.random.Generator, size: int, side: int) -> NDArray[np.float64]:
    """(2, 3) face_from_result of :func:`augment`: a turn, a scale, a shift, in half of the cases a mirror.

    Args:
        rng: source of randomness.
        size: side of the result in pixels.
        side: of the face in pixels.
    """
    angle, scale = math.radians(rng.uniform(-6, 6)), math.exp(rng.uniform(math.log(0.88), math.log(1.12)))
    shift = rng.uniform(-0.05, 0.05, 2) * side
    a = math.cos(angle) * side / size / scale
    b = math.sin(angle) * side / size / scale
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    linear = np.array([[a * mirror, -b], [b * mirror, a]])
    centre = np.full(2, (size - 1) / 2)
    return np.column_stack([linear, (side - 1) / 2 + shift - linear @ centre])


def move(face: NDArray[np.uint8], matrix: NDArray[np.float64], size: int) -> Picture:
    """(size, size, 3) in [0, 1]: a face of uint8 sampled with a cubic at face_from_result."""
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(face, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    return moved.astype(np.float32) / np.float32(255.0)


@dataclass(frozen=True, slots=True)
class Recolour:
    """Drawn changes of a picture's colours; None is no change."""

    gamma: float | None = None
    balance: NDArray[np.float32] | None = None
    """(3,) gains of red, green and blue."""
    exposure: tuple[float, float] | None = None
    """Level of black, and the gain from there."""
    saturation: float | None = None


def draw_recolour(rng: np.random.Generator) -> Recolour:
    """Another gamma, white balance, exposure or saturation; one in twelve is grey film."""
    gamma = math.exp(rng.uniform(-0.4, 0.4)) if rng.random() < 0.5 else None
    balance = rng.uniform(0.88, 1.12, 3).astype(np.float32) if rng.random() < 0.5 else None
    exposure, saturation = None, None
    if rng.random() < 0.4:
        low, high = rng.uniform(0.0, 0.12), rng.uniform(0.35, 1.05)  # dark or flat pictures
        exposure = low, high - low
    draw = rng.random()
    if draw < 0.4:
        saturation = 0.0 if draw < 0.08 else rng.uniform(0.3, 1.4)
    return Recolour(gamma, balance, exposure, saturation)


def recolour(picture: Picture, rng: np.random.Generator) -> Picture:
    """Another gamma, white balance, exposure or saturation; one in twelve is grey."""
    return apply_recolour(picture, draw_recolour(rng))


def apply_recolour(picture: Picture, change: Recolour) -> Picture:
    """The picture in other colours, in [0, 1]."""
    picture = np.clip(picture, 0.0, 1.0)  # a cubic filter overshoots, and a power of what is below 0 is no number
    if change.gamma is not None:
        picture = picture ** np.float32(change.gamma)
    if change.balance is not None:
        picture = picture * change.balance
    if change.exposure is not None:
        picture = change.exposure[0] + picture * np.float32(change.exposure[1])
    if change.saturation is not None:
        luma = picture @ np.array([[0.299], [0.587], [0.114]], np.float32)
        picture = luma + (picture - luma) * np.float32(change.saturation)
    return np.clip(picture, 0.0, 1.0).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Cover:
    """Something in front of a picture."""

    mask: NDArray[np.float32]
    """(S, S) its share of each pixel, in [0, 1]."""
    colour: NDArray[np.float64] | None = None
    """(3,) RGB in [0, 1]; None with ``skin`` is of the face's own colour, and without it a patch of another face."""
    skin: float | None = None
    """Gain of the mean colour in the middle of the face."""
    slopes: tuple[float, float] | None = None
    """Shade down and across the picture: at its edges it is brighter or darker by this share."""

    @property
    def is_face(self) -> bool:
        """It shows another face."""
        return self.colour is None and self.skin is None


@dataclass(frozen=True, slots=True)
class Hiding:
    """What is in front of one face; layers that are laid on one after another."""

    layers: tuple[tuple[Cover, ...], ...]
    move: NDArray[np.float64] | None
    """(2, 3) face_from_result of the other face; None where nothing is hidden by a part of one."""


def draw_hiding(rng: np.random.Generator, size: int, side: int) -> Hiding:
    """A hand, a shape, lettering, a patch of a face, glasses; nothing in three of four cases.

    Args:
        rng: source of randomness.
        size: side of the picture in pixels.
        side: of the other face in pixels.
    """
    layers: list[tuple[Cover, ...]] = []
    other = None
    if rng.random() < 0.15:
        other = draw_move(rng, size, side)
        layers.append((_draw_occluder(rng, size),))
    if rng.random() < 0.10:
        layers.append(_draw_glasses(rng, size))
    return Hiding(tuple(layers), other)


def apply_hiding(picture: Picture, other: NDArray[np.uint8], hiding: Hiding) -> Picture:
    """The picture behind what hides it."""
    size = picture.shape[0]
    for covers in hiding.layers:
        shown: NDArray[Any] = picture
        for cover in covers:
            mask = cover.mask[..., None]
            shown = shown * (1 - mask) + _paint(cover, picture, other, hiding.move, size) * mask
        picture = np.asarray(shown, dtype=np.float32)
    return picture


def _paint(
    cover: Cover, picture: Picture, other: NDArray[np.uint8], matrix: NDArray[np.float64] | None, size: int
) -> NDArray[Any]:
    if cover.is_face:
        assert matrix is not None
        return move(other, matrix, size)
    colour = cover.colour
    if colour is None:
        colour = picture[middle_of_face(size)].mean((0, 1)) * cover.skin
    return colour if cover.slopes is None else np.clip(colour * shade(cover.slopes, size), 0.0, 1.0)


def middle_of_face(size: int) -> tuple[slice, slice]:
    """Rows and columns where there is skin."""
    return slice(size // 2, size * 3 // 4), slice(size // 3, size * 2 // 3)


def shade(slopes: tuple[float, float], size: int) -> NDArray[np.float32]:
    """(size, size, 1) gain, 1 in the middle, that rises or falls down and across."""
    slope = np.linspace(-1, 1, size, dtype=np.float32)
    return np.asarray(1 + slopes[0] * slope[:, None, None] + slopes[1] * slope[None, :, None])


def _draw_occluder(rng: np.random.Generator, size: int) -> Cover:
    """A smooth blob of skin colour with fingers' edges, a flat or shaded shape, or a patch of a face."""
    mask = np.zeros((size, size), np.float32)
    centre = rng.uniform(0.1, 0.9, 2) * size
    kind = rng.integers(4)
    if kind == 0:  # a hand: thick strokes side by side
        angle, width = rng.uniform(0, 2 * math.pi), rng.uniform(0.05, 0.09) * size
        along = np.array([math.cos(angle), math.sin(angle)])
        for finger in range(int(rng.integers(2, 5))):
            start = centre + np.array([-along[1], along[0]]) * finger * width * 1.15
            end = start + along * rng.uniform(0.3, 0.6) * size
            cv2.line(mask, _point(start), _point(end), 1.0, max(2, round(width)), cv2.LINE_AA)
    elif kind == 1:
        axes = _point(rng.uniform(0.06, 0.22, 2) * size)
        cv2.ellipse(mask, _point(centre), axes, rng.uniform(0, 180), 0, 360, 1.0, -1, cv2.LINE_AA)
    elif kind == 2:
        corners = centre + rng.uniform(-0.25, 0.25, (int(rng.integers(3, 6)), 2)) * size
        cv2.fillPoly(mask, [np.rint(corners).astype(np.int32)], 1.0, cv2.LINE_AA)
    else:  # lettering, as of subtitles and logos
        text = "".join(chr(c) for c in rng.integers(65, 91, int(rng.integers(3, 9))))
        cv2.putText(mask, text, _point(centre * 0.8), 2, rng.uniform(0.5, 1.6), 1.0, int(rng.integers(1, 4)), 16)
    soft = np.asarray(cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.3, 1.2)), np.float32)
    if kind != 3 and rng.random() < 0.35:
        return Cover(soft)
    skin = rng.uniform(0.7, 1.2) if kind == 0 else None
    colour = rng.uniform(0.0, 1.0, 3) if kind != 0 else None
    return Cover(soft, colour, skin, (rng.uniform(-0.3, 0.3), rng.uniform(-0.3, 0.3)))


def _draw_glasses(rng: np.random.Generator, size: int) -> tuple[Cover, Cover]:
    """A frame of glasses around the template's eyes, with tinted or clear lenses."""
    left, right = (_TEMPLATE[:2] + 0.5) * (size / 256) - 0.5 + rng.uniform(-0.02, 0.02, 2) * size
    axes = _point(rng.uniform([0.08, 0.055], [0.115, 0.095]) * size)
    frame, lens = np.zeros((2, size, size), np.float32)
    width = int(rng.integers(1, 5))
    for eye in (left, right):
        cv2.ellipse(lens, _point(eye), axes, 0, 0, 360, 1.0, -1, cv2.LINE_AA)
        cv2.ellipse(frame, _point(eye), axes, 0, 0, 360, 1.0, width, cv2.LINE_AA)
    inner = np.array([axes[0], 0.0])
    cv2.line(frame, _point(left + inner), _point(right - inner), 1.0, width, cv2.LINE_AA)
    cv2.line(frame, _point(left - inner), _point(left - inner * 2.5), 1.0, width, cv2.LINE_AA)
    cv2.line(frame, _point(right + inner), _point(right + inner * 2.5), 1.0, width, cv2.LINE_AA)
    tint = lens * (rng.uniform(0.3, 0.9) if rng.random() < 0.4 else 0.0)
    glass = rng.uniform(0.0, 0.25, 3)
    colour = rng.uniform(0.0, 0.5, 3) if rng.random() < 0.8 else rng.uniform(0.5, 1.0, 3)
    return Cover(tint, glass), Cover(frame, colour)


def _point(xy: NDArray[np.float64]) -> tuple[int, int]:
    return round(float(xy[0])), round(float(xy[1]))


@dataclass(frozen=True, slots=True)
class Mix:
    """Which kinds of damage, and which kinds of clean face, a training sees.

    Shares of damage that do not add up to 1 leave the rest clean, so that good faces learn to stay as they are.
    """

    light: float = 0.33
    medium: float = 0.40
    heavy: float = 0.22
    still: float = 0.0
    """CodeFormer's small degradation (:data:`vidrestore.train.paper_degrade.SMALL`), without its last scaling by two:
    its crops are 512 pixels wide, ours 256."""
    still_heavy: float = 0.0
    """Its large degradation, likewise."""
    texture: float = 0.0
    """Share of faces whose clean picture gets fine skin texture or grain first, which is then to be kept. Generated
    skin is smooth, and a network that knows no other takes pores for noise."""
    soft: float = 0.0
    """Share of the hardly degraded faces whose clean picture is itself a little out of focus, as footage often is, and
    is not to be sharpened."""
    inner: float = 0.0
    """Share of the windows, where only a window is trained on, that lie around the middle of the crop: eyes, nose and
    mouth say whose face it is, hair and background do not."""

    def __post_init__(self) -> None:
        """Checks that these are shares."""
        damage, others = self.damage, (self.texture, self.soft, self.inner)
        if min(*damage, *others) < 0.0 or max(sum(damage), *others) > 1.0 + 1e-9:
            raise ValueError(f"shares must be 0 or more and add up to at most 1, got {self}")

    @property
    def damage(self) -> tuple[float, ...]:
        """The shares of light, medium, heavy, still and still_heavy."""
        return (self.light, self.medium, self.heavy, self.still, self.still_heavy)


_STILL = (
    replace(SMALL, blur=(0.05, 5.0), scale=(1.0, 6.0), taps=21),
    replace(LARGE, blur=(0.5, 7.5), scale=(2.0, 15.0), taps=21),
)

DAMAGE: tuple[Level | BlindLevel | None, ...] = (*LEVELS.values(), None, *_STILL)
"""Ranges by number: light, medium, heavy, none, and CodeFormer's small and large as :class:`Mix` has them."""


@dataclass(frozen=True, slots=True)
class FacePlan:
    """What is drawn for one sample of :class:`FacePlans`."""

    number: int
    """Of the face."""
    other: int
    """Of another face, of which a part may be in front."""
    matrix: NDArray[np.float64]
    """(2, 3) face_from_crop."""
    hiding: Hiding
    colour: Recolour
    corner: tuple[int, int]
    """(y, x) of the window in the crop."""
    soft: float
    """Standard deviation in pixels by which the clean picture is out of focus; 0 is none."""
    texture: NDArray[np.float32] | None
    """(S, S, 1)"""
    level: Level | BlindLevel | None
    """Ranges of the degradation; None is none."""
    rng: np.random.Generator
    """Where the numbers of the degradation are drawn next."""


class Faces(Protocol):
    """Where samples take their faces."""

    @property
    def side(self) -> int:
        """Of the pictures, in pixels."""
        ...

    def __len__(self) -> int:
        """How many there are."""
        ...

    def choose(self, seed: int, index: int) -> int:
        """The number of the face of a sample."""
        ...


class FacePlans:
    """What is drawn for samples; number i depends on (seed, i) alone.

    Args:
        faces: the clean faces.
        size: side of a whole crop in pixels.
        seed: of the whole stream.
        crop: S, side of the window that is cut out of it at random; None is all of it.
        mix: kinds of damage and of clean faces.
    """

    def __init__(self, faces: Faces, *, size: int, seed: int, crop: int | None = None, mix: Mix | None = None) -> None:
        self.faces, self.size, self.seed, self.crop, self.mix = faces, size, seed, crop or size, mix or Mix()

    def plan(self, index: int) -> FacePlan:
        """All that is drawn for a sample before its degradation."""
        rng = np.random.default_rng([self.seed, 2, index])
        side, room = self.faces.side, self.size - self.crop
        number, other = self.faces.choose(self.seed, index), int(rng.integers(len(self.faces)))
        matrix, hiding = draw_move(rng, self.size, side), draw_hiding(rng, self.size, side)
        colour = draw_recolour(rng)
        low, high = 0, room
        if self.mix.inner > 0.0 and rng.random() < self.mix.inner:
            low, high = room * 3 // 8, room * 5 // 8
        y, x = rng.integers(low, high + 1, 2)
        kind = int(np.searchsorted(np.cumsum(self.mix.damage), rng.random()))  # 5 is none
        soft = 0.0
        if kind in (0, 5) and self.mix.soft > 0.0 and rng.random() < self.mix.soft:
            soft = rng.uniform(0.4, 1.1)
        texture = texture_or_none(rng, self.crop, self.mix.texture)
        level = (*LEVELS.values(), *_STILL, None)[kind]
        return FacePlan(number, other, matrix, hiding, colour, (int(y), int(x)), soft, texture, level, rng)


class FacePairs(FacePlans, Dataset[tuple[Tensor, Tensor]]):
    """Samples (degraded (V, 3, S, S) uint8, clean (3, S, S) uint8) made on the fly.

    Args:
        cache: the clean faces.
        size: side of a whole crop in pixels.
        crop: S, side of the window that is cut out of it at random; None is all of it. Small windows give more
            recordings per multiply-add, which is what the first part of a run lacks most.
        seed: of the whole stream.
        views: V, how many frames of one shot are made of each face: same recipe, other noise and sampling phase.
        mix: kinds of damage and of clean faces.
    """

    def __init__(
        self,
        cache: FaceCache,
        *,
        size: int,
        seed: int,
        views: int = 1,
        crop: int | None = None,
        mix: Mix | None = None,
    ) -> None:
        super().__init__(cache, size=size, seed=seed, crop=crop, mix=mix)
        self.cache, self.views = cache, views

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        plan, pictures = self.plan(index), self.cache.pictures
        clean = move(pictures[plan.number], plan.matrix, self.size)
        clean = apply_recolour(apply_hiding(clean, pictures[plan.other], plan.hiding), plan.colour)
        y, x = plan.corner
        clean = np.ascontiguousarray(clean[y : y + self.crop, x : x + self.crop])
        if plan.soft > 0.0:
            clean = np.asarray(cv2.GaussianBlur(clean, (0, 0), plan.soft), dtype=np.float32)
        if plan.texture is not None:
            clean = apply_texture(clean, plan.texture)
        views = self._recordings(clean, plan.level, plan.rng)
        return torch.stack([to_bytes(v) for v in views]), to_bytes(clean)

    def _recordings(self, clean: Picture, level: Level | BlindLevel | None, rng: np.random.Generator) -> list[Picture]:
        if level is None:
            return [clean] * self.views
        if isinstance(level, BlindLevel):  # stills: the same numbers, as there is no shot
            return [degrade_blind(clean, level, rng)] * self.views
        recipe = draw_recipe(rng, level, crop=self.crop)
        return [apply_recipe(clean, recipe, rng) for _ in range(self.views)]


def roughen(picture: Picture, rng: np.random.Generator) -> Picture:
    """The picture with fine texture: noise of two scales, up to 5 steps of 255, stronger here, weaker there.

    Args:
        picture: (S, S, 3) RGB in [0, 1].
        rng: source of randomness.
    """
    return apply_texture(picture, draw_texture(rng, picture.shape[0]))


def draw_texture(rng: np.random.Generator, side: int) -> NDArray[np.float32]:
    """(side, side, 1) what :func:`apply_texture` adds to a picture of brightness 0.6."""
    grain = rng.standard_normal((side, side, 1), np.float32)
    wide = np.asarray(cv2.GaussianBlur(grain, (0, 0), rng.uniform(0.5, 1.2)), np.float32)[..., None]
    rough: Picture = rng.uniform(0.2, 0.7) * grain + wide / max(float(wide.std()), 1e-6)
    where = cv2.resize(rng.uniform(0.2, 1.0, (5, 5)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    return np.asarray(rough * where[..., None] * np.float32(rng.uniform(0.5, 5.0) / 255.0), dtype=np.float32)


def texture_or_none(rng: np.random.Generator, side: int, share: float) -> NDArray[np.float32] | None:
    """:func:`draw_texture` for this share of samples; nothing is drawn where it is 0."""
    return draw_texture(rng, side) if share > 0.0 and rng.random() < share else None


def apply_texture(picture: Picture, texture: NDArray[np.float32]) -> Picture:
    """The picture with a texture, which shows more where it is bright."""
    rough = picture + texture * (0.4 + picture.mean(2, keepdims=True))
    return np.asarray(np.clip(rough, 0.0, 1.0), dtype=np.float32)


def to_bytes(picture: Picture) -> Tensor:
    """(3, H, W) uint8 of an (H, W, 3) picture in [0, 1]."""
    return torch.from_numpy(np.rint(picture.transpose(2, 0, 1) * 255.0).astype(np.uint8))


class _From(Sampler[int]):
    """Sample indices from a start on, without an end."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[int]:
        index = self.start
        while True:
            yield index
            index += 1


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    os.nice(2)  # the network's threads come first where cores are few


def stream(
    data: Dataset[Any], *, batch: int, start: int, workers: int, collate: Callable[[list[Any]], Any] | None = None
) -> Iterator[Any]:
    """Endless collated batches of a data set without an end, from sample ``start`` on.

    Args:
        data: sample by index; a function of its index alone, so that a resumed run sees what it would have seen.
        batch: samples per batch.
        start: index of the first sample: those that a run has taken before.
        workers: processes that make samples; 0 makes them in this one.
        collate: makes a batch of a list of samples; None stacks tensors.
    """
    loader = DataLoader(
        data,
        batch_size=batch,
        sampler=_From(start),
        num_workers=workers,
        worker_init_fn=_start_worker,
        prefetch_factor=4 if workers else None,
        collate_fn=collate,
        generator=torch.Generator(),  # of the workers' seeds, which nothing uses: leaves the global one alone
    )
    yield from loader


def batches(data: FacePairs, *, batch: int, start: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (degraded (B * V, 3, S, S), clean (B, 3, S, S)) float32 in [-1, 1]; see :func:`stream`."""
    for degraded, clean in stream(data, batch=batch, start=start, workers=workers):
        yield degraded.flatten(0, 1).float() * (2.0 / 255.0) - 1.0, clean.float() * (2.0 / 255.0) - 1.0


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The fixed validation set: the first faces of the folder, degraded with fixed seeds, by level."""

    clean: Tensor
    """(N, 3, S, S) in [-1, 1]."""
    degraded: dict[str, Tensor]
    """Level -> (N, 3, S, S) in [-1, 1]."""

    @classmethod
    def make(cls, paths: Sequence[Path], *, size: int, seed: int = 0, device: str | None = None) -> HeldOut:
        """Degrades each face once per level; face i of level k depends on (seed, i, k) alone.

        Args:
            paths: N pictures of faces.
            size: S.
            seed: of the damage.
            device: where they are degraded, all at once and with approximated video codecs
                (:mod:`vidrestore.train.degrade_batch`), so PyAV is not wanted; None does it on the CPU, one by one.
        """
        faces = [_read(path, size).astype(np.float32) / np.float32(255.0) for path in paths]
        if device is not None:
            return cls._made_on(torch.stack([to_tensor(face) for face in faces]), size, seed, device)
        degraded = {
            name: torch.stack(
                [
                    to_tensor(degrade(face, level, np.random.default_rng([seed, 3, i, k])))
                    for i, face in enumerate(faces)
                ]
            )
            for k, (name, level) in enumerate(LEVELS.items())
        }
        return cls(torch.stack([to_tensor(f) for f in faces]), degraded)

    @classmethod
    def _made_on(cls, clean: Tensor, size: int, seed: int, device: str) -> HeldOut:
        degraded = {}
        for k, (name, level) in enumerate(LEVELS.items()):
            drawn = [draw_any(level, np.random.default_rng([seed, 3, i, k]), size) for i in range(len(clean))]
            degraded[name] = apply_recipes(clean.to(device), *zip(*drawn, strict=True)).cpu()
        return cls(clean, degraded)
