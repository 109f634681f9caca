"""Values that hold still in time: a local polynomial fitted to the looks around each frame.

One piece of code serves both uses. With looks before and after a frame (offline, look-ahead) the fit is a
zero-phase smoother; with looks before it only (live) it becomes a causal filter that follows a steady motion
without lag. It fills short gaps and, a little beyond the last look, continues the motion.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["smooth_at"]

SUPPORT = 3.0  # looks farther than so many standard deviations do not count
NARROWER = 2.5  # times: a second window, used where the two disagree
KINK_FROM, KINK_TO = 1.0, 2.5  # of what looks are usually off: disagreement from which, and to which, it takes over
ROBUST_STEPS = 3
ROBUST_REACH = 3.0  # times the median distance from the fit: where looks lie farther off, they do not count


def smooth_at(
    index: float,
    indices: NDArray[np.float64],
    values: NDArray[np.float64],
    weights: NDArray[np.float64],
    sigma: float,
    *,
    noise: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """The value at a frame, by weighted least squares over the looks around it.

    A parabola where at least three looks lie on either side (so that a nod or a turn is not flattened), a line
    where there are three or more looks in all, else their weighted mean. The result never leaves the range of the
    looks used by more than half that range.

    Args:
        index: the frame wanted.
        indices: (N,) frames of the looks, N >= 1.
        values: (N, D).
        weights: (N,) confidence, > 0.
        sigma: standard deviation of the Gaussian window in frames; 0 gives the nearest look as it is.
        noise: (D,) by how much ordinary looks are off; then looks that disagree with those around them by much more
            count less, or not at all. None takes all of them.

    Returns:
        (D,)

    Source:
        Local polynomial regression (Savitzky and Golay 1964 for even spacing); robust steps with bisquare weights as in
        Cleveland, "Robust locally weighted regression and smoothing scatterplots", JASA 74 (1979), section 2.
    """
    offset = indices - index
    distance = np.abs(offset)
    if sigma <= 0:
        return _between(offset, values, int(distance.argmin()))
    third_nearest = np.sort(distance)[:3][-1]  # a narrow window still holds enough looks to tell a motion
    used = distance <= max(SUPPORT * sigma, float(third_nearest))
    x, y = offset[used] / sigma, values[used]
    square = x * x
    powers = np.stack([np.ones_like(x), x, square], 1)
    window = np.exp(-0.5 * square) * weights[used]
    k = window + 1e-12
    basis = powers[:, : _order(x, k) + 1]
    solution = _solve(basis, y, k)
    if noise is not None and len(x) >= 5:
        for _ in range(ROBUST_STEPS):
            away = (np.abs(y - basis @ solution) / noise).max(1)
            far = away / (ROBUST_REACH * max(1.0, float(np.sort(away)[len(x) // 2])))
            if far.max() <= 1.0:
                break
            k = window * np.square(np.maximum(1.0 - far * far, 0.0)) + 1e-12
            basis = powers[:, : _order(x, k) + 1]
            solution = _solve(basis, y, k)
        # where a motion begins or stops at once, few looks tell more than many
        near = _solve(basis, y, k * np.exp(-0.5 * (NARROWER**2 - 1.0) * square))
        close = np.abs(x) <= 2.0 / NARROWER
        if close.any():
            away = (np.abs(y - basis @ near) / noise).max(1)[close]
            usual = max(1.0, float(np.sort(away)[len(away) // 2]))
            apart = np.abs(near[0] - solution[0]) / (usual * noise)
            share = np.minimum(np.maximum((apart - KINK_FROM) / (KINK_TO - KINK_FROM), 0.0), 1.0)
            solution[0] += share * (near[0] - solution[0])
    counted = y[k > 1e-4 * k.max()]
    low, high = counted.min(0), counted.max(0)
    slack = (high - low) / 2.0
    fitted: NDArray[np.float64] = np.minimum(np.maximum(solution[0], low - slack), high + slack)
    return fitted


def _solve(basis: NDArray[np.float64], y: NDArray[np.float64], k: NDArray[np.float64]) -> NDArray[np.float64]:
    """(1 to 3, D) coefficients of the polynomial, by weighted least squares."""
    weighted = (basis * (k / k.max())[:, None]).T
    normal = weighted @ basis
    normal.flat[:: len(normal) + 1] += 1e-12
    solution: NDArray[np.float64] = np.linalg.solve(normal, weighted @ y)
    return solution


def _order(x: NDArray[np.float64], k: NDArray[np.float64]) -> int:
    """Degree of the polynomial that the looks which count allow, by their places and weights."""
    counts = k > 1e-4 * k.max()
    before, after = np.count_nonzero(counts & (x < 0)), np.count_nonzero(counts & (x > 0))
    if min(before, after) >= 3:
        return 2
    return 1 if np.count_nonzero(counts) >= 3 else 0


def _between(offset: NDArray[np.float64], values: NDArray[np.float64], nearest: int) -> NDArray[np.float64]:
    before, after = np.flatnonzero(offset <= 0), np.flatnonzero(offset >= 0)
    left = right = nearest
    if len(before) and len(after):
        left, right = int(before[offset[before].argmax()]), int(after[offset[after].argmin()])
    span = offset[right] - offset[left]
    share = -offset[left] / span if span > 0 else 0.0
    between: NDArray[np.float64] = values[left] * (1 - share) + values[right] * share
    return between
