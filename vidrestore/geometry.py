"""Similarity and affine maps, boxes: pure functions on arrays.

Convention:
    Points are (x, y), x right, y down, in pixels; (0, 0) is the centre of the top-left pixel. A matrix is named
    target_from_source, has shape (2, 3) and maps source points to target points, so products read as
    ``frame_from_crop = frame_from_display @ display_from_crop`` (here: :func:`compose`). All are float64.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Affine",
    "apply",
    "box_iou",
    "compose",
    "estimate_similarity",
    "identity",
    "invert",
    "mean_scale",
    "scale_about_pixel_edges",
]

Affine = NDArray[np.float64]
"""A (2, 3) matrix, target_from_source."""

_AS_COMPLEX = np.array([1.0, 1.0j])


def identity() -> Affine:
    """The map that leaves every point where it is."""
    return np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def estimate_similarity(source: ArrayLike, target: ArrayLike) -> Affine:
    """Least-squares similarity (rotation, one scale, translation; no mirroring) from source to target points.

    Args:
        source: (N, 2) points, N >= 2, not all the same.
        target: (N, 2) points.

    Returns:
        target_from_source, (2, 3).

    Raises:
        ValueError: the shapes differ, or the source points coincide, so that the scale is not defined.

    Source:
        The closed form of the orthogonal Procrustes problem in the plane: with centred points as complex
        numbers, the factor is <source, target> / <source, source>.
    """
    source = np.asarray(source, np.float64)
    target = np.asarray(target, np.float64)
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 2 or len(source) < 2:
        raise ValueError(f"expected two (N, 2) arrays with N >= 2, got {source.shape} and {target.shape}")
    s, t = source @ _AS_COMPLEX, target @ _AS_COMPLEX
    source_mean, target_mean = complex(s.mean()), complex(t.mean())
    s -= source_mean
    norm = float(np.vdot(s, s).real)
    if norm <= 1e-12 * max(1.0, float(np.abs(source).max()) ** 2):
        raise ValueError("the source points coincide, a similarity cannot be estimated from them")
    factor = complex(np.vdot(s, t - target_mean)) / norm
    shift = target_mean - factor * source_mean
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])


def invert(matrix: ArrayLike) -> Affine:
    """source_from_target of a target_from_source map.

    Raises:
        ValueError: the map is singular.
    """
    (a, b, x), (c, d, y) = np.asarray(matrix, np.float64).tolist()
    determinant = a * d - b * c
    if not math.isfinite(determinant) or abs(determinant) < 1e-18:
        raise ValueError(f"the map has determinant {determinant}, it cannot be inverted")
    a, b, c, d = d / determinant, -b / determinant, -c / determinant, a / determinant
    return np.array([[a, b, -a * x - b * y], [c, d, -c * x - d * y]])


def compose(outer: ArrayLike, inner: ArrayLike) -> Affine:
    """The map that applies ``inner`` first and ``outer`` second: c_from_a of c_from_b and b_from_a."""
    o, i = np.asarray(outer, np.float64), np.asarray(inner, np.float64)
    product: Affine = o[:, :2] @ i
    product[:, 2] += o[:, 2]
    return product


def apply(matrix: ArrayLike, points: ArrayLike) -> NDArray[np.float64]:
    """Maps points of shape (..., 2)."""
    m, p = np.asarray(matrix, np.float64), np.asarray(points, np.float64)
    return p @ m[:, :2].T + m[:, 2]


def mean_scale(matrix: ArrayLike) -> float:
    """Target pixels per source pixel: the square root of the area factor."""
    m = np.asarray(matrix, np.float64)
    return math.sqrt(abs(m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0]))


def scale_about_pixel_edges(scale_x: float, scale_y: float | None = None) -> Affine:
    """The map of a resize that keeps the picture's *edges* in place, as every resampler does.

    With pixel centres at whole numbers, a picture reaches from -0.5 to width - 0.5; a resize maps x to
    scale * (x + 0.5) - 0.5.
    """
    sy = scale_x if scale_y is None else scale_y
    return np.array([[scale_x, 0.0, 0.5 * scale_x - 0.5], [0.0, sy, 0.5 * sy - 0.5]])


def box_iou(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union of every pair of boxes.

    Args:
        first: (N, 4) xyxy.
        second: (M, 4) xyxy.

    Returns:
        (N, M) in [0, 1]; 0 where a box has no area.
    """
    a = np.asarray(first, np.float64).reshape(-1, 4)
    b = np.asarray(second, np.float64).reshape(-1, 4)
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = np.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = np.clip(bottom_right - top_left, 0, None).prod(-1)
    area_a = np.clip(a[:, 2:] - a[:, :2], 0, None).prod(-1)
    area_b = np.clip(b[:, 2:] - b[:, :2], 0, None).prod(-1)
    union = area_a[:, None] + area_b[None] - overlap
    iou: NDArray[np.float64] = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return iou
