"""Tracks against the truth: constructed clips with known switches and false faces."""

from __future__ import annotations

import numpy as np
import pytest

from vidrestore.evaluate.tracking import boxes_matched, match_boxes, score_tracks


def box(x: float, y: float = 0.0, side: float = 20.0) -> np.ndarray:
    return np.array([x, y, x + side, y + side], np.float32)


def crossing(frames: int = 21) -> list[dict[int, np.ndarray]]:
    """Two people who walk past one another; 0 goes right, 1 goes left."""
    return [{0: box(5.0 * i), 1: box(5.0 * (frames - 1 - i), 3.0)} for i in range(frames)]


def test_perfect_tracks_have_no_fault() -> None:
    truth = crossing()
    score = score_tracks(truth, [{7: f[0], 9: f[1]} for f in truth])
    assert (score.id_switches, score.num_found, score.num_false, score.num_ids) == (0, 42, 0, 2)
    assert score.false_ids == ()


def test_ids_that_are_exchanged_at_a_crossing_are_two_switches() -> None:
    truth = crossing()
    tracks = [{7: f[i > 10], 9: f[i <= 10]} for i, f in enumerate(truth)]
    assert score_tracks(truth, tracks).id_switches == 2


def test_a_new_id_after_a_gap_is_one_switch_and_the_same_id_is_none() -> None:
    truth = [{0: box(0)}] * 9
    gap = [{1: box(0)}] * 3 + [{}] * 3
    assert score_tracks(truth, [*gap, *[{2: box(0)}] * 3]).id_switches == 1
    same = score_tracks(truth, [*gap, *[{1: box(0)}] * 3])
    assert (same.id_switches, same.num_found, same.num_faces) == (0, 6, 9)


def test_a_track_on_nothing_is_a_false_face() -> None:
    score = score_tracks([{0: box(0)}] * 4, [{1: box(1), 5: box(90)}] * 4)
    assert score.num_false == 4
    assert score.false_ids == (5,)


def test_another_number_of_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="1 frames and tracks of 0"):
        score_tracks([{}], [])


def test_each_box_is_matched_once_and_the_best_first() -> None:
    first, second = np.stack([box(0), box(2)]), np.stack([box(2)])
    assert match_boxes(first, second, 0.5) == [(1, 0, pytest.approx(1.0))]


def test_share_of_boxes_matched() -> None:
    tracks = [np.stack([box(0), box(100)]), np.zeros((0, 4)), np.stack([box(0, side=30)])]
    found = [np.stack([box(1), box(100)]), np.stack([box(0)]), np.stack([box(0)])]
    assert boxes_matched(tracks, found) == pytest.approx(2 / 4)
    assert np.isnan(boxes_matched([np.zeros((0, 4))], [np.zeros((0, 4))]))
