"""Two frames of one shot from clean crops: the same recording chain twice, the face moved a little in between."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vidrestore.train.data import DAMAGE, to_bytes
from vidrestore.train.degrade import apply_recipe, draw_recipe
from vidrestore.train.degrade_batch import apply_recipes, draw_any
from vidrestore.train.paper_degrade import BlindLevel, apply_blind, draw_blind
from vidrestore.train.run import rng_at

__all__ = ["Offsets", "TwoFrames", "two_frames"]

Offsets = tuple[tuple[int, int], tuple[int, int]]
"""(y, x) of the first and of the second window in a common picture, in pixels."""


@dataclass(frozen=True, slots=True)
class TwoFrames:
    """B shots of two frames each, the frames of a shot beside each other."""

    degraded: Tensor
    """(2 B, 3, S, S) float32 in [-1, 1]."""
    clean: Tensor
    """The same shape: what each frame shows without the damage."""
    offsets: Offsets
    """Of the windows that the frames are: what :func:`vidrestore.train.losses.unsteadiness` compares by."""


def two_frames(
    clean: Tensor, levels: Sequence[int], *, motion: int, seed: int, step: int, workers: int, on_device: bool = False
) -> TwoFrames:
    """Records clean crops twice, in a second frame up to ``motion`` pixels beside the first.

    Both frames go through the recipe of their face: noise and the sampling grid's sub-pixel phase differ, as they do
    in a video. The motion is in whole pixels, so that two restorations can be compared without resampling either.
    Beyond a crop's edge its reflection is seen.

    Args:
        clean: (B, 3, S, S) in [-1, 1].
        levels: B places in :data:`vidrestore.train.data.DAMAGE`.
        motion: largest step along each axis in pixels, below S.
        seed: of the run.
        step: of the run; with the seed it decides everything.
        workers: threads that record; 0 is this one.
        on_device: records all faces at once where they are (:mod:`vidrestore.train.degrade_batch`); a video codec then
            predicts the second frame from the first.
    """
    size = clean.shape[-1]
    draw = rng_at(seed, 8, step).integers(0, motion + 1, 4)
    offsets = ((int(draw[0]), int(draw[1])), (int(draw[2]), int(draw[3])))
    wide = functional.pad(clean, (0, motion, 0, motion), mode="reflect") if motion > 0 else clean
    frames = torch.stack([wide[..., y : y + size, x : x + size] for y, x in offsets], 1)  # (B, 2, 3, S, S)
    if on_device:
        return TwoFrames(_recorded(frames, levels, offsets, [seed, 9, step]), frames.flatten(0, 1), offsets)
    pictures = ((frames.cpu().numpy() + 1.0) / 2.0).transpose(0, 1, 3, 4, 2)  # (B, 2, S, S, 3) in [0, 1]

    def record(number: int) -> Tensor:
        level = DAMAGE[levels[number]]
        if level is None:
            return frames[number].cpu()
        rng = np.random.default_rng([seed, 9, step, number])
        shown = [np.ascontiguousarray(p) for p in pictures[number]]
        if isinstance(level, BlindLevel):
            blind = draw_blind(rng, level, side=size)
            noise = rng.standard_normal((2, blind.size, blind.size, 3), np.float32)
            both = [to_bytes(apply_blind(p, blind, n)) for p, n in zip(shown, noise, strict=True)]
        else:
            recipe = draw_recipe(rng, level, crop=size)
            both = [to_bytes(apply_recipe(p, recipe, rng)) for p in shown]
        return torch.stack(both).float() * (2.0 / 255.0) - 1.0

    numbers = range(len(clean))
    if workers > 0:
        with ThreadPoolExecutor(workers) as pool:
            recorded = list(pool.map(record, numbers))
    else:
        recorded = [record(number) for number in numbers]
    degraded = torch.stack(recorded).flatten(0, 1).to(clean.device)
    return TwoFrames(degraded, frames.flatten(0, 1), offsets)


def _recorded(frames: Tensor, levels: Sequence[int], offsets: Offsets, seed: Sequence[int]) -> Tensor:
    """(2 B, 3, S, S) of (B, 2, 3, S, S)."""
    drawn = [
        draw_any(DAMAGE[level], np.random.default_rng([*seed, n]), frames.shape[-1]) for n, level in enumerate(levels)
    ]
    (y0, x0), (y1, x1) = offsets
    motion = torch.tensor([[0.0, 0.0], [x0 - x1, y0 - y1]]).expand(len(frames), 2, 2)  # of what the windows show
    return apply_recipes(frames, *zip(*drawn, strict=True), motion=motion).flatten(0, 1)
