"""Crops cut out of video planes: ``sample_crops``.

Formula, for crop pixel (u, v), plane p and p_from_crop = p_from_luma @ frame_from_crop:

    (x, y) = p_from_crop (u, v)
    value  = Σ_ij h((i - x) / s_x) h((j - y) / s_y) plane[clamp j, clamp i] / Σ_ij h(...) h(...)
    s_x    = max(1, |row 0 of p_from_crop's linear part|),  s_y likewise with row 1
    where s_x >= 4 (or s_y), plane is replaced by its means over blocks of k_x (k_y) samples, x by (x - (k_x - 1) / 2)
    / k_x and s_x by s_x / k_x, with k_x the power of two that brings s_x into [2, 4)
    rgb    = clip(matrix @ values + offset, -1, 1)

h is the Catmull-Rom cubic (Keys 1981, a = -1/2). |row| is the exact half-extent, along that axis of the plane, of the
ellipse that a crop pixel covers. So there is one rule at every scale: where crop pixels are finer than the plane's it
is plain Catmull-Rom interpolation, where they are coarser the same kernel widens with the footprint (the "antialiased
bicubic" of Pillow), without a jump at scale 1, separately per axis (pixels that are not square) and per plane
(chroma). Against a tent it keeps fine detail, which the network then need not invent.

The means make the cost of a crop pixel independent of the face's size: at most 256 taps, where a footprint of 8 had
1024. Blocks lie on the plane's own grid, so they do not crawl with a moving crop. A box before the cubic lets through a
little more of what aliases: against the wide kernel itself the PSNR is 47 dB and more on a picture with a natural
spectrum (46 is tested).

Borders repeat the edge sample, also far outside. Colours beyond [-1, 1] (super-white, overshoot) are clipped, and the
clipped picture is what the delta is taken against: a network that leaves a clipped highlight at 1 leaves it alone.

Reads 16 to 256 samples per output and plane, all but the first touch from the cache, and each sample under the crop
once for the means; writes 12 bytes per pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidrestore.errors import KernelError
from vidrestore.kernels.colour import is_hdr, rgb_from_planes, tone_map
from vidrestore.kernels.launch import (
    MAX_FOOTPRINT,
    as_affines,
    block_length,
    check_planes,
    dot_four_columns,
    invert,
    jit,
    plane_from_luma,
    run_bands,
)
from vidrestore.types import PixelFormat, Plane

__all__ = ["sample_crops"]


def sample_crops(
    planes: Sequence[Plane], pixel_format: PixelFormat, crop_from_frame: ArrayLike, size: int
) -> NDArray[np.float32]:
    """Cuts B square crops out of one frame, as the network wants them.

    Args:
        planes: (height, width) arrays as ``pixel_format`` names them, of any strides; an alpha plane is not read.
        pixel_format: how to read them; PQ and HLG are tone-mapped (:func:`vidrestore.kernels.colour.tone_map`).
        crop_from_frame: (B, 2, 3) maps from frame (luma) to crop pixels, centres at whole numbers; B may be 0.
        size: S, pixels of a crop's side, at least 1.

    Returns:
        (B, 3, S, S) float32, R'G'B' in [-1, 1].

    Raises:
        KernelError: planes that do not fit the format, a wrong shape, a singular or non-finite map.
    """
    check_planes(planes, pixel_format)
    maps = as_affines(crop_from_frame)
    if size < 1:
        raise KernelError(f"size must be at least 1, got {size}")
    matrix, offset = (part.astype(np.float32) for part in rgb_from_planes(pixel_format))
    out = np.empty((len(maps), 3, size, size), np.float32)
    for crop, image in zip(maps, out, strict=True):
        _sample_crop(planes, pixel_format, invert(crop), np.ascontiguousarray(matrix), offset, image)
    return tone_map(out, pixel_format) if is_hdr(pixel_format) else out


def _sample_crop(
    planes: Sequence[Plane],
    pixel_format: PixelFormat,
    frame_from_crop: NDArray[np.float64],
    matrix: NDArray[np.float32],
    offset: NDArray[np.float32],
    image: NDArray[np.float32],
) -> None:
    size = image.shape[1]
    first, luma, luma_stride = _gather(planes[0], _to_plane(pixel_format, 0, frame_from_crop), size)
    second = third = first
    chroma, chroma_stride = luma, luma_stride
    if pixel_format.colour != "gray":
        chroma_from_crop = _to_plane(pixel_format, 1, frame_from_crop)
        second, chroma, chroma_stride = _gather(planes[1], chroma_from_crop, size)
        third, _, _ = _gather(planes[2], chroma_from_crop, size)

    def kernel(start: int, stop: int) -> None:
        _sample_band(first, second, third, luma, luma_stride, chroma, chroma_stride, matrix, offset, image, start, stop)

    run_bands(kernel, 0, size)


def _to_plane(pixel_format: PixelFormat, plane_index: int, frame_from_crop: NDArray[np.float64]) -> NDArray[np.float64]:
    scale_x, scale_y, offset_x, offset_y = plane_from_luma(pixel_format, plane_index)
    offset = np.array([[0.0, 0.0, offset_x], [0.0, 0.0, offset_y]])
    plane_from_crop: NDArray[np.float64] = frame_from_crop * np.array([[scale_x], [scale_y]]) + offset
    return plane_from_crop


def _gather(
    plane: Plane, plane_from_crop: NDArray[np.float64], size: int
) -> tuple[NDArray[np.float32], NDArray[np.float64], int]:
    """The samples that a crop needs as float32 with repeated borders, and where the crop lies in them.

    The kernel is then free of types, strides and clamps.

    Returns:
        The copy, flat; (2, 6): per axis the row of the map from crop to copy, lowest and highest place that differ from
        the ones beyond (all taps are the edge's there), and the filter's scale; the samples in a row of the copy.
    """
    geometry = np.empty((2, 6))
    spans, blocks = [], []
    for axis, length in ((0, plane.shape[1]), (1, plane.shape[0])):
        a, b, c = plane_from_crop[axis]
        scale = min(max(1.0, math.hypot(a, b)), MAX_FOOTPRINT)
        block = block_length(scale)
        if block > 1:  # from here on in blocks; -1 and the one after the last are pure border
            a, b, c, scale = a / block, b / block, (c - (block - 1) / 2) / block, scale / block
            length = -(-length // block)
        reach = math.ceil(2.0 * scale)
        low, high = -float(reach + 1), float(length + reach)
        ends = [c + i * a + j * b for i in (0, size - 1) for j in (0, size - 1)]
        begin = math.floor(min(max(min(ends), low), high)) - reach
        end = math.floor(min(max(max(ends), low), high)) + reach + 3
        geometry[axis] = a, b, c - begin, low - begin, high - begin, scale
        spans.append((begin, end, length))
        blocks.append(block)
    (x0, x1, _), (y0, y1, _) = spans
    # spare columns: the kernel takes taps in fours (rows in pairs), the last of which may have no weight
    copy = np.empty((y1 - y0, x1 - x0 + 4), np.float32)
    if blocks == [1, 1]:
        _copy_region(plane, x0, y0, copy)
    else:
        run_bands(lambda top, bottom: _mean_band(plane, blocks[0], blocks[1], x0, y0, copy, top, bottom), 0, y1 - y0)
    return copy.ravel(), geometry, copy.shape[1]


def _copy_region(plane: Plane, x0: int, y0: int, copy: NDArray[np.float32]) -> None:
    """copy[j, i] = plane[y0 + j, x0 + i], borders repeated."""
    height, width = plane.shape
    x1, y1 = x0 + copy.shape[1], y0 + copy.shape[0]
    left, right = min(max(x0, 0), width - 1), min(max(x1, 1), width)
    top, bottom = min(max(y0, 0), height - 1), min(max(y1, 1), height)
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:  # the rare copy that lies wholly beyond an edge
        y = np.clip(np.arange(y0, y1), 0, height - 1)
        x = np.clip(np.arange(x0, x1), 0, width - 1)
        copy[...] = plane[y[:, None], x]
        return
    rows, columns = slice(top - y0, bottom - y0), slice(left - x0, right - x0)
    copy[rows, columns] = plane[top:bottom, left:right]
    copy[rows, : columns.start] = copy[rows, columns.start, None]
    copy[rows, columns.stop :] = copy[rows, columns.stop - 1, None]
    copy[: rows.start] = copy[rows.start]
    copy[rows.stop :] = copy[rows.stop - 1]


@jit
def _mean_band(
    plane: Plane,
    block_x: int,
    block_y: int,
    begin_x: int,
    begin_y: int,
    means: NDArray[np.float32],
    start: int,
    stop: int,
) -> None:
    """Rows start..stop of ``means``: [0, 0] is the block (begin_y, begin_x) of the plane with repeated borders."""
    height, width = plane.shape
    count = means.shape[1]
    share = np.float32(1.0 / (block_x * block_y))
    left = min(max(begin_x * block_x, 0), width - 1)
    right = min(max((begin_x + count) * block_x, left + 1), width)
    # blocks that lie wholly between left and right
    first = min(max(-((begin_x * block_x - left) // block_x), 0), count)
    last = max(min((right - begin_x * block_x) // block_x, count), first)
    sums = np.empty(right - left, np.int32)
    for row in range(start, stop):
        sums[:] = 0
        for j in range(block_y):
            line = plane[min(max((begin_y + row) * block_y + j, 0), height - 1), left:right]
            for x in range(sums.size):
                sums[x] += np.int32(line[x])
        at = (begin_x + first) * block_x - left
        if block_x == 2:
            for column in range(first, last):
                means[row, column] = share * np.float32(sums[at] + sums[at + 1])
                at += 2
        else:
            for column in range(first, last):
                total = np.int32(0)
                for i in range(block_x):
                    total += sums[at + i]
                means[row, column] = share * np.float32(total)
                at += block_x
        for column in range(count):
            if column < first or column >= last:
                total = np.int32(0)
                for i in range(block_x):
                    total += sums[min(max((begin_x + column) * block_x + i - left, 0), right - left - 1)]
                means[row, column] = share * np.float32(total)


@jit
def _row_taps(
    slope: float,
    place: float,
    low: float,
    high: float,
    scale: float,
    firsts: NDArray[np.int64],
    weights: NDArray[np.float32],
) -> None:
    """Taps of one axis for a row of crop pixels at ``slope * u + place``.

    Fills ``firsts`` (S,) with the index of the first tap and ``weights`` (taps + 2, S) with the weights, zero beyond
    the kernel's reach; the row before the last is scratch, the last one over the weights' sum.
    """
    size = firsts.size
    num_taps = weights.shape[0] - 2
    distance, norm = weights[num_taps], weights[num_taps + 1]
    step = np.float32(1.0 / scale)
    for u in range(size):
        x = min(max(slope * u + place, low), high)
        first = math.floor(x - 2.0 * scale) + 1
        firsts[u] = first
        distance[u] = np.float32((x - first) / scale)
        norm[u] = np.float32(0.0)
    for k in range(num_taps):
        row = weights[k]
        back = np.float32(k) * step
        for u in range(size):
            d = abs(distance[u] - back)
            inner = (np.float32(1.5) * d - np.float32(2.5)) * d * d + np.float32(1.0)
            outer = ((np.float32(-0.5) * d + np.float32(2.5)) * d - np.float32(4.0)) * d + np.float32(2.0)
            value = inner if d < np.float32(1.0) else outer
            value = value if d < np.float32(2.0) else np.float32(0.0)
            row[u] = value
            norm[u] += value
    for u in range(size):
        norm[u] = np.float32(1.0) / norm[u]


@jit
def _filter_row(
    flat: NDArray[np.float32],
    stride: int,
    first_x: NDArray[np.int64],
    first_y: NDArray[np.int64],
    weights_x: NDArray[np.float32],
    weights_y: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """out[u] = Σ weights_y[j, u] weights_x[i, u] flat[(first_y + j) stride + first_x + i]."""
    num_taps, last = weights_y.shape[0] - 2, weights_x.shape[0] - 1
    row = weights_x.shape[1]
    # numbers of taps that are known when this is compiled are unrolled: footprints up to 1, and up to 1.5
    if num_taps == 4 and last == 5:
        for u in range(out.size):
            first = first_y[u] * stride + first_x[u]
            out[u] = dot_four_columns(flat, first, stride, weights_y, weights_x, row, 0, u, 4)
    elif num_taps == 6 and last == 9:
        for u in range(out.size):
            first = first_y[u] * stride + first_x[u]
            out[u] = dot_four_columns(flat, first, stride, weights_y, weights_x, row, 0, u, 6)
            out[u] += dot_four_columns(flat, first + 4, stride, weights_y, weights_x, row, 4, u, 6)
    else:
        for u in range(out.size):
            first = first_y[u] * stride + first_x[u]
            value = np.float32(0.0)
            for i in range(0, last - 1, 4):
                value += dot_four_columns(flat, first + i, stride, weights_y, weights_x, row, i, u, num_taps)
            out[u] = value
    for u in range(out.size):
        out[u] *= weights_x[last, u] * weights_y[num_taps + 1, u]


@jit
def _sample_band(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    third: NDArray[np.float32],
    luma: NDArray[np.float64],
    luma_stride: int,
    chroma: NDArray[np.float64],
    chroma_stride: int,
    matrix: NDArray[np.float32],
    offset: NDArray[np.float32],
    image: NDArray[np.float32],
    start: int,
    stop: int,
) -> None:
    """Rows start..stop of one crop. Luma stands for plane 0, chroma for planes 1 and 2, which share their places.

    A matrix of one column is grey; then only plane 0 is read.
    """
    size = image.shape[2]
    is_gray = matrix.shape[1] == 1
    first_x, first_y = np.empty(size, np.int64), np.empty(size, np.int64)
    luma_x = np.empty((4 * math.ceil(luma[0, 5]) + 2, size), np.float32)
    luma_y = np.empty((2 * math.ceil(2.0 * luma[1, 5]) + 2, size), np.float32)
    chroma_x = np.empty((4 * math.ceil(chroma[0, 5]) + 2, size), np.float32)
    chroma_y = np.empty((2 * math.ceil(2.0 * chroma[1, 5]) + 2, size), np.float32)
    codes = np.empty((3, size), np.float32)
    for v in range(start, stop):
        place = luma[0, 1] * v + luma[0, 2]
        _row_taps(luma[0, 0], place, luma[0, 3], luma[0, 4], luma[0, 5], first_x, luma_x)
        place = luma[1, 1] * v + luma[1, 2]
        _row_taps(luma[1, 0], place, luma[1, 3], luma[1, 4], luma[1, 5], first_y, luma_y)
        _filter_row(first, luma_stride, first_x, first_y, luma_x, luma_y, codes[0])
        if is_gray:
            for c in range(3):
                for u in range(size):
                    value = matrix[c, 0] * codes[0, u] + offset[c]
                    image[c, v, u] = min(max(value, np.float32(-1.0)), np.float32(1.0))
            continue
        place = chroma[0, 1] * v + chroma[0, 2]
        _row_taps(chroma[0, 0], place, chroma[0, 3], chroma[0, 4], chroma[0, 5], first_x, chroma_x)
        place = chroma[1, 1] * v + chroma[1, 2]
        _row_taps(chroma[1, 0], place, chroma[1, 3], chroma[1, 4], chroma[1, 5], first_y, chroma_y)
        _filter_row(second, chroma_stride, first_x, first_y, chroma_x, chroma_y, codes[1])
        _filter_row(third, chroma_stride, first_x, first_y, chroma_x, chroma_y, codes[2])
        for c in range(3):
            for u in range(size):
                value = matrix[c, 0] * codes[0, u] + matrix[c, 1] * codes[1, u] + matrix[c, 2] * codes[2, u] + offset[c]
                image[c, v, u] = min(max(value, np.float32(-1.0)), np.float32(1.0))
