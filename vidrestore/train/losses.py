"""What training makes small: absolute error, Laplacian pyramid, ST-LPIPS, identity, steadiness between frames."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vidrestore.evaluate.embedding import FaceEmbedding
from vidrestore.evaluate.perceptual import ShiftTolerantLpips

__all__ = [
    "absolute_error",
    "damage_share",
    "identity_error",
    "identity_moves",
    "laplacian_error",
    "perceptual_error",
    "published_normalisation",
    "sample_weights",
    "unsteadiness",
]

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_TYPICAL = 0.02
"""Soft absolute error of a typical degraded sample of the training mix."""


def absolute_error(restored: Tensor, reference: Tensor, *, softness: float = 0.0) -> Tensor:
    """(B,) mean absolute differences, quadratic where it is well below ``softness``.

    The plain absolute error looks at signs only: the many small differences of flat skin, which nobody can foretell,
    then drown the large ones at edges, which a restorer can lower.

    Args:
        restored: (B, 3, H, W) in [-1, 1].
        reference: the same shape.
        softness: s of ``sqrt(d^2 + s^2) - s``; 0 is the absolute value.
    """
    return _size(restored - reference, softness)


def sample_weights(degraded_error: Tensor) -> Tensor:
    """(B,) weights that make a sample's error count in proportion to what it was before restoration.

    Without them a strongly degraded face counts ten times as much as a good one, and good ones are smoothed. The
    weight of a typical sample is about 1, that of a clean one about 3.

    Args:
        degraded_error: (B,) :func:`absolute_error` of the degraded faces.
    """
    return _TYPICAL / (degraded_error.detach() + 0.3 * _TYPICAL)


def damage_share(degraded_error: Tensor) -> Tensor:
    """(B,) in [0, 1): how far a sample's error is damage that a restorer may repair boldly; 0 for a clean face.

    With :func:`sample_weights` as the other factor, a loss that rewards detail stays away from faces that have theirs.

    Args:
        degraded_error: (B,) :func:`absolute_error` of the degraded faces.
    """
    error = degraded_error.detach()
    return error / (error + 0.3 * _TYPICAL)


def _size(difference: Tensor, softness: float) -> Tensor:
    if softness <= 0.0:
        return difference.abs().mean((1, 2, 3))
    return (torch.sqrt(difference * difference + softness * softness) - softness).mean((1, 2, 3))


def laplacian_error(restored: Tensor, reference: Tensor, *, levels: int = 4, softness: float = 0.0) -> Tensor:
    """(B,) absolute errors of the bands of a Laplacian pyramid, each band's mean counting the same.

    Args:
        restored: (B, 3, H, W) in [-1, 1].
        reference: the same shape.
        levels: number of bands, finest first; sides must be divisible by ``2 ** levels``.
        softness: as in :func:`absolute_error`.

    Source:
        Bojanowski et al. 2018 (Lap1), with 2 x 2 means as the low-pass and without the weights that rise with the
        coarseness: tried, they drowned the fine bands, whose error a restorer is there to lower. The pyramid is
        linear, so it is taken of the difference, once.
    """
    low = restored - reference
    total = low.new_zeros(len(low))
    for _ in range(levels):
        coarse = functional.avg_pool2d(low, 2)
        band = low - functional.interpolate(coarse, scale_factor=2.0, mode="nearest")
        total = total + _size(band, softness)
        low = coarse
    return total + _size(low, softness)


def perceptual_error(
    metric: ShiftTolerantLpips, restored: Tensor, reference: Tensor, *, corner: tuple[int, int], side: int
) -> Tensor:
    """(B,) ST-LPIPS over a square window, which saves time: the metric costs more than the network.

    Args:
        metric: with frozen parameters.
        restored: (B, 3, H, W) in [-1, 1].
        reference: the same shape; no gradient flows into it.
        corner: (y, x) of the window.
        side: of the window in pixels.
    """
    y, x = corner
    window = (..., slice(y, y + side), slice(x, x + side))
    with torch.no_grad():
        target = metric.features(reference[window])
    return metric.compare(metric.features(restored[window]), target)


def identity_error(network: FaceEmbedding, restored: Tensor, reference: Tensor, moves: Tensor | None = None) -> Tensor:
    """(B,) distances of who is seen: 0.6 and more are another person to dlib.

    Args:
        network: with frozen parameters.
        restored: (B, 3, S, S) whole crops in [-1, 1], aligned as FFHQ's.
        reference: the same shape; no gradient flows into it.
        moves: (B, 3) of the window that the network sees, of both; see :meth:`FaceEmbedding.chips`.
    """
    with torch.no_grad():
        target = network.of_crops(reference, moves)
    difference = network.of_crops(restored, moves) - target
    return (difference.square().sum(1) + 1e-6).sqrt()  # the root of 0 has no slope


def identity_moves(rng: np.random.Generator, count: int) -> Tensor:
    """(count, 3) of windows as much beside the mean one as dlib's own predictor lays them, and a little more."""
    return torch.from_numpy(rng.normal(0.0, (0.02, 0.02, 0.06), (count, 3))).float()


def published_normalisation(pictures: Tensor) -> Tensor:
    """Pictures as CodeFormer's training hands them to LPIPS: normalised by ImageNet's statistics.

    LPIPS normalises again by itself, so contrast counts about four times as much as it was made for. The published
    weights were trained so, and a training that shall match keeps it.

    Args:
        pictures: (B, 3, H, W) RGB in [-1, 1].
    """
    mean = pictures.new_tensor(_IMAGENET_MEAN)[:, None, None]
    std = pictures.new_tensor(_IMAGENET_STD)[:, None, None]
    return ((pictures + 1.0) / 2.0 - mean) / std


def unsteadiness(
    restored: Tensor, offsets: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0)), *, margin: int = 0
) -> Tensor:
    """Mean absolute difference between two restorations of one face, where they show the same.

    Args:
        restored: (2 * B, 3, H, W), the two views of a face beside each other.
        offsets: (y, x) of the first and of the second view in a common picture.
        margin: pixels at the edges that are left out, where the network sees less around.
    """
    height, width = restored.shape[-2:]
    (y0, x0), (y1, x1) = offsets
    top, left = max(y0, y1) + margin, max(x0, x1) + margin
    bottom, right = min(y0, y1) + height - margin, min(x0, x1) + width - margin
    first = restored[0::2, :, top - y0 : bottom - y0, left - x0 : right - x0]
    second = restored[1::2, :, top - y1 : bottom - y1, left - x1 : right - x1]
    return (first - second).abs().mean()
