"""The same kernels on a GPU: ``sample_crops_on`` and ``composite_on`` launch the CUDA C of ``kernels/cuda``.

Formulas, conventions and the results' tolerance are those of :mod:`vidrestore.kernels.sample` and
:mod:`vidrestore.kernels.composite`; the launchers only check, lay out the geometry and launch. They copy no pixels,
never wait for the device, and take its memory and stream from a :class:`Backend`, so that the one who owns the device
decides about both. Nothing here imports CuPy: a backend does.

Bytes that a launch must move, for F faces of S px: sampling reads the part of the planes under each crop and writes
12 F S²; compositing reads 16 F S² and reads and writes the samples under the masks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidrestore.errors import KernelError
from vidrestore.kernels.colour import is_hdr, legal_range, planes_from_rgb, rgb_from_planes, tone_curve
from vidrestore.kernels.launch import (
    MAX_FOOTPRINT,
    as_affines,
    block_length,
    invert,
    plane_from_luma,
)
from vidrestore.types import PixelFormat

__all__ = ["Backend", "DeviceArray", "composite_on", "cuda_source", "sample_crops_on"]

BLOCK = (32, 8, 1)
"""Threads of a block: a warp along a row, 256 in all."""

SOURCE = np.dtype(
    [
        ("map", np.float64, 6),
        ("address", np.uint64),
        ("stride", np.int64),
        ("step", np.int32),
        ("width", np.int32),
        ("height", np.int32),
        ("is_means", np.int32),
        ("scale_x", np.float32),
        ("scale_y", np.float32),
        ("taps", np.int32),
        ("unused", np.int32),
    ],
    align=True,
)
"""``struct Source`` of sample.cu."""

GROUP = np.dtype(
    [
        ("first", np.uint64),
        ("second", np.uint64),
        ("stride", np.int64),
        ("step", np.int32),
        ("num_planes", np.int32),
        ("matrix", np.float32, 6),
        ("lowest", np.float32),
        ("highest", np.float32),
    ],
    align=True,
)
"""``struct Group`` of composite.cu."""

FACE = np.dtype(
    [
        ("map", np.float64, 6),
        ("scale_u", np.float64),
        ("scale_v", np.float64),
        ("low_u", np.float64),
        ("high_u", np.float64),
        ("low_v", np.float64),
        ("high_v", np.float64),
        ("left", np.int32),
        ("top", np.int32),
        ("right", np.int32),
        ("bottom", np.int32),
        ("index", np.int32),
        ("strength", np.float32),
    ],
    align=True,
)
"""``struct Face`` of composite.cu."""


@dataclass(frozen=True, slots=True)
class DeviceArray:
    """An array in the memory of a device, not owned: where it lies and how to read it."""

    address: int
    """Of its first element, in bytes."""
    shape: tuple[int, ...]
    """Elements per axis."""
    strides: tuple[int, ...]
    """Elements, not bytes, from one to the next per axis."""
    dtype: np.dtype[Any]
    """Type of an element."""
    owner: object = None
    """What keeps the memory alive."""

    @classmethod
    def of(cls, array: Any) -> DeviceArray:
        """The same memory as an object with ``__cuda_array_interface__`` (CuPy, numba, torch on CUDA), or as NumPy's.

        Raises:
            KernelError: the object has neither.
        """
        interface = getattr(array, "__cuda_array_interface__", None) or getattr(array, "__array_interface__", None)
        if interface is None:
            raise KernelError(f"{type(array).__name__} is no array that kernels can read")
        dtype, shape = np.dtype(interface["typestr"]), tuple(interface["shape"])
        in_bytes = interface.get("strides")
        if in_bytes is None:  # C order
            strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        else:
            strides = tuple(stride // dtype.itemsize for stride in in_bytes)
        return cls(interface["data"][0], shape, strides, dtype, array)

    @property
    def is_contiguous(self) -> bool:
        """Elements follow one another in C order."""
        if 0 in self.shape:
            return True
        expected = 1
        for length, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if length != 1 and stride != expected:
                return False
            expected *= length
        return True


class Backend(Protocol):
    """Who owns the device: its memory, its stream and the compiled kernels."""

    def upload(self, values: NDArray[Any]) -> DeviceArray:
        """A copy of a small host array on the device, ready for what is launched next on this stream."""
        ...

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        """Memory that stays until what is launched next on this stream has used it."""
        ...

    def launch(
        self, source: str, kernel: str, grid: tuple[int, int, int], arguments: Sequence[np.generic | DeviceArray | None]
    ) -> None:
        """Starts ``kernel`` out of :func:`cuda_source` of ``source`` in blocks of ``BLOCK``; None is a null address."""
        ...


@cache
def cuda_source(name: str) -> str:
    """The CUDA C text of ``kernels/cuda/NAME.cu`` with its own headers in place: one text, no folder to search."""
    folder = resources.files("vidrestore.kernels") / "cuda"
    lines = []
    for line in (folder / f"{name}.cu").read_text("utf-8").splitlines():
        if line.startswith('#include "'):
            line = (folder / line.split('"')[1]).read_text("utf-8")
        lines.append(line)
    return "\n".join(lines) + "\n"


def sample_crops_on(
    backend: Backend,
    planes: Sequence[DeviceArray],
    pixel_format: PixelFormat,
    crop_from_frame: ArrayLike,
    crops: DeviceArray,
) -> None:
    """Cuts B square crops out of one frame on the device; :func:`vidrestore.kernels.sample_crops` tells how.

    Args:
        backend: the device.
        planes: (height, width) arrays; planes that share their rows (nv12's chroma) are arrays with steps of 2.
        pixel_format: how to read them.
        crop_from_frame: (B, 2, 3) maps from frame to crop pixels, on the host.
        crops: (B, 3, S, S) float32, contiguous: is filled.

    Raises:
        KernelError: arrays that do not fit the format or one another, a singular or non-finite map.
    """
    _check_device_planes(planes, pixel_format)
    maps = as_affines(crop_from_frame)
    size = crops.shape[-1] if len(crops.shape) == 4 else 0
    if crops.shape != (len(maps), 3, size, size) or crops.dtype != np.float32 or not crops.is_contiguous:
        raise KernelError(f"crops must be ({len(maps)}, 3, S, S) float32 and contiguous, got {crops.shape}")
    if len(maps) == 0:
        return
    matrix, offset = rgb_from_planes(pixel_format)
    num_planes = matrix.shape[1]
    kind = "u8" if pixel_format.depth <= 8 else "u16"
    sources = np.zeros((len(maps), num_planes), SOURCE)
    means: dict[tuple[int, int, int], DeviceArray] = {}
    for row, crop in zip(sources, maps, strict=True):
        for p in range(num_planes):
            scale_x, scale_y, offset_x, offset_y = plane_from_luma(pixel_format, p)
            plane_from_crop = invert(crop) * [[scale_x], [scale_y]] + [[0.0, 0.0, offset_x], [0.0, 0.0, offset_y]]
            row[p] = _source(backend, kind, planes[p], p, plane_from_crop, means)
    colour = np.zeros((3, 4), np.float32)
    colour[:, :num_planes], colour[:, 3] = matrix, offset
    curve = backend.upload(tone_curve(pixel_format).astype(np.float32)) if is_hdr(pixel_format) else None
    arguments = (
        backend.upload(sources.view(np.uint8)),
        np.int32(num_planes),
        backend.upload(colour),
        curve,
        np.int32(0 if curve is None else curve.shape[0]),
        np.int32(size),
        crops,
    )
    backend.launch("sample", f"sample_{kind}", _grid(size, size, len(maps)), arguments)


def _source(
    backend: Backend,
    kind: str,
    plane: DeviceArray,
    plane_index: int,
    plane_from_crop: NDArray[np.float64],
    means: dict[tuple[int, int, int], DeviceArray],
) -> NDArray[Any]:
    """One ``struct Source``; makes the plane's means where no crop before needed the same ones."""
    height, width = plane.shape
    scales = [min(max(1.0, math.hypot(a, b)), MAX_FOOTPRINT) for a, b, _ in plane_from_crop]
    blocks = [block_length(scale) for scale in scales]
    source = np.zeros((), SOURCE)
    read, source_from_crop = plane, plane_from_crop.copy()
    if blocks != [1, 1]:
        key = (plane_index, blocks[0], blocks[1])
        if key not in means:
            means[key] = _means(backend, kind, plane, blocks[0], blocks[1])
        read = means[key]
        for axis, block in enumerate(blocks):
            source_from_crop[axis] /= block
            source_from_crop[axis, 2] += 1.0 - (block - 1) / 2 / block
            scales[axis] /= block
        height, width = read.shape
    source["map"] = source_from_crop.ravel()
    source["address"], source["stride"], source["step"] = read.address, read.strides[0], read.strides[1]
    source["width"], source["height"] = width, height
    source["is_means"] = blocks != [1, 1]
    source["scale_x"], source["scale_y"] = scales
    # the widest that the kernel knows is 16; block_length sees to it
    source["taps"] = next(taps for taps in (4, 8, 16) if taps >= 4.0 * max(scales))
    return source


def _means(backend: Backend, kind: str, plane: DeviceArray, block_x: int, block_y: int) -> DeviceArray:
    height, width = plane.shape
    num_rows, num_columns = -(-height // block_y) + 2, -(-width // block_x) + 2
    means = backend.empty((num_rows, num_columns), np.dtype(np.float32))
    arguments: list[np.generic | DeviceArray | None] = [plane, np.int64(plane.strides[0])]
    arguments += [np.int32(n) for n in (plane.strides[1], width, height, block_x, block_y)]
    arguments += [means, np.int32(num_columns), np.int32(num_rows)]
    backend.launch("sample", f"means_{kind}", _grid(num_columns, num_rows, 1), arguments)
    return means


def composite_on(
    backend: Backend,
    planes: Sequence[DeviceArray],
    pixel_format: PixelFormat,
    deltas: DeviceArray,
    masks: DeviceArray,
    crop_from_frame: ArrayLike,
    strength: ArrayLike,
    usable: DeviceArray | None = None,
) -> None:
    """Adds the masked differences of B crops to one frame on the device, **in place**, in one launch.

    :func:`vidrestore.kernels.composite` tells how. Values of deltas and masks are not looked at (that would wait for
    the device): a delta that is not finite must be marked in ``usable``.

    Args:
        backend: the device.
        planes: (height, width) arrays, written where a mask is; alpha is not.
        pixel_format: how to read them.
        deltas: (B, 3, S, S) float32, contiguous.
        masks: (B, S, S), or (1, S, S) for all, float32, contiguous, in [0, 1].
        crop_from_frame: (B, 2, 3), on the host.
        strength: (B,) in [0, 1], on the host.
        usable: (B,) uint8: 0 leaves a face out, whatever its delta holds; None takes all.

    Raises:
        KernelError: arrays that do not fit, a strength outside [0, 1], a singular or non-finite map.
    """
    _check_device_planes(planes, pixel_format)
    maps = as_affines(crop_from_frame)
    strengths = np.asarray(strength, np.float32)
    size = deltas.shape[-1] if len(deltas.shape) == 4 else 0
    num_faces = len(maps)
    if deltas.shape != (num_faces, 3, size, size) or deltas.dtype != np.float32 or not deltas.is_contiguous:
        raise KernelError(f"deltas must be ({num_faces}, 3, S, S) float32 and contiguous, got {deltas.shape}")
    if (
        masks.shape not in ((num_faces, size, size), (1, size, size))
        or masks.dtype != np.float32
        or not masks.is_contiguous
    ):
        raise KernelError(f"masks must be ({num_faces} or 1, {size}, {size}) float32, contiguous, got {masks.shape}")
    if strengths.shape != (num_faces,) or not ((strengths >= 0.0) & (strengths <= 1.0)).all():
        raise KernelError(f"strength must be ({num_faces},) in [0, 1], got {strengths}")
    if usable is not None and (usable.shape != (num_faces,) or usable.dtype != np.uint8):
        raise KernelError(f"usable must be ({num_faces},) uint8, got {usable.shape} {usable.dtype}")
    # the largest in the frame, that is the one with the fewest crop pixels per frame pixel, is painted last
    areas = np.abs(maps[:, 0, 0] * maps[:, 1, 1] - maps[:, 0, 1] * maps[:, 1, 0])
    order = [int(i) for i in np.argsort(-areas, kind="stable") if strengths[i] > 0.0]
    if not order:
        return
    matrix = planes_from_rgb(pixel_format)[0]
    members = [(0,)] if pixel_format.colour == "gray" else [(0,), (1, 2)]
    groups, faces = np.zeros(len(members), GROUP), np.zeros((len(members), len(order)), FACE)
    for group, row, indices in zip(groups, faces, members, strict=True):
        plane = planes[indices[0]]
        group["first"], group["second"] = plane.address, planes[indices[-1]].address
        group["stride"], group["step"] = plane.strides
        group["num_planes"] = len(indices)
        group["matrix"][: 3 * len(indices)] = matrix[list(indices)].ravel()
        group["lowest"], group["highest"] = legal_range(pixel_format, indices[0])
        if len(indices) == 2 and planes[indices[1]].strides != plane.strides:
            raise KernelError("the two planes after the first must have the same strides")
        to_plane = plane_from_luma(pixel_format, indices[0])
        for face, index in zip(row, order, strict=True):
            _fill_face(face, index, maps[index], float(strengths[index]), to_plane, plane.shape, size)
    width, height = int((faces["right"] - faces["left"]).max()), int((faces["bottom"] - faces["top"]).max())
    if width <= 0 or height <= 0:
        return
    arguments = (
        backend.upload(groups.view(np.uint8)),
        backend.upload(faces.view(np.uint8)),
        np.int32(len(order)),
        deltas,
        masks,
        np.int32(masks.shape[0]),
        usable,
        np.int32(size),
    )
    kind = "u8" if pixel_format.depth <= 8 else "u16"
    backend.launch("composite", f"composite_{kind}", _grid(width, height, faces.size), arguments)


def _fill_face(
    face: Any,
    index: int,
    crop_from_frame: NDArray[np.float64],
    strength: float,
    to_plane: tuple[float, float, float, float],
    shape: tuple[int, ...],
    size: int,
) -> None:
    scale_x, scale_y, offset_x, offset_y = to_plane
    linear = crop_from_frame[:, :2] / (scale_x, scale_y)
    crop_from_plane = np.column_stack([linear, crop_from_frame[:, 2] - linear @ (offset_x, offset_y)])
    scale = np.clip(np.hypot(linear[:, 0], linear[:, 1]), 1.0, MAX_FOOTPRINT)
    low, high = -scale, size - 1 + scale
    corners = [[u, v, 1.0] for u in (low[0], high[0]) for v in (low[1], high[1])] @ invert(crop_from_plane).T
    (x0, y0), (x1, y1) = np.clip([corners.min(0), corners.max(0)], -1.0, (shape[1], shape[0]))
    face["map"] = crop_from_plane.ravel()
    face["scale_u"], face["scale_v"] = scale
    face["low_u"], face["high_u"], face["low_v"], face["high_v"] = low[0], high[0], low[1], high[1]
    face["left"], face["top"] = max(math.floor(x0), 0), max(math.floor(y0), 0)
    face["right"], face["bottom"] = min(math.ceil(x1) + 1, shape[1]), min(math.ceil(y1) + 1, shape[0])
    face["index"], face["strength"] = index, strength


def _grid(width: int, height: int, depth: int) -> tuple[int, int, int]:
    return -(-width // BLOCK[0]), -(-height // BLOCK[1]), depth


def _check_device_planes(planes: Sequence[DeviceArray], pixel_format: PixelFormat) -> None:
    if len(planes) != pixel_format.num_planes:
        raise KernelError(f"{pixel_format.name} has {pixel_format.num_planes} planes, got {len(planes)}")
    for i, plane in enumerate(planes):
        size = pixel_format.plane_size(i, *planes[0].shape) if len(planes[0].shape) == 2 else None
        if plane.shape != size or plane.dtype != pixel_format.dtype or 0 in plane.shape:
            raise KernelError(
                f"plane {i} of {pixel_format.name} must be {size} {pixel_format.dtype}, got {plane.shape} {plane.dtype}"
            )
