"""NumPy float64 twin of :mod:`vidrestore.kernels.rasterize`, written from its formulas; the tests compare with it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidrestore.kernels.rasterize import MIN_AREA, NEAR

__all__ = ["draw"]

Array = NDArray[np.float64]


def draw(
    points_px: ArrayLike, depth: ArrayLike, triangles: ArrayLike, values: ArrayLike, size: int
) -> tuple[Array, NDArray[np.int64]]:
    """Twin of :func:`vidrestore.kernels.rasterize.draw`; every triangle looks at every pixel."""
    points, depths, carried = (np.asarray(array, np.float64) for array in (points_px, depth, values))
    pictures, names = [], []
    for face in range(len(points)):
        picture, seen = _draw_face(points[face], depths[face], np.asarray(triangles), carried[face], size)
        pictures.append(picture)
        names.append(seen)
    return np.stack(pictures), np.stack(names)


def _draw_face(
    points: Array, depth: Array, triangles: NDArray[np.int64], values: Array, size: int
) -> tuple[Array, NDArray[np.int64]]:
    y, x = np.mgrid[:size, :size].astype(np.float64)
    nearest, seen = np.zeros((size, size)), np.full((size, size), -1)
    picture = np.zeros((values.shape[1], size, size))
    for name, corners in enumerate(triangles):
        p, z = points[corners], depth[corners]
        (x0, y0), (x1, y1), (x2, y2) = p
        area = (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0)
        if not (np.isfinite(p).all() and np.isfinite(z).all() and (z >= NEAR).all() and abs(area) >= MIN_AREA):
            continue
        products = np.stack(
            [
                (x1 - x) * (y2 - y) - (y1 - y) * (x2 - x),
                (x2 - x) * (y0 - y) - (y2 - y) * (x0 - x),
                (x0 - x) * (y1 - y) - (y0 - y) * (x1 - x),
            ]
        )
        is_inside = (products >= 0.0).all(0) | (products <= 0.0).all(0)
        shares = products / z[:, None, None]
        inverse = np.where(is_inside, shares.sum(0) / area, 0.0)
        is_nearer = inverse > nearest
        nearest = np.where(is_nearer, inverse, nearest)
        seen = np.where(is_nearer, name, seen)
        weights = shares[:, is_nearer] / shares[:, is_nearer].sum(0)
        picture[:, is_nearer] = values[corners].T @ weights
    return picture, seen
