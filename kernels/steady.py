"""One step of a face that is held along its track, in one pass over the crop: ``hold_crop``.

For pixel (x, y) of a crop of S pixels, with the maps of G cells drawn linearly between the cells' centres:

    at      = (x, y) + motion S / 2                                      where the earlier crop had what is here now
    moved   = earlier at ``at``, linear, the border repeated
    lost    = 0.6 f (1 - f), f the fraction of ``motion S / 2``          along each axis
    carried = moved - lost_x (second difference of moved along x) - lost_y (along y) + light
    now    += weight (carried - now)                                     untouched where weight is 0

The same in whole-picture operations is :func:`vidrestore.restoration.motion.hold`, which runs on other devices and
which the tests compare with; there each of some ten steps goes over the crop once more and writes a fresh picture.

Maps are drawn out along x once for each row of cells; along y, and for all that is not a gather, vectors do the work.

Reads 12 bytes of the earlier crop (four neighbours each, all but one of them just used) and 12 of the present one per
pixel, writes 24; three rows of ``moved`` stay in the first cache.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from vidrestore.errors import KernelError
from vidrestore.kernels.launch import jit, part_jit, run_bands

__all__ = ["hold_crop"]

_NUM_MAPS = 6


def hold_crop(
    earlier: NDArray[np.float32],
    now: NDArray[np.float32],
    maps: NDArray[np.float32],
    *,
    sharpness: float,
    out: NDArray[np.float32] | None = None,
    shown: NDArray[np.float32] | None = None,
) -> bool:
    """Holds a crop.

    Args:
        earlier: (3, S, S) float32, C-contiguous; may be not finite where the weight is 0.
        now: (3, S, S), the same.
        maps: (6, G, G) float32, C-contiguous: motion along x and y in halves of the crop, weight in [0, 1], light of
            three channels.
        sharpness: of ``lost`` above, 0.6.
        out: (3, S, S), the same, not ``earlier`` itself: gets the result. None: ``now`` itself does.
        shown: (3, S, S), the same: gets it as well. None: nobody does.

    Returns:
        Whether all of the result is finite.

    Raises:
        KernelError: shapes or types that do not fit.
    """
    out = now if out is None else out
    shown = out if shown is None else shown
    size, coarse = now.shape[-1], maps.shape[-1]
    wanted = (3, size, size)
    crops = (earlier, now, out, shown)
    if any(crop.shape != wanted for crop in crops) or maps.shape != (_NUM_MAPS, coarse, coarse):
        raise KernelError(f"crops {', '.join(str(crop.shape) for crop in crops)} and maps {maps.shape} do not fit")
    for array in (*crops, maps):
        if array.dtype != np.float32 or not array.flags.c_contiguous:
            raise KernelError(f"expected contiguous float32, got {array.dtype}")
    if size == 0:
        return True
    states = np.zeros(size, np.float32)
    run_bands(
        partial(
            _hold_rows,
            earlier=earlier,
            now=now,
            maps=maps,
            sharpness=np.float32(sharpness),
            out=out,
            shown=shown,
            states=states,
        ),
        0,
        size,
        min_rows=64,
    )
    return not np.isnan(states).any()


@part_jit
def _cells(coarse: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The left one of each pixel's two cells, and the share of the right one."""
    cells, shares = np.empty(size, np.int64), np.empty(size, np.float32)
    step, half = np.float32(coarse) / np.float32(size), np.float32(0.5)
    for x in range(size):
        place = min(max((np.float32(x) + half) * step - half, np.float32(0.0)), np.float32(coarse - 1))
        cells[x] = min(int(place), max(coarse - 2, 0))
        shares[x] = place - np.float32(cells[x])
    return cells, shares


