"""Where a held face went and how far it may be held there, cell by cell: ``follow_crop`` and ``mesh_maps``.

For a grid of G x G cells, with ``e`` the degraded crop kept of the frames before, ``n`` the one of now (three channels
each), and what the mesh says of the motion:

    motion  = mesh + similarity(warp(e, mesh), n)                 Lucas and Kanade, one step, reweighted
    motion += each cell's own (warp(e, motion), n)                Lucas and Kanade in windows
    carried = warp(e, motion)
    light   = even² / (even² + step²) even                        even: smooth part of n - carried
    gate    = how far n differs from carried + light, against noise and edges, 1 outside the earlier crop
    weights = weight (1 - gate), 0 at holes
    e'      = n + weights (carried + light - n)                   what is kept from now on

The same in whole-picture operations is in :mod:`vidrestore.restoration.motion` and
:mod:`vidrestore.restoration.steady`: that runs on other devices, says why each part is as it is, and is what the tests
compare with. There some 150 small steps are called one by one, which costs ten times their arithmetic. The constants of
both are here.

Sums are made row by row in float32 columns and then over the columns in float64, so that vectors can be used without
the order of additions depending on the machine's. What is not finite in any input opens the gate everywhere.

All 20 grids of 16 KB (G = 64) stay in the second cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidrestore.errors import KernelError
from vidrestore.kernels.launch import jit, part_jit
from vidrestore.kernels.rasterize import draw

__all__ = [
    "CHANCE",
    "DAMPING",
    "FAR",
    "FLAT",
    "LEAST_SCALE",
    "LIGHT_REACH",
    "LUMA",
    "MIDDLE_HEIGHT",
    "MIDDLE_Y",
    "REACH",
    "REWEIGHTINGS",
    "ROBUST",
    "UNLIKE",
    "FollowOptions",
    "follow_crop",
    "mesh_maps",
    "shrink_crops",
]

LUMA = (0.299, 0.587, 0.114)
"""Of R', G' and B' in luma (BT.601)."""
ROBUST = 1.5
"""Cells that fit worse than so many times the mean count less than half: lips and lids should not move the head."""
REWEIGHTINGS = 3
DAMPING = 1e-3
"""Of the normal equations' diagonal: a crop without any structure stays where it is."""
REACH = 3
"""Cells to each side that each cell's own motion is read off, twice over: half of the weight lies within 16 px."""
CHANCE = 0.1
"""Share of the noise that a motion of two unknowns may explain in such a window by chance, taken twice."""
LIGHT_REACH = 4
"""Cells to each side over which light is smooth, twice over: a third of the face."""
UNLIKE = 3.0
"""Cells that changed by so many times the median change count half for the light: a hand is no lamp."""
LEAST_SCALE = 1e-3
"""Added to that many times the median, of [-1, 1]: rounding of 8 bits is no change."""

MIDDLE_HEIGHT, MIDDLE_Y = 1.6, 0.05
"""How much a place of the crop counts for the motion of the whole: h (1 - x² - (y - y0)²), in [0, 1]: 1 over the face
of the FFHQ template, 0 at the crop's border, where another motion may be."""
FLAT = 1e-9
"""Share of the squared spread of a mesh's vertices, below which their determinant counts as none."""
FAR = 4.0
"""Crop sizes between the camera and a mesh that is drawn: as good as no perspective."""

_NUM_MAPS = 6
_NUM_SCRATCH = 11
_NO_HOLE = np.empty((0, 0), np.float32)


@dataclass(frozen=True, slots=True)
class FollowOptions:
    """How far a crop is held; :class:`vidrestore.restoration.steady.SteadyOptions` says what each is for."""

    weight: float
    """Of the carried crop where nothing changed, in [0, 1)."""
    noise: float
    slack: float
    """Cells of the grid."""
    lively: float
    open: float
    noise_floor: float
    noise_ceiling: float
    light_step: float


