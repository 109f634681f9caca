"""Faces that are turned far are restored less, smoothly; others are left alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrestore.config import RestoreOptions
from vidrestore.restoration.turned import strength_of, turn_share, w_of
from vidrestore.types import Pose, Track

OPTIONS = RestoreOptions(yaw_from_deg=35.0, yaw_to_deg=70.0, yaw_strength=0.5, yaw_w=0.8, w=0.4)


def track(yaw_deg: float | None, strength: float = 1.0, number: int = 0) -> Track:
    pose = None if yaw_deg is None else Pose(math.radians(yaw_deg), 0.0, 0.0)
    return Track(number, np.zeros(4, np.float32), np.zeros((5, 2), np.float32), 0.9, strength, pose)


@pytest.mark.parametrize("yaw_deg", [None, 0.0, 34.9, -34.9])
def test_faces_under_the_limit_and_without_a_pose_are_left_alone(yaw_deg: float | None) -> None:
    assert strength_of(track(yaw_deg, 0.7), OPTIONS) == 0.7
    assert w_of(track(yaw_deg), OPTIONS) == 0.4


@pytest.mark.parametrize("yaw_deg", [70.0, -90.0])
def test_faces_turned_far_get_the_other_strength_and_weight(yaw_deg: float) -> None:
    assert strength_of(track(yaw_deg, 0.6), OPTIONS) == pytest.approx(0.3)
    assert w_of(track(yaw_deg), OPTIONS) == pytest.approx(0.8)


def test_a_weight_that_is_higher_already_stays() -> None:
    options = RestoreOptions(w_of_track={3: 0.95}, yaw_w=0.8)
    assert w_of(track(90.0, number=3), options) == 0.95


@given(st.floats(0.0, 90.0), st.floats(0.0, 1.0))
def test_nothing_jumps(yaw_deg: float, step_deg: float) -> None:
    a, b = (turn_share(track(v).pose, OPTIONS) for v in (yaw_deg, yaw_deg + step_deg))
    assert 0.0 <= a <= b <= 1.0
    assert b - a <= 1.5 * step_deg / 35.0 + 1e-6


def test_limits_that_coincide_are_a_step() -> None:
    options = RestoreOptions(yaw_from_deg=40.0, yaw_to_deg=40.0)
    assert [turn_share(track(v).pose, options) for v in (39.0, 41.0)] == [0.0, 1.0]
