"""Samples made inside the step, on the run's device: workers draw the numbers, the device does the pictures.

What is drawn is what :mod:`vidrestore.train.data` and :mod:`vidrestore.train.meshes` draw for samples that workers
make; :mod:`vidrestore.train.degrade_batch` degrades them. Clean faces come from the cache, or they are generated in the
step and seen once: then there is no end of them, and nobody has looked for points in them.

A sample depends on (seed, index) alone, so a run resumes exactly, on one kind of device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from vidrestore.errors import ConfigError
from vidrestore.geometry import invert
from vidrestore.restoration.mobilestyle import StyleGenerator
from vidrestore.train.data import (
    DAMAGE,
    Cover,
    FaceCache,
    FacePlans,
    Hiding,
    Recolour,
    draw_hiding,
    draw_recolour,
    middle_of_face,
    shade,
    stream,
    texture_or_none,
)
from vidrestore.train.degrade_batch import AnyRecipe, apply_recipes, draw_any, gaussian_lines
from vidrestore.train.degrade_canvas import blurred
from vidrestore.train.faces import PSI
from vidrestore.train.generator import Mapping, load_generator, load_mapping, mean_style
from vidrestore.train.meshes import MeshPairs, draw_level, draw_wide_move
from vidrestore.train.run import Clock, rng_at

__all__ = [
    "DevicePlan",
    "DeviceStream",
    "EndlessFaces",
    "Made",
    "PlannedFaces",
    "PlannedMeshes",
    "PlannedWide",
    "StepGenerator",
    "check_options",
    "check_styles",
    "device_batches",
    "made",
    "make_clean",
]

_LATENT, _LEVELS = 13, 14  # streams of random numbers
_FIRST_MIXED = 4  # level of 64 px: coarser ones say how a head is turned, and a mixture of two would be neither
_AT_ONCE = {"cpu": 8, "cuda": 32}  # faces that the generator makes in one pass: a map of its last block is 64 MB a face


def check_options(
    *, on_device: bool, generated_in_step: bool, samples: str | None = None, made_at_once: int = 0
) -> None:
    """Raises ConfigError where the options of a configuration's data contradict each other.

    Args:
        on_device: samples are made in the step.
        generated_in_step: their faces, too.
        samples: folder of finished samples.
        made_at_once: samples in one pass.
    """
    if made_at_once < 0 or (made_at_once > 0 and not on_device):
        raise ConfigError(f"data.made_at_once is 0 or more, and 0 without data.on_device, got {made_at_once}")
    if generated_in_step and not on_device:
        raise ConfigError("data.generated_in_step wants data.on_device = true: workers have no generator")
    if on_device and samples is not None:
        raise ConfigError(f"data.on_device makes samples in the step; unset data.samples, got {samples!r}")


def check_styles(noise: float, mixed: float, *, generated_in_step: bool) -> None:
    """Raises ConfigError for shares that are none, and for styles of faces that are not generated.

    Args:
        noise: ``data.style_noise``.
        mixed: ``data.mixed``.
        generated_in_step: faces are generated in the step.
    """
    if not (noise >= 0.0 and 0.0 <= mixed <= 1.0):
        raise ConfigError(f"data.style_noise must be 0 or more and data.mixed from 0 to 1, got {noise} and {mixed}")
    if max(noise, mixed) > 0.0 and not generated_in_step:
        raise ConfigError("data.style_noise and data.mixed are of faces with data.generated_in_step = true")


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """All of one sample that is not done by the device."""

    number: int
    """Of the face."""
    face: NDArray[np.uint8] | None
    """(S', S', 3) RGB; None is generated."""
    other: NDArray[np.uint8] | None
    """(S', S', 3) of another face, where a part of it is in front."""
    matrix: NDArray[np.float64]
    """(2, 3) face_from_crop."""
    hiding: Hiding
    colour: Recolour
    recipe: AnyRecipe
    seed: int
    """Of noise and sampling phase."""
    level: int
    """A place in :data:`vidrestore.train.data.DAMAGE`."""
    points: NDArray[np.float32] | None = None
    """(468, 3) in pixels of the crop."""
    corner: tuple[int, int] = (0, 0)
    """(y, x) of the window in the crop."""
    soft: float = 0.0
    """Standard deviation in pixels by which the clean picture is out of focus."""
    texture: NDArray[np.float32] | None = None
    """(S, S, 1)"""


class EndlessFaces:
    """Generated faces that are not kept: a sample's face has the sample's number.

    Args:
        side: of the pictures in pixels.
    """

    def __init__(self, side: int) -> None:
        self.side = side

    def __len__(self) -> int:
        return 2**31 - 1

    def choose(self, seed: int, index: int) -> int:
        """Another face for every sample."""
        return index


def _part(cache: FaceCache | EndlessFaces, hiding: Hiding, other: int) -> NDArray[np.uint8] | None:
    wanted = any(cover.is_face for covers in hiding.layers for cover in covers)
    return np.array(cache.pictures[other]) if wanted and isinstance(cache, FaceCache) else None


class PlannedFaces(Dataset[DevicePlan]):
    """Plans of ``compact``'s samples.

    Args:
        cache: the clean faces.
        plans: of what is drawn, over the same faces.
    """

    def __init__(self, cache: FaceCache | EndlessFaces, plans: FacePlans) -> None:
        self.cache, self.plans = cache, plans

    def __getitem__(self, index: int) -> DevicePlan:
        plan = self.plans.plan(index)
        recipe, seed = draw_any(plan.level, plan.rng, self.plans.crop)
        level = DAMAGE.index(plan.level)
        return DevicePlan(
            plan.number,
            np.array(self.cache.pictures[plan.number]) if isinstance(self.cache, FaceCache) else None,
            _part(self.cache, plan.hiding, plan.other),
            plan.matrix,
            plan.hiding,
            plan.colour,
            recipe,
            seed,
            level,
            corner=plan.corner,
            soft=plan.soft,
            texture=plan.texture,
        )


class PlannedMeshes(Dataset[DevicePlan]):
    """Plans of the samples with the teacher's points; faces are warped over their meshes by the workers."""

    def __init__(self, samples: MeshPairs) -> None:
        self.samples = samples

    def __getitem__(self, index: int) -> DevicePlan:
        plan = self.samples.plan(index)
        recipe, seed = draw_any(DAMAGE[plan.level], plan.rng, self.samples.size)
        other = _part(self.samples.cache, plan.hiding, plan.other)
        points = plan.points.astype(np.float32)
        matrix = invert(plan.matrix)
        face = np.ascontiguousarray(plan.face)
        return DevicePlan(
            plan.number,
            face,
            other,
            matrix,
            plan.hiding,
            plan.colour,
            recipe,
            seed,
            plan.level,
            points=points,
            texture=plan.texture,
        )


