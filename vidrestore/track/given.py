"""Faces that somebody pointed at, where the detector finds none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidrestore.geometry import box_iou
from vidrestore.types import Detections

__all__ = ["GIVEN_SCORE", "GivenBoxes", "points_in_box", "with_given"]

GivenBoxes = Mapping[int, Sequence[tuple[float, float, float, float]]]
"""{frame index: boxes (x1, y1, x2, y2) in display pixels}"""

GIVEN_SCORE = 1.0
"""Of a face that was given: it is not doubted."""

SAME_IOU = 0.3  # a given box that overlaps a detection so far means that face

FIVE_IN_BOX: NDArray[np.float64] = np.array([(0.27, 0.37), (0.73, 0.37), (0.5, 0.58), (0.29, 0.72), (0.7, 0.72)])
"""Where YuNet's points lie in YuNet's box, in shares of its sides: the mean over 255 generated faces."""


def points_in_box(box: ArrayLike) -> NDArray[np.float32]:
    """(5, 2) where the five points of an upright face are, if all that is known is its box, (4,) xyxy."""
    x0, y0, x1, y1 = np.asarray(box, np.float64)
    points: NDArray[np.float32] = (np.array([x0, y0]) + FIVE_IN_BOX * np.array([x1 - x0, y1 - y0])).astype(np.float32)
    return points


def with_given(found: Detections, boxes: Sequence[tuple[float, float, float, float]] | None) -> Detections:
    """Detections, and the given boxes that none of them overlaps, with points where a face's usually are."""
    if not boxes:
        return found
    new = np.array(boxes, np.float32).reshape(-1, 4)
    if len(found):
        new = new[box_iou(new, found.boxes).max(1) < SAME_IOU]
    points = [points_in_box(box) for box in new]
    return Detections(
        np.concatenate([found.boxes, new]),
        np.concatenate([found.landmarks, np.array(points, np.float32).reshape(-1, 5, 2)]),
        np.concatenate([found.scores, np.full(len(new), GIVEN_SCORE, np.float32)]),
    )
