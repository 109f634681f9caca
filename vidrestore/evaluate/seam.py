"""Whether one sees where a face was put in: the jump of the gradient across the mask's border."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["seam_score"]

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_ALONG = 7  # contour points that are averaged: a seam goes on along the border, grain does not
_FLOOR = 0.25  # levels of 255 added to both sides of the ratio: half a rounding step


def seam_score(
    restored: NDArray[np.generic],
    source: NDArray[np.generic],
    mask: NDArray[np.floating],
    *,
    levels: Sequence[float] = (0.05, 0.5),
    reach_px: float = 1.5,
) -> float:
    """The worst of some levels: jump of the luma's gradient across a line of equal mask, restored over source.

    Args:
        restored: (H, W, 3) RGB or (H, W).
        source: the same frame before.
        mask: (H, W) in [0, 1], how much of the restored face was blended in.
        levels: of the mask whose lines are followed; the first is where the effect ends.
        reach_px: the gradient is taken over so many pixels on either side.

    Returns:
        1 where the border is as smooth as the source's; 1.1 is the goal's limit. NaN where the mask has no border.
    """
    a, b = _grey(restored), _grey(source)
    if a.shape != b.shape or a.shape != mask.shape:
        raise ValueError(f"restored {a.shape}, source {b.shape} and mask {mask.shape} must have one size")
    soft = cv2.GaussianBlur(np.asarray(mask, np.float32), (0, 0), 1.0)
    slopes = (cv2.Sobel(soft, cv2.CV_32F, 0, 1), cv2.Sobel(soft, cv2.CV_32F, 1, 0))
    down = np.asarray(slopes[0], np.float32), np.asarray(slopes[1], np.float32)
    worst = float("nan")
    for level in levels:
        sums = np.zeros(2)
        for line in _lines(soft >= level):
            jumps = [_jump(image, line, down, reach_px) for image in (a, b)]
            if jumps[0] is not None and jumps[1] is not None:
                sums += [float(np.abs(jump).sum()) + _FLOOR * len(jump) for jump in jumps if jump is not None]
        if sums[1] > 0:
            ratio = float(sums[0] / sums[1])
            worst = ratio if math.isnan(worst) else max(worst, ratio)
    return worst


def _lines(inside: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    found, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return [np.asarray(line[:, 0], np.intp) for line in found if len(line) >= 4 * _ALONG]


def _jump(
    image: NDArray[np.float32],
    line: NDArray[np.intp],
    down: tuple[NDArray[np.float32], NDArray[np.float32]],
    reach: float,
) -> NDArray[np.float64] | None:
    """(N,) second difference across the line, averaged along it; points near the picture's edge are left out."""
    height, width = image.shape
    x, y = line[:, 0], line[:, 1]
    margin = math.ceil(reach) + 1
    keep = (x >= margin) & (y >= margin) & (x < width - margin) & (y < height - margin)
    ny, nx = (d[y, x] for d in down)
    length = np.hypot(nx, ny)
    keep &= length > 1e-6
    if keep.sum() < 2 * _ALONG:
        return None
    x, y, nx, ny = x[keep], y[keep], (nx / np.maximum(length, 1e-6))[keep], (ny / np.maximum(length, 1e-6))[keep]

    def at(offset: float) -> NDArray[np.float32]:
        places = (x + offset * nx).astype(np.float32)[None], (y + offset * ny).astype(np.float32)[None]
        return np.asarray(cv2.remap(image, *places, cv2.INTER_LINEAR)[0])

    second = (at(reach) - 2.0 * at(0.0) + at(-reach)).astype(np.float64)
    window = np.ones(_ALONG) / _ALONG
    return np.convolve(second, window, "valid")


def _grey(picture: NDArray[np.generic]) -> NDArray[np.float32]:
    image = np.asarray(picture, np.float32)
    return image if image.ndim == 2 else np.asarray(image[..., :3] @ _LUMA)