class PlannedWide(Dataset[DevicePlan]):
    """The same for faces without points: no warps.

    Args:
        faces: generated.
        size: S, side of the crops in pixels.
        seed: of the whole stream.
        wide: share of the samples whose crop is off by as much as a tracker can be after a fast move.
        stills: as of :class:`vidrestore.train.meshes.MeshPairs`.
        texture: likewise.
    """

    def __init__(
        self,
        faces: EndlessFaces,
        *,
        size: int,
        seed: int,
        wide: float = 0.4,
        stills: float = 0.0,
        texture: float = 0.0,
    ) -> None:
        self.faces, self.size, self.seed, self.wide = faces, size, seed, wide
        self.stills, self.texture = stills, texture

    def __getitem__(self, index: int) -> DevicePlan:
        rng, side = rng_at(self.seed, 2, index), self.faces.side
        matrix = draw_wide_move(rng, self.size, side, wide=rng.random() < self.wide)
        hiding, colour, level = draw_hiding(rng, self.size, side), draw_recolour(rng), draw_level(rng, self.stills)
        rough = texture_or_none(rng, self.size, self.texture)
        recipe, seed = draw_any(DAMAGE[level], rng, self.size)
        number = self.faces.choose(self.seed, index)
        return DevicePlan(number, None, None, invert(matrix), hiding, colour, recipe, seed, level, texture=rough)


