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


def smooth_at(
    index: float,
    indices: NDArray[np.float64],
    values: NDArray[np.float64],
    weights: NDArray[np.float64],
    sigma: float,
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

    Returns:
        (D,)

    Source:
        Local polynomial regression (Savitzky and Golay 1964 for even spacing; Cleveland 1979 for any).
    """
    offset = indices - index
    nearest = int(np.abs(offset).argmin())
    if sigma <= 0:
        return _between(offset, values, nearest)
    window = np.exp(-0.5 * (offset / sigma) ** 2)
    third_nearest = np.sort(np.abs(offset))[:3][-1]  # a narrow window still holds enough looks to tell a motion
    used = np.abs(offset) <= max(SUPPORT * sigma, float(third_nearest))
    x, y, k = offset[used] / sigma, values[used], np.sqrt(window[used] * weights[used] + 1e-12)
    order = _order(x)
    basis = np.stack([x**power for power in range(order + 1)], 1)
    solution, *_ = np.linalg.lstsq(basis * k[:, None], y * k[:, None], rcond=None)
    low, high = y.min(0), y.max(0)
    slack = (high - low) / 2.0
    fitted: NDArray[np.float64] = np.clip(solution[0], low - slack, high + slack)
    return fitted


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
