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
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidrestore.errors import KernelError
from vidrestore.kernels.colour import legal_range, planes_from_rgb
from vidrestore.kernels.launch import (
    MAX_FOOTPRINT,
    as_affines,
    check_planes,
    dot_four_columns,
    invert,
    jit,
    plane_from_luma,
    run_bands,
)
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
    matrix = planes_from_rgb(pixel_format)[0].astype(np.float32)
    faces = [
        _Face(delta, mask, support, crop_from_frame=m, strength=float(s))
        for delta, mask, support, m, s in zip(deltas, *_supports(masks, len(maps)), maps, strengths, strict=True)
        if s > 0.0 and support is not None
    ]
    # the largest in the frame, that is the one with the fewest crop pixels per frame pixel, is painted last
    faces.sort(key=lambda face: -abs(float(np.linalg.det(face.crop_from_frame[:, :2]))))
    groups = [(0,)] if pixel_format.colour == "gray" else [(0,), (1, 2)]
    out = list(planes)
    for group in groups:
        _composite_group(out, group, pixel_format, faces, np.ascontiguousarray(matrix[list(group)]))
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
    if masks.size and not (masks.min() >= 0.0 and masks.max() <= 1.0):
        raise KernelError(f"masks must lie in [0, 1], got {masks.min()} to {masks.max()}")
    return deltas, masks, strengths


def _supports(
    masks: NDArray[np.float32], num_faces: int
) -> tuple[list[NDArray[np.float32]], list[tuple[int, int, int, int] | None]]:
    """Masks and their supports, one each per face."""
    supports: list[tuple[int, int, int, int] | None] = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])) if len(rows) else None
        supports.append(box)
    repeat = num_faces if len(masks) == 1 else 1
    return list(masks) * repeat, supports * repeat


def _composite_group(
    out: list[Plane],
    group: tuple[int, ...],
    pixel_format: PixelFormat,
    faces: Sequence[_Face],
    matrix: NDArray[np.float32],
) -> None:
    """Replaces planes of one geometry (luma; both chroma; G; B and R) that some face reaches."""
    shape = out[group[0]].shape
    prepared = [_prepare(face, plane_from_luma(pixel_format, group[0]), shape, matrix) for face in faces]
    layers = [layer for layer in prepared if layer is not None]
    if not layers:
        return
    packed = np.concatenate([values for values, _, _ in layers])
    sizes = [0, *np.cumsum([values.size for values, _, _ in layers])[:-1].tolist()]
    geometry = np.stack([row for _, row, _ in layers])
    geometry[:, _OFFSET] = sizes
    first_row = min(rows[0] for _, _, rows in layers)
    last_row = max(rows[1] for _, _, rows in layers)
    first: Plane = out[group[0]].copy(order="C")
    second: Plane = out[group[-1]].copy(order="C") if len(group) == 2 else first
    lowest, highest = legal_range(pixel_format, group[0])

    def kernel(start: int, stop: int) -> None:
        _composite_band(first, second, len(group), packed, geometry, lowest, highest, start, stop)

    run_bands(kernel, first_row, last_row + 1, min_rows=8)
    out[group[0]] = first
    out[group[-1]] = second


# a face's row of numbers for the kernel; one array for all faces is what a GPU launch takes
_A, _B, _C, _D, _E, _F, _SCALE_U, _SCALE_V, _LOW_U, _HIGH_U, _LOW_V, _HIGH_V, _STRENGTH = range(13)
_OFFSET, _STRIDE, _LAYER = 13, 14, 15


