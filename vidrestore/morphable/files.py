"""Morphable models on disk: our own ``.safetensors`` form, the model that comes with the package, and BFM 2009.

Our file holds the fields of :class:`vidrestore.morphable.model.MorphableModel` by their names: bases in float16, which
halves the file and moves no vertex by more than micrometres, everything else in float32, indices in int32. Its metadata
is text: the format's name and whatever the maker says (name, licence, origin, text of the card).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vidrestore.errors import WeightsError
from vidrestore.morphable.coefficients import WIDTHS
from vidrestore.morphable.mat import read_mat
from vidrestore.morphable.model import MorphableModel

__all__ = ["FORMAT", "load_vr468", "read_bfm", "read_metadata", "read_model", "save_model"]

FORMAT = "vidrestore-morphable-1"

_BASES = ("identity_basis", "expression_basis", "texture_basis")
_VALUES = ("mean_shape", "mean_texture")
_INDICES = ("triangles", "landmarks")
_BFM_ARRAYS = ("meanshape", "idBase", "exBase", "meantex", "texBase", "tri", "point_buf", "keypoints", "skinmask")
_OPTIONAL = ("mirror", "skin", "deviations", "incident")


def save_model(model: MorphableModel, path: Path, metadata: Mapping[str, str], *, half: bool = True) -> None:
    """Writes a model.

    Args:
        model: on any device.
        path: of the ``.safetensors`` file.
        metadata: what the file should say about itself.
        half: bases in float16; otherwise in float32, which reads back exactly.

    Raises:
        WeightsError: a value is not finite or too large for float16, or the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for name, values in model.state_dict().items():
        kind = torch.float16 if half and name in _BASES else torch.float32
        stored = values.to(kind) if values.is_floating_point() else values
        if stored.is_floating_point() and not bool(stored.isfinite().all()):
            raise WeightsError(f"{name} holds values that are not finite{' in float16' if half else ''}")
        stored = stored.to(torch.int32) if stored.dtype == torch.int64 else stored
        tensors[name] = stored.cpu().contiguous()
    try:
        save_file(tensors, str(path), {"format": FORMAT, **metadata})
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: cannot be written ({error})") from error


def read_model(path: Path) -> MorphableModel:
    """Reads a model that :func:`save_model` wrote, on the CPU in float32.

    Raises:
        WeightsError: the file is missing, damaged or no morphable model.
    """
    tensors, metadata = _read(path)
    if metadata.get("format") != FORMAT:
        raise WeightsError(f"{path}: is no morphable model, its format is {metadata.get('format')!r}, not {FORMAT!r}")
    needed = {*_BASES, *_VALUES, *_INDICES}
    absent = sorted(needed - tensors.keys())
    unknown = sorted(tensors.keys() - needed - set(_OPTIONAL))
    if absent or unknown:
        raise WeightsError(f"{path}: lacks {absent} and has {unknown} too many")
    try:
        return MorphableModel(**tensors)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from error


def read_metadata(path: Path) -> dict[str, str]:
    """What a file says about itself.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    return _read(path)[1]


def load_vr468() -> MorphableModel:
    """The package's own model: 468 vertices in the topology of the FaceMesh landmarks.

    Raises:
        WeightsError: this build of the package does not carry it.
    """
    file = resources.files("vidrestore.morphable.data") / "vr468.safetensors"
    if not file.is_file():
        raise WeightsError(
            "vidrestore/morphable/data/vr468.safetensors is not in this installation; install a released package, "
            "or bring a BFM 2009 file (docs/morphable.md)"
        )
    with resources.as_file(file) as path:
        return read_model(path)


def read_bfm(path: Path) -> MorphableModel:
    """The Basel Face Model 2009 with expressions, out of the user's own file, on the CPU in float32.

    Args:
        path: ``BFM09_model_info.mat`` of SGPN's archive, or the ``BFM_model_front.mat`` that Deep3DFaceRecon_pytorch
            makes from the model of the University of Basel and its expression basis. Its arrays are named and laid out
            as there: meanshape and meantex (1, 3 N), idBase (3 N, 80), exBase (3 N, 64), texBase (3 N, 80), tri (T, 3),
            point_buf (N, K), keypoints (1, 68), skinmask (1, N), where indices count from 1. The published file has
            N = 35709 and T = 70789, in decimetres.

    Raises:
        WeightsError: the file cannot be read, an array is missing or does not fit.

    The mean is moved into the origin, as the published code does.
    """
    arrays = read_mat(path)
    absent = sorted(set(_BFM_ARRAYS) - arrays.keys())
    if absent:
        raise WeightsError(f"{path}: lacks the arrays {', '.join(absent)}; is it a converted BFM 2009 model?")
    values = {name: arrays[name].astype(np.float64) for name in _BFM_ARRAYS}
    if values["meanshape"].size % 3:
        raise WeightsError(f"{path}: meanshape has {values['meanshape'].size} numbers, not three for each vertex")
    mean_shape = values["meanshape"].reshape(-1, 3)

    def basis(name: str, width: int) -> Tensor:
        columns = values[name][:, :width] if values[name].ndim == 2 else values[name]
        return torch.from_numpy(np.ascontiguousarray(columns, np.float32))

    def indices(name: str) -> Tensor:
        whole = values[name]
        if not np.array_equal(whole, np.rint(whole)):
            raise WeightsError(f"{path}: {name} holds numbers that are no indices")
        return torch.from_numpy(whole.astype(np.int64) - 1)

    try:
        return MorphableModel(
            torch.from_numpy((mean_shape - mean_shape.mean(0)).astype(np.float32)),
            basis("idBase", WIDTHS["identity"]),
            basis("exBase", WIDTHS["expression"]),
            torch.from_numpy(values["meantex"].reshape(-1, 3).astype(np.float32)),
            basis("texBase", WIDTHS["texture"]),
            indices("tri"),
            indices("keypoints").flatten(),
            skin=torch.from_numpy(values["skinmask"].flatten() > 0.5),
            incident=indices("point_buf"),
        )
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from error


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no mapping
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: is no readable safetensors file ({error})") from error
