"""Tracks as pictures: pose, confidence and strength over time, and a person's faces side by side. OpenCV alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Curve", "Panel", "contact_sheet", "draw_panels"]

Picture = NDArray[np.uint8]

_INK, _PALE, _PAPER = (60, 60, 60), (215, 215, 215), (255, 255, 255)  # BGR
_COLOURS = ((40, 60, 200), (60, 150, 40), (200, 110, 30), (150, 40, 150))
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 14, 26, 20
_FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a plot."""

    name: str
    frames: NDArray[np.integer]
    """(N,) frame indices, rising; where one is missing the line is broken."""
    values: NDArray[np.floating]
    """(N,); NaN breaks the line too."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot."""

    title: str
    curves: tuple[Curve, ...]
    low: float
    high: float


def draw_panels(
    rows: Sequence[Sequence[Panel]], num_frames: int, cuts: Sequence[int] = (), *, width: int = 420, height: int = 130
) -> Picture:
    """Plots over one axis of frames, a row of panels for each person.

    Args:
        rows: panels, as many in each row.
        num_frames: length of the axis.
        cuts: frames at which a shot begins; drawn as lines.
        width: of a panel in pixels.
        height: of a panel in pixels.

    Returns:
        (H, W, 3) BGR.
    """
    if not rows:
        return _empty("no faces", width, height)
    drawn = [np.hstack([_panel(panel, num_frames, cuts, width, height) for panel in row]) for row in rows]
    return np.vstack(drawn)


def _empty(text: str, width: int, height: int) -> Picture:
    picture = np.full((height, width, 3), _PAPER, np.uint8)
    cv2.putText(picture, text, (16, height // 2), _FONT, 0.5, _INK, 1, cv2.LINE_AA)
    return picture


def _panel(panel: Panel, num_frames: int, cuts: Sequence[int], width: int, height: int) -> Picture:
    picture = np.full((height, width, 3), _PAPER, np.uint8)
    span_x, span_y = width - _LEFT - _RIGHT, height - _TOP - _BOTTOM
    last = max(num_frames - 1, 1)

    def place(frame: float, value: float) -> tuple[int, int]:
        share = (value - panel.low) / (panel.high - panel.low)
        return round(_LEFT + span_x * frame / last), round(_TOP + span_y * (1 - min(max(share, 0.0), 1.0)))

    for value in (panel.low, (panel.low + panel.high) / 2, panel.high):
        y = place(0, value)[1]
        cv2.line(picture, (_LEFT, y), (width - _RIGHT, y), _PALE, 1)
        cv2.putText(picture, f"{value:g}", (6, y + 4), _FONT, 0.38, _INK, 1, cv2.LINE_AA)
    for cut in cuts:
        x = place(cut, panel.low)[0]
        cv2.line(picture, (x, _TOP), (x, height - _BOTTOM), (150, 190, 250), 1)
    for frame in (0, last // 2, last):
        text = f"{frame}"
        x = place(frame, panel.low)[0] - 4 * len(text)
        cv2.putText(picture, text, (min(x, width - 9 * len(text)), height - 5), _FONT, 0.36, _INK, 1, cv2.LINE_AA)
    cv2.putText(picture, panel.title, (_LEFT, 16), _FONT, 0.44, _INK, 1, cv2.LINE_AA)
    at = _LEFT + 9 * len(panel.title) + 10
    for number, curve in enumerate(panel.curves):
        colour = _COLOURS[number % len(_COLOURS)]
        for piece in _pieces(curve):
            line = np.array([place(float(f), float(v)) for f, v in piece], np.int32).reshape(-1, 1, 2)
            cv2.polylines(picture, [line], False, colour, 1, cv2.LINE_AA)
            if len(line) == 1:
                cv2.circle(picture, tuple(map(int, line[0, 0])), 1, colour, -1)
        if len(panel.curves) > 1:
            cv2.putText(picture, curve.name, (at, 16), _FONT, 0.4, colour, 1, cv2.LINE_AA)
            at += 8 * len(curve.name) + 14
    return picture


def _pieces(curve: Curve) -> list[list[tuple[int, float]]]:
    """The curve in pieces without a gap."""
    pieces: list[list[tuple[int, float]]] = []
    before = -2
    for frame, value in zip(curve.frames.tolist(), curve.values.tolist(), strict=True):
        if math.isnan(value):
            continue
        if frame != before + 1:
            pieces.append([])
        pieces[-1].append((frame, value))
        before = frame
    return pieces


def contact_sheet(
    faces: Sequence[tuple[int, NDArray[np.uint8]]], title: str, *, columns: int = 6, side: int = 128
) -> Picture:
    """Faces of one person with the numbers of their frames.

    Args:
        faces: (frame index, (S, S, 3) RGB) in the order of time.
        title: of the sheet.
        columns: faces in a row.
        side: of a face in the sheet, in pixels.

    Returns:
        (H, W, 3) BGR.
    """
    rows = max(1, math.ceil(len(faces) / columns))
    sheet = np.full((28 + rows * (side + 20), columns * (side + 6) + 6, 3), _PAPER, np.uint8)
    cv2.putText(sheet, title, (8, 19), _FONT, 0.5, _INK, 1, cv2.LINE_AA)
    for number, (frame, face) in enumerate(faces):
        row, column = divmod(number, columns)
        y, x = 28 + row * (side + 20), 6 + column * (side + 6)
        shrinks = face.shape[0] > side
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        sheet[y : y + side, x : x + side] = cv2.resize(face[..., ::-1], (side, side), interpolation=method)
        cv2.putText(sheet, f"{frame}", (x + 2, y + side + 14), _FONT, 0.4, _INK, 1, cv2.LINE_AA)
    return sheet
