"""Ids, fades, gaps and cuts."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidrestore.config import TrackOptions
from vidrestore.track.points import PointTracker
from vidrestore.types import Detections, Frame, PixelFormat, Track, TrackedFrame

GRAY = PixelFormat("gray", "gray", 8)
POINTS = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])


def frame(index: int, shot: int = 0) -> Frame:
    return Frame(index, index, Fraction(1, 25), (np.zeros((2, 2), np.uint8),), GRAY, shot)


def faces(*places: tuple[float, float], side: float = 50.0, score: float = 0.9) -> Detections:
    boxes = np.array([[x, y, x + side, y + side] for x, y in places], np.float32).reshape(-1, 4)
    landmarks = (boxes[:, None, :2] + side * POINTS).astype(np.float32)
    return Detections(boxes, landmarks, np.full(len(places), score, np.float32))


def run(
    looks: Sequence[Detections], options: TrackOptions, shots: Sequence[int] | None = None, every: int = 1
) -> list[TrackedFrame]:
    tracker = PointTracker(options, every)
    out: list[TrackedFrame] = []
    for index in range(len(looks)):
        seen = frame(index, shots[index] if shots else 0)
        out += tracker.update(seen, lambda asked: looks[asked.index])
    return out + tracker.flush()


def of_person(tracked: Sequence[TrackedFrame], person: int) -> dict[int, Track]:
    return {t.frame.index: track for t in tracked for track in t.tracks if track.id == person}


@given(st.integers(0, 20), st.integers(1, 60), st.lists(st.integers(0, 9), max_size=3))
@settings(max_examples=30)
def test_every_frame_comes_out_once_and_in_order(lookahead: int, count: int, cuts: list[int]) -> None:
    shots = [sum(cut <= index for cut in cuts) for index in range(count)]
    tracked = run([faces((10, 10))] * count, TrackOptions(lookahead=lookahead), shots)
    assert [t.frame.index for t in tracked] == list(range(count))


def test_a_still_face_is_one_person_at_full_strength_throughout() -> None:
    tracked = run([faces((10, 10))] * 30, TrackOptions())
    person = of_person(tracked, 0)
    assert sorted(person) == list(range(30))
    assert {track.strength for track in person.values()} == {1.0}
    np.testing.assert_allclose(person[15].box, [10, 10, 60, 60], atol=1e-4)


def test_a_face_that_is_seen_too_rarely_is_not_believed() -> None:
    looks = [Detections.none()] * 40
    looks[20] = looks[21] = faces((10, 10))
    assert all(not t.tracks for t in run(looks, TrackOptions(min_hits=3)))


def test_a_short_gap_is_bridged_with_the_same_id() -> None:
    looks = [faces((10 + i, 10)) for i in range(40)]
    looks[15:20] = [Detections.none()] * 5
    person = of_person(run(looks, TrackOptions()), 0)
    assert sorted(person) == list(range(40))
    assert min(track.strength for track in person.values()) == 1.0
    np.testing.assert_allclose(person[17].box[0], 27.0, atol=0.5)
    assert person[17].missed == 3


def test_a_face_fades_out_before_it_is_lost_and_in_after_it_appears() -> None:
    looks = [Detections.none()] * 30 + [faces((10, 10))] * 40 + [Detections.none()] * 40
    person = of_person(run(looks, TrackOptions(fade_frames=6)), 0)
    strengths = [person[i].strength if i in person else 0.0 for i in range(110)]
    assert strengths[29] == 0.0
    assert strengths[30] == pytest.approx(1 / 6)
    assert strengths[40] == 1.0
    assert strengths[69] <= 1 / 6 + 1e-9, "gone by the last frame in which it was seen"
    assert strengths[72] == 0.0
    steps = np.abs(np.diff(strengths))
    assert steps.max() <= 1 / 6 + 1e-9, "never a jump"


def test_live_tracking_fades_without_looking_ahead() -> None:
    looks = [Detections.none()] * 10 + [faces((10, 10))] * 40 + [Detections.none()] * 40
    person = of_person(run(looks, TrackOptions(lookahead=0, fade_frames=4, min_hits=2)), 0)
    strengths = [person[i].strength if i in person else 0.0 for i in range(90)]
    assert max(strengths) == 1.0
    assert np.abs(np.diff(strengths)).max() <= 1 / 4 + 1e-9
    assert strengths[-1] == 0.0


def test_a_cut_ends_people_and_ids_are_never_reused() -> None:
    looks = [faces((10, 10))] * 40
    tracked = run(looks, TrackOptions(), [0] * 20 + [1] * 20)
    assert {track.id for t in tracked[:20] for track in t.tracks} == {0}
    assert {track.id for t in tracked[20:] for track in t.tracks} == {1}
    assert {track.strength for t in tracked for track in t.tracks} == {1.0}, "no fade at a cut"


def test_a_shot_shorter_than_min_hits_is_restored_all_the_same() -> None:
    tracked = run([faces((10, 10))] * 10, TrackOptions(min_hits=3), [0] * 4 + [1] * 2 + [2] * 4)
    assert all(len(t.tracks) == 1 for t in tracked)


def test_two_people_who_pass_each_other_keep_their_ids() -> None:
    looks = [faces((10 + 4 * i, 10), (210 - 4 * i, 55)) for i in range(50)]
    tracked = run(looks, TrackOptions())
    left = of_person(tracked, 0)
    assert left[0].box[0] == pytest.approx(10, abs=1)
    assert left[49].box[0] == pytest.approx(206, abs=1)


def test_the_detector_may_rest_between_looks() -> None:
    asked: list[int] = []
    tracker = PointTracker(TrackOptions(), every=4)

    def look(seen: Frame) -> Detections:
        asked.append(seen.index)
        return faces((10 + 2 * seen.index, 10))

    tracked = [done for i in range(41) for done in tracker.update(frame(i), look)] + tracker.flush()
    person = of_person(tracked, 0)
    assert asked == list(range(0, 41, 4))
    assert sorted(person) == list(range(41))
    np.testing.assert_allclose([person[i].box[0] for i in range(41)], 10 + 2 * np.arange(41), atol=0.5)


def test_a_detection_inside_a_better_one_is_the_same_face() -> None:
    inner = faces((20, 20), side=30.0, score=0.7)
    outer = faces((10, 10), score=0.9)
    both = Detections(
        np.concatenate([inner.boxes, outer.boxes]),
        np.concatenate([inner.landmarks, outer.landmarks]),
        np.concatenate([inner.scores, outer.scores]),
    )
    tracked = run([both] * 10, TrackOptions())
    assert all(len(t.tracks) == 1 for t in tracked)
    np.testing.assert_allclose(tracked[5].tracks[0].box, outer.boxes[0], atol=1e-3)


def test_smoothing_takes_the_tremble_out_of_the_points() -> None:
    rng = np.random.default_rng(1)
    shake = rng.normal(0, 1.0, (80, 2))
    looks = [faces((100 + x, 100 + y)) for x, y in shake]
    person = of_person(run(looks, TrackOptions()), 0)
    nose = np.array([person[i].landmarks[2] for i in range(10, 70)])
    raw = np.array([look.landmarks[0, 2] for look in looks[10:70]])
    assert np.diff(nose, axis=0).std() < 0.4 * np.diff(raw, axis=0).std()


def test_memory_does_not_grow_with_the_clip() -> None:
    tracker = PointTracker(TrackOptions())
    for index in range(3000):
        tracker.update(frame(index), lambda seen: faces((10, 10)) if seen.index % 50 < 30 else Detections.none())
    assert len(tracker._people) <= 2
    assert all(len(person.indices) < 80 for person in tracker._people)
    assert len(tracker._waiting) == TrackOptions().lookahead