def _prepare(
    face: _Face,
    to_plane: tuple[float, float, float, float],
    shape: tuple[int, ...],
    matrix: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float64], tuple[int, int]] | None:
    """A face as the kernel wants it for planes of one geometry.

    Returns:
        Mask and deltas in code values around the mask's support, with a rim of zeros as wide as the filter reaches,
        flat; the numbers named above; first and last row of the plane that it can touch. None where it touches none.
    """
    scale_x, scale_y, offset_x, offset_y = to_plane
    m = face.crop_from_frame
    linear = m[:, :2] / (scale_x, scale_y)
    constant = m[:, 2] - linear @ (offset_x, offset_y)
    scale = np.clip(np.hypot(linear[:, 0], linear[:, 1]), 1.0, MAX_FOOTPRINT)
    reach = np.ceil(2.0 * scale).astype(int)
    u0, v0, u1, v1 = face.support
    low, high = np.array([u0, v0]) - scale, np.array([u1, v1]) + scale
    rows = _rows_of(np.column_stack([linear, constant]), low, high, shape)
    if rows is None:
        return None
    begin_u, begin_v = u0 - 2 * int(reach[0]) - 2, v0 - 2 * int(reach[1]) - 2
    # spare columns: the kernel takes taps in fours (rows in pairs), the last of which may have no weight
    width, height = u1 + 2 * int(reach[0]) + 7 - begin_u, v1 + 2 * int(reach[1]) + 3 - begin_v
    values = np.empty((1 + len(matrix), height, width), np.float32)
    broken = np.zeros(height, np.bool_)
    run_bands(
        lambda a, b: _prepare_band(face.delta, face.mask, matrix, begin_u, begin_v, values, broken, a, b), 0, height
    )
    if broken.any():
        raise KernelError("deltas hold values that are not finite")
    if not values[1:].any():
        return None
    geometry = np.zeros(16)
    geometry[[_A, _B, _C]] = linear[0, 0], linear[0, 1], constant[0] - begin_u
    geometry[[_D, _E, _F]] = linear[1, 0], linear[1, 1], constant[1] - begin_v
    geometry[[_SCALE_U, _SCALE_V]] = scale
    geometry[[_LOW_U, _HIGH_U]] = low[0] - begin_u, high[0] - begin_u
    geometry[[_LOW_V, _HIGH_V]] = low[1] - begin_v, high[1] - begin_v
    geometry[[_STRENGTH, _STRIDE, _LAYER]] = face.strength, width, width * height
    return values.ravel(), geometry, rows


