"""How alike two pictures are, as means of coarse blocks: what cuts and transitions are found by."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEVEL", "Blocks", "best_correlation", "correlation"]

Blocks: TypeAlias = NDArray[np.float32]
"""(rows, columns) means of luma, in [0, 1]."""

LEVEL = 1 / 255
"""A step of 8 bits: what grain makes of a picture that shows nothing."""


def correlation(first: Blocks, second: Blocks) -> float:
    """Of two pictures' blocks, in [-1, 1]; near 1 where neither shows more than grain."""
    a, b = first - first.mean(), second - second.mean()
    power = float(np.sqrt((a * a).sum() * (b * b).sum()))
    floor = a.size * LEVEL**2
    result: float = (float((a * b).sum()) + floor) / (power + floor)
    return result


def best_correlation(before: Blocks, after: Blocks, *, most: tuple[int, int]) -> float:
    """The highest over the shifts of a camera.

    Args:
        before: blocks of a picture.
        after: of a later one, as many.
        most: rows and columns by which it may have moved; never more than a quarter of the picture.
    """
    rows, columns = before.shape
    down, across = min(most[0], rows // 4), min(most[1], columns // 4)
    best = -1.0
    for dy in range(-down, down + 1):
        for dx in range(-across, across + 1):
            a = before[max(0, dy) : rows + min(0, dy), max(0, dx) : columns + min(0, dx)]
            b = after[max(0, -dy) : rows + min(0, -dy), max(0, -dx) : columns + min(0, -dx)]
            best = max(best, correlation(a, b))
    return best