class StepGenerator:
    """Faces without limit: the published generator on the run's device.

    Args:
        side: of the pictures in pixels.
        seed: of the stream of faces.
        device: where they are made.
        mapping: z to w; None is the published one.
        generator: w to pictures; None is the published one.
        mean: (512,) style that faces are drawn towards; None is that of ``vidrestore train faces``.
        noise: deviation of the noise on each level's style, in shares of the spread of styles.
        mixed: share of faces whose finer levels, from 64 px or later on, have the style of somebody else.

    Raises:
        ConfigError: ``random-face`` is not installed.
    """

    def __init__(
        self,
        side: int,
        seed: int,
        device: str | torch.device,
        *,
        mapping: Mapping | None = None,
        generator: StyleGenerator | None = None,
        mean: Tensor | None = None,
        noise: float = 0.0,
        mixed: float = 0.0,
    ) -> None:
        self.side, self.seed, self.device = side, seed, torch.device(device)
        self.mapping = (mapping or load_mapping()).to(device).requires_grad_(False)
        self.generator = (generator or load_generator()).to(device).requires_grad_(False).eval()
        self.mean = (mean_style() if mean is None else mean).to(device)
        self.noise, self.mixed = noise, mixed
        self.spread = float((self.styles(range(512)) - self.mean).square().mean().sqrt())
        """Root mean square of a style's way from the mean, per number."""

    def styles(self, numbers: Sequence[int]) -> Tensor:
        """(B, 512) styles of faces; a face depends on (seed, number) alone."""
        return self._styles([rng_at(self.seed, _LATENT, number) for number in numbers])

    def levels(self, numbers: Sequence[int], styles: Tensor) -> Tensor:
        """(B, 1 + blocks, 512) styles of each level of the generator, of (B, 512): with noise, and mixed."""
        count = 1 + len(self.generator.blocks)
        levels = styles[:, None].repeat(1, count, 1)
        rngs = [rng_at(self.seed, _LEVELS, number) for number in numbers]
        noise = np.stack([rng.standard_normal((count, styles.shape[1]), np.float32) for rng in rngs])
        starts = [int(rng.integers(_FIRST_MIXED, count)) if rng.random() < self.mixed else count for rng in rngs]
        others = self._styles(rngs)
        for own, other, start in zip(levels, others, starts, strict=True):
            own[start:] = other
        return levels + self.noise * self.spread * torch.from_numpy(noise).to(self.device)

    @torch.no_grad()
    def _styles(self, rngs: Sequence[np.random.Generator]) -> Tensor:
        z = np.stack([rng.standard_normal(self.mean.shape[0], np.float32) for rng in rngs])
        psi = np.array([[rng.uniform(*PSI)] for rng in rngs], np.float32)
        w = self.mapping(torch.from_numpy(z).to(self.device))
        styles: Tensor = self.mean + torch.from_numpy(psi).to(self.device) * (w - self.mean)
        return styles

    @torch.no_grad()
    def pictures(self, styles: Tensor) -> Tensor:
        """(B, 3, side, side) RGB in [0, 1] of (B, 512) or (B, 1 + blocks, 512), averaged over areas as on disk."""
        made = [
            functional.interpolate(((self.generator(part) + 1.0) / 2.0).clamp(0.0, 1.0), size=self.side, mode="area")
            for part in torch.split(styles, _AT_ONCE.get(self.device.type, 8))
        ]
        return torch.cat(made)


@dataclass(frozen=True, slots=True)
class Made:
    """B samples on the device."""

    degraded: Tensor
    """(B, V, 3, S, S) float32 in [-1, 1]."""
    clean: Tensor
    """(B, 3, S, S)."""
    styles: Tensor | None
    """(B, 512) of faces generated in the step."""


@torch.no_grad()
def made(
    plans: Sequence[DevicePlan],
    device: str | torch.device,
    *,
    size: int,
    crop: int | None = None,
    views: int = 1,
    mode: str = "bicubic",
    generator: StepGenerator | None = None,
) -> Made:
    """Does on the device what was planned.

    Args:
        plans: B.
        device: where.
        size: side of a whole crop in pixels.
        crop: S, side of the window; None is the whole.
        views: V, frames of one shot.
        mode: how faces are sampled: bicubic or bilinear.
        generator: of the faces that are not in the plans. A part of another face in front is then that of the
            sample before in the batch.
    """
    styles = None
    if generator is not None:
        numbers = [plan.number for plan in plans]
        styles = generator.styles(numbers)
        faces = generator.pictures(generator.levels(numbers, styles))
    else:
        faces = _on(device, np.stack([_known(plan.face) for plan in plans]))
    clean = make_clean(plans, faces, size=size, crop=crop or size, mode=mode)
    shots = clean[:, None].expand(-1, views, -1, -1, -1).contiguous()
    degraded = apply_recipes(shots, [plan.recipe for plan in plans], [plan.seed for plan in plans])
    return Made(_of_bytes(degraded), _of_bytes(clean), styles)


def _of_bytes(pictures: Tensor) -> Tensor:
    """Pictures in [-1, 1] at the values that 8 bits have."""
    return ((pictures + 1.0) * 127.5).round().clamp(0.0, 255.0) * (2.0 / 255.0) - 1.0


