"""RetinaFace as the ``facexlib`` package runs it, for results that are to be those of its pipeline; an extra.

Its network is given the weights that ``models pull retinaface`` converted: by itself the package would fetch a file
that is missing, and unpickle it. It wants torchvision of the same build as torch.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidrestore.errors import ConfigError
from vidrestore.types import Detections

__all__ = ["FacexlibFinder"]


class FacexlibFinder:
    """Finds faces in BGR pictures with ``facexlib.detection.retinaface``.

    Args:
        state: weights of RetinaFace with ResNet-50, without the prefix ``module.``.
        score_threshold: detections below it are dropped, [0, 1].

    Raises:
        ConfigError: the package, or the torchvision that it wants, is not there.
    """

    def __init__(self, state: Mapping[str, Tensor], score_threshold: float) -> None:
        try:
            from facexlib.detection.retinaface import RetinaFace
        except (ImportError, RuntimeError) as error:  # a torchvision of another build raises RuntimeError
            raise ConfigError(
                f"detect.detector = 'facexlib' wants the packages facexlib and torchvision ({error}); "
                "'retinaface' is the same network without them"
            ) from error
        self._network = RetinaFace("resnet50")
        self._network.load_state_dict(dict(state), strict=True)
        self._network.eval()
        self._score_threshold = score_threshold

    def detect(self, picture: NDArray[np.uint8]) -> Detections:
        """Faces of an upright (H, W, 3) BGR picture, in its own pixels, best first."""
        with torch.inference_mode():
            found = self._network.detect_faces(picture, self._score_threshold)
        rows = np.asarray(found, np.float32).reshape(-1, 15)  # box, score, 5 points
        return Detections(rows[:, :4].copy(), rows[:, 5:].reshape(-1, 5, 2).copy(), rows[:, 4].copy())
