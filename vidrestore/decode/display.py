"""How a decoded picture is to be shown: turned, mirrored and stretched, as one map."""

from __future__ import annotations

import logging
import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.stream import VideoStream

from vidrestore.geometry import Affine, compose, scale_about_pixel_edges

__all__ = ["DisplayGeometry", "display_geometry"]

log = logging.getLogger(__name__)

# Real pixels are between 1:2 and 2:1 or so; a ratio beyond this is damage and would make pictures of no width
_MAX_ASPECT = 16


@dataclass(frozen=True, slots=True)
class DisplayGeometry:
    """The upright picture with square pixels, and how to get there from a decoded one."""

    width: int
    height: int
    rotation: int
    """Clockwise degrees: 0, 90, 180 or 270."""
    sample_aspect_ratio: Fraction
    display_from_frame: Affine


def display_geometry(frame: av.VideoFrame, stream: VideoStream) -> DisplayGeometry:
    """Reads rotation, mirroring and sample aspect ratio of a stream from its first decoded frame."""
    ratio = Fraction(stream.sample_aspect_ratio) if stream.sample_aspect_ratio else Fraction(1)
    if not Fraction(1, _MAX_ASPECT) <= ratio <= _MAX_ASPECT:
        log.warning("sample aspect ratio %s makes no sense, square pixels are assumed", ratio)
        ratio = Fraction(1)
    turn = _turn(frame)
    square_width = max(1, round(frame.width * ratio))
    stretch = scale_about_pixel_edges(square_width / frame.width, 1.0)
    corners = turn @ np.array([[0, square_width - 1], [0, frame.height - 1]], np.float64)
    display_from_square = np.column_stack([turn, -corners.min(axis=1)])
    is_sideways = turn[0, 0] == 0
    width, height = (frame.height, square_width) if is_sideways else (square_width, frame.height)
    return DisplayGeometry(width, height, _degrees(turn), ratio, compose(display_from_square, stretch))


def _turn(frame: av.VideoFrame) -> Affine:
    """(2, 2) linear part of the display matrix, in quarter turns with or without mirroring; x right, y down.

    FFmpeg's matrix holds (a, b, u, c, d, v, x, y, w) with x' = a x + c y, y' = b x + d y in 16.16 fixed point.
    """
    matrix = _display_matrix(frame)
    if matrix is None:
        return np.eye(2)
    scale = np.abs(matrix).max()
    rounded = np.round(matrix / scale) if scale > 0 else np.eye(2)
    if abs(np.linalg.det(rounded)) != 1 or np.abs(rounded).sum() != 2:
        log.warning("the display matrix is no quarter turn, the picture is taken as upright")
        return np.eye(2)
    return np.asarray(rounded)


def _display_matrix(frame: av.VideoFrame) -> Affine | None:
    try:
        side_data: Any = frame.side_data
        data = side_data.get(Type.DISPLAYMATRIX)
    except ValueError:
        # PyAV knows no name for another entry of the list (EXIF of a picture); the angle it still tells
        angle = np.radians(-frame.rotation)
        return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if data is None:
        return None
    a, b, _, c, d = struct.unpack_from("=5i", memoryview(data))
    return np.array([[a, c], [b, d]], np.float64)


def _degrees(turn: Affine) -> int:
    """Clockwise turn of the picture; a mirrored one is turned after it was mirrored left to right."""
    right = turn @ np.array([1.0 if np.linalg.det(turn) > 0 else -1.0, 0.0])
    return round(float(np.degrees(np.arctan2(right[1], right[0])))) % 360