def follow_crop(
    earlier: NDArray[np.float32],
    now: NDArray[np.float32],
    mesh_motion: NDArray[np.float32] | None,
    quick: NDArray[np.float32],
    hole: NDArray[np.float32] | None,
    options: FollowOptions,
) -> tuple[NDArray[np.float32], NDArray[np.float32], bool]:
    """Motion, weights and light of a crop, and the degraded crop that is kept from now on.

    Args:
        earlier: (3, G, G) float32 in [-1, 1], the degraded crop kept so far.
        now: (3, G, G), the degraded crop of now.
        mesh_motion: (2, G, G) in halves of the crop; None: no mesh says anything.
        quick: (G, G) in [0, 1], 1 where the gate opens sooner: eyes and mouth.
        hole: (G, G), above 0 where pixels are made up; None: nowhere.
        options: strengths.

    Returns:
        (6, G, G) maps for :func:`vidrestore.kernels.steady.hold_crop`; (3, G, G), finite; and whether all that
        was given is finite too.

    Raises:
        KernelError: shapes or types that do not fit.
    """
    size = now.shape[-1]
    arrays = [(earlier, 3), (now, 3), (quick, 0)]
    arrays += [(array, count) for array, count in ((mesh_motion, 2), (hole, 0)) if array is not None]
    for array, count in arrays:
        if array.shape != ((count, size, size) if count else (size, size)) or size == 0:
            raise KernelError(f"grids {', '.join(str(a.shape) for a, _ in arrays)} do not fit")
        if array.dtype != np.float32 or not array.flags.c_contiguous:
            raise KernelError(f"expected contiguous float32, got {array.dtype}")
    maps = np.empty((_NUM_MAPS, size, size), np.float32)
    motion, weights, light = maps[:2], maps[2], maps[3:]
    motion[...] = 0.0 if mesh_motion is None else mesh_motion
    if _is_broken(earlier, now, motion):
        maps.fill(0.0)
        return maps, np.nan_to_num(now, nan=0.0, posinf=0.0, neginf=0.0), False
    carried, scratch = np.empty((3, size, size), np.float32), np.empty((_NUM_SCRATCH, size, size), np.float32)
    line = np.empty(2 * size + 2 * max(REACH, LIGHT_REACH), np.float32)
    between, pair, rest = scratch[0], scratch[1:3], scratch[3:]
    a, b = pair
    _warp(earlier, motion, carried)
    _luma(carried, a)
    _luma(now, b)
    _smooth(pair, 1, 1, between, line)
    _add_similarity(a, b, motion, np.empty((14, size), np.float32), line, rest)
    _warp(earlier, motion, carried)
    _luma(carried, a)
    _smooth(pair[:1], 1, 1, between, line)
    noise = _read_cells(a, b, rest)
    _smooth(rest[:5], REACH, 2, between, line)
    _add_cells(rest, noise, motion)
    _warp(earlier, motion, carried)
    _read_light(carried, now, rest[:4])
    _smooth(rest[:4], LIGHT_REACH, 2, between, line)
    _add_light(rest[:4], options.light_step, light, carried)
    noise = _read_change(carried, now, a, b, line)
    _smooth(pair, 1, 1, between, line)
    least = options.noise * min(max(noise, options.noise_floor), options.noise_ceiling)
    _gate(a, b, least, options.slack, options.lively, options.open, quick, between)
    _smooth(pair[:1], 1, 1, between, line)
    _hold(now, motion, a, _NO_HOLE if hole is None else hole, options.weight, weights, carried)
    return maps, carried, True


@jit
def _is_broken(earlier: NDArray[np.float32], now: NDArray[np.float32], motion: NDArray[np.float32]) -> bool:
    """Whether any value is NaN or infinite."""
    size, nothing = now.shape[-1], np.float32(0.0)
    line = np.zeros(size, np.float32)
    for y in range(size):
        for c in range(now.shape[0]):
            for x in range(size):
                line[x] += nothing * (earlier[c, y, x] - now[c, y, x])
        for x in range(size):
            line[x] += nothing * (motion[0, y, x] - motion[1, y, x])
    total = nothing
    for x in range(size):
        total += line[x]
    return bool(total != nothing)


