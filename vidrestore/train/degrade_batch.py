"""The degradations of :mod:`~vidrestore.train.degrade` and :mod:`~vidrestore.train.paper_degrade` in batches, anywhere.

The numbers of a chain are drawn there, on the CPU, and nowhere else; here they are applied to many pictures at once,
each with a recipe of its own. Noise and sub-pixel phase come from one seed per picture, so that a picture's damage does
not depend on its batch. Pictures of one recording chain (two frames of a shot, a clip) share a recipe.

Differences to the chain in NumPy: video codecs are approximated (:mod:`vidrestore.train.degrade_codecs`), with the
decoded frame before as the prediction, through a whole clip; the noise is another draw of the same statistics; grain
has its deviation in the mean and not in every picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vidrestore.train.degrade import Codec, Level, Recipe, draw_recipe, recipe_kernel
from vidrestore.train.degrade_canvas import blurred, canvas_side, filled, shifted
from vidrestore.train.degrade_codecs import approximate_video, compress_jpeg_batch
from vidrestore.train.paper_degrade import BlindLevel, BlindRecipe, ColourRecipe, blind_kernel, draw_blind

__all__ = [
    "AnyRecipe",
    "apply_colours",
    "apply_recipes",
    "convolved",
    "device_noise",
    "draw_any",
    "gaussian_lines",
    "resample_batch",
]

AnyRecipe = Recipe | BlindRecipe | None
"""How a picture is degraded; None is not at all."""

_VIDEO: tuple[Codec, ...] = ("h264", "mpeg4", "mpeg2")
_GREY = (0.299, 0.587, 0.114)  # Rec. 601


def draw_any(level: Level | BlindLevel | None, rng: np.random.Generator, crop: int) -> tuple[AnyRecipe, int]:
    """A recipe out of a level's ranges for a crop of so many pixels, and the seed of its noise and sampling phase."""
    recipe: AnyRecipe = None
    if isinstance(level, BlindLevel):
        recipe = draw_blind(rng, level, side=crop)
    elif level is not None:
        recipe = draw_recipe(rng, level, crop=crop)
    return recipe, int(rng.integers(2**62))


def apply_recipes(
    pictures: Tensor,
    recipes: Sequence[AnyRecipe],
    seeds: Sequence[int],
    *,
    motion: Tensor | None = None,
) -> Tensor:
    """Pictures or clips after their ways through their chains, on their old grid, as floats that 8 bits can hold.

    Args:
        pictures: (B, 3, S, S) RGB in [-1, 1], or (B, T, 3, S, S): frames of one recording chain each.
        recipes: B, drawn for a crop of S pixels.
        seeds: B whole numbers from 0 on: source of noise and sampling phase, on a device of one kind.
        motion: (B, T, 2) x and y in pixels of the crop from the frame before to each frame: what a video codec would
            find by a search. None is none.

    Returns:
        The same shape, in [-1, 1]; pictures without a recipe as they were.

    Raises:
        ValueError: shapes and numbers do not agree.
    """
    clips = pictures[:, None] if pictures.ndim == 4 else pictures
    if clips.ndim != 5 or clips.shape[2] != 3 or clips.shape[3] != clips.shape[4]:
        raise ValueError(f"expected pictures of shape (B, 3, S, S) or (B, T, 3, S, S), got {tuple(pictures.shape)}")
    if len(recipes) != len(clips) or len(seeds) != len(clips):
        raise ValueError(f"{len(clips)} pictures, {len(recipes)} recipes and {len(seeds)} seeds")
    result = clips.clone()
    moves = clips.new_zeros(*clips.shape[:2], 2) if motion is None else motion.to(clips)
    groups: dict[int, list[int]] = {}
    for i, recipe in enumerate(recipes):
        if recipe is not None:
            groups.setdefault(canvas_side(recipe.size), []).append(i)
    for chosen in groups.values():
        chains = [_Chain.of(recipe) for i in chosen if (recipe := recipes[i]) is not None]
        batch = _Batch(chains, [seeds[i] for i in chosen], clips[chosen], moves[chosen])
        result[chosen] = batch.run() * 2.0 - 1.0
    return result.reshape(pictures.shape)


