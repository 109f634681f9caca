"""Jitter, openings, gain and lag on signals that are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidrestore.evaluate.motion import gain, jitter, lag_frames, openings


def path(frames: int = 200) -> np.ndarray:
    t = np.arange(frames)[:, None, None] / 25
    return np.concatenate(
        [100 + 20 * np.sin(2 * t + np.arange(5)[:, None]), 80 + 9 * np.cos(3 * t + np.zeros((5, 1)))], 2
    )


def test_jitter_of_independent_errors_is_their_deviation() -> None:
    error = np.random.default_rng(0).normal(0, 1.7, path().shape)
    assert jitter(path() + error, path()) == pytest.approx(1.7 * np.sqrt(2), rel=0.05)


def test_an_offset_that_drifts_evenly_is_no_jitter() -> None:
    drift = 5.0 + 0.1 * np.arange(200)[:, None, None]
    assert jitter(path() + drift, path()) == pytest.approx(0.0, abs=1e-9)


@given(st.floats(0.1, 20.0))
@settings(max_examples=20, deadline=None)
def test_jitter_scales_with_the_error(scale: float) -> None:
    error = np.random.default_rng(1).normal(0, 1.0, path().shape)
    assert jitter(path() + scale * error, path()) == pytest.approx(scale * jitter(path() + error, path()))


def test_without_a_truth_the_points_own_tremor_is_seen() -> None:
    error = np.random.default_rng(2).normal(0, 2.0, path().shape)
    assert jitter(path()) < 0.3
    assert jitter(path() + error) == pytest.approx(2.0 * np.sqrt(2), rel=0.06)


def test_jitter_wants_three_frames_of_one_shape() -> None:
    with pytest.raises(ValueError, match="at least 3 frames"):
        jitter(path(2))
    with pytest.raises(ValueError, match="truth"):
        jitter(path(5), path(6))


def speech(frames: int = 120) -> np.ndarray:
    t = np.arange(frames) / 25
    return 0.1 + 0.08 * np.sin(2 * np.pi * 2.3 * t) * (1 + 0.4 * np.sin(1.1 * t)) + 0.03 * np.sin(2 * np.pi * 0.7 * t)


@pytest.mark.parametrize("share", [1.0, 0.7, 0.0, 1.2])
def test_gain_is_the_share_of_the_amplitude(share: float) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 120)
    assert gain(0.3 + share * speech() + noise, speech()) == pytest.approx(share, abs=0.05)


def test_gain_of_pixels_counts_all_of_them() -> None:
    clean = speech()[:, None, None] * np.array([[1.0, 2.0], [0.0, 3.0]])
    assert gain(0.5 * clean, clean) == pytest.approx(0.5)
    assert np.isnan(gain(clean, np.ones_like(clean)))


@pytest.mark.parametrize("lag", [0, 1, 3, -2])
def test_lag_is_found_with_its_sign(lag: int) -> None:
    long = speech(140)
    assert lag_frames(long[10 - lag : 130 - lag], long[10:130]) == pytest.approx(lag, abs=0.1)


def test_a_smoother_that_looks_back_comes_late() -> None:
    signal = speech(140)
    late = np.array([signal[max(i - 4, 0) : i + 1].mean() for i in range(140)])
    assert lag_frames(late[10:], signal[10:]) == pytest.approx(2.0, abs=0.35)
    assert gain(late[10:], signal[10:]) < 0.9


def test_lag_of_half_a_frame_is_seen() -> None:
    t = np.arange(120)
    assert lag_frames(np.sin((t - 0.5) / 4), np.sin(t / 4)) == pytest.approx(0.5, abs=0.1)


def test_lag_wants_frames_enough() -> None:
    with pytest.raises(ValueError, match="at least 13 frames"):
        lag_frames(speech(8), speech(8))


def test_openings_are_in_shares_of_the_eyes_distance() -> None:
    points = np.zeros((2, 468, 3))
    points[:, 263, 0] = 100.0
    points[1, 14, 1] = 30.0
    points[1, 145, 1], points[1, 374, 1] = 10.0, 6.0
    found = openings(points)
    np.testing.assert_allclose(found.mouth, [0.0, 0.3])
    np.testing.assert_allclose(found.lids, [0.0, 0.08])


def test_openings_in_space_do_not_depend_on_the_turn() -> None:
    points = np.random.default_rng(0).normal(0, 30, (3, 468, 3))
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    np.testing.assert_allclose(openings(points @ turn).mouth, openings(points).mouth)
