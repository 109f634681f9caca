"""``ShapeRegressor``: a small network from a degraded face crop to the 257 coefficients of ``vr468``.

Figure:
    RGB crop (B, 3, 128, 128) in [-1, 1], aligned as the restorers' crops are, or off by as much as a tracker can be
    -> two strided 3 x 3, then residual blocks on 32, 16, 8 and 4 pixels
    -> 1 x 1 to few channels, all places side by side -> linear -> (B, 257), scaled to the coefficients' spread.

    The places are kept to the end: pose is where things are, which a mean over the picture would have to encode.

Paper:
    Blocks as in ResNet (He et al., CVPR 2016). What is regressed, and the camera it is seen by, as in Deng et al. 2019
    and SGPN; trained by ``vidrestore.train.regressor``.

Camera:
    ``Camera().scaled(S)`` for a crop of S pixels: coefficients do not depend on the size of the crop.

Weights:
    ``vidrestore/morphable/data/regressor.safetensors``, float16 on disk, our own, Apache-2.0.

Precision:
    float32, and float16/bfloat16 under autocast with the last layer in float32.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vidrestore.errors import WeightsError
from vidrestore.morphable.coefficients import COEFFICIENTS, WIDTHS

__all__ = [
    "REGRESSOR_SIZE",
    "FlatRegressor",
    "RegressorDims",
    "ShapeRegressor",
    "fold_normalisation",
    "load_regressor",
    "save_regressor",
]

REGRESSOR_SIZE = 128
"""Side in pixels of the crop that it looks at."""

_FORMAT = "vidrestore-regressor-1"
_FINAL = 4  # pixels a side, where the places are laid side by side

_SPREAD = {"identity": 1.0, "expression": 1.0, "texture": 1.0, "angles": 0.3, "lighting": 0.2, "translation": 0.2}
"""Of the coefficients over ordinary crops: the last layer starts at the right order of magnitude everywhere."""
_CENTRE = (0.0, 0.03, -1.6)
"""Translation of a face in the middle of a crop aligned to the 512 px template: its eyes are 126 px apart there."""


@dataclass(frozen=True, slots=True)
class RegressorDims:
    """Sizes of a regressor."""

    stem: int = 24
    """Channels at half the crop's side."""
    widths: tuple[int, ...] = (48, 80, 128, 208)
    """Channels at 32, 16, 8 and 4 px of a crop of 128."""
    depths: tuple[int, ...] = (1, 1, 2, 2)
    """Blocks at each of them."""
    places: int = 64
    """Channels that are laid side by side."""


