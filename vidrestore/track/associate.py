"""Which detection is which person: greedy matching of predicted boxes to found ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vidrestore.geometry import box_iou

__all__ = ["associate"]

FAR = 0.8  # of the mean box side: a face that jumped farther between two looks is taken for another one
SIZE_RATIO = 1.6  # a face whose box side changed more than that between two looks is taken for another one


def associate(predicted: NDArray[np.float32], found: NDArray[np.float32], min_iou: float) -> list[tuple[int, int]]:
    """Pairs (index in predicted, index in found), each index at most once, the best overlap first.

    Boxes that overlap by ``min_iou`` match by overlap; what is left then matches by distance of the centres, where
    the sizes agree, so that a fast face or a long pause of the detector does not end a track.

    Args:
        predicted: (N, 4) xyxy.
        found: (M, 4) xyxy.
        min_iou: [0, 1].
    """
    if not len(predicted) or not len(found):
        return []
    iou = box_iou(predicted, found)
    pairs = _greedy(np.where(iou >= max(min_iou, 1e-9), 1.0 - iou, np.inf))
    near = _relative_distance(predicted, found)
    near[[p for p, _ in pairs], :] = np.inf
    near[:, [f for _, f in pairs]] = np.inf
    return pairs + _greedy(near)


def _relative_distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    centre_a, centre_b = (a[:, :2] + a[:, 2:]) / 2.0, (b[:, :2] + b[:, 2:]) / 2.0
    side_a = np.sqrt(np.clip(a[:, 2:] - a[:, :2], 1e-3, None).prod(-1))
    side_b = np.sqrt(np.clip(b[:, 2:] - b[:, :2], 1e-3, None).prod(-1))
    distance = np.linalg.norm(centre_a[:, None] - centre_b[None], axis=-1)
    distance = distance / ((side_a[:, None] + side_b[None]) / 2.0)
    ratio = np.maximum(side_a[:, None] / side_b[None], side_b[None] / side_a[:, None])
    return np.where((distance <= FAR) & (ratio <= SIZE_RATIO), distance, np.inf)


def _greedy(cost: NDArray[np.float64]) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    cost = cost.copy()
    while cost.size and np.isfinite(cost.min()):
        row, column = np.unravel_index(int(cost.argmin()), cost.shape)
        pairs.append((int(row), int(column)))
        cost[row, :] = np.inf
        cost[:, column] = np.inf
    return pairs
