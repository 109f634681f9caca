"""NumPy float64 twins of the kernels, written from their formulas, plain and slow; the tests compare with them.

Nothing here is called at run time, and nothing here is shared with the kernels but the colour maps, which have tests of
their own. The formulas stand at the top of :mod:`vidrestore.kernels.sample` and :mod:`vidrestore.kernels.composite`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidrestore.kernels.colour import legal_range, planes_from_rgb, rgb_from_planes, tone_map
from vidrestore.types import PixelFormat, Plane

__all__ = ["catmull_rom", "composite", "sample_crops", "tent", "to_codes"]

Array = NDArray[np.float64]

_WIDEST = 64.0  # what the kernels document as their widest filter


def catmull_rom(t: Array) -> Array:
    """The Catmull-Rom cubic h(t), 0 for abs(t) >= 2."""
    d = np.abs(t)
    inner = 1.5 * d**3 - 2.5 * d**2 + 1.0
    outer = -0.5 * d**3 + 2.5 * d**2 - 4.0 * d + 2.0
    return np.where(d < 1.0, inner, np.where(d < 2.0, outer, 0.0))


def _plane_from_frame(pixel_format: PixelFormat, plane_index: int) -> Array:
    """(3, 3) map from luma to plane pixels."""
    if pixel_format.colour != "yuv" or plane_index not in (1, 2):
        return np.eye(3)
    step_x, step_y = 2.0 ** pixel_format.chroma_shift[0], 2.0 ** pixel_format.chroma_shift[1]
    site_x, site_y = pixel_format.siting
    frame_from_plane = np.array([[step_x, 0.0, site_x], [0.0, step_y, site_y], [0.0, 0.0, 1.0]])
    return np.linalg.inv(frame_from_plane)


def _square(matrix: ArrayLike) -> Array:
    return np.vstack([np.asarray(matrix, np.float64), [0.0, 0.0, 1.0]])


def tent(t: Array) -> Array:
    """1 - abs(t), 0 for abs(t) >= 1."""
    return np.maximum(1.0 - np.abs(t), 0.0)


def _filter(
    image: Array,
    map_to_image: Array,
    height: int,
    width: int,
    *,
    repeats_border: bool,
    kernel: Callable[[Array], Array] = catmull_rom,
    widest: Sequence[float] = (_WIDEST, _WIDEST),
) -> Array:
    """(height, width) values of ``image`` at map_to_image (x, y, 1), low-passed to the footprint of a pixel.

    Outside the image lies its repeated border, or 0.
    """
    scale_x = min(max(1.0, float(np.hypot(*map_to_image[0, :2]))), widest[0])
    scale_y = min(max(1.0, float(np.hypot(*map_to_image[1, :2]))), widest[1])
    offsets_x = np.arange(-np.ceil(2.0 * scale_x), np.ceil(2.0 * scale_x) + 1.0)
    offsets_y = np.arange(-np.ceil(2.0 * scale_y), np.ceil(2.0 * scale_y) + 1.0)
    out = np.empty((height, width))
    columns = np.arange(width)
    for row in range(height):
        x = (map_to_image[0, 0] * columns + map_to_image[0, 1] * row + map_to_image[0, 2])[:, None]
        y = (map_to_image[1, 0] * columns + map_to_image[1, 1] * row + map_to_image[1, 2])[:, None]
        i, j = np.floor(x) + offsets_x, np.floor(y) + offsets_y  # (width, taps)
        weights_x, weights_y = kernel((i - x) / scale_x), kernel((j - y) / scale_y)
        weights_x /= weights_x.sum(1, keepdims=True)
        weights_y /= weights_y.sum(1, keepdims=True)
        i_inside = np.clip(i, 0, image.shape[1] - 1).astype(int)
        j_inside = np.clip(j, 0, image.shape[0] - 1).astype(int)
        if not repeats_border:
            weights_x, weights_y = weights_x * (i == i_inside), weights_y * (j == j_inside)
        values = image[j_inside[:, :, None], i_inside[:, None, :]]
        out[row] = np.matmul(weights_y[:, None, :], values @ weights_x[:, :, None])[:, 0, 0]
    return out


def _filter_wide(plane: Array, plane_from_crop: Array, size: int) -> Array:
    """(size, size) values of a plane with repeated borders; footprints of 4 and more go over means of blocks."""
    image, image_from_crop = plane, plane_from_crop.copy()
    widest = [_WIDEST, _WIDEST]
    for axis, row in ((1, 0), (0, 1)):
        scale = min(max(1.0, float(np.hypot(*plane_from_crop[row, :2]))), _WIDEST)
        block = 1
        while scale / block >= 4.0:
            block *= 2
        if block == 1:
            continue
        # a rim of one block on each side holds the repeated border alone
        rim = (block, -image.shape[axis] % block + block)
        padded = np.pad(image, [rim if i == axis else (0, 0) for i in (0, 1)], "edge")
        shape = list(padded.shape)
        shape[axis : axis + 1] = [-1, block]
        image = padded.reshape(shape).mean(axis + 1)
        # centre of block 0 is at (block - 1) / 2, and the rim shifts its index to 1
        image_from_crop[row, 2] -= (block - 1) / 2
        image_from_crop[row] /= block
        image_from_crop[row, 2] += 1.0
        widest[row] /= block
    return _filter(image, image_from_crop, size, size, repeats_border=True, widest=widest)


def sample_crops(planes: Sequence[Plane], pixel_format: PixelFormat, crop_from_frame: ArrayLike, size: int) -> Array:
    """Twin of :func:`vidrestore.kernels.sample_crops`."""
    matrix, offset = rgb_from_planes(pixel_format)
    crops = []
    for crop_map in np.asarray(crop_from_frame, np.float64):
        frame_from_crop = np.linalg.inv(_square(crop_map))
        values = [
            _filter_wide(planes[p].astype(np.float64), _plane_from_frame(pixel_format, p) @ frame_from_crop, size)
            for p in range(matrix.shape[1])
        ]
        rgb = np.einsum("cp,phw->chw", matrix, np.stack(values)) + offset[:, None, None]
        crops.append(np.clip(rgb, -1.0, 1.0))
    stacked = np.stack(crops) if crops else np.zeros((0, 3, size, size))
    return tone_map(stacked.astype(np.float32), pixel_format).astype(np.float64)


def composite(
    planes: Sequence[Plane],
    pixel_format: PixelFormat,
    deltas: NDArray[np.float32],
    masks: NDArray[np.float32],
    crop_from_frame: ArrayLike,
    strength: ArrayLike,
) -> tuple[Array, ...]:
    """Twin of :func:`vidrestore.kernels.composite`: the planes before rounding and clipping, float64."""
    maps = np.asarray(crop_from_frame, np.float64)
    strengths = np.asarray(strength, np.float64)
    masks = np.broadcast_to(masks, (len(maps), *masks.shape[1:]))
    matrix = planes_from_rgb(pixel_format)[0]
    crop_pixels_per_frame_pixel = [abs(np.linalg.det(m[:, :2])) for m in maps]
    order = np.argsort([-area for area in crop_pixels_per_frame_pixel], kind="stable")
    out = [plane.astype(np.float64) for plane in planes]
    for p in range(len(matrix)):
        height, width = out[p].shape
        change = np.zeros((height, width))
        for face in order:
            crop_from_plane = _square(maps[face]) @ np.linalg.inv(_plane_from_frame(pixel_format, p))
            code_delta = np.einsum("c,chw->hw", matrix[p], deltas[face].astype(np.float64))
            mask = _filter(
                masks[face].astype(np.float64), crop_from_plane, height, width, repeats_border=False, kernel=tent
            )
            delta = _filter(code_delta, crop_from_plane, height, width, repeats_border=False)
            alpha = strengths[face] * mask
            change = (1.0 - alpha) * change + alpha * delta
        out[p] += change
    return tuple(out)


def to_codes(values: Array, source: Plane, pixel_format: PixelFormat, plane_index: int) -> Plane:
    """Rounds to nearest and clips to the legal range, widened to the source's own sample."""
    lowest, highest = legal_range(pixel_format, plane_index)
    low, high = np.minimum(lowest, source), np.maximum(highest, source)
    codes = np.clip(np.floor(values + 0.5), low, high)
    return codes.astype(np.uint8) if source.dtype == np.uint8 else codes.astype(np.uint16)
