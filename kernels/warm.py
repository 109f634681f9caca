"""The kernels of a run, compiled or read from numba's cache before the first frame wants them: ``warm_up``."""

from __future__ import annotations

import numpy as np

from vidrestore.kernels.composite import composite
from vidrestore.kernels.follow import FollowOptions, follow_crop, mesh_maps, shrink_crops
from vidrestore.kernels.sample import sample_crops
from vidrestore.kernels.steady import hold_crop
from vidrestore.types import PixelFormat

__all__ = ["warm_up"]

_SIDE = 32  # of the made frame and its crop: what is compiled depends on types, not on sizes


def warm_up(pixel_format: PixelFormat) -> None:
    """Cuts a crop out of a small grey frame, holds it and puts a difference back, all thrown away.

    A few seconds of compiling where the cache is empty, some tenths of reading it otherwise; meant for a thread that
    runs while the first frames are decoded and looked at. Whoever needs a kernel meanwhile waits for the same compiler.

    Args:
        pixel_format: of the frames that will come; kernels are compiled for 8 bits and for more apart.
    """
    shapes = [pixel_format.plane_size(p, _SIDE, _SIDE) for p in range(pixel_format.num_planes)]
    planes = tuple(np.full(shape, 1 << (pixel_format.depth - 1), pixel_format.dtype) for shape in shapes)
    maps = np.array([[[0.9, 0.1, 0.0], [-0.1, 0.9, 0.0]]])
    sample_crops(planes, pixel_format, maps, _SIDE)
    deltas = np.full((1, 3, _SIDE, _SIDE), 0.1, np.float32)
    composite(planes, pixel_format, deltas, np.ones((1, _SIDE, _SIDE), np.float32), maps, [1.0])
    _warm_up_holding()


def _warm_up_holding() -> None:
    """A mesh of one triangle and a black crop that is held."""
    mesh = np.array([[1, 1, 0], [6, 1, 0], [1, 6, 0]], np.float32)
    mesh_maps([(mesh, mesh)], _SIDE, _SIDE // 4, np.array([[0, 1, 2]]))
    crop = np.zeros((3, _SIDE, _SIDE), np.float32)
    coarse = shrink_crops(crop[None], _SIDE // 4)[0]
    options = FollowOptions(
        weight=0.5, noise=1.0, slack=0.1, lively=0.5, open=2.0, noise_floor=0.01, noise_ceiling=0.1, light_step=0.01
    )
    found, _, _ = follow_crop(coarse, coarse.copy(), None, coarse[0].copy(), None, options)
    hold_crop(crop, crop.copy(), found, sharpness=0.5, out=np.empty_like(crop), shown=np.empty_like(crop))