@dataclass(frozen=True, slots=True)
class _Chain:
    """What both kinds of recipe come to."""

    recipe: Recipe
    kernel: Callable[[float], NDArray[np.float32]]
    """Of the crop pixels per video pixel."""
    is_blind: bool
    """Two linear interpolations, and no random phase."""

    @classmethod
    def of(cls, recipe: Recipe | BlindRecipe) -> _Chain:
        if isinstance(recipe, Recipe):
            return cls(recipe, lambda step: recipe_kernel(recipe, step), False)
        plain = Recipe(recipe.size, kernel="tent", noise=recipe.noise, codecs=(("jpeg", recipe.quality),))
        return cls(plain, lambda step: blind_kernel(recipe), True)


class _Batch:
    """Clips whose video pictures fit one canvas, on their way.

    Args:
        chains: N.
        seeds: N.
        clips: (N, T, 3, S, S) in [-1, 1].
        motion: (N, T, 2) in pixels of the crop.
    """

    def __init__(self, chains: Sequence[_Chain], seeds: Sequence[int], clips: Tensor, motion: Tensor) -> None:
        self.chains, self.recipes, self.clips = chains, [chain.recipe for chain in chains], clips
        self.num_frames, self.side, self.device = clips.shape[1], clips.shape[-1], clips.device
        self.canvas = canvas_side(self.recipes[0].size)
        self.sizes = torch.tensor([r.size for r in self.recipes], device=self.device)
        self.steps = self.side / self.sizes.double()  # crop pixels per video pixel
        phases = np.stack([np.random.default_rng([s, 1]).uniform(-0.5, 0.5, (self.num_frames, 2)) for s in seeds])
        phases[[chain.is_blind for chain in chains]] = 0.0
        self.phases = torch.from_numpy(phases).to(clips)  # in video pixels
        self.motion = motion / self.steps[:, None, None].to(motion)
        self.motion[:, 1:] -= self.phases[:, 1:] - self.phases[:, :-1]  # a grid that moves right sees all move left
        self.noise = [torch.Generator(self.device).manual_seed(seed) for seed in seeds]

    def run(self) -> Tensor:
        """(N, T, 3, S, S) in [0, 1], of 8 bits."""
        small = self._down(self._blurred((self.clips + 1.0) / 2.0))
        for i in range(1 + max(len(r.codecs) for r in self.recipes)):
            small = self._for(small, lambda r, i=i: int(r.late_noise) == i, self._recorded)  # type: ignore[misc]
            small = self._compressed(small, i)
        return (self._up(small).clamp(0.0, 1.0) * 255.0).round() / 255.0

    def _for(
        self, small: Tensor, wanted: Callable[[Recipe], bool], change: Callable[[Tensor, list[int]], Tensor]
    ) -> Tensor:
        """The canvases with those changed whose recipe asks for it."""
        chosen = [i for i, recipe in enumerate(self.recipes) if wanted(recipe)]
        if not chosen:
            return small
        if len(chosen) == len(small):
            return change(small, chosen)
        result = small.clone()
        result[chosen] = change(small[chosen], chosen)
        return result

    def _of(self, chosen: Sequence[int], value: Callable[[Recipe], float]) -> Tensor:
        """(n,) numbers of recipes."""
        return torch.tensor([value(self.recipes[i]) for i in chosen], device=self.device)

    def _per_frame(self, clips: Tensor, chosen: list[int], change: Callable[..., Tensor], *values: Tensor) -> Tensor:
        """Applies a change of (n T, C, M, M) pictures, sizes (n T,) and further values of the clips."""
        many = self.num_frames
        repeated = [value.repeat_interleave(many, 0) for value in (self.sizes[chosen], *values)]
        return change(clips.flatten(0, 1), *repeated).reshape(clips.shape)

    def _blurred(self, clips: Tensor) -> Tensor:
        kernels = [chain.kernel(self.side / chain.recipe.size) for chain in self.chains]
        chosen = [i for i, kernel in enumerate(kernels) if kernel.size > 1]
        if not chosen:
            return clips
        if len(chosen) == len(clips):
            return convolved(clips, kernels)
        clips = clips.clone()
        clips[chosen] = convolved(clips[chosen], [kernels[i] for i in chosen])
        return clips

    def _down(self, clips: Tensor) -> Tensor:
        kinds = ["linear" if chain.is_blind else chain.recipe.kernel for chain in self.chains]
        return resample_batch(
            clips, self.canvas, self.sizes, self.steps, self.phases * self.steps[:, None, None].to(clips), kinds
        )

    def _up(self, small: Tensor) -> Tensor:
        kinds = [
            "linear" if chain.is_blind else "catmull-rom" if self.side >= chain.recipe.size else "tent"
            for chain in self.chains
        ]
        sides = torch.full_like(self.sizes, self.side)
        return resample_batch(small, self.side, sides, 1.0 / self.steps, -self.phases, kinds, lengths=self.sizes)

    def _recorded(self, small: Tensor, chosen: list[int]) -> Tensor:
        """Noise and the faults of tape."""
        places = {picture: place for place, picture in enumerate(chosen)}

        def some(wanted: Callable[[Recipe], bool], change: Callable[[Tensor, list[int]], Tensor]) -> None:
            mine = [i for i in chosen if wanted(self.recipes[i])]
            if mine:
                rows = [places[i] for i in mine]
                small[rows] = change(small[rows], mine)

        small = small.clone()
        some(lambda r: r.noise > 0.0, self._noisy)
        some(lambda r: r.bleed_px > 0.0, self._bled)
        some(lambda r: r.interlace == "bob", lambda s, c: self._per_frame(s, c, _bobbed))
        some(lambda r: r.interlace == "comb", self._combed)
        some(lambda r: r.sharpen > 0.0, self._sharpened)
        return small

    def _noisy(self, small: Tensor, chosen: list[int]) -> Tensor:
        shape = (self.num_frames, 4, self.canvas, self.canvas)
        raw = torch.stack([device_noise(self.noise[i], shape) for i in chosen])  # (n, T, 4, M, M)
        k, grain = (self._of(chosen, v)[:, None, None, None, None] for v in (_chroma_noise, _grain))
        noise = (raw[:, :, :1] * (1.0 - k) + raw[:, :, 1:] * k) / torch.hypot(1.0 - k, k)
        if bool(any(self.recipes[i].grain > 0.0 for i in chosen)):
            line = _gaussian_line(0.8).to(noise)
            power, middle = float(line.square().sum()) ** 2, float(line[len(line) // 2]) ** 2
            lines = line.expand(len(chosen), -1)
            coarse = self._per_frame(noise, chosen, blurred, lines, lines) / math.sqrt(power)
            together = (1.0 - grain).square() + grain.square() + 2.0 * grain * (1.0 - grain) * middle / math.sqrt(power)
            noise = (noise * (1.0 - grain) + coarse * grain) / together.sqrt()
        return (small + noise * (self._of(chosen, lambda r: r.noise)[:, None, None, None, None] / 255.0)).clamp(
            0.0, 1.0
        )

    def _bled(self, small: Tensor, chosen: list[int]) -> Tensor:
        widest = max(self.recipes[i].bleed_px for i in chosen)
        radius = round(4 * widest) + 2
        lines = [_moved_line(self.recipes[i].bleed_px, self.recipes[i].bleed_shift_px, radius) for i in chosen]
        columns = torch.stack(lines).to(small)
        rows = _gaussian_line(0.3).to(small).expand(len(chosen), -1)
        luma = _grey_of(small)
        smeared = self._per_frame(small - luma, chosen, blurred, rows, columns)
        return (luma + smeared).clamp(0.0, 1.0)

    def _combed(self, small: Tensor, chosen: list[int]) -> Tensor:
        move = torch.tensor([self.recipes[i].drift_px for i in chosen]).to(small)
        other = self._per_frame(small, chosen, shifted, move)
        woven = small.clone()
        woven[..., 1::2, :] = other[..., 1::2, :]
        return woven

    def _sharpened(self, small: Tensor, chosen: list[int]) -> Tensor:
        lines = _gaussian_line(1.0).to(small).expand(len(chosen), -1)
        soft = self._per_frame(small, chosen, lambda x, s, k: blurred(filled(x, s), s, k, k), lines)
        gain = self._of(chosen, lambda r: r.sharpen)[:, None, None, None, None]
        return (small + gain * (small - soft)).clamp(0.0, 1.0)

    def _compressed(self, small: Tensor, number: int) -> Tensor:
        """After each recipe's compression of this number."""

        def codec(recipe: Recipe) -> Codec | None:
            return recipe.codecs[number][0] if number < len(recipe.codecs) else None

        def quality(chosen: list[int]) -> list[int]:
            return [self.recipes[i].codecs[number][1] for i in chosen]

        def jpeg(clips: Tensor, chosen: list[int]) -> Tensor:
            per_frame = [q for q in quality(chosen) for _ in range(self.num_frames)]
            return self._per_frame(clips, chosen, lambda x, s: compress_jpeg_batch(x, s, per_frame))

        def video(clips: Tensor, chosen: list[int]) -> Tensor:
            return self._filmed(clips, chosen, [codec(self.recipes[i]) or "h264" for i in chosen], quality(chosen))

        small = self._for(small, lambda r: codec(r) == "none", lambda x, _: (x.clamp(0, 1) * 255.0).round() / 255.0)
        small = self._for(small, lambda r: codec(r) == "jpeg", jpeg)
        for frames in sorted({r.frames for r in self.recipes}):
            small = self._for(small, lambda r, n=frames: codec(r) in _VIDEO and r.frames == n, video)  # type: ignore[misc]
        return small

    def _filmed(self, clips: Tensor, chosen: list[int], codecs: list[Codec], crfs: list[int]) -> Tensor:
        """The frames before the first are the first, moved."""
        lead = self.recipes[chosen[0]].frames - 1
        drift = torch.tensor([self.recipes[i].drift_px for i in chosen]).to(clips)
        sizes = self.sizes[chosen]
        first = filled(clips[:, 0], sizes)
        before = [shifted(first, sizes, -k * drift) for k in range(lead, 0, -1)]
        motion = torch.cat([drift[:, None].expand(-1, lead, -1), self.motion[chosen]], 1)
        if lead > 0:
            motion[:, lead] = drift
        whole = torch.cat([*(frame[:, None] for frame in before), clips], 1)
        return approximate_video(whole, sizes, codecs, crfs, motion)[:, lead:]


def _chroma_noise(recipe: Recipe) -> float:
    return recipe.chroma_noise


def _grain(recipe: Recipe) -> float:
    return recipe.grain


def device_noise(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    """Independent normal values on the generator's device."""
    return torch.randn(shape, generator=generator, device=generator.device)


def _gaussian_line(deviation: float) -> Tensor:
    """OpenCV's kernel for floats."""
    line = cv2.getGaussianKernel(round(deviation * 8 + 1) | 1, deviation, cv2.CV_32F)
    return torch.from_numpy(np.asarray(line, np.float32).ravel())


def gaussian_lines(deviations: Sequence[float]) -> Tensor:
    """(N, K) OpenCV's kernels of N deviations, with zeros around the narrower ones."""
    lines = [_gaussian_line(deviation) for deviation in deviations]
    longest = max(len(line) for line in lines)
    return torch.stack([functional.pad(line, ((longest - len(line)) // 2,) * 2) for line in lines])


def _moved_line(deviation: float, shift: float, radius: int) -> Tensor:
    """A Gaussian and then a move by linear interpolation, as one filter of 2 radius + 1 weights."""
    line = _gaussian_line(deviation).numpy()
    low = math.floor(shift)
    share = shift - low
    result = np.zeros(2 * radius + 1, np.float32)
    start = radius - len(line) // 2 - low  # a filter is a correlation: weights move against the content
    result[start : start + len(line)] += (1.0 - share) * line
    result[start - 1 : start - 1 + len(line)] += share * line
    return torch.from_numpy(result)


def _bobbed(pictures: Tensor, sizes: Tensor) -> Tensor:
    """Every other row from its neighbours; the last one has none below it and stays."""
    between = pictures.clone()
    between[:, :, 1:-1] = (pictures[:, :, :-2] + pictures[:, :, 2:]) / 2.0
    rows = torch.arange(pictures.shape[2], device=pictures.device)
    doubled = (rows % 2 == 1) & (rows < sizes[:, None] - 1)
    return torch.where(doubled[:, None, :, None], between, pictures)


def _grey_of(pictures: Tensor) -> Tensor:
    """(..., 1, H, W) luma, Rec. 601, of (..., 3, H, W)."""
    weights = torch.tensor(_GREY).to(pictures)[:, None, None]
    return (pictures * weights).sum(-3, keepdim=True)


def convolved(clips: Tensor, kernels: Sequence[NDArray[np.float32]]) -> Tensor:
    """Each clip filtered with a kernel of its own, its mirror images beyond the edges (by Fourier transforms).

    Args:
        clips: (N, T, C, S, S).
        kernels: N of (K, K), K odd, symmetric about their middle; the sizes may differ.
    """
    radius = max(kernel.shape[0] for kernel in kernels) // 2
    side = clips.shape[-1]
    if radius < side:
        wide = functional.pad(clips.flatten(0, 1), (radius,) * 4, mode="reflect").reshape(
            *clips.shape[:3], side + 2 * radius, side + 2 * radius
        )
    else:
        places = _mirrored(torch.arange(-radius, side + radius), side).to(clips.device)
        wide = clips.index_select(3, places).index_select(4, places)
    length = _smooth_length(side + 2 * radius)
    stack = np.zeros((len(kernels), length, length), np.float32)
    for whole, kernel in zip(stack, kernels, strict=True):
        whole[: len(kernel), : len(kernel)] = kernel
        whole[:] = np.roll(whole, -(len(kernel) // 2), (0, 1))
    transfer = torch.fft.rfft2(torch.from_numpy(stack).to(clips))[:, None, None]
    filtered = torch.fft.irfft2(torch.fft.rfft2(wide, s=(length, length)) * transfer, s=(length, length))
    inside: Tensor = filtered[..., radius : radius + side, radius : radius + side]
    return inside


def _mirrored(places: Tensor, side: int) -> Tensor:
    period = max(1, 2 * (side - 1))
    inside = torch.remainder(places, period)
    return torch.minimum(inside, period - inside).clamp_max(side - 1)


def _smooth_length(length: int) -> int:
    """The next number with no prime factor above 5, which transforms are quick for."""
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1


def resample_batch(
    clips: Tensor,
    side: int,
    sizes: Tensor,
    steps: Tensor,
    offsets: Tensor,
    kernels: Sequence[str],
    *,
    lengths: Tensor | None = None,
) -> Tensor:
    """Clips sampled on other grids; see :func:`vidrestore.train.degrade.resample`, whose convention this is.

    Args:
        clips: (N, T, C, L, L).
        side: of the result's canvas.
        sizes: (N,) sides of the results; beyond them the last row and column are repeated.
        steps: (N,) source pixels per pixel of the result.
        offsets: (N, T, 2) x and y in source pixels.
        kernels: N of box, tent, cubic, lanczos, catmull-rom, or linear: OpenCV's linear interpolation, which is not
            widened and repeats the edge.
        lengths: (N,) sides of the sources, where their canvas is larger.

    Returns:
        (N, T, C, side, side).
    """
    if lengths is None:
        lengths = torch.full_like(sizes, clips.shape[-1])
    places = torch.minimum(torch.arange(side, device=clips.device), sizes[:, None] - 1)
    grid = (places + 0.5) * steps[:, None] - 0.5  # (N, side) in double precision
    rows, columns = (
        _weights(
            (grid[:, None] + offsets[..., axis, None]).to(clips), steps.to(clips), lengths, clips.shape[-1], kernels
        )
        for axis in (1, 0)
    )
    return torch.matmul(torch.matmul(rows[:, :, None], clips), columns[:, :, None].transpose(-1, -2))


def _weights(centres: Tensor, steps: Tensor, lengths: Tensor, length: int, kernels: Sequence[str]) -> Tensor:
    """(N, T, side, L) of centres (N, T, side)."""
    places = torch.arange(length, device=centres.device)
    result = centres.new_zeros(*centres.shape, length)
    for kind in sorted(set(kernels)):
        chosen = [i for i, kernel in enumerate(kernels) if kernel == kind]
        own, stretch = centres[chosen], steps[chosen].clamp_min(1.0)[:, None, None, None]
        if kind == "linear":
            own = torch.minimum(own.clamp_min(0.0), (lengths[chosen] - 1)[:, None, None].to(own))
            stretch = torch.ones_like(stretch)
        x = ((places - own[..., None]) / stretch).abs()
        w = _filter(kind, x, stretch) * (places < lengths[chosen, None])[:, None, None]
        total = w.sum(-1, keepdim=True)
        result[chosen] = w / torch.where(total.abs() < 1e-6, 1.0, total)
    return result


def _filter(kind: str, x: Tensor, stretch: Tensor) -> Tensor:
    if kind == "box":
        return (0.5 + (0.5 - x) * stretch).clamp(0.0, 1.0)
    if kind in ("tent", "linear"):
        return (1.0 - x).clamp_min(0.0)
    if kind == "lanczos":
        return torch.where(x < 3.0, torch.sinc(x) * torch.sinc(x / 3.0), 0.0)
    a = -0.5 if kind == "catmull-rom" else -0.75
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    return torch.where(x < 1.0, near, torch.where(x < 2.0, far, 0.0))


def apply_colours(pictures: Tensor, recipes: Sequence[ColourRecipe]) -> Tensor:
    """Pictures with colours shifted, gone or changed, as :func:`vidrestore.train.paper_degrade.apply_colour` has them.

    Args:
        pictures: (B, 3, S, S) RGB in [-1, 1].
        recipes: B.
    """
    changed = []
    for picture, recipe in zip((pictures + 1.0) / 2.0, recipes, strict=True):
        if recipe.shift is not None:
            picture = (picture + torch.tensor(recipe.shift).to(picture)[:, None, None]).clamp(0.0, 1.0)
        if recipe.is_grey:
            picture = _grey_of(picture).expand(3, -1, -1)
        for name, amount in recipe.jitters:
            picture = _changed(picture, name, amount).clamp(0.0, 1.0)
        changed.append(picture)
    return (torch.stack(changed).clamp(0.0, 1.0) * 255.0).round() / 127.5 - 1.0


def _changed(picture: Tensor, name: str, amount: float) -> Tensor:
    if name == "brightness":
        return picture * amount
    if name == "hue":
        return _turned(picture, amount)
    about = _grey_of(picture)
    if name == "contrast":
        about = about.mean()
    return about + (picture - about) * amount


def _turned(picture: Tensor, turns: float) -> Tensor:
    """(3, S, S) with the hue of the hexagonal colour circle moved."""
    value, low = picture.amax(0), picture.amin(0)
    chroma = value - low
    red, green, blue = picture
    safe = torch.where(chroma > 0.0, chroma, 1.0)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2.0, (red - green) / safe + 4.0),
    )
    hue = torch.remainder(hue / 6.0 + turns, 1.0) * 6.0
    channels = []
    for n in (5.0, 3.0, 1.0):
        k = torch.remainder(n + hue, 6.0)
        channels.append(value - chroma * torch.minimum(k, 4.0 - k).clamp(0.0, 1.0))
    return torch.stack(channels)
