"""The stage: frames in, faces out, in display pixels."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vidrestore.config import DetectOptions
from vidrestore.geometry import apply, invert
from vidrestore.picture import display_picture
from vidrestore.types import Detections, Frame, StreamInfo

__all__ = ["Detector", "FaceFinder"]


class FaceFinder(Protocol):
    """Finds faces in one upright BGR picture: YuNet, RetinaFace, or a caller's own."""

    def detect(self, picture: NDArray[np.uint8]) -> Detections:
        """Faces of an (H, W, 3) BGR picture, in its own pixels."""
        ...


class Detector:
    """Runs a face finder on an upright copy of each frame, enlarged or shrunk to the size that suits it.

    Args:
        options: sizes and thresholds.
        info: the stream that the frames come from.
        finder: finds faces in a BGR picture.
    """

    def __init__(self, options: DetectOptions, info: StreamInfo, finder: FaceFinder) -> None:
        self._options = options
        self._info = info
        self._finder = finder
        longest = max(info.width, info.height)
        scale = min(options.input_size_px / longest, options.max_enlargement)
        self._size = (max(8, round(info.height * scale)), max(8, round(info.width * scale)))

    @property
    def picture_size(self) -> tuple[int, int]:
        """(height, width) of the copy that the finder sees."""
        return self._size

    def detect(self, frame: Frame) -> Detections:
        """Faces of a frame, in display pixels; those narrower than ``min_face_px`` are left out."""
        picture, picture_from_display = display_picture(frame, self._info, self._size)
        found = self._finder.detect(picture)
        if not len(found):
            return found
        display_from_picture = invert(picture_from_display)
        boxes = apply(display_from_picture, found.boxes.reshape(-1, 2, 2)).reshape(-1, 4).astype(np.float32)
        landmarks = apply(display_from_picture, found.landmarks).astype(np.float32)
        wide = (boxes[:, 2] - boxes[:, 0] >= self._options.min_face_px) & _well_formed(landmarks)
        return Detections(boxes[wide], landmarks[wide], found.scores[wide])


def _well_formed(landmarks: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which faces have points that span an area: eyes apart and the mouth away from the eyes, in any roll."""
    eyes = np.linalg.norm(landmarks[:, 1] - landmarks[:, 0], axis=-1)
    drop = np.linalg.norm(landmarks[:, 3:5].mean(1) - landmarks[:, 0:2].mean(1), axis=-1)
    finite = np.isfinite(landmarks).all((1, 2))
    well_formed: NDArray[np.bool_] = finite & (np.maximum(eyes, drop) > 2.0) & (drop > 0.2 * eyes)
    return well_formed
