from __future__ import annotations

import math
from fractions import Fraction

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vidrestore.config import TrackOptions, load_config
from vidrestore.errors import ConfigError
from vidrestore.geometry import identity
from vidrestore.track.rules import FaceRules, detail_of
from vidrestore.types import Frame, PixelFormat, Pose, StreamInfo, Track, TrackedFrame

GRAY = PixelFormat("gray", "gray", 8)
ANYTHING = TrackOptions(min_detail=0.0)


def info_of(display_from_frame: NDArray[np.float64] | None = None) -> StreamInfo:
    m = identity() if display_from_frame is None else display_from_frame
    half = Fraction(1, 25)
    one = Fraction(1)
    return StreamInfo("x", 320, 240, 320, 240, m, 0, one, half, one, None, None, GRAY, "ffv1", None, False)


def face_picture(width: float = 100.0, blur: float = 0.0, noise: float = 0.0, left: float = 60.0) -> NDArray[np.uint8]:
    """A drawn face on grey: two eyes, brows, a mouth; ``blur`` is a share of its width."""
    picture = np.full((240, 320), 120.0, np.float32)
    u = width / 100.0

    def oval(x: float, y: float, rx: float, ry: float, level: float) -> None:
        place = (round((left + x * u) * 16), round((40 + y * u) * 16))
        cv2.ellipse(picture, place, (round(rx * u * 16), round(ry * u * 16)), 0, 0, 360, level, -1, cv2.LINE_8, 4)

    oval(50, 65, 45, 60, 170)
    for x in (30, 70):
        oval(x, 50, 9, 5, 60)
        oval(x, 36, 12, 3, 90)
    oval(50, 100, 17, 5, 80)
    if blur:
        picture = cv2.GaussianBlur(picture, (0, 0), blur * width)
    picture += np.random.default_rng(0).normal(0, noise, picture.shape) if noise else 0.0
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


BLANK = np.zeros((240, 320), np.uint8)


def frame_of(index: int, picture: NDArray[np.uint8] = BLANK, shot: int = 0) -> Frame:
    return Frame(index, index, Fraction(1, 25), (picture,), GRAY, shot)


def track_of(width: float = 100.0, *, track_id: int = 0, yaw: float | None = None, strength: float = 1.0) -> Track:
    box = np.array([60, 40, 60 + width, 40 + 1.3 * width], np.float32)
    points = np.zeros((5, 2), np.float32)
    pose = None if yaw is None else Pose(math.radians(yaw), 0.0, 0.0)
    return Track(track_id, box, points, 0.9, strength, pose)


def strengths(rules: FaceRules, widths: list[float], shots: list[int] | None = None) -> list[float]:
    out = []
    for i, width in enumerate(widths):
        frame = frame_of(i, shot=shots[i] if shots else 0)
        out.append(rules.apply(TrackedFrame(frame, (track_of(width),))).tracks[0].strength)
    return out


def test_an_ordinary_face_is_not_touched() -> None:
    tracked = TrackedFrame(frame_of(0, face_picture()), (track_of(yaw=40.0, strength=0.3),))
    assert FaceRules(TrackOptions(), info_of()).apply(tracked) is tracked


@pytest.mark.parametrize(("width", "yaw"), [(10.0, None), (400.0, None), (100.0, 85.0), (100.0, -85.0)])
def test_small_large_and_turned_faces_are_left_from_their_first_frame(width: float, yaw: float | None) -> None:
    rules = FaceRules(TrackOptions(min_detail=0.0, max_size_px=300.0), info_of())
    for i in range(3):
        tracked = rules.apply(TrackedFrame(frame_of(i), (track_of(width, yaw=yaw),)))
        assert [track.strength for track in tracked.tracks] == [0.0]


def test_faces_that_cross_a_limit_fade() -> None:
    options = TrackOptions(min_detail=0.0, min_size_px=50.0, fade_frames=4)
    out = strengths(FaceRules(options, info_of()), [60.0] * 2 + [40.0] * 6 + [60.0] * 6)
    assert out == [1, 1, 0.75, 0.5, 0.25, 0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1]


def test_a_face_at_the_limit_does_not_flicker() -> None:
    options = TrackOptions(min_detail=0.0, min_size_px=50.0, fade_frames=4)
    wavering = [51.0, 49.0] * 20
    out = strengths(FaceRules(options, info_of()), wavering)
    assert out[10:] == [0.0] * 30  # 15 % above the limit would bring it back
    assert strengths(FaceRules(options, info_of()), [58.0, 52.0] * 10) == [1.0] * 20


def test_a_cut_decides_anew_and_at_once() -> None:
    options = TrackOptions(min_detail=0.0, min_size_px=50.0, fade_frames=10)
    assert strengths(FaceRules(options, info_of()), [40.0, 40.0, 52.0, 52.0], [0, 0, 1, 1]) == [0, 0, 1, 1]


def test_frames_that_were_dropped_count_in_the_fade() -> None:
    rules = FaceRules(TrackOptions(min_detail=0.0, min_size_px=50.0, fade_frames=10), info_of())
    out = []
    for index, width in ((0, 60.0), (1, 40.0), (4, 40.0), (9, 40.0)):
        out.append(rules.apply(TrackedFrame(frame_of(index), (track_of(width),))).tracks[0].strength)
    assert out == pytest.approx([1.0, 0.9, 0.6, 0.1])