@jit
def _warp(pictures: NDArray[np.float32], motion: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """(3, G, G) as they lie after the motion, interpolated linearly; the border is repeated."""
    size = pictures.shape[-1]
    nothing, half, most = np.float32(0.0), np.float32(size) * np.float32(0.5), np.float32(size - 1)
    flat = pictures.reshape(3, size * size)
    length, one, zero = np.uint64(size), np.uint64(1), np.uint64(0)
    for y in range(size):
        for x in range(size):
            at_x = min(np.float32(x) + motion[0, y, x] * half, most)
            at_y = min(np.float32(y) + motion[1, y, x] * half, most)
            at_x, at_y = max(at_x, nothing), max(at_y, nothing)
            x0, y0 = np.uint32(at_x), np.uint32(at_y)  # numba counts signed indices from the end, at a cost
            wx, wy = at_x - np.float32(x0), at_y - np.float32(y0)
            at = y0 * length + x0
            beside = at + (one if at_x < most else zero)
            under = length if at_y < most else zero
            for c in range(3):
                upper = flat[c, at] + wx * (flat[c, beside] - flat[c, at])
                lower = flat[c, at + under] + wx * (flat[c, beside + under] - flat[c, at + under])
                out[c, y, x] = upper + wy * (lower - upper)


@jit
def _luma(picture: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    of_red, of_green, of_blue = np.float32(LUMA[0]), np.float32(LUMA[1]), np.float32(LUMA[2])
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            out[y, x] = of_red * picture[0, y, x] + of_green * picture[1, y, x] + of_blue * picture[2, y, x]


@jit
def _smooth(
    grids: NDArray[np.float32], reach: int, times: int, between: NDArray[np.float32], line: NDArray[np.float32]
) -> None:
    """Means over squares of 2 reach + 1 cells, ``times`` over, in place; the border is repeated."""
    size, width = grids.shape[-1], 2 * reach + 1
    share = np.float32(1.0) / np.float32(width * width)
    for n in range(grids.shape[0] * times):
        grid = grids[n // times]
        for y in range(size):
            row = between[y]
            for x in range(size):
                row[x] = np.float32(0.0)
            for j in range(width):
                other = grid[min(max(y + j - reach, 0), size - 1)]
                for x in range(size):
                    row[x] += other[x]
        for y in range(size):
            row, source = grid[y], between[y]
            for x in range(reach):
                line[x] = source[0] * share
                line[size + reach + x] = source[size - 1] * share
            for x in range(size):
                line[reach + x] = source[x] * share
                row[x] = np.float32(0.0)
            for j in range(width):
                for x in range(size):
                    row[x] += line[x + j]


@part_jit
def _slopes(
    a: NDArray[np.float32], b: NDArray[np.float32], share: np.float32, gx: NDArray[np.float32], gy: NDArray[np.float32]
) -> None:
    """Differences of the next but one cells of a + b, times ``share``; 0 at the border."""
    size, nothing = a.shape[0], np.float32(0.0)
    for y in range(size):
        for x in range(1, size - 1):
            gx[y, x] = share * ((a[y, x + 1] + b[y, x + 1]) - (a[y, x - 1] + b[y, x - 1]))
        gx[y, 0] = gx[y, size - 1] = nothing
        inner = share if 0 < y < size - 1 else nothing
        above, below = max(y - 1, 0), min(y + 1, size - 1)
        for x in range(size):
            gy[y, x] = inner * ((a[below, x] + b[below, x]) - (a[above, x] + b[above, x]))


@part_jit
def _total(line: NDArray[np.float32]) -> float:
    total = 0.0
    for x in range(line.size):
        total += np.float64(line[x])
    return total


@jit
def _add_similarity(
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    motion: NDArray[np.float32],
    sums: NDArray[np.float32],
    line: NDArray[np.float32],
    scratch: NDArray[np.float32],
) -> None:
    """Adds the similarity that makes ``a`` look most like ``b``."""
    size, one = a.shape[0], np.float32(1.0)
    change, inside, misfit = scratch[4], scratch[5], scratch[6]  # 0 to 3: what the motion's four numbers would change
    weight, part = line[:size], line[size : 2 * size]
    step, high = np.float32(2.0) / np.float32(size), np.float32(MIDDLE_HEIGHT)
    _slopes(a, b, np.float32(size) * np.float32(0.125), scratch[0], scratch[1])
    for y in range(size):
        down = (np.float32(y) + np.float32(0.5)) * step - one
        low = down - np.float32(MIDDLE_Y)
        for x in range(size):
            along = (np.float32(x) + np.float32(0.5)) * step - one
            scratch[2, y, x] = scratch[0, y, x] * along + scratch[1, y, x] * down
            scratch[3, y, x] = scratch[1, y, x] * along - scratch[0, y, x] * down
            change[y, x] = b[y, x] - a[y, x]
            inside[y, x] = min(max(high - high * (along * along + low * low), np.float32(0.0)), one)
    found, normal = np.zeros(4), np.empty((4, 5))
    for turn in range(REWEIGHTINGS + 1):
        f0, f1, f2, f3 = np.float32(found[0]), np.float32(found[1]), np.float32(found[2]), np.float32(found[3])
        for x in range(size):
            part[x] = np.float32(0.0)
        for y in range(size):
            for x in range(size):
                fit = (f0 * scratch[0, y, x] + f1 * scratch[1, y, x]) + (f2 * scratch[2, y, x] + f3 * scratch[3, y, x])
                misfit[y, x] = change[y, x] - fit
            for x in range(size):
                part[x] += abs(misfit[y, x])
        if turn == REWEIGHTINGS:
            break
        over = np.float32(1.0 / (_total(part) / (size * size) * ROBUST + 1e-6))
        for n in range(sums.shape[0]):
            for x in range(size):
                sums[n, x] = np.float32(0.0)
        num = found.size  # a number that the compiler does not know keeps it from unrolling what is long as it is
        for y in range(size):
            for x in range(size):
                unit = misfit[y, x] * over
                weight[x] = inside[y, x] / (one + unit * unit)
            n = 0
            for i in range(num):
                for x in range(size):
                    part[x] = weight[x] * scratch[i, y, x]
                for j in range(i, num + 1):
                    for x in range(size):
                        sums[n, x] += part[x] * scratch[j, y, x]
                    n += 1
        n = 0
        for i in range(num):
            for j in range(i, num + 1):
                normal[i, j] = _total(sums[n])
                if j < num:
                    normal[j, i] = normal[i, j]
                n += 1
        for i in range(num):
            normal[i, i] += normal[i, i] * DAMPING + 1e-6
        _solve(normal, found)
    before, after, area = 0.0, 0.0, 0.0
    for y in range(size):
        for x in range(size):
            before += np.float64(inside[y, x] * change[y, x] * change[y, x])
            after += np.float64(inside[y, x] * misfit[y, x] * misfit[y, x])
            area += np.float64(inside[y, x])
    believed = min(max(1.0 - 8.0 * after / area / max(before - after, 1e-9), 0.0), 1.0)
    right, below = np.float32(found[0] * believed), np.float32(found[1] * believed)
    growth, spin = np.float32(found[2] * believed), np.float32(found[3] * believed)
    for y in range(size):
        down = (np.float32(y) + np.float32(0.5)) * step - one
        for x in range(size):
            along = (np.float32(x) + np.float32(0.5)) * step - one
            motion[0, y, x] += right + growth * along - spin * down
            motion[1, y, x] += below + growth * down + spin * along


@part_jit
def _solve(normal: NDArray[np.float64], found: NDArray[np.float64]) -> None:
    """Equations with a positive diagonal, (N, N + 1) with their right side, by elimination; they are used up."""
    num = found.size
    for i in range(num):
        for k in range(i + 1, num):
            factor = normal[k, i] / normal[i, i]
            for j in range(i, num + 1):
                normal[k, j] -= factor * normal[i, j]
    for n in range(num):
        i = num - 1 - n
        rest = normal[i, num]
        for j in range(i + 1, num):
            rest -= normal[i, j] * found[j]
        found[i] = rest / normal[i, i]


@jit
def _read_cells(a: NDArray[np.float32], b: NDArray[np.float32], scratch: NDArray[np.float32]) -> float:
    """Products of slopes and change in the first five of ``scratch``; gives the variance of the noise."""
    gx, gy, change = scratch[5], scratch[6], scratch[7]
    _slopes(a, b, np.float32(0.25), gx, gy)
    for y in range(a.shape[0]):
        for x in range(a.shape[1]):
            change[y, x] = abs(b[y, x] - a[y, x])
    middle = _median(change)
    for y in range(a.shape[0]):
        for x in range(a.shape[1]):
            scratch[0, y, x] = gx[y, x] * gx[y, x]
            scratch[1, y, x] = gy[y, x] * gy[y, x]
            scratch[2, y, x] = gx[y, x] * gy[y, x]
        for x in range(a.shape[1]):
            scratch[3, y, x] = gx[y, x] * (b[y, x] - a[y, x])
            scratch[4, y, x] = gy[y, x] * (b[y, x] - a[y, x])
    return 2.0 * np.float64(middle) * np.float64(middle) + 1e-6


@jit
def _add_cells(products: NDArray[np.float32], variance: float, motion: NDArray[np.float32]) -> None:
    """Adds the motion of each cell by itself, a cell at most."""
    size, one, nothing = motion.shape[-1], np.float32(1.0), np.float32(0.0)
    noise = np.float32(variance)
    by_chance, cell = np.float32(CHANCE) * noise, np.float32(2.0) / np.float32(size)
    for y in range(size):
        for x in range(size):
            xx, yy, xy = products[0, y, x] + noise, products[1, y, x] + noise, products[2, y, x]
            xc, yc = products[3, y, x], products[4, y, x]
            over = one / (xx * yy - xy * xy)
            right, down = (yy * xc - xy * yc) * over, (xx * yc - xy * xc) * over
            explained = max(right * xc + down * yc, np.float32(1e-9))
            believed = min(max(one - by_chance / explained, nothing), one)
            motion[0, y, x] += min(max(right * believed, -one), one) * cell
            motion[1, y, x] += min(max(down * believed, -one), one) * cell


@part_jit
def _median(grid: NDArray[np.float32]) -> np.float32:
    """The lower median of values that are not negative, exactly: their bits are ordered as they are."""
    bits = grid.view(np.int32)
    rank, prefix, above = (grid.size - 1) // 2, 0, 31
    counts = np.empty(2048, np.int64)
    for part in range(3):
        shift = 20 - 10 * part  # 11 bits, then ten and ten; the sign is 0
        mask = (1 << (above - shift)) - 1
        for n in range(counts.size):
            counts[n] = 0
        for y in range(bits.shape[0]):
            for x in range(bits.shape[1]):
                value = np.int64(bits[y, x])
                if value >> above == prefix:
                    counts[(value >> shift) & mask] += 1
        digit = 0
        while rank >= counts[digit]:
            rank -= counts[digit]
            digit += 1
        prefix, above = (prefix << (above - shift)) | digit, shift
    for y in range(bits.shape[0]):
        for x in range(bits.shape[1]):
            if bits[y, x] == prefix:
                return np.float32(grid[y, x])
    return np.float32(0.0)  # never: the loop above has counted it


@jit
def _read_light(carried: NDArray[np.float32], now: NDArray[np.float32], change: NDArray[np.float32]) -> None:
    """Change of the three channels, less where a cell changed much more than the rest, and how much it counts."""
    size, third, one = now.shape[-1], np.float32(1.0 / 3.0), np.float32(1.0)
    alike = change[3]
    for y in range(size):
        for x in range(size):
            red, green = now[0, y, x] - carried[0, y, x], now[1, y, x] - carried[1, y, x]
            blue = now[2, y, x] - carried[2, y, x]
            alike[y, x] = (abs(red) + abs(green) + abs(blue)) * third
    over = one / (np.float32(UNLIKE) * _median(alike) + np.float32(LEAST_SCALE))
    for y in range(size):
        for x in range(size):
            unit = alike[y, x] * over
            alike[y, x] = one / (one + unit * unit)
        for c in range(now.shape[0]):
            for x in range(size):
                change[c, y, x] = (now[c, y, x] - carried[c, y, x]) * alike[y, x]


@jit
def _add_light(
    change: NDArray[np.float32], step: float, light: NDArray[np.float32], carried: NDArray[np.float32]
) -> None:
    square = np.float32(step * step)
    for c in range(light.shape[0]):
        for y in range(light.shape[1]):
            for x in range(light.shape[2]):
                even = change[c, y, x] / change[3, y, x]
                light[c, y, x] = even * (even * even / (even * even + square))
                carried[c, y, x] += light[c, y, x]


@jit
def _read_change(
    carried: NDArray[np.float32],
    now: NDArray[np.float32],
    change: NDArray[np.float32],
    edges: NDArray[np.float32],
    line: NDArray[np.float32],
) -> float:
    """Mean absolute change and difference to the next cells; gives the mean change of flat cells."""
    size, one, nothing, third = now.shape[-1], np.float32(1.0), np.float32(0.0), np.float32(1.0 / 3.0)
    for y in range(size):
        below = min(y + 1, size - 1)
        for x in range(size):
            change[y, x] = nothing
            edges[y, x] = nothing
        for c in range(now.shape[0]):
            for x in range(size):
                change[y, x] += third * abs(now[c, y, x] - carried[c, y, x])
            for x in range(size - 1):
                edges[y, x] += third * abs(carried[c, y, x + 1] - carried[c, y, x])
            for x in range(size):
                edges[y, x] += third * abs(carried[c, below, x] - carried[c, y, x])
    over = one / (_median(edges) + np.float32(1e-6))
    total, area = line[:size], line[size : 2 * size]
    for x in range(size):
        total[x] = area[x] = nothing
    for y in range(size):
        for x in range(size):
            unit = edges[y, x] * over
            unit *= unit
            flat = one / (one + unit * unit)
            total[x] += change[y, x] * flat
            area[x] += flat
    return _total(total) / _total(area)


@jit
def _gate(
    change: NDArray[np.float32],
    edges: NDArray[np.float32],
    least_change: float,
    slack_cells: float,
    lively_share: float,
    open_at: float,
    quick: NDArray[np.float32],
    between: NDArray[np.float32],
) -> None:
    """How open the gate is, in place of the change: the most of each cell and its eight neighbours."""
    size, one, nothing = change.shape[0], np.float32(1.0), np.float32(0.0)
    least, slack, lively = np.float32(least_change), np.float32(slack_cells), np.float32(lively_share)
    per_open = np.float32(1.0 / (open_at - 1.0))
    for y in range(size):
        for x in range(size):
            ratio = change[y, x] / ((least + slack * edges[y, x]) * (one - lively * quick[y, x]))
            change[y, x] = min(max((ratio - one) * per_open, nothing), one)
    for y in range(size):
        above, below = max(y - 1, 0), min(y + 1, size - 1)
        for x in range(size):
            between[y, x] = max(change[above, x], max(change[y, x], change[below, x]))
    for y in range(size):
        for x in range(size):
            change[y, x] = between[y, x]
        for x in range(size - 1):
            change[y, x] = max(change[y, x], between[y, x + 1])
        for x in range(1, size):
            change[y, x] = max(change[y, x], between[y, x - 1])


@jit
def _hold(
    now: NDArray[np.float32],
    motion: NDArray[np.float32],
    gate: NDArray[np.float32],
    hole: NDArray[np.float32],
    strength: float,
    weights: NDArray[np.float32],
    kept: NDArray[np.float32],
) -> None:
    size, one, nothing = now.shape[-1], np.float32(1.0), np.float32(0.0)
    step, weight = np.float32(2.0) / np.float32(size), np.float32(strength)
    for y in range(size):
        down = (np.float32(y) + np.float32(0.5)) * step - one
        for x in range(size):
            along = (np.float32(x) + np.float32(0.5)) * step - one
            outside = max(abs(motion[0, y, x] + along), abs(motion[1, y, x] + down)) > one
            weights[y, x] = nothing if outside else weight * (one - gate[y, x])
        if hole.size > 0:
            for x in range(size):
                weights[y, x] = weights[y, x] if hole[y, x] == nothing else nothing
        for c in range(now.shape[0]):
            for x in range(size):
                kept[c, y, x] = now[c, y, x] + weights[y, x] * (kept[c, y, x] - now[c, y, x])


def mesh_maps(
    pairs: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
    size: int,
    coarse: int,
    triangles: NDArray[np.integer] | None,
) -> NDArray[np.float32]:
    """Where each cell of a later crop was in the earlier one, after a mesh; beside it after its best affine map.

    Args:
        pairs: N (earlier, later) meshes of V vertices, (V, 3) float32 in crop pixels, z towards the viewer.
        size: S of those crops.
        coarse: G.
        triangles: (T, 3) of these meshes; None: not known, the affine map alone is taken.

    Returns:
        (N, 2, G, G) in halves of the crop.

    Raises:
        KernelError: shapes that do not fit, or an index out of range.
    """
    count = len(pairs[0][0]) if pairs else 0
    if any(mesh.shape != (count, 3) or count == 0 for pair in pairs for mesh in pair):
        raise KernelError(f"meshes must be ({count}, 3), got {[mesh.shape for pair in pairs for mesh in pair]}")
    points, rest = np.empty((2, len(pairs), count, 2), np.float32)
    depth, fits = np.empty((len(pairs), count), np.float32), np.empty((len(pairs), 3, 2))
    for n, meshes in enumerate(pairs):
        earlier, later = (np.ascontiguousarray(mesh, np.float32) for mesh in meshes)
        _fit_mesh(earlier, later, size, coarse, points[n], depth[n], rest[n], fits[n])
    if triangles is None:
        maps = np.zeros((len(pairs), 2, coarse, coarse), np.float32)
    else:
        maps, _ = draw(points, depth, triangles, rest, coarse)
    between, line = np.empty((coarse, coarse), np.float32), np.empty(coarse + 2, np.float32)
    for found, fit in zip(maps, fits, strict=True):
        _smooth(found, 1, 1, between, line)
        _add_affine(found, fit)
    return maps


@jit
def _fit_mesh(
    earlier: NDArray[np.float32],
    later: NDArray[np.float32],
    size: int,
    coarse: int,
    points: NDArray[np.float32],
    depth: NDArray[np.float32],
    rest: NDArray[np.float32],
    fit: NDArray[np.float64],
) -> None:
    """The affine map of least squares, (3, 2) for (x, y, 1); what vertices move beyond it; where they are drawn."""
    count, unit, cell = later.shape[0], 2.0 / size, coarse / size
    mean_x, mean_y, to_x, to_y = 0.0, 0.0, 0.0, 0.0
    for v in range(count):
        x, y = np.float64(later[v, 0]), np.float64(later[v, 1])
        mean_x, mean_y = mean_x + x, mean_y + y
        to_x, to_y = to_x + (np.float64(earlier[v, 0]) - x), to_y + (np.float64(earlier[v, 1]) - y)
        points[v, 0], points[v, 1] = (x + 0.5) * cell - 0.5, (y + 0.5) * cell - 0.5
        depth[v] = FAR * size - np.float64(later[v, 2])
    mean_x, mean_y, to_x, to_y = mean_x / count, mean_y / count, to_x / count, to_y / count
    xx, xy, yy = 0.0, 0.0, 0.0
    x_to_x, x_to_y, y_to_x, y_to_y = 0.0, 0.0, 0.0, 0.0
    for v in range(count):
        x, y = np.float64(later[v, 0]) - mean_x, np.float64(later[v, 1]) - mean_y
        p, q = np.float64(earlier[v, 0]) - mean_x - x - to_x, np.float64(earlier[v, 1]) - mean_y - y - to_y
        xx, xy, yy = xx + x * x, xy + x * y, yy + y * y
        x_to_x, x_to_y = x_to_x + x * p, x_to_y + x * q
        y_to_x, y_to_y = y_to_x + y * p, y_to_y + y * q
    determinant, spread = xx * yy - xy * xy, xx + yy
    over = 1.0 / determinant if determinant > FLAT * spread * spread else 0.0
    # in halves of the crop the linear part is the same; the shift is that of the mean
    fit[0, 0], fit[0, 1] = (yy * x_to_x - xy * y_to_x) * over, (yy * x_to_y - xy * y_to_y) * over
    fit[1, 0], fit[1, 1] = (xx * y_to_x - xy * x_to_x) * over, (xx * y_to_y - xy * x_to_y) * over
    at_x, at_y = (mean_x + 0.5) * unit - 1.0, (mean_y + 0.5) * unit - 1.0
    for c in range(2):
        fit[2, c] = (to_x if c == 0 else to_y) * unit - fit[0, c] * at_x - fit[1, c] * at_y
    for v in range(count):
        x, y = (np.float64(later[v, 0]) + 0.5) * unit - 1.0, (np.float64(later[v, 1]) + 0.5) * unit - 1.0
        for c in range(2):
            moved = (np.float64(earlier[v, c]) - np.float64(later[v, c])) * unit
            rest[v, c] = moved - (fit[0, c] * x + fit[1, c] * y + fit[2, c])


@jit
def _add_affine(maps: NDArray[np.float32], fit: NDArray[np.float64]) -> None:
    size = maps.shape[-1]
    step = np.float32(2.0) / np.float32(size)
    for c in range(maps.shape[0]):
        by_x, by_y, shift = np.float32(fit[0, c]), np.float32(fit[1, c]), np.float32(fit[2, c])
        for y in range(size):
            at_row = shift + by_y * ((np.float32(y) + np.float32(0.5)) * step - np.float32(1.0))
            for x in range(size):
                along = (np.float32(x) + np.float32(0.5)) * step - np.float32(1.0)
                maps[c, y, x] += at_row + by_x * along


def shrink_crops(crops: NDArray[np.float32], coarse: int) -> NDArray[np.float32]:
    """The mean of each cell of crops whose cells are all of one size.

    Args:
        crops: (B, C, S, S) float32, C-contiguous.
        coarse: G, divides S.

    Returns:
        (B, C, G, G).

    Raises:
        KernelError: G does not divide S, or another type.
    """
    size = crops.shape[-1]
    if crops.ndim != 4 or crops.shape[2] != size or coarse < 1 or size % coarse:
        raise KernelError(f"crops {crops.shape} have no {coarse} cells a side")
    if crops.dtype != np.float32 or not crops.flags.c_contiguous:
        raise KernelError(f"expected contiguous float32, got {crops.dtype}")
    means = np.empty((*crops.shape[:2], coarse, coarse), np.float32)
    _shrink(crops.reshape(-1, size, size), means.reshape(-1, coarse, coarse))
    return means


@jit
def _shrink(crop: NDArray[np.float32], means: NDArray[np.float32]) -> None:
    size, coarse = crop.shape[-1], means.shape[-1]
    side = size // coarse
    share = np.float32(1.0) / np.float32(side * side)
    line = np.empty(size, np.float32)
    for c in range(crop.shape[0]):
        for g in range(coarse):
            for x in range(size):
                line[x] = crop[c, g * side, x]
            for j in range(1, side):
                row = crop[c, g * side + j]
                for x in range(size):
                    line[x] += row[x]
            out = means[c, g]
            if side == 4:
                for k in range(coarse):
                    out[k] = ((line[4 * k] + line[4 * k + 1]) + (line[4 * k + 2] + line[4 * k + 3])) * share
            else:
                for k in range(coarse):
                    total = np.float32(0.0)
                    for i in range(side):
                        total += line[k * side + i]
                    out[k] = total * share
