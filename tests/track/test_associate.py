"""Matching of boxes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vidrestore.track.associate import associate

corner = arrays(np.float32, (4, 2), elements=st.floats(0, 100, width=32))


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def test_the_best_overlap_wins() -> None:
    predicted = boxes((0, 0, 10, 10), (4, 0, 14, 10))
    assert sorted(associate(predicted, boxes((4, 0, 14, 10), (1, 0, 11, 10)), 0.3)) == [(0, 1), (1, 0)]


def test_a_fast_face_is_found_by_nearness() -> None:
    assert associate(boxes((0, 0, 10, 10)), boxes((7, 0, 17, 10)), 0.3) == [(0, 0)]


def test_a_face_of_another_size_is_another_face() -> None:
    assert associate(boxes((0, 0, 10, 10)), boxes((6, 6, 36, 36)), 0.3) == []


def test_a_far_face_is_another_face() -> None:
    assert associate(boxes((0, 0, 10, 10)), boxes((30, 0, 40, 10)), 0.3) == []


def test_nothing_matches_nothing() -> None:
    assert associate(boxes(), boxes((0, 0, 1, 1)), 0.3) == []


@given(corner, corner, corner, corner, st.floats(0, 1))
def test_each_is_matched_at_most_once(a, b, c, d, min_iou) -> None:
    predicted = np.concatenate([np.minimum(a, b), np.maximum(a, b)], 1)
    found = np.concatenate([np.minimum(c, d), np.maximum(c, d)], 1)
    pairs = associate(predicted, found, min_iou)
    assert len({p for p, _ in pairs}) == len(pairs) == len({f for _, f in pairs})
