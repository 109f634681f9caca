"""Faces that are turned far are restored less: networks learned from faces that look into the camera.

Near a profile five aligned points no longer say where the face is, and a network paints the eye that is not there.
So from one yaw to another the effect goes over into a weaker one that stays closer to the input, smoothly; the pose is
smoothed by the tracker, so nothing jumps. Faces without a pose are left alone.
"""

from __future__ import annotations

import math

from vidrestore.config import RestoreOptions
from vidrestore.types import Pose, Track

__all__ = ["strength_of", "turn_share", "w_of"]


def turn_share(pose: Pose | None, options: RestoreOptions) -> float:
    """0 for faces turned up to ``yaw_from_deg``, 1 from ``yaw_to_deg`` on, a smoothstep between."""
    if pose is None:
        return 0.0
    width = options.yaw_to_deg - options.yaw_from_deg
    beyond = abs(math.degrees(pose.yaw)) - options.yaw_from_deg
    if width <= 0.0:
        return float(beyond > 0.0)
    t = min(max(beyond / width, 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


def strength_of(track: Track, options: RestoreOptions) -> float:
    """The track's fade, and less where the face is turned far: in [0, 1]."""
    share = turn_share(track.pose, options)
    return track.strength if share == 0.0 else track.strength * (1.0 + share * (options.yaw_strength - 1.0))


def w_of(track: Track, options: RestoreOptions) -> float:
    """The track's own or the common fidelity weight, and towards ``yaw_w`` (never below itself) where turned far."""
    w = options.w_of_track.get(track.id, options.w)
    return w + turn_share(track.pose, options) * (max(w, options.yaw_w) - w)
