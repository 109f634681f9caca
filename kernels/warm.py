"""The kernels of a run, compiled or read from numba's cache before the first frame wants them: ``warm_up``."""

from __future__ import annotations

import numpy as np

from vidrestore.kernels.composite import composite
from vidrestore.kernels.sample import sample_crops
from vidrestore.types import PixelFormat

__all__ = ["warm_up"]

_SIDE = 32  # of the made frame and its crop: what is compiled depends on types, not on sizes


def warm_up(pixel_format: PixelFormat) -> None:
    """Cuts a crop out of a small grey frame and puts a difference back, both thrown away.

    A second or two of compiling where the cache is empty, some tenths of reading it otherwise; meant for a thread that
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