def _rows_of(
    crop_from_plane: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[int, int] | None:
    """First and last row of the plane that a box of the crop covers, None if it lies outside."""
    plane_from_crop = invert(crop_from_plane)
    corners = np.array([[u, v, 1.0] for u in (low[0], high[0]) for v in (low[1], high[1])]) @ plane_from_crop.T
    (x0, y0), (x1, y1) = corners.min(0), corners.max(0)
    if x1 < 0.0 or y1 < 0.0 or x0 > shape[1] - 1 or y0 > shape[0] - 1:
        return None
    return math.floor(max(y0, 0.0)), math.ceil(min(y1, shape[0] - 1.0))


@jit
def _prepare_band(
    delta: NDArray[np.float32],
    mask: NDArray[np.float32],
    matrix: NDArray[np.float32],
    begin_u: int,
    begin_v: int,
    values: NDArray[np.float32],
    broken: NDArray[np.bool_],
    start: int,
    stop: int,
) -> None:
    """values[0] = mask, values[1:] = matrix @ delta, shifted by begin and 0 outside the crop."""
    size = mask.shape[0]
    first, last = max(0, -begin_u), min(values.shape[2], size - begin_u)
    for row in range(start, stop):
        v = row + begin_v
        for c in range(values.shape[0]):
            for column in range(values.shape[2]):
                values[c, row, column] = np.float32(0.0)
        if v < 0 or v >= size:
            continue
        for column in range(first, last):
            values[0, row, column] = mask[v, column + begin_u]
        worst = np.float32(0.0)
        for c in range(matrix.shape[0]):
            for column in range(first, last):
                u = column + begin_u
                value = matrix[c, 0] * delta[0, v, u] + matrix[c, 1] * delta[1, v, u] + matrix[c, 2] * delta[2, v, u]
                values[c + 1, row, column] = value
                worst += np.float32(0.0) * value  # NaN if any value is NaN or infinite
        broken[row] = worst != np.float32(0.0)


@jit
def _column_span(slope: float, place: float, low: float, high: float, first: float, last: float) -> tuple[float, float]:
    """The part of first..last where low <= slope * x + place <= high; first > last where there is none."""
    if abs(slope) < 1e-12:
        return (first, last) if low <= place <= high else (1.0, 0.0)
    a, b = (low - place) / slope, (high - place) / slope
    return max(first, min(a, b)), min(last, max(a, b))


@jit
def _row_taps(
    slope: float, place: float, scale: float, begin: int, firsts: NDArray[np.int64], weights: NDArray[np.float32]
) -> None:
    """Taps of one axis for samples at ``slope * x + place``, x from ``begin``; see the function in sample.py."""
    size = firsts.size
    num_taps = weights.shape[0] - 2
    distance, norm = weights[num_taps], weights[num_taps + 1]
    step = np.float32(1.0 / scale)
    for x in range(size):
        u = slope * (x + begin) + place
        first = math.floor(u - 2.0 * scale) + 1
        firsts[x] = first
        distance[x] = np.float32((u - first) / scale)
        norm[x] = np.float32(0.0)
    for k in range(num_taps):
        row = weights[k]
        back = np.float32(k) * step
        for x in range(size):
            d = abs(distance[x] - back)
            inner = (np.float32(1.5) * d - np.float32(2.5)) * d * d + np.float32(1.0)
            outer = ((np.float32(-0.5) * d + np.float32(2.5)) * d - np.float32(4.0)) * d + np.float32(2.0)
            value = inner if d < np.float32(1.0) else outer
            value = value if d < np.float32(2.0) else np.float32(0.0)
            row[x] = value
            norm[x] += value
    for x in range(size):
        norm[x] = np.float32(1.0) / norm[x]


@jit
def _tent_taps(
    slope: float, place: float, scale: float, begin: int, firsts: NDArray[np.int64], weights: NDArray[np.float32]
) -> None:
    """The same for the tent of half-width ``scale``."""
    size = firsts.size
    num_taps = weights.shape[0] - 2
    distance, norm = weights[num_taps], weights[num_taps + 1]
    step = np.float32(1.0 / scale)
    for x in range(size):
        u = slope * (x + begin) + place
        first = math.floor(u - scale) + 1
        firsts[x] = first
        distance[x] = np.float32((u - first) / scale)
        norm[x] = np.float32(0.0)
    for k in range(num_taps):
        row = weights[k]
        back = np.float32(k) * step
        for x in range(size):
            value = max(np.float32(1.0) - abs(distance[x] - back), np.float32(0.0))
            row[x] = value
            norm[x] += value
    for x in range(size):
        norm[x] = np.float32(1.0) / norm[x]


@jit
def _filter_row(
    flat: NDArray[np.float32],
    stride: int,
    first_u: NDArray[np.int64],
    first_v: NDArray[np.int64],
    weights_u: NDArray[np.float32],
    weights_v: NDArray[np.float32],
    alpha: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Where alpha is not 0: out[x] = Σ weights_v[j, x] weights_u[i, x] flat[(first_v + j) stride + first_u + i].

    Elsewhere ``out`` has no meaning. See sample.py.
    """
    num_taps, last = weights_v.shape[0] - 2, weights_u.shape[0] - 1
    row = weights_u.shape[1]
    # numbers of taps that are known when this is compiled are unrolled: footprints up to 1, and up to 1.5
    if num_taps == 2 and last == 5:
        for x in range(first_u.size):
            if alpha[x] != np.float32(0.0):
                first = first_v[x] * stride + first_u[x]
                out[x] = dot_four_columns(flat, first, stride, weights_v, weights_u, row, 0, x, 2)
    elif num_taps == 4 and last == 5:
        for x in range(first_u.size):
            if alpha[x] != np.float32(0.0):
                first = first_v[x] * stride + first_u[x]
                out[x] = dot_four_columns(flat, first, stride, weights_v, weights_u, row, 0, x, 4)
    elif num_taps == 6 and last == 9:
        for x in range(first_u.size):
            if alpha[x] != np.float32(0.0):
                first = first_v[x] * stride + first_u[x]
                out[x] = dot_four_columns(flat, first, stride, weights_v, weights_u, row, 0, x, 6)
                out[x] += dot_four_columns(flat, first + 4, stride, weights_v, weights_u, row, 4, x, 6)
    else:
        for x in range(first_u.size):
            if alpha[x] != np.float32(0.0):
                first = first_v[x] * stride + first_u[x]
                value = np.float32(0.0)
                for i in range(0, last - 1, 4):
                    value += dot_four_columns(flat, first + i, stride, weights_v, weights_u, row, i, x, num_taps)
                out[x] = value
    for x in range(first_u.size):
        out[x] *= weights_u[last, x] * weights_v[num_taps + 1, x]


@jit
def _write_row(row: Plane, change: NDArray[np.float32], lowest: int, highest: int) -> None:
    for x in range(row.size):
        source = np.float32(row[x])  # 16 bits are exact in float32, so no change is exactly no change
        value = np.floor(source + change[x] + np.float32(0.5))
        value = max(value, min(np.float32(lowest), source))
        row[x] = np.int32(min(value, max(np.float32(highest), source)))


@jit
def _composite_band(
    first: Plane,
    second: Plane,
    num_planes: int,
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
    alpha, value = np.empty(width, np.float32), np.empty(width, np.float32)
    all_u, all_v = np.empty(width, np.int64), np.empty(width, np.int64)
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
            count = end - begin
            # what this row has not seen yet starts at 0, gaps between faces included
            if row_begin >= row_end:
                change[:, begin:end] = np.float32(0.0)
            else:
                change[:, begin : max(begin, row_begin)] = np.float32(0.0)
                change[:, min(end, row_end) : end] = np.float32(0.0)
            row_begin, row_end = min(begin, row_begin), max(end, row_end)
            first_u, first_v = all_u[:count], all_v[:count]
            stride, layer, offset = int(g[_STRIDE]), int(g[_LAYER]), int(g[_OFFSET])
            weights_u = np.empty((4 * math.ceil(0.5 * g[_SCALE_U]) + 2, count), np.float32)
            weights_v = np.empty((2 * math.ceil(g[_SCALE_V]) + 2, count), np.float32)
            _tent_taps(g[_A], place_u, g[_SCALE_U], begin, first_u, weights_u)
            _tent_taps(g[_D], place_v, g[_SCALE_V], begin, first_v, weights_v)
            alpha[:count] = np.float32(1.0)
            _filter_row(packed[offset:], stride, first_u, first_v, weights_u, weights_v, alpha, value)
            for x in range(count):
                alpha[x] = np.float32(g[_STRENGTH]) * min(value[x], np.float32(1.0))  # a rounded sum may pass 1
            # the corners of the span are mostly without mask
            skip = 0
            while skip < count and alpha[skip] == np.float32(0.0):
                skip += 1
            while count > skip and alpha[count - 1] == np.float32(0.0):
                count -= 1
            begin, count = begin + skip, count - skip
            shown = alpha[skip : skip + count]
            first_u, first_v = all_u[:count], all_v[:count]
            weights_u = np.empty((4 * math.ceil(g[_SCALE_U]) + 2, count), np.float32)
            weights_v = np.empty((2 * math.ceil(2.0 * g[_SCALE_V]) + 2, count), np.float32)
            _row_taps(g[_A], place_u, g[_SCALE_U], begin, first_u, weights_u)
            _row_taps(g[_D], place_v, g[_SCALE_V], begin, first_v, weights_v)
            for p in range(num_planes):
                start_of = offset + layer * (p + 1)
                _filter_row(packed[start_of:], stride, first_u, first_v, weights_u, weights_v, shown, value)
                for x in range(count):
                    at = begin + x
                    top = shown[x] * value[x] if shown[x] != np.float32(0.0) else np.float32(0.0)
                    change[p, at] = (np.float32(1.0) - shown[x]) * change[p, at] + top
        if row_begin < row_end:
            _write_row(first[y, row_begin:row_end], change[0, row_begin:row_end], lowest, highest)
            if num_planes == 2:
                _write_row(second[y, row_begin:row_end], change[1, row_begin:row_end], lowest, highest)
