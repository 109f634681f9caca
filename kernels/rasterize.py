"""Triangle meshes drawn into pixels: ``rasterize``, ``interpolate`` and the gradient of the latter.

Formula, for the centre (x, y) of a pixel and a triangle with corners p0, p1, p2 (pixels) at depths z0, z1, z2:

    e0 = (x1 - x)(y2 - y) - (y1 - y)(x2 - x), e1 and e2 likewise with the corners turned round
    inside       where e0, e1, e2 have one sign or are 0
    1/z          = (e0/z0 + e1/z1 + e2/z2) / (e0 + e1 + e2)
    nearest      the triangle with the largest 1/z; of equals the one that comes first
    weight k     = (ek/zk) / (e0/z0 + e1/z1 + e2/z2)
    value        = Σk weight k · value of corner k

1/z is linear in the picture, so weights are those of the point in space and not of its image (perspective-correct).
Both sides of a triangle are drawn. A pixel whose centre lies on an edge belongs to both neighbours, so a mesh has no
holes: the terms of an edge are always formed from its lower vertex index to its higher one, hence are the same
numbers, with the other sign, in both triangles. There is no antialiasing: a pixel is covered or not.

Pixels count as everywhere here, the centre of the top-left one is (0, 0). A renderer that counts from the picture's
corner and has pixel centres at +0.5 draws the same picture from points that are 0.5 larger.

Triangles are left out if a corner is nearer than ``NEAR`` or farther than ``MAX_PLACE`` pixels from the picture's
origin or not finite, or if they are thinner than ``MIN_AREA``. Nothing is clipped at the near plane.

Everything is computed in float64. Reads, per face, 12 bytes a triangle and 24 a vertex; writes 12 bytes per pixel of
scratch and 4 bytes per pixel and channel.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidrestore.errors import KernelError
from vidrestore.kernels.launch import jit, num_threads, run_bands

__all__ = ["MAX_PLACE", "MIN_AREA", "NEAR", "interpolate", "interpolate_gradients", "rasterize"]

NEAR = 0.01
"""Smallest depth that is drawn, as in the published renderer."""

MAX_PLACE = 2.0**20
"""Largest coordinate in pixels; beyond it float64 could no longer tell the sides of an edge apart to 1e-9 px²."""

MIN_AREA = 1e-9
"""Twice the smallest area that is drawn, px²."""

_MIN_ROWS = 16

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
    mesh = _Mesh(points_px, depth, triangles)
    if size < 1:
        raise KernelError(f"size must be at least 1, got {size}")
    seen = np.full((mesh.batch, size, size), -1, np.int32)
    nearest = np.zeros((mesh.batch, size, size), np.float64)

    def kernel(start: int, stop: int) -> None:
        for face, first, last in _rows(start, stop, size):
            _rasterize_band(
                mesh.points[face], mesh.inverse[face], mesh.triangles, nearest[face], seen[face], first, last
            )

    _run(kernel, mesh.batch, size)
    return seen


def interpolate(
    seen: NDArray[np.int32], points_px: ArrayLike, depth: ArrayLike, triangles: ArrayLike, values: NDArray[Real]
) -> NDArray[Real]:
    """Values of the vertices, carried over the triangles that are seen.

    Args:
        seen: (B, S, S) as :func:`rasterize` gave it for the same mesh.
        points_px: (B, N, 2).
        depth: (B, N).
        triangles: (T, 3).
        values: (B, N, C) float32 or float64.

    Returns:
        (B, C, S, S) of the same type, 0 where nothing is seen.

    Raises:
        KernelError: shapes or types that do not fit.
    """
    mesh = _Mesh(points_px, depth, triangles)
    values = _checked_values(mesh, values)
    _check_seen(mesh, seen)
    size = seen.shape[1]
    out = np.zeros((mesh.batch, values.shape[2], size, size), values.dtype)

    def kernel(start: int, stop: int) -> None:
        for face, first, last in _rows(start, stop, size):
            _interpolate_band(
                seen[face], mesh.points[face], mesh.inverse[face], mesh.triangles, values[face], out[face], first, last
            )

    _run(kernel, mesh.batch, size)
    return out


def interpolate_gradients(
    seen: NDArray[np.int32],
    points_px: ArrayLike,
    depth: ArrayLike,
    triangles: ArrayLike,
    values: NDArray[Real],
    gradient: NDArray[Real],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """What :func:`interpolate` passes back.

    The gradient of the values is exact. That of points and depth is exact for the inside of triangles; that a
    silhouette moves over a pixel is a jump, which has no gradient.

    Args:
        seen: as there.
        points_px: as there.
        depth: as there.
        triangles: as there.
        values: as there.
        gradient: (B, C, S, S) of a loss with respect to its result.

    Returns:
        Gradients with respect to points (B, N, 2), depth (B, N) and values (B, N, C), float64. Each face is summed up
        in one fixed order, so they are the same in every run.
    """
    mesh = _Mesh(points_px, depth, triangles)
    values = _checked_values(mesh, values)
    _check_seen(mesh, seen)
    size = seen.shape[1]
    if gradient.shape != (mesh.batch, values.shape[2], size, size):
        raise KernelError(f"gradient must be {(mesh.batch, values.shape[2], size, size)}, got {gradient.shape}")
    gradient = np.ascontiguousarray(gradient, values.dtype)
    d_points, d_depth = np.zeros(mesh.points.shape), np.zeros(mesh.inverse.shape)
    d_values = np.zeros(values.shape, np.float64)

    def kernel(first: int, last: int) -> None:
        for face in range(first, last):
            _gradients_of_face(
                seen[face],
                mesh.points[face],
                mesh.inverse[face],
                mesh.triangles,
                values[face],
                gradient[face],
                d_points[face],
                d_depth[face],
                d_values[face],
            )

    run_bands(kernel, 0, mesh.batch, min_rows=1)
    return d_points, d_depth, d_values


class _Mesh:
    """The arrays of a launch, checked: float64 points, 1 / depth (0: not to be drawn), int32 triangles."""

    def __init__(self, points_px: ArrayLike, depth: ArrayLike, triangles: ArrayLike) -> None:
        points = np.ascontiguousarray(points_px, np.float64)
        depths = np.asarray(depth, np.float64)
        corners = np.asarray(triangles)
        if points.ndim != 3 or points.shape[2] != 2 or depths.shape != points.shape[:2]:
            raise KernelError(f"points must be (B, N, 2) and depth (B, N), got {points.shape} and {depths.shape}")
        if corners.ndim != 2 or corners.shape[1] != 3 or corners.dtype.kind not in "iu":
            raise KernelError(f"triangles must be (T, 3) whole numbers, got {corners.shape} {corners.dtype}")
        count = points.shape[1]
        if corners.size and not (corners.min() >= 0 and corners.max() < count):
            raise KernelError(f"triangles name vertices {corners.min()} to {corners.max()}, there are {count}")
        self.batch = points.shape[0]
        self.points = points
        self.triangles = np.ascontiguousarray(corners, np.int32)
        with np.errstate(invalid="ignore"):
            is_drawn = (depths >= NEAR) & (np.abs(points) <= MAX_PLACE).all(2) & np.isfinite(depths)
        self.inverse = np.divide(1.0, depths, out=np.zeros_like(depths), where=is_drawn)


def _checked_values(mesh: _Mesh, values: NDArray[Any]) -> NDArray[Any]:
    if values.ndim != 3 or values.shape[:2] != mesh.inverse.shape or values.dtype not in (np.float32, np.float64):
        raise KernelError(
            f"values must be ({mesh.inverse.shape[0]}, {mesh.inverse.shape[1]}, C) float32 or float64, "
            f"got {values.shape} {values.dtype}"
        )
    return np.ascontiguousarray(values)


def _check_seen(mesh: _Mesh, seen: NDArray[np.int32]) -> None:
    if seen.ndim != 3 or seen.shape[0] != mesh.batch or seen.shape[1] != seen.shape[2] or seen.dtype != np.int32:
        raise KernelError(f"seen must be ({mesh.batch}, S, S) int32, got {seen.shape} {seen.dtype}")
    if not seen.flags.c_contiguous or (seen.size and seen.max() >= len(mesh.triangles)):
        raise KernelError("seen must be contiguous and name triangles of this mesh")


def _run(kernel: Any, batch: int, size: int) -> None:
    """One band for each core: every band looks at all triangles, so more would cost more than they even out."""
    rows = batch * size
    run_bands(kernel, 0, rows, min_rows=max(_MIN_ROWS, -(-rows // num_threads())))


def _rows(start: int, stop: int, size: int) -> list[tuple[int, int, int]]:
    """Rows of all pictures below each other -> (face, first row, row after the last)."""
    faces = range(start // size, -(-stop // size))
    return [(face, max(start - face * size, 0), min(stop - face * size, size)) for face in faces]


@jit
def _edge(points: NDArray[np.float64], u: int, v: int) -> tuple[float, float, float]:
    """(a, b, c) of a x + b y + c, the cross product of the edge u -> v with the way from u to (x, y).

    Formed from the lower index to the higher one: the neighbour across the edge gets the same numbers negated.
    """
    low, high, sign = (u, v, 1.0) if u < v else (v, u, -1.0)
    x0, y0, x1, y1 = points[low, 0], points[low, 1], points[high, 0], points[high, 1]
    return sign * (y0 - y1), sign * (x1 - x0), sign * (x0 * y1 - y0 * x1)


@jit
def _rasterize_band(
    points: NDArray[np.float64],
    inverse: NDArray[np.float64],
    triangles: NDArray[np.int32],
    nearest: NDArray[np.float64],
    seen: NDArray[np.int32],
    start: int,
    stop: int,
) -> None:
    """Rows start..stop of one picture; ``nearest`` holds 1/z and begins as 0, ``seen`` begins as -1."""
    width = seen.shape[1]
    for t in range(triangles.shape[0]):
        i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        xi, xj, xk = points[i, 0], points[j, 0], points[k, 0]
        yi, yj, yk = points[i, 1], points[j, 1], points[k, 1]
        low_x, high_x = min(xi, min(xj, xk)), max(xi, max(xj, xk))
        low_y, high_y = min(yi, min(yj, yk)), max(yi, max(yj, yk))
        # written so that NaN is outside
        if not (high_y >= start and low_y <= stop - 1 and high_x >= 0 and low_x <= width - 1):
            continue
        left, right = math.ceil(max(low_x, 0.0)), math.floor(min(high_x, width - 1.0))
        top, bottom = math.ceil(max(low_y, float(start))), math.floor(min(high_y, stop - 1.0))
        if left > right or top > bottom:
            continue
        zi, zj, zk = inverse[i], inverse[j], inverse[k]
        area = (xj - xi) * (yk - yi) - (yj - yi) * (xk - xi)
        if abs(area) < MIN_AREA or zi == 0.0 or zj == 0.0 or zk == 0.0:
            continue
        side = 1.0 if area > 0.0 else -1.0
        a0, b0, c0 = _edge(points, j, k)
        a1, b1, c1 = _edge(points, k, i)
        a2, b2, c2 = _edge(points, i, j)
        a0, b0, c0 = side * a0, side * b0, side * c0
        a1, b1, c1 = side * a1, side * b1, side * c1
        a2, b2, c2 = side * a2, side * b2, side * c2
        over = 1.0 / abs(area)
        az, bz, cz = (
            (a0 * zi + a1 * zj + a2 * zk) * over,
            (b0 * zi + b1 * zj + b2 * zk) * over,
            (c0 * zi + c1 * zj + c2 * zk) * over,
        )
        for y in range(top, bottom + 1):
            r0, r1, r2, rz = b0 * y + c0, b1 * y + c1, b2 * y + c2, bz * y + cz
            for x in range(left, right + 1):
                if a0 * x + r0 >= 0.0 and a1 * x + r1 >= 0.0 and a2 * x + r2 >= 0.0:
                    z = az * x + rz
                    if z > nearest[y, x]:
                        nearest[y, x] = z
                        seen[y, x] = t


@jit
def _shares(
    points: NDArray[np.float64], inverse: NDArray[np.float64], i: int, j: int, k: int, x: int, y: int
) -> tuple[float, float, float]:
    """e0/z0, e1/z1, e2/z2 of a triangle at a pixel that it covers."""
    a0, b0, c0 = _edge(points, j, k)
    a1, b1, c1 = _edge(points, k, i)
    a2, b2, c2 = _edge(points, i, j)
    return (
        (a0 * x + (b0 * y + c0)) * inverse[i],
        (a1 * x + (b1 * y + c1)) * inverse[j],
        (a2 * x + (b2 * y + c2)) * inverse[k],
    )


@jit
def _interpolate_band(
    seen: NDArray[np.int32],
    points: NDArray[np.float64],
    inverse: NDArray[np.float64],
    triangles: NDArray[np.int32],
    values: NDArray[Real],
    out: NDArray[Real],
    start: int,
    stop: int,
) -> None:
    for y in range(start, stop):
        for x in range(seen.shape[1]):
            t = seen[y, x]
            if t < 0:
                continue
            i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
            s0, s1, s2 = _shares(points, inverse, i, j, k, x, y)
            over = 1.0 / (s0 + s1 + s2)
            w0, w1, w2 = s0 * over, s1 * over, s2 * over
            for c in range(values.shape[1]):
                out[c, y, x] = w0 * values[i, c] + w1 * values[j, c] + w2 * values[k, c]


@jit
def _gradients_of_face(
    seen: NDArray[np.int32],
    points: NDArray[np.float64],
    inverse: NDArray[np.float64],
    triangles: NDArray[np.int32],
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
            i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
            s0, s1, s2 = _shares(points, inverse, i, j, k, x, y)
            over = 1.0 / (s0 + s1 + s2)
            w0, w1, w2 = s0 * over, s1 * over, s2 * over
            g0, g1, g2 = 0.0, 0.0, 0.0  # with respect to the weights
            for c in range(values.shape[1]):
                g = gradient[c, y, x]
                d_values[i, c] += w0 * g
                d_values[j, c] += w1 * g
                d_values[k, c] += w2 * g
                g0 += g * values[i, c]
                g1 += g * values[j, c]
                g2 += g * values[k, c]
            mean = w0 * g0 + w1 * g1 + w2 * g2
            # share = e / z, weight = share / Σ shares
            g0, g1, g2 = (g0 - mean) * over, (g1 - mean) * over, (g2 - mean) * over
            zi, zj, zk = inverse[i], inverse[j], inverse[k]
            d_depth[i] -= g0 * s0 * zi
            d_depth[j] -= g1 * s1 * zj
            d_depth[k] -= g2 * s2 * zk
            e0, e1, e2 = g0 * zi, g1 * zj, g2 * zk  # with respect to e0, e1, e2
            xi, xj, xk = points[i, 0] - x, points[j, 0] - x, points[k, 0] - x
            yi, yj, yk = points[i, 1] - y, points[j, 1] - y, points[k, 1] - y
            d_points[i, 0] += e2 * yj - e1 * yk
            d_points[i, 1] += e1 * xk - e2 * xj
            d_points[j, 0] += e0 * yk - e2 * yi
            d_points[j, 1] += e2 * xi - e0 * xk
            d_points[k, 0] += e1 * yi - e0 * yj
            d_points[k, 1] += e0 * xj - e1 * xi
