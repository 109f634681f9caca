"""Hard cuts between shots, found online: one number per frame, compared with the recent past."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from vidrestore.types import Frame, Plane

__all__ = ["ShotDetector"]

# Blocks of the picture that are compared, rows and columns: coarse enough that grain and small motion average out
_GRID = (18, 32)
_BINS = 64
# Frames of recent activity that a cut must stand out from
_MEMORY = 8


class ShotDetector:
    """Says of each frame whether a new shot begins with it."""

    def __init__(self, threshold: float) -> None:
        """
        Args:
            threshold: change in [0, 1] above which a frame begins a new shot.
        """
        self._threshold = threshold
        self._blocks: NDArray[np.float32] | None = None
        self._histogram: NDArray[np.float32] | None = None
        self._recent: deque[float] = deque(maxlen=_MEMORY)
        self.change = 0.0
        """The measure of the last frame against the one before it, in [0, 1]."""

    def update(self, frame: Frame) -> bool:
        """Takes the next frame; True where it begins a new shot. The first frame of all does not."""
        blocks, histogram = _signature(frame.planes[0], frame.format.depth)
        last_blocks, last_histogram = self._blocks, self._histogram
        self._blocks, self._histogram = blocks, histogram
        if last_blocks is None or last_histogram is None:
            return False
        structure = _structure_change(last_blocks, blocks)
        tones = float(np.abs(histogram - last_histogram).sum()) / 2
        self.change = float(np.sqrt(structure * tones))
        usual = float(np.median(self._recent)) if self._recent else 0.0
        is_cut = self.change > self._threshold and self.change > 2 * usual
        if is_cut:
            self._recent.clear()
        else:
            self._recent.append(self.change)
        return is_cut


def _signature(luma: Plane, depth: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    height, width = luma.shape
    rows, columns = min(_GRID[0], height), min(_GRID[1], width)
    step_y, step_x = max(1, height // (rows * 8)), max(1, width // (columns * 8))
    sample = luma[::step_y, ::step_x].astype(np.float32) / float((1 << depth) - 1)
    edges_y = np.linspace(0, sample.shape[0], rows + 1).astype(int)[:-1]
    edges_x = np.linspace(0, sample.shape[1], columns + 1).astype(int)[:-1]
    sums = np.add.reduceat(np.add.reduceat(sample, edges_y, axis=0), edges_x, axis=1)
    counts = np.outer(np.diff([*edges_y, sample.shape[0]]), np.diff([*edges_x, sample.shape[1]]))
    index = np.minimum((sample * _BINS).astype(np.int64), _BINS - 1)
    histogram = np.bincount(index.ravel(), minlength=_BINS)[:_BINS].astype(np.float32)
    return (sums / counts).astype(np.float32), histogram / histogram.sum()


def _structure_change(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """0 where the blocks are the same picture up to brightness and contrast, 1 where nothing agrees."""
    a, b = before - before.mean(), after - after.mean()
    power = float(np.sqrt((a * a).sum() * (b * b).sum()))
    # one grey level of contrast in both: flat pictures have no structure that could differ
    floor = a.size * (1 / 255) ** 2
    correlation = (float((a * b).sum()) + floor) / (power + floor)
    return float(np.clip((1 - correlation) / 1.0, 0, 1))