def _known(face: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    if face is None:
        raise ValueError("a plan without a face wants a generator")
    return face


def _on(device: str | torch.device, pictures: NDArray[np.uint8]) -> Tensor:
    """(B, 3, H, W) in [0, 1] of (B, H, W, 3)."""
    return torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float() / 255.0


def make_clean(plans: Sequence[DevicePlan], faces: Tensor, *, size: int, crop: int, mode: str = "bicubic") -> Tensor:
    """Clean training faces: moved, partly hidden, coloured, cut out.

    Args:
        plans: B.
        faces: (B, 3, S', S') RGB in [0, 1].
        size: side of a whole crop in pixels.
        crop: S.
        mode: bicubic or bilinear.

    Returns:
        (B, 3, S, S) in [-1, 1].
    """
    pictures = _warped(faces, [plan.matrix for plan in plans], size, mode).clamp(0.0, 1.0)
    pictures = (pictures * 255.0).round() / 255.0  # as warps of 8 bits are
    for i, plan in enumerate(plans):
        if plan.hiding.layers:
            other = faces[i - 1] if plan.other is None else _on(faces.device, plan.other[None])[0]
            pictures[i] = _hidden(pictures[i], other, plan.hiding)
    pictures = _recoloured(pictures, [plan.colour for plan in plans])
    corners = [plan.corner for plan in plans]
    cut = [picture[:, y : y + crop, x : x + crop] for picture, (y, x) in zip(pictures, corners, strict=True)]
    pictures = torch.stack(cut)
    soft = [i for i, plan in enumerate(plans) if plan.soft > 0.0]
    if soft:
        lines = gaussian_lines([plans[i].soft for i in soft]).to(pictures)
        sizes = torch.full((len(soft),), crop, device=pictures.device)
        pictures[soft] = blurred(pictures[soft], sizes, lines, lines)
    for i, plan in enumerate(plans):
        if plan.texture is not None:
            rough = torch.from_numpy(plan.texture).to(pictures)[..., 0]
            pictures[i] = (pictures[i] + rough * (0.4 + pictures[i].mean(0))).clamp(0.0, 1.0)
    return pictures * 2.0 - 1.0


def _warped(faces: Tensor, matrices: Sequence[NDArray[np.float64]], size: int, mode: str) -> Tensor:
    """(B, 3, size, size) at (2, 3) face_from_result, mirror images beyond the edges."""
    places = torch.arange(size, dtype=torch.float64)
    y, x = torch.meshgrid(places, places, indexing="ij")
    grid = torch.stack([x, y, torch.ones_like(x)], -1).to(torch.float32).to(faces.device)
    stack = torch.from_numpy(np.stack(matrices)).to(faces)  # (B, 2, 3)
    found = torch.einsum("hwk,bck->bhwc", grid, stack) * (2.0 / (faces.shape[-1] - 1)) - 1.0
    return functional.grid_sample(faces, found, mode=mode, padding_mode="reflection", align_corners=True)


def _hidden(picture: Tensor, other: Tensor, hiding: Hiding) -> Tensor:
    """(3, S, S) behind what hides it."""
    for covers in hiding.layers:
        shown = picture
        for cover in covers:
            mask = torch.from_numpy(cover.mask).to(picture)
            shown = shown * (1 - mask) + _paint(cover, picture, other, hiding.move) * mask
        picture = shown
    return picture


def _paint(cover: Cover, picture: Tensor, other: Tensor, matrix: NDArray[np.float64] | None) -> Tensor:
    size = picture.shape[-1]
    if cover.is_face:
        assert matrix is not None
        return _warped(other[None], [matrix], size, "bicubic")[0].clamp(0.0, 1.0)
    if cover.colour is not None:
        colour = torch.from_numpy(cover.colour).to(picture)
    else:
        rows, columns = middle_of_face(size)
        colour = picture[:, rows, columns].mean((1, 2)) * (cover.skin or 1.0)
    if cover.slopes is None:
        return colour[:, None, None]
    return (colour[:, None, None] * torch.from_numpy(shade(cover.slopes, size)).to(picture)[..., 0]).clamp(0.0, 1.0)


def _recoloured(pictures: Tensor, changes: Sequence[Recolour]) -> Tensor:
    """(B, 3, S, S) in other colours, in [0, 1]."""

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32).to(pictures)[:, None, None, None]

    gamma = column([1.0 if c.gamma is None else c.gamma for c in changes])
    ones = np.ones(3, np.float32)
    balance = torch.from_numpy(np.stack([ones if c.balance is None else c.balance for c in changes])).to(pictures)
    low, gain = (column([(c.exposure or (0.0, 1.0))[i] for c in changes]) for i in (0, 1))
    saturation = column([1.0 if c.saturation is None else c.saturation for c in changes])
    pictures = low + pictures.clamp(0.0, 1.0) ** gamma * balance[..., None, None] * gain
    weights = torch.tensor([0.299, 0.587, 0.114]).to(pictures)[:, None, None]
    luma = (pictures * weights).sum(1, keepdim=True)
    return (luma + (pictures - luma) * saturation).clamp(0.0, 1.0)