def test_the_tracks_own_fade_is_multiplied() -> None:
    rules = FaceRules(TrackOptions(min_detail=0.0, min_size_px=50.0, fade_frames=2), info_of())
    rules.apply(TrackedFrame(frame_of(0), (track_of(60.0, strength=0.5),)))
    assert rules.apply(TrackedFrame(frame_of(1), (track_of(40.0, strength=0.5),))).tracks[0].strength == 0.25


def test_only_and_never_name_persons() -> None:
    faces = tuple(track_of(track_id=i) for i in range(4))
    for options, expected in (
        (TrackOptions(min_detail=0.0, never=(1, 3)), [1.0, 0.0, 1.0, 0.0]),
        (TrackOptions(min_detail=0.0, only=(1, 3)), [0.0, 1.0, 0.0, 1.0]),
        (TrackOptions(min_detail=0.0, only=(1, 3), never=(3,)), [0.0, 1.0, 0.0, 0.0]),
    ):
        rules = FaceRules(options, info_of())
        for i in range(2):
            tracked = rules.apply(TrackedFrame(frame_of(i), faces))
            assert [track.strength for track in tracked.tracks] == expected


def test_ids_come_from_files_and_must_be_ids() -> None:
    config = load_config(overrides={"track": {"only": [2, 5], "never": []}})
    assert (config.track.only, config.track.never) == ((2, 5), ())
    with pytest.raises(ConfigError, match=r"track\.only"):
        load_config(overrides={"track": {"only": [-1]}})


def test_blurred_faces_are_left_and_noisy_ones_are_not() -> None:
    box = np.array([60.0, 40.0, 160.0, 170.0])
    sharp, soft, shadow, noisy = (
        detail_of(frame_of(0, face_picture(blur=b, noise=n)), box)
        for b, n in ((0.0, 0.0), (0.05, 0.0), (0.2, 0.0), (0.0, 20.0))
    )
    limit = TrackOptions().min_detail
    assert sharp > soft > limit > shadow
    assert noisy > limit
    assert detail_of(frame_of(0, face_picture(blur=0.2, noise=10.0)), box) < limit
    assert detail_of(frame_of(0, BLANK + 77), box) < 1e-3


def test_detail_does_not_depend_on_size_and_depth() -> None:
    small, large = (
        detail_of(frame_of(0, face_picture(w)), np.array([60.0, 40.0, 60 + w, 40 + 1.3 * w])) for w in (40.0, 130.0)
    )
    assert small == pytest.approx(large, rel=0.25)
    ten = PixelFormat("gray10le", "gray", 10)
    deep = Frame(0, 0, Fraction(1, 25), (face_picture().astype(np.uint16) * 4,), ten)
    box = np.array([60.0, 40.0, 160.0, 170.0])
    assert detail_of(deep, box) == pytest.approx(detail_of(frame_of(0, face_picture()), box), rel=0.02)


def test_a_face_that_goes_out_of_focus_fades_out_and_comes_back() -> None:
    rules = FaceRules(TrackOptions(fade_frames=5), info_of())
    sharp, shadow = face_picture(), face_picture(blur=0.25)
    out = []
    for i in range(120):
        picture = shadow if 20 <= i < 70 else sharp
        out.append(rules.apply(TrackedFrame(frame_of(i, picture), (track_of(),))).tracks[0].strength)
    assert out[:20] == [1.0] * 20
    assert out[65:70] == [0.0] * 5
    assert out[100:] == [1.0] * 20
    assert np.abs(np.diff(out)).max() <= 0.2 + 1e-9


def test_boxes_are_found_in_turned_frames() -> None:
    picture = np.rot90(face_picture()).copy()  # stored lying: 320 rows
    height = picture.shape[0]
    display_from_frame = np.array([[0.0, -1.0, height - 1.0], [1.0, 0.0, 0.0]])
    frame = Frame(0, 0, Fraction(1, 25), (picture,), GRAY)
    rules = FaceRules(TrackOptions(), info_of(display_from_frame))
    tracked = TrackedFrame(frame, (track_of(),))
    assert rules.apply(tracked) is tracked
    flat = TrackedFrame(Frame(1, 1, Fraction(1, 25), (np.full_like(picture, 90),), GRAY), (track_of(track_id=1),))
    assert rules.apply(flat).tracks[0].strength == 0.0


def test_faces_at_the_picture_edge_are_measured_where_they_are_seen() -> None:
    assert detail_of(frame_of(0, face_picture(left=-40.0)), np.array([-40.0, 40.0, 60.0, 170.0])) > 2.0
    assert detail_of(frame_of(0, face_picture()), np.array([400.0, 40.0, 500.0, 170.0])) == 0.0


@given(st.lists(st.floats(1.0, 300.0), min_size=2, max_size=40), st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_strength_stays_in_range_and_moves_by_single_steps(widths: list[float], fade: int) -> None:
    options = TrackOptions(min_detail=0.0, min_size_px=100.0, max_size_px=200.0, fade_frames=fade)
    out = np.array(strengths(FaceRules(options, info_of()), widths))
    assert out.min() >= 0.0
    assert out.max() <= 1.0
    assert np.abs(np.diff(out)).max() <= 1.0 / fade + 1e-9


def test_memory_does_not_grow_with_people() -> None:
    rules = FaceRules(ANYTHING, info_of())
    for i in range(1000):
        rules.apply(TrackedFrame(frame_of(i), (track_of(track_id=i),)))
    assert len(rules._faces) <= 301
    rules.apply(TrackedFrame(frame_of(1000, shot=1), (track_of(track_id=1000),)))
    assert len(rules._faces) == 1
