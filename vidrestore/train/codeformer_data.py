"""Samples of CodeFormer's stages: clean faces, mirrored in half of the cases, and what the papers' chains make of them.

Every sample is a function of (seed, sample index) alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vidrestore.train.codeformer_options import DegradationOptions, Stage
from vidrestore.train.data import FaceCache
from vidrestore.train.degrade import Picture
from vidrestore.train.paper_degrade import brush_strokes, degrade_blind, disturb_colour, punch_holes
from vidrestore.train.run import rng_at

__all__ = ["CodeFaces", "as_pictures", "make_bad", "views_of"]


def views_of(stage: Stage) -> tuple[str, ...]:
    """What a sample of a stage holds beside the clean face."""
    views: dict[str, tuple[str, ...]] = {
        "autoencoder": (),
        "codes": ("large",),
        "joint": ("small", "large"),
        "inpainting": ("holes",),
        "colorization": ("colour",),
    }
    return views[stage]


def make_bad(picture: Picture, view: str, options: DegradationOptions, rng: np.random.Generator) -> Picture:
    """The picture as the view has it: ``small``, ``large``, ``colour`` (large, then colours) or ``holes``."""
    if view == "holes":
        return punch_holes(picture, brush_strokes(picture.shape[0], options.brush, rng))
    degraded = degrade_blind(picture, options.small if view == "small" else options.large, rng)
    return disturb_colour(degraded, options.colour, rng) if view == "colour" else degraded


class CodeFaces(Dataset[Tensor]):
    """Samples (1 + V, 3, S, S) uint8: the clean face, then its views.

    Args:
        cache: the clean faces, at the network's size.
        views: see :func:`make_bad`.
        options: ranges.
        seed: of the whole stream.
    """

    def __init__(self, cache: FaceCache, views: Sequence[str], options: DegradationOptions, seed: int) -> None:
        self.cache, self.views, self.options, self.seed = cache, tuple(views), options, seed

    def __getitem__(self, index: int) -> Tensor:
        epoch, place = divmod(index, len(self.cache))
        order = rng_at(self.seed, 1, epoch).permutation(len(self.cache))
        rng = rng_at(self.seed, 2, index)
        face = self.cache.pictures[order[place]]
        if rng.random() < 0.5:
            face = face[:, ::-1]
        clean = face.astype(np.float32) / np.float32(255.0)
        pictures = [clean, *(make_bad(clean, view, self.options, rng) for view in self.views)]
        whole = np.rint(np.stack(pictures) * 255.0).astype(np.uint8)
        return torch.from_numpy(np.ascontiguousarray(whole.transpose(0, 3, 1, 2)))


def as_pictures(samples: Tensor, device: str) -> list[Tensor]:
    """(B, 1 + V, 3, S, S) uint8 -> clean and views, each (B, 3, S, S) float32 in [-1, 1] on the device."""
    return list((samples.to(device).float() * (2.0 / 255.0) - 1.0).unbind(1))
