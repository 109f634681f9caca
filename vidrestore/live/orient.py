"""Frames are turned upright, and mirrored where wanted, before anything else sees them: a view, no copy."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vidrestore.geometry import scale_about_pixel_edges
from vidrestore.types import Frame, PixelFormat, Plane, StreamInfo

__all__ = ["Upright"]

log = logging.getLogger(__name__)

_MIRROR = np.array([[-1, 0], [0, 1]])


class Upright:
    """Turns the frames of one stream as a player would show them.

    Sinks have no place for a rotation: a meeting program shows the planes as they come. Planes become views of the
    decoder's memory. Sideways frames whose chroma is subsampled unevenly (4:2:2 would become 4:4:0) stay as they are.

    Args:
        info: of the stream as decoded.
        mirror: exchange left and right.

    Attributes:
        info: of the stream as it comes out.
    """

    def __init__(self, info: StreamInfo, *, mirror: bool = False) -> None:
        turn = np.sign(np.round(info.display_from_frame[:, :2], 6)).astype(int)
        shift = info.format.chroma_shift
        if turn[0, 0] == 0 and shift[0] != shift[1]:
            log.warning("a sideways picture in %s is not turned upright", info.format.name)
            self._turn = turn.T @ _MIRROR @ turn if mirror else np.eye(2, dtype=int)
            format_ = _turned_format(info.format, self._turn, info.frame_width, info.frame_height)
            self.info = replace(info, format=format_)
            return
        self._turn = _MIRROR @ turn if mirror else turn
        format_ = _turned_format(info.format, self._turn, info.frame_width, info.frame_height)
        is_sideways = self._turn[0, 0] == 0
        width, height = info.frame_width, info.frame_height
        width, height = (height, width) if is_sideways else (width, height)
        ratio = info.sample_aspect_ratio
        self.info = replace(
            info,
            frame_width=width,
            frame_height=height,
            display_from_frame=scale_about_pixel_edges(info.width / width, info.height / height),
            rotation=0,
            sample_aspect_ratio=1 / ratio if is_sideways else ratio,
            format=format_,
        )

    def turn(self, frame: Frame) -> Frame:
        """The frame as :attr:`info` describes it; the same object where nothing is to be turned."""
        if np.array_equal(self._turn, np.eye(2)):
            return frame
        planes = tuple(_turned(plane, self._turn) for plane in frame.planes)
        return replace(frame, planes=planes, format=self.info.format, carrier=None)


def _turned(plane: Plane, turn: NDArray[np.int_]) -> Plane:
    upright = plane.T if turn[0, 0] == 0 else plane
    return upright[:: -1 if turn[1].sum() < 0 else 1, :: -1 if turn[0].sum() < 0 else 1]


def _turned_format(source: PixelFormat, turn: NDArray[np.int_], width: int, height: int) -> PixelFormat:
    """The chroma samples' place after the turn: counted from the other end where an axis is turned round."""
    (sx, sy), (x, y) = source.chroma_shift, source.siting
    is_sideways = turn[0, 0] == 0
    if is_sideways:
        sx, sy, x, y, width, height = sy, sx, y, x, height, width
    if turn[0].sum() < 0:
        x = width - 1 - ((-(-width >> sx) - 1) << sx) - x
    if turn[1].sum() < 0:
        y = height - 1 - ((-(-height >> sy) - 1) << sy) - y
    return replace(source, siting=(x, y))
