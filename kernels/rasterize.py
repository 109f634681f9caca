"""Triangle meshes drawn into pixels: ``rasterize``, ``draw`` and its gradient, on the CPU and on a GPU (``_on``).

Formula, for the centre (x, y) of a pixel and a triangle with corners p0, p1, p2 (pixels) at depths z0, z1, z2:

    e0 = (x1 - x)(y2 - y) - (y1 - y)(x2 - x), e1 and e2 likewise with the corners turned round
    inside       where e0, e1, e2 have one sign or are 0
    1/z          = (e0/z0 + e1/z1 + e2/z2) / (e0 + e1 + e2)
    nearest      the triangle with the largest 1/z in float32; of equals the one that comes first
    weight k     = (ek/zk) / (e0/z0 + e1/z1 + e2/z2)
    value        = Σk weight k · value of corner k

1/z is linear in the picture, so weights are those of the point in space and not of its image (perspective-correct).
Both sides of a triangle are drawn. A pixel whose centre lies on an edge belongs to both neighbours, so a mesh has no
holes: e is rounded alike from both sides, as long as nothing is contracted to fused multiply-adds. There is no
antialiasing: a pixel is covered or not.

Pixels count as everywhere here, the centre of the top-left one is (0, 0). A renderer that counts from the picture's
corner and has pixel centres at +0.5 draws the same picture from points that are 0.5 larger.

Triangles are left out if a corner is nearer than ``NEAR`` or farther than ``MAX_PLACE`` pixels from the picture's
origin or not finite, or if they are thinner than ``MIN_AREA``. Nothing is clipped at the near plane.

Places, products and weights are float64. Reads, per face, 24 bytes a triangle and 24 a vertex; writes 48 bytes a vertex
and 12 a triangle of scratch, 8 bytes a pixel for what is seen and how near, and 4 for each channel. The GPU reads the
vertices again instead of preparing them, and has cells of 8 bytes a pixel as its only scratch.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidrestore.errors import KernelError
from vidrestore.kernels.device import BLOCK, Backend, DeviceArray
from vidrestore.kernels.launch import exact_jit, num_threads, run_bands

__all__ = ["MAX_PLACE", "MIN_AREA", "NEAR", "draw", "draw_gradients", "draw_gradients_on", "draw_on", "rasterize"]

NEAR = 0.01
"""Smallest depth that is drawn, as in the published renderer."""

MAX_PLACE = 2.0**20
"""Largest coordinate in pixels; beyond it float64 could no longer tell the sides of an edge apart to 1e-9 px²."""

MIN_AREA = 1e-9
"""Twice the smallest area that is drawn, px²."""

_MIN_ROWS = 16
_WIDE = 8  # pixels in a row from which vectors are worth their set-up

Real = TypeVar("Real", np.float32, np.float64)


def rasterize(points_px: ArrayLike, depth: ArrayLike, triangles: ArrayLike, size: int) -> NDArray[np.int32]:
    """Which triangle is seen in each pixel.

    Args:
        points_px: (B, N, 2) vertices in pixels, centres at whole numbers.
        depth: (B, N), larger is farther.
        triangles: (T, 3) vertex indices, one mesh for all.
        size: S, side of the picture.

    Returns:
        (B, S, S) index of the triangle, -1 where there is none.

    Raises:
        KernelError: shapes that do not fit, or an index out of range.
    """
    return _rasterize(_Mesh(points_px, depth, triangles, size), size)


def draw(
    points_px: ArrayLike, depth: ArrayLike, triangles: ArrayLike, values: NDArray[Real], size: int
) -> tuple[NDArray[Real], NDArray[np.int32]]:
    """Values of the vertices, carried over the triangles that are seen.

    Args:
        points_px: as for :func:`rasterize`.
        depth: as there.
        triangles: as there.
        values: (B, N, C) float32 or float64.
        size: S, side of the picture.

    Returns:
        (B, C, S, S) of the values' type, 0 where nothing is seen; and what :func:`rasterize` gives.

    Raises:
        KernelError: shapes or types that do not fit, or an index out of range.
    """
    mesh = _Mesh(points_px, depth, triangles, size)
    values = _checked_values(mesh, values)
    seen = _rasterize(mesh, size)
    picture = np.zeros((mesh.batch, values.shape[2], size, size), values.dtype)

    def kernel(start: int, stop: int) -> None:
        for face, first, last in _rows(start, stop, size):
            _interpolate_band(seen[face], mesh.vertices[face], mesh.triangles, values[face], picture[face], first, last)

    run_bands(kernel, 0, mesh.batch * size, min_rows=_MIN_ROWS)
    return picture, seen


def draw_gradients(
    seen: NDArray[np.int32],
    points_px: ArrayLike,
    depth: ArrayLike,
    triangles: ArrayLike,
    values: NDArray[Real],
    gradient: NDArray[Real],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """What :func:`draw` passes back.

    The gradient of the values is exact. That of points and depth is exact for the inside of triangles; that a
    silhouette moves over a pixel is a jump, which has no gradient.

    Args:
        seen: (B, S, S), as it was returned there.
        points_px: as given there.
        depth: as given there.
        triangles: as given there.
        values: as given there.
        gradient: (B, C, S, S) of a loss with respect to the picture.

    Returns:
        Gradients with respect to points (B, N, 2), depth (B, N) and values (B, N, C), float64. Each face is summed up
        in one fixed order, so they are the same in every run.

    Raises:
        KernelError: shapes or types that do not fit.
    """
    mesh: _Mesh = _Mesh(points_px, depth, triangles, seen.shape[-1])
    values = _checked_values(mesh, values)
    _check_seen(mesh, seen)
    size = seen.shape[1]
    if gradient.shape != (mesh.batch, values.shape[2], size, size):
        raise KernelError(f"gradient must be {(mesh.batch, values.shape[2], size, size)}, got {gradient.shape}")
    gradient = np.ascontiguousarray(gradient, values.dtype)
    d_points, d_depth = np.zeros((*mesh.vertices.shape[:2], 2)), np.zeros(mesh.vertices.shape[:2])
    d_values = np.zeros(values.shape, np.float64)

    def kernel(first: int, last: int) -> None:
        for face in range(first, last):
            _gradients_of_face(
                seen[face],
                mesh.vertices[face],
                mesh.triangles,
                values[face],
                gradient[face],
                d_points[face],
                d_depth[face],
                d_values[face],
            )

    run_bands(kernel, 0, mesh.batch, min_rows=1)
    return d_points, d_depth, d_values


def draw_on(
    backend: Backend,
    points_px: DeviceArray,
    depth: DeviceArray,
    triangles: DeviceArray,
    values: DeviceArray,
    picture: DeviceArray,
    seen: DeviceArray,
) -> None:
    """:func:`draw` on a device: three launches, nothing is copied or waited for.

    Args:
        backend: the device.
        points_px: (B, N, 2) float32; all arrays are contiguous.
        depth: (B, N) float32.
        triangles: (T, 3) int32, each of 0 .. N - 1: that is not looked at, which would wait for the device.
        values: (B, N, C) float32.
        picture: (B, C, S, S) float32: is filled.
        seen: (B, S, S) int32: is filled.

    Raises:
        KernelError: arrays that do not fit one another.
    """
    batch, count, num_values, size = _checked_arrays(points_px, depth, triangles, values, picture, seen)
    if batch == 0:
        return
    cells = backend.empty((batch, size, size), np.dtype(np.int64))
    per_pixel = -(-size // BLOCK[0]), -(-size // BLOCK[1]), batch
    n, t, c, s = (np.int32(number) for number in (count, triangles.shape[0], num_values, size))
    backend.launch("rasterize", "clear_cells", per_pixel, (cells, s))
    if t > 0:
        grid = -(-triangles.shape[0] // BLOCK[0]), 1, batch
        backend.launch("rasterize", "rasterize", grid, (points_px, depth, triangles, n, t, s, cells))
    backend.launch(
        "rasterize", "shade", per_pixel, (cells, points_px, depth, triangles, values, n, c, s, seen, picture)
    )


def draw_gradients_on(
    backend: Backend,
    seen: DeviceArray,
    points_px: DeviceArray,
    depth: DeviceArray,
    triangles: DeviceArray,
    values: DeviceArray,
    gradient: DeviceArray,
    d_points: DeviceArray,
    d_depth: DeviceArray,
    d_values: DeviceArray,
) -> None:
    """:func:`draw_gradients` on a device, one launch.

    Sums are those of atomic additions to float64, in the order of arrival: two runs may differ by its rounding.

    Args:
        backend: the device.
        seen: as :func:`draw_on` filled it.
        points_px: as given there.
        depth: as given there.
        triangles: as given there.
        values: as given there.
        gradient: (B, C, S, S) float32.
        d_points: (B, N, 2) float64, zeros: is added to.
        d_depth: (B, N) float64, likewise.
        d_values: (B, N, C) float64, likewise.

    Raises:
        KernelError: arrays that do not fit one another.
    """
    batch, count, num_values, size = _checked_arrays(points_px, depth, triangles, values, gradient, seen)
    for name, array, like in (
        ("d_points", d_points, points_px),
        ("d_depth", d_depth, depth),
        ("d_values", d_values, values),
    ):
        _check_array(name, array, like.shape, np.float64)
    if batch == 0:
        return
    n, c, s = (np.int32(number) for number in (count, num_values, size))
    arguments = (seen, points_px, depth, triangles, values, gradient, n, c, s, d_points, d_depth, d_values)
    grid = -(-size // BLOCK[0]), -(-size // BLOCK[1]), batch
    backend.launch("rasterize", "shade_gradient", grid, arguments)


def _checked_arrays(
    points_px: DeviceArray,
    depth: DeviceArray,
    triangles: DeviceArray,
    values: DeviceArray,
    picture: DeviceArray,
    seen: DeviceArray,
) -> tuple[int, int, int, int]:
    """B, N, C and S of a launch."""
    batch, count = depth.shape if len(depth.shape) == 2 else (0, 0)
    num_values, size = (values.shape[-1], seen.shape[-1]) if values.shape and seen.shape else (0, 0)
    _check_array("points", points_px, (batch, count, 2), np.float32)
    _check_array("depth", depth, (batch, count), np.float32)
    _check_array("triangles", triangles, (triangles.shape[0] if triangles.shape else 0, 3), np.int32)
    _check_array("values", values, (batch, count, num_values), np.float32)
    _check_array("the picture", picture, (batch, num_values, size, size), np.float32)
    _check_array("seen", seen, (batch, size, size), np.int32)
    return batch, count, num_values, size


def _check_array(name: str, array: DeviceArray, shape: tuple[int, ...], dtype: Any) -> None:
    if array.shape != shape or array.dtype != np.dtype(dtype) or not array.is_contiguous:
        raise KernelError(
            f"{name} must be {shape} {np.dtype(dtype)} and contiguous, got {array.shape} {array.dtype} "
            f"with steps {array.strides}"
        )


class _Mesh:
    """The arrays of a launch, checked; for each vertex its place, 1 / depth and the pixels around it."""

    def __init__(self, points_px: ArrayLike, depth: ArrayLike, triangles: ArrayLike, size: int) -> None:
        if size < 1:
            raise KernelError(f"size must be at least 1, got {size}")
        points, depths, corners = np.asarray(points_px), np.asarray(depth), np.ascontiguousarray(triangles)
        if points.ndim != 3 or points.shape[2] != 2 or depths.shape != points.shape[:2]:
            raise KernelError(f"points must be (B, N, 2) and depth (B, N), got {points.shape} and {depths.shape}")
        if corners.ndim != 2 or corners.shape[1] != 3 or corners.dtype.kind not in "iu":
            raise KernelError(f"triangles must be (T, 3) whole numbers, got {corners.shape} {corners.dtype}")
        count = points.shape[1]
        self.triangles = np.empty(corners.shape, np.uint32)  # numba counts signed indices from the end, at a cost
        if not _all_below(corners, count, self.triangles):
            raise KernelError(f"triangles name vertices {corners.min()} to {corners.max()}, there are {count}")
        self.batch = points.shape[0]
        self.vertices = np.empty((self.batch, count, 4), np.float64)
        self.boxes = np.empty((self.batch, count, 4), np.int32)
        for face in range(self.batch):
            _prepare(
                points[face].astype(np.float64, copy=False),
                depths[face].astype(np.float64, copy=False),
                size,
                self.vertices[face],
                self.boxes[face],
            )


def _checked_values(mesh: _Mesh, values: NDArray[Any]) -> NDArray[Any]:
    batch, count, _ = mesh.vertices.shape
    if values.ndim != 3 or values.shape[:2] != (batch, count) or values.dtype not in (np.float32, np.float64):
        raise KernelError(f"values must be ({batch}, {count}, C) float32 or float64, got {values.shape} {values.dtype}")
    return np.ascontiguousarray(values)


def _check_seen(mesh: _Mesh, seen: NDArray[np.int32]) -> None:
    if seen.ndim != 3 or seen.shape[0] != mesh.batch or seen.shape[1] != seen.shape[2] or seen.dtype != np.int32:
        raise KernelError(f"seen must be ({mesh.batch}, S, S) int32, got {seen.shape} {seen.dtype}")
    if not seen.flags.c_contiguous or (seen.size and seen.max() >= len(mesh.triangles)):
        raise KernelError("seen must be contiguous and name triangles of this mesh")


def _rasterize(mesh: _Mesh, size: int) -> NDArray[np.int32]:
    seen = np.full((mesh.batch, size, size), -1, np.int32)
    nearest = np.zeros((mesh.batch, size, size), np.float32)

    def kernel(start: int, stop: int) -> None:
        for face, first, last in _rows(start, stop, size):
            _rasterize_band(
                mesh.vertices[face], mesh.boxes[face], mesh.triangles, nearest[face], seen[face], first, last
            )

    # one band for each core: every band looks at all triangles, so more would cost more than they even out
    rows = mesh.batch * size
    run_bands(kernel, 0, rows, min_rows=max(_MIN_ROWS, -(-rows // num_threads())))
    return seen


def _rows(start: int, stop: int, size: int) -> list[tuple[int, int, int]]:
    """Rows of all pictures below each other -> (face, first row, row after the last)."""
    faces = range(start // size, -(-stop // size))
    return [(face, max(start - face * size, 0), min(stop - face * size, size)) for face in faces]


@exact_jit
def _all_below(corners: NDArray[Any], count: int, copy: NDArray[np.uint32]) -> bool:
    """Copies indices and says whether all are of 0 .. count - 1."""
    is_right = True
    for t in range(corners.shape[0]):
        for n in range(3):
            is_right &= (corners[t, n] >= 0) & (corners[t, n] < count)
            copy[t, n] = np.uint32(corners[t, n])
    return is_right


@exact_jit
def _prepare(
    points: NDArray[np.float64],
    depth: NDArray[np.float64],
    size: int,
    vertices: NDArray[np.float64],
    boxes: NDArray[np.int32],
) -> None:
    """Fills in x, y, 1/z (0: not to be drawn), and the first and last pixel each way that a triangle might cover."""
    edge = size + 1.0
    for n in range(points.shape[0]):
        x, y, z = points[n, 0], points[n, 1], depth[n]
        is_drawn = z >= NEAR and z < np.inf and abs(x) <= MAX_PLACE and abs(y) <= MAX_PLACE
        vertices[n, 0] = x
        vertices[n, 1] = y
        vertices[n, 2] = 1.0 / z if is_drawn else 0.0
        vertices[n, 3] = 0.0
        x, y = (min(max(x, -1.0), edge), min(max(y, -1.0), edge)) if is_drawn else (0.0, 0.0)
        boxes[n, 0] = np.int32(math.ceil(x))
        boxes[n, 1] = np.int32(math.floor(x))
        boxes[n, 2] = np.int32(math.ceil(y))
        boxes[n, 3] = np.int32(math.floor(y))


@exact_jit
def _rasterize_band(
    vertices: NDArray[np.float64],
    boxes: NDArray[np.int32],
    triangles: NDArray[np.uint32],
    nearest: NDArray[np.float32],
    seen: NDArray[np.int32],
    start: int,
    stop: int,
) -> None:
    """Rows start..stop of one picture; ``nearest`` holds 1/z and begins as 0, ``seen`` begins as -1."""
    places = np.arange(seen.shape[1]).astype(np.float64)
    first_row, last_row, last_column = np.int32(start), np.int32(stop - 1), np.int32(seen.shape[1] - 1)
    for t in range(triangles.shape[0]):
        i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        left = max(min(boxes[i, 0], min(boxes[j, 0], boxes[k, 0])), np.int32(0))
        right = min(max(boxes[i, 1], max(boxes[j, 1], boxes[k, 1])), last_column)
        top = max(min(boxes[i, 2], min(boxes[j, 2], boxes[k, 2])), first_row)
        bottom = min(max(boxes[i, 3], max(boxes[j, 3], boxes[k, 3])), last_row)
        if (left > right) | (top > bottom):  # one branch: each alone would be a toss-up
            continue
        zi, zj, zk = vertices[i, 2], vertices[j, 2], vertices[k, 2]
        if zi == 0.0 or zj == 0.0 or zk == 0.0:
            continue
        xi, xj, xk = vertices[i, 0], vertices[j, 0], vertices[k, 0]
        yi, yj, yk = vertices[i, 1], vertices[j, 1], vertices[k, 1]
        area = (xj - xi) * (yk - yi) - (yj - yi) * (xk - xi)
        if abs(area) < MIN_AREA:
            continue
        side = 1.0 if area > 0.0 else -1.0
        over = side / area
        ui, uj, uk = zi * over, zj * over, zk * over
        for y in range(top, bottom + 1):
            down_i, down_j, down_k = (yi - y) * side, (yj - y) * side, (yk - y) * side
            if right - left < _WIDE:
                for column in range(left, right + 1):
                    across_i, across_j, across_k = xi - column, xj - column, xk - column
                    e0 = across_j * down_k - down_j * across_k
                    e1 = across_k * down_i - down_k * across_i
                    e2 = across_i * down_j - down_i * across_j
                    if e0 >= 0.0 and e1 >= 0.0 and e2 >= 0.0:
                        z = np.float32(e0 * ui + e1 * uj + e2 * uk)
                        if z > nearest[np.uint32(y), np.uint32(column)]:
                            nearest[np.uint32(y), np.uint32(column)] = z
                            seen[np.uint32(y), np.uint32(column)] = t
            else:  # the same without branches, which the compiler turns into vectors
                row, names = nearest[y, left : right + 1], seen[y, left : right + 1]
                for n in range(row.size):
                    x = places[left + n]
                    across_i, across_j, across_k = xi - x, xj - x, xk - x
                    e0 = across_j * down_k - down_j * across_k
                    e1 = across_k * down_i - down_k * across_i
                    e2 = across_i * down_j - down_i * across_j
                    z = np.float32(e0 * ui + e1 * uj + e2 * uk)
                    is_nearer = (e0 >= 0.0) & (e1 >= 0.0) & (e2 >= 0.0) & (z > row[n])
                    row[n] = z if is_nearer else row[n]
                    names[n] = t if is_nearer else names[n]


@exact_jit
def _shares(vertices: NDArray[np.float64], i: int, j: int, k: int, x: int, y: int) -> tuple[float, float, float]:
    """e0/z0, e1/z1, e2/z2 of a triangle at a pixel that it covers."""
    across_i, across_j, across_k = vertices[i, 0] - x, vertices[j, 0] - x, vertices[k, 0] - x
    down_i, down_j, down_k = vertices[i, 1] - y, vertices[j, 1] - y, vertices[k, 1] - y
    return (
        (across_j * down_k - down_j * across_k) * vertices[i, 2],
        (across_k * down_i - down_k * across_i) * vertices[j, 2],
        (across_i * down_j - down_i * across_j) * vertices[k, 2],
    )


@exact_jit
def _interpolate_band(
    seen: NDArray[np.int32],
    vertices: NDArray[np.float64],
    triangles: NDArray[np.uint32],
    values: NDArray[Real],
    out: NDArray[Real],
    start: int,
    stop: int,
) -> None:
    width, num_values = seen.shape[1], values.shape[1]
    places = np.arange(width).astype(np.float64)
    w0, w1, w2 = np.empty(width), np.empty(width), np.empty(width)
    for y in range(start, stop):
        names = seen[y]
        x = 0
        while x < width:
            t = names[x]
            first = x
            x += 1
            if t < 0:
                continue
            while x < width and names[x] == t:
                x += 1
            i, j, k = triangles[np.uint32(t), 0], triangles[np.uint32(t), 1], triangles[np.uint32(t), 2]
            if x - first < _WIDE:
                for column in range(first, x):
                    s0, s1, s2 = _shares(vertices, i, j, k, places[column], y)
                    over = 1.0 / (s0 + s1 + s2)
                    s0, s1, s2 = s0 * over, s1 * over, s2 * over
                    for c in range(num_values):
                        out[c, y, column] = s0 * values[i, c] + s1 * values[j, c] + s2 * values[k, c]
                continue
            xi, xj, xk = vertices[i, 0], vertices[j, 0], vertices[k, 0]
            zi, zj, zk = vertices[i, 2], vertices[j, 2], vertices[k, 2]
            down_i, down_j, down_k = vertices[i, 1] - y, vertices[j, 1] - y, vertices[k, 1] - y
            for n in range(x - first):
                place = places[first + n]
                across_i, across_j, across_k = xi - place, xj - place, xk - place
                s0 = (across_j * down_k - down_j * across_k) * zi
                s1 = (across_k * down_i - down_k * across_i) * zj
                s2 = (across_i * down_j - down_i * across_j) * zk
                over = 1.0 / (s0 + s1 + s2)
                w0[n] = s0 * over
                w1[n] = s1 * over
                w2[n] = s2 * over
            for c in range(num_values):
                v0, v1, v2 = values[i, c], values[j, c], values[k, c]
                run = out[c, y, first:x]
                for n in range(run.size):
                    run[n] = w0[n] * v0 + w1[n] * v1 + w2[n] * v2


@exact_jit
def _gradients_of_face(
    seen: NDArray[np.int32],
    vertices: NDArray[np.float64],
    triangles: NDArray[np.uint32],
    values: NDArray[Real],
    gradient: NDArray[Real],
    d_points: NDArray[np.float64],
    d_depth: NDArray[np.float64],
    d_values: NDArray[np.float64],
) -> None:
    """Adds up what every pixel passes back to the corners of its triangle, row by row."""
    for y in range(seen.shape[0]):
        for x in range(seen.shape[1]):
            t = seen[y, x]
            if t < 0:
                continue
            i, j, k = triangles[np.uint32(t), 0], triangles[np.uint32(t), 1], triangles[np.uint32(t), 2]
            s0, s1, s2 = _shares(vertices, i, j, k, x, y)
            over = 1.0 / (s0 + s1 + s2)
            w0, w1, w2 = s0 * over, s1 * over, s2 * over
            g0, g1, g2 = 0.0, 0.0, 0.0  # with respect to the weights
            for c in range(values.shape[1]):
                g = np.float64(gradient[c, y, x])
                d_values[i, c] += w0 * g
                d_values[j, c] += w1 * g
                d_values[k, c] += w2 * g
                g0 += g * values[i, c]
                g1 += g * values[j, c]
                g2 += g * values[k, c]
            mean = w0 * g0 + w1 * g1 + w2 * g2
            # share = e / z, weight = share / Σ shares
            g0, g1, g2 = (g0 - mean) * over, (g1 - mean) * over, (g2 - mean) * over
            zi, zj, zk = vertices[i, 2], vertices[j, 2], vertices[k, 2]
            d_depth[i] -= g0 * s0 * zi
            d_depth[j] -= g1 * s1 * zj
            d_depth[k] -= g2 * s2 * zk
            e0, e1, e2 = g0 * zi, g1 * zj, g2 * zk  # with respect to e0, e1, e2
            xi, xj, xk = vertices[i, 0] - x, vertices[j, 0] - x, vertices[k, 0] - x
            yi, yj, yk = vertices[i, 1] - y, vertices[j, 1] - y, vertices[k, 1] - y
            d_points[i, 0] += e2 * yj - e1 * yk
            d_points[i, 1] += e1 * xk - e2 * xj
            d_points[j, 0] += e0 * yk - e2 * yi
            d_points[j, 1] += e2 * xi - e0 * xk
            d_points[k, 0] += e1 * yi - e0 * yj
            d_points[k, 1] += e0 * xj - e1 * xi
