"""What the page draws over the picture: boxes, points, mesh and pose axes of the tracks, as plain numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidrestore.types import Pose, StreamInfo, Track

__all__ = ["MeshOf", "estimate_pose", "overlay_of", "pose_axes"]

MeshOf = Callable[[Track], NDArray[np.float32] | None]
"""Gives the (V, 2) mesh points of a track in display pixels, or None where it has no 3DMM coefficients."""

# Left eye, right eye, nose tip, mouth corners of an average head, x right, y down, z towards the viewer, in units of
# the distance between the eyes. x and y are those of the FFHQ template, whose faces look straight ahead; the depths
# are rounded from the proportions of adult heads (nose tip about a third of the eye distance in front of the lips).
_POINTS = np.array(
    [
        [-0.50, -0.40, 0.00],
        [0.50, -0.40, 0.00],
        [0.00, 0.19, 0.52],
        [-0.44, 0.64, 0.18],
        [0.44, 0.64, 0.18],
    ]
)
_AXIS = 0.9  # of the eye distance: length of a drawn axis


def estimate_pose(landmarks: ArrayLike) -> Pose:
    """The turn of a head from its five points alone, for showing: an estimate within about 10 degrees.

    A scaled orthographic camera is fitted to an average head by least squares: image points = M X + t, with M (2, 3).
    Its rows are scaled axes of the rotation; the nearest rotation is their polar factor.

    Args:
        landmarks: (5, 2) in display pixels.

    Source:
        The first step of DeMenthon and Davis, "Model-based object pose in 25 lines of code" (1995).
    """
    rotation, _ = _fit(np.asarray(landmarks, np.float64))
    return _pose_of(rotation)


def pose_axes(landmarks: ArrayLike, pose: Pose | None = None) -> NDArray[np.float64]:
    """(4, 2) display points: the nose and the ends of the head's right, down and forward axes.

    Args:
        landmarks: (5, 2) in display pixels.
        pose: as a tracker gives it; None takes the estimate.
    """
    points = np.asarray(landmarks, np.float64)
    rotation, scale = _fit(points)
    if pose is not None:
        rotation = _rotation_of(pose)
    ends = rotation[:2].T * (_AXIS * scale)
    return np.concatenate([points[2:3], points[2] + ends])


def overlay_of(tracks: tuple[Track, ...], info: StreamInfo, mesh_of: MeshOf | None = None) -> list[dict[str, Any]]:
    """Tracks as values for JSON; places are shares of the display picture's width and height."""
    size = np.array([info.width, info.height], np.float64)
    shown = []
    for track in tracks:
        pose = track.pose or estimate_pose(track.landmarks)
        mesh = mesh_of(track) if mesh_of is not None else None
        shown.append(
            {
                "id": track.id,
                "box": _shares(np.asarray(track.box, np.float64).reshape(2, 2), size),
                "points": _shares(track.landmarks, size),
                "axes": _shares(pose_axes(track.landmarks, track.pose), size),
                "mesh": _shares(mesh, size) if mesh is not None else [],
                "degrees": [round(float(np.degrees(angle))) for angle in (pose.yaw, pose.pitch, pose.roll)],
                "is_estimate": track.pose is None,
                "score": round(track.score, 2),
                "strength": round(track.strength, 2),
            }
        )
    return shown


def _shares(points: ArrayLike, size: NDArray[np.float64]) -> list[list[float]]:
    shares = (np.asarray(points, np.float64) + 0.5) / size
    return [[round(float(x), 4), round(float(y), 4)] for x, y in shares]


def _fit(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Rotation (3, 3) and pixels per eye distance."""
    model = _POINTS - _POINTS.mean(0)
    image = points - points.mean(0)
    rows = np.linalg.lstsq(model, image, rcond=None)[0].T  # (2, 3)
    scale = float(np.linalg.norm(rows, axis=1).mean())
    if scale <= 1e-9:
        return np.eye(3), 0.0
    u, _, vt = np.linalg.svd(rows / scale, full_matrices=False)
    two = u @ vt
    return np.vstack([two, np.cross(two[0], two[1])]), scale


def _pose_of(rotation: NDArray[np.float64]) -> Pose:
    """The angles from which :func:`_rotation_of` makes that rotation."""
    pitch = np.arcsin(np.clip(-rotation[2, 1], -1.0, 1.0))
    roll = np.arctan2(-rotation[0, 1], rotation[1, 1])
    yaw = np.arctan2(-rotation[2, 0], rotation[2, 2])
    return Pose(float(yaw), float(pitch), float(roll))


def _rotation_of(pose: Pose) -> NDArray[np.float64]:
    """roll about the line of sight, after pitch about the ears, after yaw about the neck."""
    cy, sy = np.cos(pose.yaw), np.sin(pose.yaw)
    cp, sp = np.cos(pose.pitch), np.sin(pose.pitch)
    cr, sr = np.cos(pose.roll), np.sin(pose.roll)
    yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    pitch = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    turned: NDArray[np.float64] = roll @ pitch @ yaw
    return turned