class _Block(nn.Module):
    """Two 3 x 3 convolutions with batch normalisation, and the input or its 1 x 1 shadow added.

    Plain convolutions: depthwise ones have fewer multiply-adds, but took twice as long to train on a CPU.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if inputs != outputs or stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.shortcut(x) + self.layers(x))


class ShapeRegressor(nn.Module):
    """Coefficients of faces in crops.

    Args:
        dims: the layout; the default is that of the shipped weights.
    """

    spread: Tensor
    centre: Tensor

    def __init__(self, dims: RegressorDims | None = None) -> None:
        super().__init__()
        self.dims = dims = dims or RegressorDims()
        blocks: list[nn.Module] = []
        inputs = dims.widths[0]
        for level, (width, depth) in enumerate(zip(dims.widths, dims.depths, strict=True)):
            for i in range(depth):
                blocks.append(_Block(inputs, width, 2 if i == 0 and level else 1))
                inputs = width
        first = dims.widths[0]
        self.stem = nn.Sequential(
            nn.Conv2d(3, dims.stem, 3, 2, 1, bias=False),
            nn.BatchNorm2d(dims.stem),
            nn.ReLU(),
            nn.Conv2d(dims.stem, first, 3, 2, 1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
        )
        self.blocks = nn.Sequential(*blocks)
        self.places = nn.Sequential(nn.Conv2d(inputs, dims.places, 1, bias=False), nn.BatchNorm2d(dims.places))
        self.last = nn.Linear(dims.places * _FINAL**2, COEFFICIENTS)
        nn.init.normal_(self.last.weight, std=0.003)
        nn.init.zeros_(self.last.bias)
        spread = torch.cat([torch.full((width,), _SPREAD[name]) for name, width in WIDTHS.items()])
        centre = torch.zeros(COEFFICIENTS)
        centre[-3:] = torch.tensor(_CENTRE)
        spread[-1] = 1.0  # distance varies more than place
        self.register_buffer("spread", spread, persistent=False)
        self.register_buffer("centre", centre, persistent=False)

    def forward(self, crops: Tensor) -> Tensor:
        """Coefficients of B crops.

        Args:
            crops: (B, 3, S, S) RGB in [-1, 1]; S other than 128 is resampled to it, by areas when it is larger.

        Returns:
            (B, 257) float32; see :mod:`vidrestore.morphable.coefficients`.
        """
        if crops.shape[-1] != REGRESSOR_SIZE:
            crops = functional.interpolate(
                crops, size=REGRESSOR_SIZE, mode="area" if crops.shape[-1] > 128 else "bilinear"
            )
        x = self.places(self.blocks(self.stem(crops.contiguous(memory_format=torch.channels_last))))  # (B, 64, 4, 4)
        with torch.autocast(crops.device.type, enabled=False):
            raw: Tensor = self.last(x.float().flatten(1))
            return self.centre + self.spread * raw


def save_regressor(
    network: ShapeRegressor, path: str | os.PathLike[str], notes: Mapping[str, str] | None = None
) -> None:
    """Writes the network as float16 safetensors, dims in the metadata; the file appears whole or not at all.

    Raises:
        WeightsError: a parameter is not finite, or does not fit float16.
    """
    state = {}
    for name, value in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        # statistics of batches may be small: their roots divide
        kind = torch.float32 if "running" in name else torch.float16
        state[name] = value.detach().to("cpu", kind).contiguous()
        if not bool(torch.isfinite(state[name]).all()):
            raise WeightsError(f"parameter {name} has values that are not finite in float16, it is not saved")
    target = Path(path)
    part = target.with_name(target.name + ".part")
    save_file(state, str(part), {"format": _FORMAT, "dims": json.dumps(asdict(network.dims)), **(notes or {})})
    part.chmod(0o644)  # safetensors writes it for the owner alone
    os.replace(part, target)


def load_regressor(path: str | os.PathLike[str] | None = None, device: torch.device | str = "cpu") -> ShapeRegressor:
    """The network with the weights of a file, in evaluation mode, float32.

    Args:
        path: of :func:`save_regressor`; None is the file that the package ships.
        device: where the parameters go.

    Raises:
        WeightsError: the file is missing, no safetensors file, or not of this network.
    """
    shipped = resources.files("vidrestore.morphable.data").joinpath("regressor.safetensors")
    source = Path(str(shipped)) if path is None else Path(path)
    try:
        with safe_open(str(source), framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118, no iterator
        raw = json.loads(metadata["dims"]) if metadata.get("format") == _FORMAT else None
        if not isinstance(raw, dict):
            raise WeightsError(f"{source}: expected {_FORMAT}, got {metadata.get('format')!r}")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
        dims = RegressorDims(**values)
        if max(dims.widths, default=0) > 1024 or sum(dims.depths) > 64 or dims.places > 1024:
            raise WeightsError(f"{source}: the dims in its metadata are beyond reason: {dims}")
        network = ShapeRegressor(dims)
        missing, unknown = network.load_state_dict(state, strict=False)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise WeightsError(f"{source}: is no readable weight file of the regressor ({error})") from error
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unknown or not all(bool(torch.isfinite(value).all()) for value in state.values()):
        raise WeightsError(f"{source}: tensors do not fit: missing {missing[:3]}, unknown {unknown[:3]}, or not finite")
    return network.to(device).eval().requires_grad_(False)


def fold_normalisation(network: ShapeRegressor) -> ShapeRegressor:
    """A copy for inference whose batch normalisation is part of its convolutions: the same function, sooner done."""
    folded = copy.deepcopy(network).eval().requires_grad_(False)
    for part in list(folded.modules()):
        if not isinstance(part, nn.Sequential):
            continue
        for i, (layer, after) in enumerate(itertools.pairwise(list(part))):
            if isinstance(layer, nn.Conv2d) and isinstance(after, nn.BatchNorm2d):
                part[i], part[i + 1] = fuse_conv_bn_eval(layer, after), nn.Identity()
    return folded


class FlatRegressor:
    """A regressor for inference, as a list of convolutions: the same function, sooner done.

    Calling some forty modules, and sums and activations that are not made in place, cost a tenth: on one core 0.90,
    0.87, 0.90 and 0.89 of the time of the folded modules for 1, 2, 4 and 8 crops (medians of 60, interleaved, busy
    machine).

    Args:
        network: is not changed.
        device: where it runs.
    """

    def __init__(self, network: ShapeRegressor, device: torch.device | str = "cpu") -> None:
        folded = fold_normalisation(network).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._stem = [_arguments(folded.stem[0]), _arguments(folded.stem[3])]
        self._blocks = [
            (
                _arguments(block.layers[0]),
                _arguments(block.layers[3]),
                _arguments(block.shortcut) if isinstance(block.shortcut, nn.Conv2d) else None,
            )
            for block in folded.blocks
        ]
        self._places = _arguments(folded.places[0])
        self._weight = (folded.last.weight * folded.spread[:, None]).T.contiguous()
        self._bias = folded.last.bias * folded.spread + folded.centre

    @torch.inference_mode()
    def __call__(self, crops: Tensor) -> Tensor:
        """(B, 3, 128, 128) RGB in [-1, 1] -> (B, 257), float32."""
        x = crops.contiguous(memory_format=torch.channels_last)
        for layer in self._stem:
            x = torch.conv2d(x, *layer).relu_()
        for first, second, side in self._blocks:
            shortcut = x if side is None else torch.conv2d(x, *side)
            x = torch.conv2d(torch.conv2d(x, *first).relu_(), *second).add_(shortcut).relu_()
        return torch.addmm(self._bias, torch.conv2d(x, *self._places).flatten(1), self._weight)


_Layer = tuple[Tensor, Tensor | None, list[int], list[int]]


def _arguments(layer: nn.Module) -> _Layer:
    """Of ``torch.conv2d``: weight, bias, stride, padding."""
    assert isinstance(layer, nn.Conv2d)
    assert isinstance(layer.padding, tuple)
    return layer.weight.detach(), None if layer.bias is None else layer.bias.detach(), [*layer.stride], [*layer.padding]
