"""Motion that should be kept, and trembling that should not be there: landmarks, lips and lids over time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Openings", "gain", "jitter", "lag_frames", "openings"]

Array = NDArray[np.float64]

_OUTER_EYES = (33, 263)
_LIPS = (13, 14)
_LIDS = ((159, 145), (386, 374))
"""Vertices of the FaceMesh topology, which vr468 shares: upper and lower of the inner lips, of the lids."""


def jitter(points: NDArray[np.floating], truth: NDArray[np.floating] | None = None) -> float:
    """How much landmarks tremble: the part of their error that changes from each frame to the next.

    Args:
        points: (F, P, 2), frames without a gap, F >= 3.
        truth: (F, P, 2) where they are. None: of the points themselves, so that a change of the motion's speed counts
            too; only good for comparing two trackers on one clip.

    Returns:
        Root mean square distance in the points' unit, scaled so that independent errors of standard deviation s on x
        and y give s * sqrt(2). An offset, or one that drifts evenly, gives 0.

    Raises:
        ValueError: fewer than three frames, or shapes that differ.
    """
    error = np.asarray(points, np.float64)
    if truth is not None:
        if np.shape(points) != np.shape(truth):
            raise ValueError(f"points {np.shape(points)} and truth {np.shape(truth)}")
        error = error - np.asarray(truth, np.float64)
    if error.ndim != 3 or len(error) < 3:
        raise ValueError(f"expected points (F, P, 2) of at least 3 frames, got {error.shape}")
    step = error[1:-1] - (error[:-2] + error[2:]) / 2  # of white noise it has 1 + 1/4 + 1/4 times the variance
    return float(np.sqrt((step**2).sum(-1).mean() / 1.5))


@dataclass(frozen=True, slots=True)
class Openings:
    """How far a face is open, frame by frame, in shares of the distance between the outer corners of its eyes."""

    mouth: Array
    """(F,) between the inner lips."""
    lids: Array
    """(F,) between upper and lower lids, mean of both eyes."""


def openings(points: NDArray[np.floating]) -> Openings:
    """Reads the openings off a mesh.

    Args:
        points: (F, V, 2) or (F, V, 3) of the FaceMesh topology (vr468); with z, a turned head reads as one that looks
            ahead.
    """
    p = np.asarray(points, np.float64)
    unit = np.linalg.norm(p[:, _OUTER_EYES[1]] - p[:, _OUTER_EYES[0]], axis=1)

    def apart(a: int, b: int) -> Array:
        return np.asarray(np.linalg.norm(p[:, a] - p[:, b], axis=1) / unit)

    return Openings(apart(*_LIPS), (apart(*_LIDS[0]) + apart(*_LIDS[1])) / 2)


def gain(measured: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """How much of a motion is kept: slope of the measured on the true values, each about its mean in time.

    Args:
        measured: (F, ...) openings, or the pixels of a window.
        truth: the same shape.

    Returns:
        1 where all of the motion is there, 0.5 where half of its amplitude is; noise that is independent of the motion
        does not change it. NaN where the truth does not move.
    """
    a, b = _about_mean(measured), _about_mean(truth)
    if a.shape != b.shape:
        raise ValueError(f"measured {a.shape} and truth {b.shape}")
    spread = float((b * b).sum())
    return float((a * b).sum()) / spread if spread > 0 else float("nan")


def lag_frames(measured: NDArray[np.floating], truth: NDArray[np.floating], max_lag: int = 5) -> float:
    """By how many frames a motion comes late; negative is early.

    Args:
        measured: (F, ...) openings, or the pixels of a window.
        truth: the same shape.
        max_lag: shifts that are tried, in frames.

    Returns:
        Where the cross-correlation has its peak, to a part of a frame (a parabola through the three highest); NaN
        where nothing moves.

    Raises:
        ValueError: shapes differ, or there are fewer than ``2 * max_lag + 3`` frames.
    """
    a, b = np.asarray(measured, np.float64), np.asarray(truth, np.float64)
    if a.shape != b.shape or len(a) < 2 * max_lag + 3:
        raise ValueError(f"measured {a.shape} and truth {b.shape}, at least {2 * max_lag + 3} frames are wanted")
    scores = []
    for shift in range(-max_lag, max_lag + 1):
        late = a[max(shift, 0) : len(a) + min(shift, 0)]
        true = b[max(-shift, 0) : len(b) - max(shift, 0)]
        late, true = _about_mean(late), _about_mean(true)
        norm = float(np.sqrt((late**2).sum() * (true**2).sum()))
        scores.append(float((late * true).sum()) / norm if norm > 0 else -1.0)
    best = int(np.argmax(scores))
    if scores[best] <= 0:
        return float("nan")
    if best in (0, len(scores) - 1):
        return float(best - max_lag)
    left, centre, right = scores[best - 1 : best + 2]
    bend = left - 2 * centre + right
    return best - max_lag + (0.5 * (left - right) / bend if bend < 0 else 0.0)


def _about_mean(values: NDArray[np.floating]) -> Array:
    v = np.asarray(values, np.float64)
    return np.asarray(v - v.mean(0))
