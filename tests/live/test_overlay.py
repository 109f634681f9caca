from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import info_of

from vidrestore.live.overlay import _POINTS, _pose_of, _rotation_of, estimate_pose, overlay_of, pose_axes
from vidrestore.restoration.align import template
from vidrestore.types import Pose, Track

ANGLE = st.floats(-1.2, 1.2)


@given(ANGLE, ANGLE, ANGLE)
def test_angles_and_rotation_tell_the_same(yaw: float, pitch: float, roll: float) -> None:
    pose = _pose_of(_rotation_of(Pose(yaw, pitch, roll)))
    assert (pose.yaw, pose.pitch, pose.roll) == pytest.approx((yaw, pitch, roll), abs=1e-9)


@given(st.floats(-0.8, 0.8), st.floats(-0.6, 0.6), ANGLE)
def test_the_pose_of_an_average_head_is_found(yaw: float, pitch: float, roll: float) -> None:
    points = (_POINTS @ _rotation_of(Pose(yaw, pitch, roll)).T)[:, :2] * 70.0 + (300.0, 200.0)
    found = estimate_pose(points)
    assert (found.yaw, found.pitch, found.roll) == pytest.approx((yaw, pitch, roll), abs=1e-6)


def test_the_signs_are_those_of_the_convention() -> None:
    straight = template(512)
    nose_right = straight + np.array([[0, 0], [0, 0], [25, 0], [0, 0], [0, 0]])
    nose_down = straight + np.array([[0, 0], [0, 0], [0, 25], [0, 0], [0, 0]])
    assert estimate_pose(nose_right).yaw > 0.1
    assert estimate_pose(nose_down).pitch > estimate_pose(straight).pitch + 0.05
    turned = straight @ np.array([[np.cos(0.3), np.sin(0.3)], [-np.sin(0.3), np.cos(0.3)]])
    assert estimate_pose(turned).roll == pytest.approx(0.3, abs=0.02)
    assert max(abs(estimate_pose(straight).yaw), abs(estimate_pose(straight).roll)) < np.radians(3)


def test_axes_start_at_the_nose_and_follow_a_given_pose() -> None:
    points = template(128)
    axes = pose_axes(points, Pose(0.0, 0.0, 0.0))
    assert axes[0] == pytest.approx(points[2])
    assert axes[1] - axes[0] == pytest.approx([np.linalg.norm(axes[1] - axes[0]), 0.0], abs=1e-9)
    assert axes[3] == pytest.approx(axes[0])  # straight at the viewer: a point


def test_the_overlay_is_in_shares_and_draws_a_mesh_only_where_there_is_one() -> None:
    points = template(64).astype(np.float32) + 20
    track = Track(7, np.array([19.5, 9.5, 99.5, 89.5], np.float32), points, 0.9)
    (plain,) = overlay_of((track,), info_of())
    assert plain["box"] == [[0.125, pytest.approx(10 / 120, abs=1e-4)], [0.625, 0.75]]
    assert (plain["id"], plain["mesh"], plain["is_estimate"]) == (7, [], True)
    mesh = np.zeros((468, 2), np.float32)
    (drawn,) = overlay_of((track,), info_of(), lambda _: mesh)
    assert len(drawn["mesh"]) == 468


def test_points_that_coincide_give_no_error() -> None:
    assert np.isfinite(pose_axes(np.zeros((5, 2)))).all()
