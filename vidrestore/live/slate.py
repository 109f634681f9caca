"""The picture that is shown when there is no camera."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np

from vidrestore.geometry import identity
from vidrestore.picture import RGB24, frame_from_rgb
from vidrestore.types import Frame, StreamInfo

__all__ = ["slate"]

_BACKGROUND, _BAR, _TEXT = (24, 26, 30), (196, 120, 32), (226, 228, 232)  # RGB


def slate(info: StreamInfo, lines: tuple[str, ...], num_dots: int = 0) -> tuple[Frame, StreamInfo]:
    """A dark picture of a stream's size with a few words on it.

    Args:
        info: of the stream that it stands for.
        lines: the first is the heading. OpenCV's font knows ASCII alone, other letters become question marks.
        num_dots: a row of so many dots below shows that the program is alive.
    """
    picture = np.empty((info.height, info.width, 3), np.uint8)
    picture[:] = _BACKGROUND
    unit = max(8, min(info.height, info.width) // 18)
    x, y = 2 * unit, info.height // 2 - unit
    cv2.rectangle(picture, (unit, y - unit), (unit + unit // 4, y + len(lines) * unit), _BAR, -1)
    for i, line in enumerate(lines):
        words = line.encode("ascii", "replace").decode("ascii")
        size = (1.1 if i == 0 else 0.62) * unit / 22
        width = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, size, 1)[0][0]
        size *= min(1.0, (info.width - 3 * unit) / max(width, 1))
        cv2.putText(picture, words, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, _TEXT, max(1, unit // 14), cv2.LINE_AA)
        y += round((1.6 if i == 0 else 1.2) * unit)
    for i in range(num_dots):
        cv2.circle(picture, (x + i * unit, y), max(1, unit // 6), _BAR, -1, cv2.LINE_AA)
    described = replace(
        info,
        frame_width=info.width,
        frame_height=info.height,
        display_from_frame=identity(),
        rotation=0,
        sample_aspect_ratio=Fraction(1),
        format=RGB24,
    )
    return frame_from_rgb(picture, 0), described
