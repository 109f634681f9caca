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
KINK_FROM, KINK_TO = 1.0, 3.0  # of what looks are usually off: disagreement from which, and to which, it takes over
ROBUST_STEPS = 3
ROBUST_REACH = 6.0  # times the median distance from the fit: looks farther off do not count (Cleveland)


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
    nearest = int(np.abs(offset).argmin())
    if sigma <= 0:
        return _between(offset, values, nearest)
    window = np.exp(-0.5 * (offset / sigma) ** 2)
    third_nearest = np.sort(np.abs(offset))[:3][-1]  # a narrow window still holds enough looks to tell a motion
    used = np.abs(offset) <= max(SUPPORT * sigma, float(third_nearest))
    x, y, k = offset[used] / sigma, values[used], window[used] * weights[used] + 1e-12
    fitted, at_looks = _fit(x, y, k)
    if noise is None or len(x) < 5:
        return fitted
    for _ in range(ROBUST_STEPS):
        away = (np.abs(y - at_looks) / noise).max(1)
        usual = max(1.0, float(np.median(away)))
        far = away / (ROBUST_REACH * usual)
        trust = np.square(np.maximum(1.0 - far * far, 0.0))
        if trust.min() > 0.8:
            break
        k = window[used] * weights[used] * trust + 1e-12
        fitted, at_looks = _fit(x, y, k)
    # where a motion begins or stops at once, few looks tell more than many
    near, _ = _fit(x, y, k * np.exp(-0.5 * x * x * (NARROWER**2 - 1.0)))
    apart = np.abs(near - fitted) / (usual * noise)
    share = np.clip((apart - KINK_FROM) / (KINK_TO - KINK_FROM), 0.0, 1.0)
    return (1.0 - share) * fitted + share * near


def _fit(
    x: NDArray[np.float64], y: NDArray[np.float64], k: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(D,) the polynomial's value at 0, kept near the looks that count, and (N, D) its values at the looks."""
    counts = k > 1e-4 * k.max()
    basis = np.stack([x**power for power in range(_order(x[counts]) + 1)], 1)
    weighted = basis * (k / k.max())[:, None]
    solution = np.linalg.solve(basis.T @ weighted + 1e-12 * np.eye(basis.shape[1]), weighted.T @ y)
    low, high = y[counts].min(0), y[counts].max(0)
    slack = (high - low) / 2.0
    return np.clip(solution[0], low - slack, high + slack), basis @ solution


def _order(x: NDArray[np.float64]) -> int:
    if min(int((x < 0).sum()), int((x > 0).sum())) >= 3:
        return 2
    return 1 if len(x) >= 3 else 0


def _between(offset: NDArray[np.float64], values: NDArray[np.float64], nearest: int) -> NDArray[np.float64]:
    before, after = np.flatnonzero(offset <= 0), np.flatnonzero(offset >= 0)
    left = right = nearest
    if len(before) and len(after):
        left, right = int(before[offset[before].argmax()]), int(after[offset[after].argmin()])
    span = offset[right] - offset[left]
    share = -offset[left] / span if span > 0 else 0.0
    between: NDArray[np.float64] = values[left] * (1 - share) + values[right] * share
    return between
