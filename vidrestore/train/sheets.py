"""Sheets of samples: held-out faces degraded, restored and clean, side by side, for the eye."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["lay_sheet", "write_sheet"]

_PAPER, _INK = 255, (60, 60, 60)
_HEAD = 24  # pixels above the columns, for their names
_GAP = 4  # between pictures
_LARGEST = 256  # side of a picture on the sheet; larger ones are shrunk


def lay_sheet(columns: Mapping[str, Tensor]) -> NDArray[np.uint8]:
    """A table of pictures with a name above each column and a face in each row.

    Args:
        columns: name -> (N, 3, S, S) RGB in [-1, 1], clipped to it; the same shape in each.

    Returns:
        (H, W, 3) RGB; pictures of up to 256 pixels are as they are, larger ones are shrunk to that.

    Raises:
        ValueError: no columns, or their shapes differ.
    """
    shapes = {tuple(pictures.shape) for pictures in columns.values()}
    if len(shapes) != 1:
        raise ValueError(f"a sheet needs columns of one shape, got {sorted(shapes)}")
    ((count, _, size, _),) = shapes
    side = min(size, _LARGEST)
    step = side + _GAP
    sheet = np.full((_HEAD + count * step, len(columns) * step - _GAP, 3), _PAPER, np.uint8)
    for number, (name, pictures) in enumerate(columns.items()):
        x = number * step
        scale = 0.45 * min(1.0, side / (8.0 * max(1, len(name))))  # a letter is 8 pixels wide at 0.45
        cv2.putText(sheet, name, (x + 2, _HEAD - 8), cv2.FONT_HERSHEY_SIMPLEX, scale, _INK, 1, cv2.LINE_AA)
        bytes_of = (pictures.detach().float().clamp(-1.0, 1.0).add(1.0) * 127.5).round().byte()
        for row, picture in enumerate(bytes_of.permute(0, 2, 3, 1).cpu().numpy()):
            y = _HEAD + row * step
            small = picture if size == side else cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
            sheet[y : y + side, x : x + side] = small
    return sheet


def write_sheet(path: Path, sheet: NDArray[np.uint8]) -> None:
    """Writes (H, W, 3) RGB as PNG; the folder is made where it is missing, the file appears whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    ok, data = cv2.imencode(".png", sheet[..., ::-1])
    if not ok:
        raise OSError(f"{path}: PNG encoding failed")
    part = path.with_name(path.name + ".part")
    part.write_bytes(data.tobytes())
    os.replace(part, path)
