"""Pictures of different sizes in one batch: each lies in the top-left corner of a square canvas.

What lies beyond a picture's own edge is filled from inside it, so that filters and block transforms see what they would
see at the edge of the picture alone. The ground that the batched degradations stand on.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["blurred", "canvas_side", "filled", "padded", "shifted"]

_UNIT = 64  # canvases are multiples of it: few shapes, and whole blocks of any codec


def canvas_side(size: int) -> int:
    """Side of the canvas of a picture of this side: a function of the picture alone, not of its batch."""
    return -(-size // _UNIT) * _UNIT


def filled(pictures: Tensor, sizes: Tensor) -> Tensor:
    """The canvases with the last row and column of each picture repeated beyond it.

    Args:
        pictures: (N, C, M, M).
        sizes: (N,) int64 sides of the pictures, at most M.
    """
    places = torch.arange(pictures.shape[-1], device=pictures.device)
    return _taken(pictures, torch.minimum(places, sizes[:, None] - 1))


def padded(pictures: Tensor, sizes: Tensor, radius: int) -> Tensor:
    """(N, C, M + 2 radius, M + 2 radius): the pictures go on as their own mirror images on all sides.

    The pixel at the edge is not repeated (OpenCV's BORDER_REFLECT_101), and mirrors may follow one another.

    Args:
        pictures: (N, C, M, M).
        sizes: (N,) int64.
        radius: pixels.
    """
    places = torch.arange(-radius, pictures.shape[-1] + radius, device=pictures.device)[None]
    period = (2 * (sizes - 1)).clamp_min(1)[:, None]
    places = torch.remainder(places, period)
    return _taken(pictures, torch.minimum(torch.minimum(places, period - places), sizes[:, None] - 1))


def _taken(pictures: Tensor, places: Tensor) -> Tensor:
    """Rows and columns at (N, L) places."""
    count, channels, _, width = pictures.shape
    tall = pictures.gather(2, places[:, None, :, None].expand(count, channels, -1, width))
    return tall.gather(3, places[:, None, None, :].expand(count, channels, places.shape[1], -1))


def shifted(pictures: Tensor, sizes: Tensor, by: Tensor) -> Tensor:
    """The content of each picture moved, with linear interpolation; the edges are repeated.

    Args:
        pictures: (N, C, M, M).
        sizes: (N,) int64.
        by: (N, 2) x and y in pixels.
    """
    result = pictures
    for axis, move in ((3, by[:, 0]), (2, by[:, 1])):
        places = torch.arange(pictures.shape[-1], device=pictures.device) - move[:, None]  # (N, M)
        low = places.floor()
        share = (places - low)[:, None]
        near, far = (torch.minimum((low + k).long().clamp_min(0), sizes[:, None] - 1)[:, None] for k in (0, 1))
        if axis == 2:
            near, far, share = near[..., None], far[..., None], share[..., None]
        else:
            near, far, share = near[:, :, None], far[:, :, None], share[:, :, None]
        size = result.shape
        result = result.gather(axis, near.expand(size)) * (1 - share) + result.gather(axis, far.expand(size)) * share
    return result


def blurred(pictures: Tensor, sizes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Each picture filtered along its columns and rows, its mirror images beyond the edges.

    Args:
        pictures: (N, C, M, M).
        sizes: (N,) int64.
        rows: (N, K) weights along y, K odd.
        columns: (N, K') weights along x, K' odd.
    """
    tall, broad = rows.shape[1] // 2, columns.shape[1] // 2
    radius = max(tall, broad)
    wide = padded(pictures, sizes, radius)[:, :, radius - tall :, radius - broad :]
    wide = wide[:, :, : pictures.shape[2] + 2 * tall, : pictures.shape[3] + 2 * broad]
    wide = wide.transpose(0, 1)  # (C, N, ...): one group per picture, so that each has its own filter
    done = functional.conv2d(wide, rows[:, None, :, None], groups=len(pictures))
    return functional.conv2d(done, columns[:, None, None, :], groups=len(pictures)).transpose(0, 1)