@jit
def _hold_rows(
    first: int,
    last: int,
    earlier: NDArray[np.float32],
    now: NDArray[np.float32],
    maps: NDArray[np.float32],
    sharpness: np.float32,
    out: NDArray[np.float32],
    shown: NDArray[np.float32],
    states: NDArray[np.float32],
) -> None:
    size, coarse = now.shape[-1], maps.shape[-1]
    cells, shares = _cells(coarse, size)
    drawn = np.empty((2, maps.shape[0], size), np.float32)  # row of cells modulo 2, map
    in_first = in_second = -1
    rows = np.empty((3, maps.shape[0], size), np.float32)  # row modulo 3, map
    lost = np.empty((3, 2, size), np.float32)
    moved = np.empty((3, 3, size), np.float32)  # row modulo 3, channel
    line, poison = np.empty(size, np.float32), np.zeros(size, np.float32)
    places, parts = np.empty((2, size), np.int32), np.empty((2, size), np.float32)
    beside, under = (1 if coarse > 1 else 0), np.uint64(size if size > 1 else 0)
    right = np.uint64(1 if size > 1 else 0)
    flat = earlier.reshape(3, size * size)
    for y in range(max(first - 1, 0), min(last, size - 1) + 1):
        slot = y % 3
        top, share = cells[y], shares[y]
        for g in range(top, top + beside + 1):
            if g % 2 == 0 and in_first != g:
                _draw_row(maps, g, cells, shares, drawn[0])
                in_first = g
            elif g % 2 == 1 and in_second != g:
                _draw_row(maps, g, cells, shares, drawn[1])
                in_second = g
        for m in range(maps.shape[0]):
            for x in range(size):
                upper = drawn[top % 2, m, x]
                rows[slot, m, x] = upper + share * (drawn[(top + beside) % 2, m, x] - upper)
        _place(rows[slot, 0], np.float32(0.0), np.float32(1.0), sharpness, lost[slot, 0], places[0], parts[0])
        _place(rows[slot, 1], np.float32(y), np.float32(0.0), sharpness, lost[slot, 1], places[1], parts[1])
        for x in range(size):
            at = np.uint64(np.uint32(places[1, x] * size + places[0, x]))  # numba counts signed indices from the end
            wx, wy = parts[0, x], parts[1, x]
            for c in range(3):
                upper = flat[c, at] + wx * (flat[c, at + right] - flat[c, at])
                lower = flat[c, at + under] + wx * (flat[c, at + under + right] - flat[c, at + under])
                moved[slot, c, x] = upper + wy * (lower - upper)
        # the row above the newest is complete: it has its neighbours
        if y - 1 >= first:
            _blend_row(y - 1, now, rows, lost, moved, line, out, shown, poison)
    if last == size:
        _blend_row(size - 1, now, rows, lost, moved, line, out, shown, poison)
    for x in range(size):
        states[first] += poison[x]  # no other band writes there; NaN if any value is NaN or infinite


@part_jit
def _draw_row(
    maps: NDArray[np.float32],
    g: int,
    cells: NDArray[np.int64],
    shares: NDArray[np.float32],
    drawn: NDArray[np.float32],
) -> None:
    """A row of cells of all maps, linear between the cells' centres along x; motion in pixels."""
    size = drawn.shape[-1]
    right, half = (1 if maps.shape[-1] > 1 else 0), np.float32(size) * np.float32(0.5)
    for m in range(maps.shape[0]):
        scale = half if m < 2 else np.float32(1.0)
        for x in range(size):
            left = maps[m, g, cells[x]]
            drawn[m, x] = scale * (left + shares[x] * (maps[m, g, cells[x] + right] - left))


@part_jit
def _place(
    motion: NDArray[np.float32],
    begin: np.float32,
    step: np.float32,
    sharpness: np.float32,
    lost: NDArray[np.float32],
    places: NDArray[np.int32],
    parts: NDArray[np.float32],
) -> None:
    """Where a row's pixels are read along one axis: the first of two pixels and the share of the second."""
    nothing, one, most = np.float32(0.0), np.float32(1.0), np.float32(motion.size - 1)
    last = max(most - one, nothing)
    for x in range(motion.size):
        fraction = motion[x] - np.floor(motion[x])
        lost[x] = sharpness * fraction * (one - fraction)
    for x in range(motion.size):
        at = begin + step * np.float32(x) + motion[x]
        at = at if at < most else most
        at = at if at > nothing else nothing
        at = at if at == at else nothing  # no number is 0 too
        left = np.floor(at)
        left = left if left < last else last
        places[x] = np.int32(left)
        parts[x] = at - left


@part_jit
def _blend_row(
    y: int,
    now: NDArray[np.float32],
    rows: NDArray[np.float32],
    lost: NDArray[np.float32],
    moved: NDArray[np.float32],
    line: NDArray[np.float32],
    out: NDArray[np.float32],
    shown: NDArray[np.float32],
    poison: NDArray[np.float32],
) -> None:
    size = line.size
    slot, above, below = y % 3, (y + 2) % 3, (y + 1) % 3
    across, along, share = lost[slot, 0], lost[slot, 1], rows[slot, 2]
    two, nothing = np.float32(2.0), np.float32(0.0)
    # at the crop's edge nothing was lost along the axis that ends there; a crop of two pixels is all edge
    if not 0 < y < size - 1:
        above = below = slot
    for c in range(now.shape[0]):
        middle, upper, lower = moved[slot, c], moved[above, c], moved[below, c]
        for x in range(size):
            line[x] = middle[x] - along[x] * (upper[x] + lower[x] - two * middle[x])
        for x in range(1, size - 1):
            line[x] -= across[x] * (middle[x - 1] + middle[x + 1] - two * middle[x])
        value, shine = now[c, y], rows[slot, 3 + c]
        for x in range(size):
            held = value[x] + share[x] * (line[x] + shine[x] - value[x])
            line[x] = held if share[x] > nothing else value[x]
        value, other = out[c, y], shown[c, y]
        for x in range(size):
            value[x] = line[x]
            other[x] = line[x]
        for x in range(size):
            poison[x] += nothing * line[x]
