"""Which faces are left alone: too small, too large, without detail, turned away, or not wanted by the editor.

Restoring them does harm (a network invents a face where nothing tells it which) or nothing. The rules change
``Track.strength`` and nothing else. A face that is left must be clearly better to be taken up again (hysteresis), and
its effect comes and goes over ``track.fade_frames``, so that a face at a limit does not flicker.

*Detail* is what a face shows at the scale of eyes and mouth, as a multiple of its noise. The luma in the box is shrunk
to 32 columns and band-passed between 1 and 4 of them; detail is the standard deviation over the middle of the box after
that of the noise has been taken off, divided by the noise that is left in the same copy, or by one level of 8 bits
where that is less. Faces of seven real clips have 10 to 17 (faces 45 px wide in strong compression 8); blurred by 0.12
of their width, so that eyes and mouth are shadows, 2.4 to 4.7; by 0.16, 1.4 to 3.4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from vidrestore.config import TrackOptions
from vidrestore.geometry import apply, invert
from vidrestore.types import Frame, StreamInfo, Track, TrackedFrame

__all__ = ["FaceRules", "detail_of"]

BACK_AGAIN = 1.15
"""A face that was left is taken up when it is better than the limit by this factor."""

_COLUMNS = 32  # of the shrunk face: an eye is 6 wide, a mouth 10
_FINE, _WIDE = 1.0, 4.0  # columns: standard deviations of the two Gaussians
_MEAN_FRAMES = 8.0  # over which detail is averaged: compression makes it go up and down with each key frame
_FORGET_FRAMES = 300  # a face that was not seen for so long (the longest track.max_missed) begins anew
_SKIPPED = 4  # detail is measured on every fourth frame of a face: it changes slowly


@dataclass(slots=True)
class _Face:
    """What is known of a track."""

    frame_index: int
    shot: int
    detail: float | None = None
    """Running mean; None until it was measured."""
    measured: int = 0
    """Frame of the last measurement."""
    left_for: frozenset[str] = frozenset()
    """Rules that hold it back at present."""
    level: float | None = None
    """In [0, 1]; None before its first frame."""


class FaceRules:
    """Fades out the faces that should be left alone; frames of one stream, in order.

    Args:
        options: limits and fades.
        info: of the stream, which joins display and frame pixels.
    """

    def __init__(self, options: TrackOptions, info: StreamInfo) -> None:
        self._options = options
        self._frame_from_display = invert(info.display_from_frame)
        self._faces: dict[int, _Face] = {}

    def apply(self, tracked: TrackedFrame) -> TrackedFrame:
        """The frame with the strengths that its faces are to have; the same object where nothing changes.

        A face's first frame, and its first in a new shot, takes its level at once; from then on it moves by at most
        1 / ``fade_frames`` a frame. Ids that the options name are decided once and for all and do not fade.
        """
        frame = tracked.frame
        tracks = tuple(self._weighed(frame, track) for track in tracked.tracks)
        self._faces = {
            track_id: face
            for track_id, face in self._faces.items()
            if face.shot == frame.shot and frame.index - face.frame_index <= _FORGET_FRAMES
        }
        if all(new is old for new, old in zip(tracks, tracked.tracks, strict=True)):
            return tracked
        return replace(tracked, tracks=tracks)

    def _weighed(self, frame: Frame, track: Track) -> Track:
        if track.id in self._options.never or (self._options.only and track.id not in self._options.only):
            return replace(track, strength=0.0)
        face = self._faces.get(track.id)
        if face is None or face.shot != frame.shot or face.frame_index >= frame.index:
            face = self._faces[track.id] = _Face(frame.index, frame.shot)
        self._measure(face, frame, track)
        face.left_for = self._left_for(face, track)
        target = 0.0 if face.left_for else 1.0
        if face.level is None or self._options.fade_frames == 0:
            face.level = target
        else:
            step = (frame.index - face.frame_index) / self._options.fade_frames
            face.level = float(np.clip(target, face.level - step, face.level + step))
        face.frame_index = frame.index
        return track if face.level == 1.0 else replace(track, strength=track.strength * face.level)

    def _measure(self, face: _Face, frame: Frame, track: Track) -> None:
        if self._options.min_detail == 0.0 or (face.detail is not None and frame.index - face.measured < _SKIPPED):
            return
        now = detail_of(frame, self._box(track))
        if face.detail is None:
            face.detail = now
        else:
            share = 1.0 - math.exp((face.measured - frame.index) / _MEAN_FRAMES)
            face.detail += share * (now - face.detail)
        face.measured = frame.index

    def _box(self, track: Track) -> NDArray[np.float64]:
        """(4,) xyxy in frame pixels, around the turned box."""
        left, top, right, bottom = track.box.astype(np.float64)
        corners = apply(self._frame_from_display, [[left, top], [right, top], [left, bottom], [right, bottom]])
        return np.concatenate([corners.min(0), corners.max(0)])

    def _left_for(self, face: _Face, track: Track) -> frozenset[str]:
        """Names of the rules that speak against the face; what was against it before must be clearly better."""
        options, width = self._options, float(track.box[2] - track.box[0])
        found = set()
        if width < options.min_size_px * _harder("small", face):
            found.add("small")
        if options.max_size_px > 0.0 and width > options.max_size_px / _harder("large", face):
            found.add("large")
        if face.detail is not None and face.detail < options.min_detail * _harder("blurred", face):
            found.add("blurred")
        if track.pose is not None:
            yaw_deg = math.degrees(abs(track.pose.yaw))
            if yaw_deg > options.max_yaw_deg / _harder("turned", face):
                found.add("turned")
        return frozenset(found)


def detail_of(frame: Frame, box: NDArray[np.floating]) -> float:
    """Detail of a face as the module defines it.

    Args:
        frame: any format; its first plane is looked at.
        box: (4,) xyxy in frame pixels.

    Returns:
        At least 0; 0 where less than 8 pixels a side lie in the picture.

    Source:
        The noise is estimated as in Immerkaer, "Fast noise variance estimation", CVIU 64 (1996), equation (4), on the
        face's samples as decoded.
    """
    left, top = np.maximum(np.floor(box[:2]).astype(int), 0)
    right, bottom = np.minimum(np.ceil(box[2:]).astype(int) + 1, (frame.width, frame.height))
    if right - left < 8 or bottom - top < 8:
        return 0.0
    luma = frame.planes[0][top:bottom, left:right].astype(np.float32) * np.float32(
        255.0 / ((1 << frame.format.depth) - 1)
    )
    noise = _noise(luma)
    columns = min(_COLUMNS, luma.shape[1])
    rows = max(8, round(luma.shape[0] * columns / luma.shape[1]))
    small = cv2.resize(luma, (columns, min(rows, luma.shape[0])), interpolation=cv2.INTER_AREA)
    band = cv2.GaussianBlur(small, (0, 0), _FINE) - cv2.GaussianBlur(small, (0, 0), _WIDE)
    rim_y, rim_x = band.shape[0] // 8, band.shape[1] // 8
    middle = band[rim_y : band.shape[0] - rim_y, rim_x : band.shape[1] - rim_x]
    # white noise: shrinking averages over so many samples, and the band lets 1 / (4 pi 1²) and less of it through
    share = (columns / luma.shape[1]) * (small.shape[0] / luma.shape[0]) / (4.0 * math.pi * _FINE**2)
    remaining = noise * math.sqrt(share)
    shown = math.sqrt(max(0.0, float(middle.var()) - remaining * remaining))
    return shown / max(remaining, 1.0)


def _noise(luma: NDArray[np.float32]) -> float:
    """Standard deviation of the noise, in levels of 8 bits."""
    laplacian = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = np.abs(cv2.filter2D(luma, -1, laplacian)[1:-1, 1:-1])
    return math.sqrt(math.pi / 2.0) / 6.0 * float(response.mean())


def _harder(rule: str, face: _Face) -> float:
    return BACK_AGAIN if rule in face.left_for else 1.0
