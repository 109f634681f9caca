"""Which detection is which person: greedy matching of predicted boxes to found ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidrestore.geometry import box_iou
from vidrestore.types import Detections

__all__ = ["associate", "distinct", "overlap_of_smaller", "states_of"]

DUPLICATE_OVERLAP = 0.6  # of the smaller box's area: a detection that lies so far inside another is the same face

FAR = 0.8  # of the mean box side: a face that jumped farther between two looks is taken for another one
SIZE_RATIO = 1.6  # a face whose box side changed more than that between two looks is taken for another one


def associate(
    predicted: NDArray[np.float32],
    found: NDArray[np.float32],
    min_iou: float,
    penalty: NDArray[np.float64] | None = None,
) -> list[tuple[int, int]]:
    """Pairs (index in predicted, index in found), each index at most once, the best overlap first.

    Boxes that overlap by ``min_iou`` match by overlap; what is left then matches by distance of the centres, where
    the sizes agree, so that a fast face or a long pause of the detector does not end a track.

    Args:
        predicted: (N, 4) xyxy.
        found: (M, 4) xyxy.
        min_iou: [0, 1].
        penalty: (N, M) >= 0, added to a pair's cost (1 - IoU, or distance over the mean side): how unlike the two are.
    """
    if not len(predicted) or not len(found):
        return []
    unlike = np.zeros((len(predicted), len(found))) if penalty is None else penalty
    iou = box_iou(predicted, found)
    pairs = _greedy(np.where(iou >= max(min_iou, 1e-9), 1.0 - iou, np.inf) + unlike)
    near = _relative_distance(predicted, found) + unlike
    near[[p for p, _ in pairs], :] = np.inf
    near[:, [f for _, f in pairs]] = np.inf
    return pairs + _greedy(near)


def distinct(boxes: NDArray[np.floating[Any]], scores: NDArray[np.floating[Any]]) -> list[int]:
    """Indices of detections, best score first, without those that lie inside a better one.

    Args:
        boxes: (N, 4) xyxy.
        scores: (N,).
    """
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if all(overlap_of_smaller(boxes[i], boxes[j]) <= DUPLICATE_OVERLAP for j in kept):
            kept.append(int(i))
    return kept


def overlap_of_smaller(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> float:
    """What two (4,) boxes share, in shares of the smaller one's area, [0, 1]."""
    sides = np.minimum(a[2:4], b[2:4]) - np.maximum(a[:2], b[:2])
    areas = (a[2:4] - a[:2]).prod(), (b[2:4] - b[:2]).prod()
    return float(np.clip(sides, 0, None).prod() / max(min(areas), 1e-9))


def states_of(detections: Detections) -> NDArray[np.float64]:
    """(N, 15): box 4, landmarks 10, score 1 of each detection."""
    n = len(detections)
    rows = [detections.boxes, detections.landmarks.reshape(n, 10), detections.scores[:, None]]
    return np.concatenate(rows, 1).astype(np.float64)


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
