"""One step of a face that is held along its track, in one pass over the crop: ``hold_crop``.

For pixel (x, y) of a crop of S pixels, with the maps of G cells drawn linearly between the cells' centres:

    at      = (x, y) + motion S / 2                                      where the earlier crop had what is here now
    moved   = earlier at ``at``, linear, the border repeated
    lost    = 0.6 f (1 - f), f the fraction of ``motion S / 2``          along each axis
    carried = moved - lost_x (second difference of moved along x) - lost_y (along y) + light
    now    += weight (carried - now)                                     untouched where weight is 0

The same in whole-picture operations is :func:`vidrestore.restoration.motion.hold`, which runs on other devices and
which the tests compare with; there each of some ten steps goes over the crop once more and writes a fresh picture.

Reads 12 bytes of the earlier crop (four neighbours each, all but one of them just used) and 12 of the present one per
pixel, writes 12; three rows of ``moved`` stay in the first cache.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from vidrestore.errors import KernelError
from vidrestore.kernels.launch import jit, run_bands

__all__ = ["hold_crop"]

_NUM_MAPS = 6


def hold_crop(
    earlier: NDArray[np.float32],
    now: NDArray[np.float32],
    maps: NDArray[np.float32],
    *,
    sharpness: float,
) -> None:
    """Holds a crop, in place.

    Args:
        earlier: (3, S, S) float32, C-contiguous; may be not finite where the weight is 0.
        now: (3, S, S), the same; written to, not ``earlier`` itself.
        maps: (6, G, G) float32, C-contiguous: motion along x and y in halves of the crop, weight in [0, 1], light of
            three channels.
        sharpness: of ``lost`` above, 0.6.

    Raises:
        KernelError: shapes or types that do not fit.
    """
    size, coarse = now.shape[-1], maps.shape[-1]
    wanted = (3, size, size)
    if earlier.shape != wanted or now.shape != wanted or maps.shape != (_NUM_MAPS, coarse, coarse):
        raise KernelError(f"crops {earlier.shape} and {now.shape} and maps {maps.shape} do not fit")
    for array in (earlier, now, maps):
        if array.dtype != np.float32 or not array.flags.c_contiguous:
            raise KernelError(f"expected contiguous float32, got {array.dtype}")
    if size == 0:
        return
    run_bands(
        partial(_hold_rows, earlier=earlier, now=now, maps=maps, sharpness=np.float32(sharpness)),
        0,
        size,
        min_rows=64,
    )


@jit
def _hold_rows(
    first: int,
    last: int,
    earlier: NDArray[np.float32],
    now: NDArray[np.float32],
    maps: NDArray[np.float32],
    sharpness: np.float32,
) -> None:
    size, coarse = now.shape[-1], maps.shape[-1]
    cells = np.empty(size, np.int64)  # the left one of each pixel's two cells
    shares = np.empty(size, np.float32)  # of the right one
    step = np.float32(coarse) / np.float32(size)
    for x in range(size):
        place = min(
            max((np.float32(x) + np.float32(0.5)) * step - np.float32(0.5), np.float32(0.0)), np.float32(coarse - 1)
        )
        cells[x] = min(int(place), max(coarse - 2, 0))
        shares[x] = place - np.float32(cells[x])
    row = np.empty((maps.shape[0], coarse), np.float32)
    moved = np.empty((3, 3, size), np.float32)  # channel, row modulo 3
    lost_x, lost_y = np.empty((3, size), np.float32), np.empty((3, size), np.float32)
    weight, light = np.empty((3, size), np.float32), np.empty((3, 3, size), np.float32)
    nothing = np.float32(0.0)
    half, most = np.float32(size) * np.float32(0.5), np.float32(size - 1)
    right = 1 if coarse > 1 else 0
    flat = earlier.reshape(3, size * size)
    length, one, zero = np.uint64(size), np.uint64(1), np.uint64(0)
    for y in range(max(first - 1, 0), min(last, size - 1) + 1):
        slot = y % 3
        top, share = cells[y], shares[y]
        for m in range(maps.shape[0]):
            for g in range(coarse):
                row[m, g] = maps[m, top, g] + share * (maps[m, top + right, g] - maps[m, top, g])
        for x in range(size):
            g, s = cells[x], shares[x]
            dx = (row[0, g] + s * (row[0, g + right] - row[0, g])) * half
            dy = (row[1, g] + s * (row[1, g + right] - row[1, g])) * half
            weight[slot, x] = row[2, g] + s * (row[2, g + right] - row[2, g])
            for c in range(3):
                light[c, slot, x] = row[3 + c, g] + s * (row[3 + c, g + right] - row[3 + c, g])
            fx, fy = dx - np.floor(dx), dy - np.floor(dy)
            lost_x[slot, x] = sharpness * fx * (np.float32(1.0) - fx)
            lost_y[slot, x] = sharpness * fy * (np.float32(1.0) - fy)
            at_x, at_y = min(np.float32(x) + dx, most), min(np.float32(y) + dy, most)
            at_x, at_y = at_x if at_x > nothing else nothing, at_y if at_y > nothing else nothing  # NaN is 0 too
            x0, y0 = np.uint32(at_x), np.uint32(at_y)  # numba counts signed indices from the end, at a cost
            wx, wy = at_x - np.float32(x0), at_y - np.float32(y0)
            at = y0 * length + x0
            beside = at + (one if at_x < most else zero)
            under = length if at_y < most else zero
            for c in range(3):
                upper = flat[c, at] + wx * (flat[c, beside] - flat[c, at])
                lower = flat[c, at + under] + wx * (flat[c, beside + under] - flat[c, at + under])
                moved[c, slot, x] = upper + wy * (lower - upper)
        # the row above the newest is complete: it has its neighbours
        if y - 1 >= first:
            _blend_row(y - 1, size, now, moved, lost_x, lost_y, weight, light)
    if last == size:
        _blend_row(size - 1, size, now, moved, lost_x, lost_y, weight, light)


@jit
def _blend_row(
    y: int,
    size: int,
    now: NDArray[np.float32],
    moved: NDArray[np.float32],
    lost_x: NDArray[np.float32],
    lost_y: NDArray[np.float32],
    weight: NDArray[np.float32],
    light: NDArray[np.float32],
) -> None:
    slot, above, below = y % 3, (y + 2) % 3, (y + 1) % 3
    share, across, along = weight[slot], lost_x[slot], lost_y[slot]
    two, nothing = np.float32(2.0), np.float32(0.0)
    for c in range(3):
        middle, shine, value = moved[c, slot], light[c, slot], now[c, y]
        # at the crop's edge nothing was lost along the axis that ends there; a crop of two pixels is all edge
        upper, lower = (moved[c, above], moved[c, below]) if 0 < y < size - 1 else (middle, middle)
        for x in range(1, size - 1):
            carried = middle[x] - across[x] * (middle[x - 1] + middle[x + 1] - two * middle[x])
            carried -= along[x] * (upper[x] + lower[x] - two * middle[x])
            held = value[x] + share[x] * (carried + shine[x] - value[x])
            value[x] = held if share[x] > nothing else value[x]
        for x in range(0, size, max(size - 1, 1)):  # the two edges, or the one
            carried = middle[x]
            if size >= 3:
                carried -= along[x] * (upper[x] + lower[x] - two * middle[x])
            held = value[x] + share[x] * (carried + shine[x] - value[x])
            value[x] = held if share[x] > nothing else value[x]
