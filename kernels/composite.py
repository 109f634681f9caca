"""Differences put back into video planes: ``composite``.

Formula, for sample (x, y) of plane p, faces ordered from the smallest to the largest in the frame:

    (u, v)  = crop_from_p (x, y)
    F[g]    = Σ_ij h((i - u) / t_u) h((j - v) / t_v) g[j, i] / Σ_ij h(...) h(...),   g = 0 outside the crop
    t_u     = max(1, |row 0 of crop_from_p's linear part|),  t_v likewise with row 1
    G[g]    = the same with the tent max(0, 1 - |t|) for h
    alpha   = strength * G[mask]
    change  = (1 - alpha) * change + alpha * F[matrix_p @ delta]          over the faces, from 0
    out     = clip(floor(source + change + 1/2), lowest, highest)

h is the Catmull-Rom cubic, widened to the footprint of the sample in the crop, as in :mod:`vidrestore.kernels.sample`:
a small face gets the delta low-passed and decimated, a large one gets it interpolated, chroma has its own siting and
footprint.

Mask and delta are filtered apart and multiplied in the frame. The tent has no negative lobes, so alpha is in [0, 1] and
exactly 0 one footprint beyond the mask: no halo; a mask is smooth and needs no sharper filter. As the product comes
last, overlapping faces are layered ("over"), the larger, nearer one on top, and their weights never add to more than 1.
lowest is the smaller of the legal minimum and the source, highest likewise: samples that were already beyond the
legal range are not pulled in, and none is pushed out.

No dither: the source's own noise dithers the rounding of a smooth delta, and added noise would cost bit rate and make
equal frames differ.

Reads 16 max(1, t²) values of the crop per sample and plane, all but the first touch from the cache; reads and writes
each sample of a copied plane once, and those under a mask a second time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidrestore.errors import KernelError
from vidrestore.kernels.colour import legal_range, planes_from_rgb
from vidrestore.kernels.launch import (
    MAX_FOOTPRINT,
    as_affines,
    bands_of,
    check_planes,
    inlined_jit,
    jit,
    plane_from_luma,
    run_bands,
    run_tasks,
)
from vidrestore.kernels.taps import cubic_pair_at, cubic_weights, dot_block, tent_at, tent_weights
from vidrestore.types import PixelFormat, Plane

__all__ = ["composite"]


def composite(
    planes: Sequence[Plane],
    pixel_format: PixelFormat,
    deltas: NDArray[np.float32],
    masks: NDArray[np.float32],
    crop_from_frame: ArrayLike,
    strength: ArrayLike,
) -> tuple[Plane, ...]:
    """Adds the masked differences of B crops to one frame.

    Args:
        planes: (height, width) arrays as ``pixel_format`` names them, of any strides; never written.
        pixel_format: how to read them.
        deltas: (B, 3, S, S) R'G'B' restored - degraded in the frame's own signal, in [-2, 2]
            (:func:`vidrestore.kernels.colour.signal_delta`).
        masks: (B, S, S), or (1, S, S) for all, in [0, 1].
        crop_from_frame: (B, 2, 3) maps from frame (luma) to crop pixels.
        strength: (B,) in [0, 1].

    Returns:
        The planes: new arrays where something may have changed, else the very ones that came in; alpha always.

    Raises:
        KernelError: shapes that do not agree, values that are not finite, a strength or mask outside [0, 1], a
            singular map.
    """
    check_planes(planes, pixel_format)
    maps = as_affines(crop_from_frame)
    deltas, masks, strengths = _check_faces(deltas, masks, strength, len(maps))
    faces = [
        _Face(delta, mask, support, crop_from_frame=m, strength=float(s))
        for delta, mask, support, m, s in zip(deltas, *_supports(masks, len(maps)), maps, strengths, strict=True)
        if s > 0.0 and support is not None
    ]
    # the largest in the frame, that is the one with the fewest crop pixels per frame pixel, is painted last
    faces.sort(key=lambda face: -abs(float(np.linalg.det(face.crop_from_frame[:, :2]))))
    groups = [(0,)] if pixel_format.colour == "gray" else [(0,), (1, 2)]
    reached = [
        [_reach(face, plane_from_luma(pixel_format, g[0]), planes[g[0]].shape) for g in groups] for face in faces
    ]
    values, windows = _pack(faces, reached, np.ascontiguousarray(planes_from_rgb(pixel_format)[0], np.float32))
    out = list(planes)
    tasks: list[Callable[[], object]] = []
    for index, group in enumerate(groups):
        layers = [
            _geometry(face, of_groups[index], window, group)
            for face, of_groups, window in zip(faces, reached, windows, strict=True)
        ]
        tasks += _group_tasks(out, group, pixel_format, values, [layer for layer in layers if layer is not None])
    run_tasks(tasks)
    return tuple(out)


@dataclass(frozen=True, slots=True)
class _Face:
    delta: NDArray[np.float32]
    mask: NDArray[np.float32]
    support: tuple[int, int, int, int]
    """u0, v0, u1, v1 (inclusive): the smallest box around the mask's positive values."""
    crop_from_frame: NDArray[np.float64]
    strength: float