def device_batches(
    plans: PlannedFaces,
    *,
    batch: int,
    start: int,
    workers: int,
    views: int,
    device: str,
    generator: StepGenerator | None = None,
    at_once: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (degraded (B * V, 3, S, S), clean (B, 3, S, S)) on a device, as ``data.batches``."""
    size, crop = plans.plans.size, plans.plans.crop

    def make(planned: list[DevicePlan]) -> dict[str, Tensor]:
        samples = made(planned, device, size=size, crop=crop, views=views, generator=generator)
        return {"degraded": samples.degraded, "clean": samples.clean}

    for samples in _batches(plans, make, start=start, size=batch, workers=workers, at_once=at_once):
        yield samples["degraded"].flatten(0, 1), samples["clean"]


def _batches(
    plans: Dataset[DevicePlan],
    make: Callable[[list[DevicePlan]], dict[str, Tensor]],
    *,
    start: int,
    size: int,
    workers: int,
    at_once: int,
) -> Iterator[dict[str, Tensor]]:
    """Batches of ``size`` from sample ``start`` on, cut out of longer passes.

    Passes begin at multiples of their length, wherever a run was resumed, so that they hold the same samples.
    """
    many = max(size, at_once)
    skipped = start % many if at_once > 0 else 0
    left: dict[str, Tensor] | None = None
    for planned in stream(plans, batch=many, start=start - skipped, workers=workers, collate=list):
        samples = {name: values[skipped:] for name, values in make(planned).items()}
        skipped = 0
        if left is not None:
            samples = {name: torch.cat([left[name], values]) for name, values in samples.items()}
        num = len(samples["clean"]) // size * size
        for first in range(0, num, size):
            yield {name: values[first : first + size] for name, values in samples.items()}
        left = {name: values[num:] for name, values in samples.items()}


class DeviceStream:
    """Batches of samples for trainings that ask for them by clock.

    Args:
        plans: of samples.
        size: S, side of the crops in pixels.
        device: where they are made.
        workers: processes that draw.
        generator: of the faces, where the plans have none.
        at_once: so many samples are made in one pass and given out in batches; 0 makes each batch by itself. A pass is
            thousands of small operations, few more for many samples, and each is a launch on a GPU (docs/training.md).
    """

    def __init__(
        self,
        plans: Dataset[DevicePlan],
        *,
        size: int,
        device: str,
        workers: int,
        generator: StepGenerator | None = None,
        at_once: int = 0,
    ) -> None:
        self._plans, self._size, self._device, self._workers = plans, size, device, workers
        self._generator, self._at_once = generator, at_once
        self._stream: Iterator[dict[str, Tensor]] = iter(())
        self._batch = 0

    def batch(self, clock: Clock, size: int) -> dict[str, Tensor]:
        """The next samples, as :meth:`vidrestore.train.meshes.SampleSource.batch` has them.

        ``points`` are there where the plans have them, ``styles`` (B, 512) where faces are generated.

        Args:
            clock: of the run.
            size: B.
        """
        if size != self._batch:
            self._batch = size
            self._stream = _batches(
                self._plans,
                self._pass,
                start=clock.samples,
                size=size,
                workers=self._workers,
                at_once=self._at_once,
            )
        return next(self._stream)

    def _pass(self, plans: list[DevicePlan]) -> dict[str, Tensor]:
        samples = made(plans, self._device, size=self._size, mode="bilinear", generator=self._generator)
        batch = {
            "degraded": samples.degraded[:, 0],
            "clean": samples.clean,
            "face": torch.tensor([plan.number for plan in plans]),
            "level": torch.tensor([plan.level for plan in plans]),
        }
        points = [plan.points for plan in plans if plan.points is not None]
        if points:
            batch["points"] = torch.from_numpy(np.stack(points))
        if samples.styles is not None:
            batch["styles"] = samples.styles
        return batch