def _check_faces(
    deltas: NDArray[np.float32], masks: NDArray[np.float32], strength: ArrayLike, num_faces: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    deltas = np.ascontiguousarray(deltas, np.float32)
    masks = np.ascontiguousarray(masks, np.float32)
    strengths = np.asarray(strength, np.float32)
    size = deltas.shape[-1]
    if deltas.shape != (num_faces, 3, size, size):
        raise KernelError(f"deltas must be ({num_faces}, 3, S, S) as there are {num_faces} maps, got {deltas.shape}")
    if masks.ndim != 3 or len(masks) not in (1, num_faces) or (num_faces and masks.shape[1:] != (size, size)):
        raise KernelError(f"masks must be ({num_faces} or 1, {size}, {size}), got {masks.shape}")
    if strengths.shape != (num_faces,):
        raise KernelError(f"strength must be ({num_faces},), got {strengths.shape}")
    if not ((strengths >= 0.0) & (strengths <= 1.0)).all():  # written so that NaN fails
        raise KernelError(f"strength must lie in [0, 1], got {strengths}")
    return deltas, masks, strengths


def _supports(
    masks: NDArray[np.float32], num_faces: int
) -> tuple[list[NDArray[np.float32]], list[tuple[int, int, int, int] | None]]:
    """Masks and their supports, one each per face; checks what the masks hold."""
    supports: list[tuple[int, int, int, int] | None] = []
    for mask in masks:
        u0, v0, u1, v1, lowest, highest = _survey(mask)
        if mask.size and not (lowest >= 0.0 and highest <= 1.0):
            raise KernelError(f"masks must lie in [0, 1], got {lowest} to {highest}")
        supports.append((u0, v0, u1, v1) if u1 >= u0 else None)
    repeat = num_faces if len(masks) == 1 else 1
    return list(masks) * repeat, supports * repeat


@jit
def _survey(mask: NDArray[np.float32]) -> tuple[int, int, int, int, float, float]:
    """The box around what is not 0 (u0, v0, u1, v1 inclusive; u1 < u0 where all is), the lowest and highest value.

    NaN anywhere gives NaN for both.
    """
    height, width = mask.shape
    # column by column, not value by value into one number, which would forbid vector instructions
    lowest, highest = np.full(width, np.float32(np.inf)), np.full(width, np.float32(-np.inf))
    poison = np.zeros(width, np.float32)
    for v in range(height):
        row = mask[v]
        for u in range(width):
            value = row[u]
            lowest[u] = value if value < lowest[u] else lowest[u]
            highest[u] = value if value > highest[u] else highest[u]
            poison[u] += np.float32(0.0) * value
    u0, v0, u1, v1 = width, height, -1, -1
    least, most, worst = np.float32(np.inf), np.float32(-np.inf), np.float32(0.0)
    for u in range(width):
        least, most, worst = min(least, lowest[u]), max(most, highest[u]), worst + poison[u]
        if lowest[u] != np.float32(0.0) or highest[u] != np.float32(0.0):
            u0, u1 = min(u0, u), u
    for v in range(height if u1 >= 0 else 0):
        if mask[v].any():
            v0 = v
            break
    for v in range(height - 1, v0 - 1, -1):
        if mask[v].any():
            v1 = v
            break
    return u0, v0, u1, v1, float(least + worst), float(most + worst)


# a face's row of numbers for the kernel; one array for all faces is what a GPU launch takes
_A, _B, _C, _D, _E, _F, _SCALE_U, _SCALE_V, _LOW_U, _HIGH_U, _LOW_V, _HIGH_V, _STRENGTH = range(13)
_OFFSET, _STRIDE, _LAYER = 13, 14, 15


@dataclass(frozen=True, slots=True)
class _Reach:
    """Where a face meets planes of one geometry."""

    crop_from_plane: tuple[float, ...]
    """u = m[0] x + m[1] y + m[2], v = m[3] x + m[4] y + m[5]."""
    scale: tuple[float, float]
    """Footprint of a sample in crop pixels along u and v, from 1 to ``MAX_FOOTPRINT``."""
    low: tuple[float, float]
    high: tuple[float, float]
    """(u, v) of the box outside of which the mask is 0."""
    rows: tuple[int, int] | None
    """First and last row of the plane that the box covers; None where it lies outside."""


def _reach(face: _Face, to_plane: tuple[float, float, float, float], shape: tuple[int, ...]) -> _Reach:
    # plain floats: arrays of two cost more here than some kernels do
    scale_x, scale_y, offset_x, offset_y = to_plane
    (a, b, e), (c, d, f) = face.crop_from_frame.tolist()
    a, b, c, d = a / scale_x, b / scale_y, c / scale_x, d / scale_y
    m = a, b, e - a * offset_x - b * offset_y, c, d, f - c * offset_x - d * offset_y
    scale_u, scale_v = (min(max(math.hypot(*row), 1.0), MAX_FOOTPRINT) for row in ((a, b), (c, d)))
    u0, v0, u1, v1 = face.support
    low, high = (u0 - scale_u, v0 - scale_v), (u1 + scale_u, v1 + scale_v)
    return _Reach(m, (scale_u, scale_v), low, high, _rows_of(m, low, high, shape))


@dataclass(frozen=True, slots=True)
class _Window:
    """Where a face's values lie in memory."""

    offset: int
    begin: tuple[int, int]
    """Crop pixel (u, v) of the first value."""
    size: tuple[int, int]
    """Height and width."""
    changes: NDArray[np.bool_]
    """(planes,) whether any difference is not 0."""


def _pack(
    faces: Sequence[_Face], reached: Sequence[Sequence[_Reach]], matrix: NDArray[np.float32]
) -> tuple[NDArray[np.float32], list[_Window | None]]:
    """Masks and differences as the kernel wants them.

    Returns:
        For each face its mask and, plane by plane, its difference in code values around the mask's support, with a rim
        of zeros as wide as the filter reaches, all of them flat; and where each lies, None where it reaches no plane.
    """
    places: list[tuple[int, tuple[int, int], tuple[int, int]] | None] = []
    total = 0
    for face, of_groups in zip(faces, reached, strict=True):
        if all(reach.rows is None for reach in of_groups):
            places.append(None)
            continue
        rim = [math.ceil(2.0 * max(reach.scale[axis] for reach in of_groups)) for axis in (0, 1)]
        u0, v0, u1, v1 = face.support
        begin = u0 - 2 * rim[0] - 2, v0 - 2 * rim[1] - 2
        # spare columns: the kernel takes taps in fours (rows in pairs), the last of which may have no weight
        size = v1 + 2 * rim[1] + 3 - begin[1], u1 + 2 * rim[0] + 7 - begin[0]
        places.append((total, begin, size))
        total += (1 + len(matrix)) * size[0] * size[1]
    values = np.empty(total, np.float32)
    windows: list[_Window | None] = []
    for face, place in zip(faces, places, strict=True):
        if place is None:
            windows.append(None)
            continue
        offset, begin, (height, width) = place
        block = values[offset : offset + (1 + len(matrix)) * height * width].reshape(-1, height, width)
        states = np.zeros((height, 1 + len(matrix)), np.bool_)
        run_bands(partial(_pack_band, face.delta, face.mask, matrix, *begin, block, states), 0, height, min_rows=64)
        if states[:, 0].any():
            raise KernelError("deltas hold values that are not finite")
        windows.append(_Window(offset, begin, (height, width), np.asarray(states[:, 1:].any(0))))
    return values, windows


def _geometry(
    face: _Face, reach: _Reach, window: _Window | None, group: tuple[int, ...]
) -> tuple[NDArray[np.float64], tuple[int, int]] | None:
    """The numbers named above, and the rows that the face can touch; None where it changes nothing of these planes."""
    if window is None or reach.rows is None or not window.changes[list(group)].any():
        return None
    (a, b, e, c, d, f), begin = reach.crop_from_plane, window.begin
    (low_u, low_v), (high_u, high_v) = reach.low, reach.high
    geometry = np.empty(16)
    geometry[[_A, _B, _C, _D, _E, _F]] = a, b, e - begin[0], c, d, f - begin[1]
    geometry[[_SCALE_U, _SCALE_V]] = reach.scale
    geometry[[_LOW_U, _HIGH_U]] = low_u - begin[0], high_u - begin[0]
    geometry[[_LOW_V, _HIGH_V]] = low_v - begin[1], high_v - begin[1]
    geometry[[_STRENGTH, _OFFSET]] = face.strength, window.offset
    geometry[[_STRIDE, _LAYER]] = window.size[1], window.size[0] * window.size[1]
    return geometry, reach.rows


def _group_tasks(
    out: list[Plane],
    group: tuple[int, ...],
    pixel_format: PixelFormat,
    values: NDArray[np.float32],
    layers: Sequence[tuple[NDArray[np.float64], tuple[int, int]]],
) -> list[Callable[[], object]]:
    """Replaces planes of one geometry (luma; both chroma; G; B and R) by new ones, and says how to fill these in."""
    if not layers:
        return []
    geometry = np.stack([numbers for numbers, _ in layers])
    first_row = min(rows[0] for _, rows in layers)
    last_row = max(rows[1] for _, rows in layers)
    sources = [out[p] for p in group]
    made = [np.empty(source.shape, source.dtype) for source in sources]
    for p, plane in zip(group, made, strict=True):
        out[p] = plane
    lowest, highest = legal_range(pixel_format, group[0])

    def copy(start: int, stop: int) -> None:
        for source, plane in zip(sources, made, strict=True):
            np.copyto(plane[start:stop], source[start:stop])

    def fill(start: int, stop: int) -> None:
        copy(start, stop)
        _composite_band(made[0], made[-1], len(group), group[0], values, geometry, lowest, highest, start, stop)

    return [
        *(partial(fill, *band) for band in bands_of(first_row, last_row + 1, min_rows=8)),
        *(partial(copy, *band) for band in ((0, first_row), (last_row + 1, len(made[0]))) if band[0] < band[1]),
    ]


def _rows_of(
    crop_from_plane: tuple[float, ...], low: tuple[float, float], high: tuple[float, float], shape: tuple[int, ...]
) -> tuple[int, int] | None:
    """First and last row of the plane that a box of the crop covers, None if it lies outside."""
    a, b, e, c, d, f = crop_from_plane
    determinant = a * d - b * c
    corners = [(u - e, v - f) for u in (low[0], high[0]) for v in (low[1], high[1])]
    columns = [(d * u - b * v) / determinant for u, v in corners]
    rows = [(a * v - c * u) / determinant for u, v in corners]
    if max(columns) < 0.0 or max(rows) < 0.0 or min(columns) > shape[1] - 1 or min(rows) > shape[0] - 1:
        return None
    return math.floor(max(min(rows), 0.0)), math.ceil(min(max(rows), shape[0] - 1.0))


@jit
def _pack_band(
    delta: NDArray[np.float32],
    mask: NDArray[np.float32],
    matrix: NDArray[np.float32],
    begin_u: int,
    begin_v: int,
    values: NDArray[np.float32],
    states: NDArray[np.bool_],
    start: int,
    stop: int,
) -> None:
    """values[0] = mask, values[1:] = matrix @ delta, shifted by begin and 0 outside the crop.

    states[start, 0] tells whether a difference is not finite, states[start, 1 + c] whether any of plane c is not 0.
    """
    size, width = mask.shape[0], values.shape[2]
    first, last = max(0, -begin_u), min(width, size - begin_u)
    peaks, poison = np.zeros((matrix.shape[0], width), np.float32), np.zeros(width, np.float32)
    for row in range(start, stop):
        v = row + begin_v
        if v < 0 or v >= size:
            values[:, row] = np.float32(0.0)
            continue
        values[:, row, :first] = np.float32(0.0)
        values[:, row, last:] = np.float32(0.0)
        for column in range(first, last):
            values[0, row, column] = mask[v, column + begin_u]
        red, green, blue = delta[0, v], delta[1, v], delta[2, v]
        for c in range(matrix.shape[0]):
            of_red, of_green, of_blue = matrix[c, 0], matrix[c, 1], matrix[c, 2]
            target, peak = values[c + 1, row], peaks[c]
            for column in range(first, last):
                u = column + begin_u
                target[column] = of_red * red[u] + of_green * green[u] + of_blue * blue[u]
            # loops of their own: with more arrays than these in one, the compiler gives up on vectors
            for column in range(first, last):
                value = abs(target[column])
                peak[column] = value if value > peak[column] else peak[column]
            for column in range(first, last):
                poison[column] += np.float32(0.0) * target[column]  # NaN if any value is NaN or infinite
    states[start, 0] = (poison != np.float32(0.0)).any()
    for c in range(matrix.shape[0]):
        states[start, 1 + c] = peaks[c].any()


@jit
def _column_span(slope: float, place: float, low: float, high: float, first: float, last: float) -> tuple[float, float]:
    """The part of first..last where low <= slope * x + place <= high; first > last where there is none."""
    if abs(slope) < 1e-12:
        return (first, last) if low <= place <= high else (1.0, 0.0)
    a, b = (low - place) / slope, (high - place) / slope
    return max(first, min(a, b)), min(last, max(a, b))


@jit
def _write_row(row: Plane, change: NDArray[np.float32], lowest: int, highest: int) -> None:
    for x in range(row.size):
        source = np.float32(row[x])  # 16 bits are exact in float32, so no change is exactly no change
        value = np.floor(source + change[x] + np.float32(0.5))
        value = max(value, min(np.float32(lowest), source))
        row[x] = np.int32(min(value, max(np.float32(highest), source)))


@jit
def _enlarge_row(
    packed: NDArray[np.float32],
    g: NDArray[np.float64],
    place_u: float,
    place_v: float,
    first_plane: int,
    num_planes: int,
    begin: int,
    end: int,
    change: NDArray[np.float32],
) -> None:
    """One face laid over begin..end of a row where no crop pixel is skipped: 16 taps of the cubic, 4 of the tent."""
    stride, layer, offset = int(g[_STRIDE]), int(g[_LAYER]), int(g[_OFFSET])
    strength = np.float32(g[_STRENGTH])
    slope_u, slope_v = g[_A], g[_D]
    first_layer = layer * (first_plane + 1)
    for start in range(begin, end, 2):
        # two samples at a time; where the span ends with one, the second is the first again and is not written
        other = min(start + 1, end - 1)
        # counted from the window's corner, so that all are positive and cutting off is rounding down
        u, v = slope_u * start + place_u, slope_v * start + place_v
        left, top = np.int64(u), np.int64(v)
        rest_u, rest_v = np.float32(u - left), np.float32(v - top)
        at = offset + top * stride + left
        alpha = strength * min(tent_at(packed, at, stride, rest_u, rest_v), np.float32(1.0))
        u, v = slope_u * other + place_u, slope_v * other + place_v
        left, top = np.int64(u), np.int64(v)
        other_u, other_v = np.float32(u - left), np.float32(v - top)
        beside = offset + top * stride + left
        other_alpha = strength * min(tent_at(packed, beside, stride, other_u, other_v), np.float32(1.0))
        if alpha == np.float32(0.0) and other_alpha == np.float32(0.0):
            continue
        at += first_layer - stride - 1
        beside += first_layer - stride - 1
        for p in range(num_planes):
            value, other_value = cubic_pair_at(packed, at, beside, stride, rest_u, rest_v, other_u, other_v)
            row = change[p]
            if other > start:
                row[other] = (np.float32(1.0) - other_alpha) * row[other] + other_alpha * other_value
            row[start] = (np.float32(1.0) - alpha) * row[start] + alpha * value
            at += layer
            beside += layer


@inlined_jit
def _shrink_span(
    packed: NDArray[np.float32],
    g: NDArray[np.float64],
    place_u: float,
    place_v: float,
    first_plane: int,
    num_planes: int,
    begin: int,
    end: int,
    change: NDArray[np.float32],
    wide: NDArray[np.float32],
    tall: NDArray[np.float32],
    tent_columns: int,
    tent_rows: int,
    columns: int,
    rows: int,
) -> None:
    """One face laid over begin..end of a row where a sample covers more than a crop pixel: both filters are as wide as
    the sample's footprint. Columns are multiples of 4; taps that are not needed have no weight."""
    stride, layer, offset = int(g[_STRIDE]), int(g[_LAYER]), int(g[_OFFSET])
    strength, scale_u, scale_v = np.float32(g[_STRENGTH]), g[_SCALE_U], g[_SCALE_V]
    slope_u, slope_v = g[_A], g[_D]
    per_u, per_v = 1.0 / scale_u, 1.0 / scale_v
    step_u, step_v = np.float32(per_u), np.float32(per_v)
    tent_taps, taps = (tent_rows + 3) // 4 * 4, (rows + 3) // 4 * 4
    for x in range(begin, end):
        u, v = slope_u * x + place_u, slope_v * x + place_v
        left, top = np.int64(u - scale_u) + 1, np.int64(v - scale_v) + 1
        total = tent_weights(wide, tent_columns, np.float32((u - left) * per_u), step_u)
        total *= tent_weights(tall, tent_taps, np.float32((v - top) * per_v), step_v)
        alpha = dot_block(packed, offset + top * stride + left, stride, wide, tent_columns, tall, tent_rows)
        if alpha == np.float32(0.0):
            continue
        alpha = strength * min(alpha / total, np.float32(1.0))  # a rounded sum may pass 1
        left, top = np.int64(u - 2.0 * scale_u) + 1, np.int64(v - 2.0 * scale_v) + 1
        total = cubic_weights(wide, columns, np.float32((u - left) * per_u), step_u)
        total *= cubic_weights(tall, taps, np.float32((v - top) * per_v), step_v)
        share = alpha / total
        at = offset + layer * (first_plane + 1) + top * stride + left
        for p in range(num_planes):
            value = dot_block(packed, at + layer * p, stride, wide, columns, tall, rows)
            change[p, x] = (np.float32(1.0) - alpha) * change[p, x] + share * value


@jit
def _shrink_row(
    packed: NDArray[np.float32],
    g: NDArray[np.float64],
    place_u: float,
    place_v: float,
    first_plane: int,
    num_planes: int,
    begin: int,
    end: int,
    change: NDArray[np.float32],
    wide: NDArray[np.float32],
    tall: NDArray[np.float32],
) -> None:
    """The same, with the number of taps that the footprint asks for; known numbers for footprints a little above 1."""
    if g[_SCALE_U] <= 1.5 and g[_SCALE_V] <= 1.5:
        _shrink_span(packed, g, place_u, place_v, first_plane, num_planes, begin, end, change, wide, tall, 4, 3, 8, 6)
        return
    columns, rows = 4 * math.ceil(g[_SCALE_U]), math.ceil(4.0 * g[_SCALE_V])
    tent_columns, tent_rows = 4 * math.ceil(0.5 * g[_SCALE_U]), math.ceil(2.0 * g[_SCALE_V])
    _shrink_span(
        packed, g, place_u, place_v, first_plane, num_planes, begin, end, change, wide, tall,
        tent_columns, tent_rows, columns, rows,
    )  # fmt: skip


@jit
def _composite_band(
    first: Plane,
    second: Plane,
    num_planes: int,
    first_plane: int,
    packed: NDArray[np.float32],
    geometry: NDArray[np.float64],
    lowest: int,
    highest: int,
    start: int,
    stop: int,
) -> None:
    """Rows start..stop of one plane, or of two that share their places, under all faces."""
    width = first.shape[1]
    change = np.empty((2, width), np.float32)
    widest = 4 * math.ceil(MAX_FOOTPRINT)
    wide, tall = np.empty(widest, np.float32), np.empty(widest, np.float32)
    for y in range(start, stop):
        row_begin, row_end = width, 0
        for face in range(geometry.shape[0]):
            g = geometry[face]
            place_u, place_v = g[_B] * y + g[_C], g[_E] * y + g[_F]
            low, high = _column_span(g[_A], place_u, g[_LOW_U], g[_HIGH_U], 0.0, width - 1.0)
            low, high = _column_span(g[_D], place_v, g[_LOW_V], g[_HIGH_V], low, high)
            begin, end = math.ceil(low), math.floor(high) + 1
            if begin >= end:
                continue
            # what this row has not seen yet starts at 0, gaps between faces included
            if row_begin >= row_end:
                change[:, begin:end] = np.float32(0.0)
            else:
                change[:, begin : max(begin, row_begin)] = np.float32(0.0)
                change[:, min(end, row_end) : end] = np.float32(0.0)
            row_begin, row_end = min(begin, row_begin), max(end, row_end)
            if g[_SCALE_U] == 1.0 and g[_SCALE_V] == 1.0:
                _enlarge_row(packed, g, place_u, place_v, first_plane, num_planes, begin, end, change)
                continue
            _shrink_row(packed, g, place_u, place_v, first_plane, num_planes, begin, end, change, wide, tall)
        if row_begin < row_end:
            _write_row(first[y, row_begin:row_end], change[0, row_begin:row_end], lowest, highest)
            if num_planes == 2:
                _write_row(second[y, row_begin:row_end], change[1, row_begin:row_end], lowest, highest)
